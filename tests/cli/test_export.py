"""Exporting through a real volume service: verified, resumed, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from huggingface_hub import ModelCard
from syrupy.assertion import SnapshotAssertion
from tests.cli.builders import midway, run, series

from rapidfireai.api import Experiment, Run
from rapidfireai.api.run import Checkpoint
from rapidfireai.errors import ExperimentError, VolumeError
from rapidfireai.export.card import Provenance, body, front_matter
from rapidfireai.export.exporting import check_can_load, choose
from rapidfireai.export.fetching import Manifest, manifest_of

if TYPE_CHECKING:
    from conftest import Program

integration = pytest.mark.integration
WEIGHTS = "adapter_model.safetensors"


def weights(run: str, step: int) -> bytes:
    return f"{run} at {step}".encode()


@integration
def test_a_run_comes_with_a_card_that_says_how_it_came_to_be(program: Program, sft: Experiment, tmp_path: Path) -> None:
    words = program.says("export", "sft-r1", str(tmp_path / "new" / "model"))
    assert words.endswith(f"sft-r1: {tmp_path / 'new' / 'model'}\n")
    directory = tmp_path / "new" / "model"
    assert (directory / WEIGHTS).read_bytes() == weights("sft-r1", 4)
    assert {path.name for path in directory.iterdir()} == {WEIGHTS, "README.md"}
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    card = ModelCard.load(directory / "README.md")
    assert card.data.tags == ["rapidfireai", "trl", "sft", "lora"]
    assert card.data.datasets == ["team/chats"]
    assert sft.metadata.uid in card.text
    assert "learning_rate=0.001" in card.text


@integration
def test_the_best_commit_can_be_had_instead_of_the_last(program: Program, sft: Experiment, tmp_path: Path) -> None:
    objective = [{"chunk": 0, "step": 2, "value": 1.0}, {"chunk": 1, "step": 4, "value": 2.0}]
    program.workspace._write("runs", "sft-r1", {"objective": objective})
    program.says("export", "sft-r1", str(tmp_path / "best"), "--best")
    assert (tmp_path / "best" / WEIGHTS).read_bytes() == weights("sft-r1", 2)


@integration
def test_what_broke_off_goes_on_and_damage_is_found(program: Program, sft: Experiment, tmp_path: Path) -> None:
    directory, partial = tmp_path / "model", tmp_path / ".model.partial"
    part = partial / ".parts" / hashlib.sha256(weights("sft-r1", 4)).hexdigest()
    part.parent.mkdir(parents=True)
    part.write_bytes(b"???")
    (partial / "of-another-try.bin").write_text("x")
    assert f"{WEIGHTS} came damaged; try again" in program.refuses("export", "sft-r1", str(directory))
    assert not directory.exists()
    part.write_bytes(b"sft")
    program.says("export", "sft-r1", str(directory))
    assert {path.name for path in directory.iterdir()} == {WEIGHTS, "README.md"}

    for stored in program.workspace.volume.rglob("manifest.json"):
        stored.write_text(stored.read_text() + " ")
    assert "not the one that was committed" in program.refuses("export", "sft-r1", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@integration
def test_what_is_in_the_way_is_left_alone(program: Program, sft: Experiment, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty; name a new directory" in program.refuses("export", "sft-r1", str(tmp_path / "full"))
    assert "is a file" in program.refuses("export", "sft-r1", str(tmp_path / "full" / "mine.txt"))
    assert "name one of its runs: sft-r1, sft-r2" in program.refuses("export", "sft", str(tmp_path / "x"))
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    program.says("export", "sft-r1", str(tmp_path / "empty"))


@integration
def test_a_checkpoint_that_was_taken_away_meanwhile_is_said(program: Program, sft: Experiment, tmp_path: Path) -> None:
    for stored in program.workspace.volume.rglob("manifest.json"):
        stored.unlink()
    assert "the checkpoint may have been removed" in program.refuses("export", "sft-r1", str(tmp_path / "x"))


def provenance(exported: Run, *, merged: bool = False) -> Provenance:
    overall, runs = midway()
    assert exported.status.progress is not None
    assert exported.status.progress.checkpoint is not None
    facts = {"python": "3.11.9", "libraries": {"torch": "2.13.0", "peft": "0.21.2"}, "threads": 2, "device": "cpu"}
    manifest = Manifest(facts, {WEIGHTS: ("0" * 64, 10)})
    lines = series(2.5, 1.9, 1.7)
    return Provenance(overall, exported, runs, exported.status.progress.checkpoint, manifest, lines, merged)


def test_a_card_reads_well_and_its_front_matter_is_the_hubs(
    snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapidfireai.export.card.metadata.version", lambda name: "0.1.0")
    of = provenance(run(1, 1e-4, "Running", 30))
    assert front_matter(of) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["rapidfireai", "trl", "sft", "lora"],
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "datasets": ["team/chats"],
    }
    assert body(of) == snapshot


def changed(**config: object) -> Provenance:
    made = run(1, 1e-4, "Running", 30)
    made.spec.config.update(config)
    return provenance(made)


@pytest.mark.parametrize("base", ["pvc://models/llama", "/models/llama"])
def test_a_base_that_the_hub_does_not_know_is_not_named_as_if_it_did(base: str) -> None:
    of = changed(model_name=base)
    assert "base_model" not in front_matter(of)
    assert f"The base model lies at `{base}`" in body(of)


def test_secrets_stay_at_home() -> None:
    text = body(changed(model_kwargs={"token": "hf_secret", "api_key": "k", "dtype": "float32"}, pad_token="<pad>"))
    assert "hf_secret" not in text
    assert "api_key" not in text
    assert "dtype: float32" in text


def test_a_whole_model_is_loaded_by_transformers_alone() -> None:
    of = provenance(run(1, 1e-4, "Running", 30), merged=True)
    assert front_matter(of)["library_name"] == "transformers"
    assert "its adapter merged into the base" in body(of)
    assert "PeftModel" not in body(of)


def test_the_last_commit_is_chosen_unless_the_best_is_wanted_and_there() -> None:
    overall, _ = midway()
    exported = run(1, 1e-4, "Running", 30)  # its objective falls: the best boundary is the last one, at step 24
    there = [Checkpoint(path="p/12-2", digest="0" * 64, step=12), Checkpoint(path="p/36-4", digest="0" * 64, step=36)]
    assert choose(exported, overall, there, best=False).step == 24
    assert choose(exported, overall, there, best=True).step == 24
    upwards = overall.model_copy(deep=True)
    upwards.spec.objective.direction = "maximize"
    assert choose(exported, upwards, there, best=True).step == 12
    with pytest.raises(ExperimentError, match="sft-r4 has committed no chunk yet"):
        choose(run(4, 1e-4, "Pending"), overall, [], best=False)


@pytest.mark.parametrize("initial", ["pissa_niter_4", "corda", "lora_ga"])
def test_adapters_that_mean_nothing_without_their_own_base_are_refused(initial: str) -> None:
    with pytest.raises(ExperimentError, match=f"init_lora_weights '{initial}' has rewritten its base model"):
        check_can_load(changed(peft_params={"init_lora_weights": initial}).run)


@pytest.mark.parametrize("name", ["model/../../.bashrc", "model//etc/passwd", "model/.parts/x"])
def test_a_manifest_cannot_lead_out_of_the_directory(name: str) -> None:
    content = json.dumps({"files": {name: {"sha256": "0" * 64, "bytes": 1}}}).encode()
    with pytest.raises(VolumeError, match="which is no file of a model"):
        manifest_of(content)


def test_the_cards_config_is_yaml() -> None:
    text = body(provenance(run(1, 1e-4, "Running", 30)))
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["peft_params"]["r"] == 8
