"""Checkpoints are written whole or not at all, verified, and pruned only when nobody can need them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tests.support.lab import Lab
from transformers import AutoTokenizer

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.checkpoint import Snapshot, environment, read_checkpoint, write_checkpoint
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.fit.statefile import Frozen
from rapidfireai_worker.fit.stream import Position
from rapidfireai_worker.layout import Volume

pytestmark = pytest.mark.ml

FACTS = {"threads": 1}
CONFIG: dict[str, Any] = {
    "trainer_type": "SFT",
    "peft_params": {"r": 4, "target_modules": ["q_proj"]},
    "training_args": {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "num_train_epochs": 1},
}


def snapshot(step: int, size: int = 8) -> Snapshot:
    def export(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    return Snapshot(step, Frozen.take({"weight": torch.arange(size)}), "{}\n", export, Position(7, 41))


def commit(lab: Lab, step: int) -> None:
    lab.checkpoints["run"] = write_checkpoint(lab.volume, lab.job("run", {}), snapshot(step), FACTS)


def names(lab: Lab) -> set[str]:
    return {path.name for path in lab.volume.run("lab-uid", "run-uid").checkpoints.iterdir()}


def test_what_was_written_is_read(lab: Lab) -> None:
    commit(lab, 5)
    checkpoint = lab.checkpoints["run"]
    assert checkpoint.path == "experiments/lab-uid/runs/run-uid/checkpoints/5-1"
    restored = read_checkpoint(lab.volume, checkpoint, FACTS)
    assert restored.step == 5
    assert restored.state["weight"].tolist() == list(range(8))
    manifest = json.loads((lab.volume.root / checkpoint.path / "manifest.json").read_text())
    assert (manifest["step"], manifest["attempt"], manifest["threads"]) == (5, 1, 1)
    assert (restored.position, manifest["position"]) == ((7, 41), {"row": 7, "epoch": 41})
    assert set(manifest["files"]) == {
        "model/config.json",
        "state/state.json",
        "state/state.safetensors",
        "state/trainer_state.json",
    }


@pytest.mark.parametrize("file", ["manifest.json", "state/state.json", "state/state.safetensors", "model/config.json"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_checkpoint_is_refused_by_its_path(file: str, damage: str, lab: Lab) -> None:
    commit(lab, 5)
    path = lab.volume.root / lab.checkpoints["run"].path / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RunFailure) as failure:
        read_checkpoint(lab.volume, lab.checkpoints["run"], FACTS)
    assert failure.value.reason == "CheckpointUnreadable"
    assert str(lab.volume.root / lab.checkpoints["run"].path) in failure.value.message


def test_the_new_and_the_committed_checkpoint_are_kept(lab: Lab) -> None:
    for step in (5, 10, 15, 20):
        commit(lab, step)
    assert names(lab) == {"15-3", "20-4"}
    record = json.loads(lab.volume.run("lab-uid", "run-uid").record.read_text())
    assert [entry["step"] for entry in record["commits"]] == [15, 20]
    assert (record["run"], record["seed"]) == ({"name": "run", "uid": "run-uid"}, 42)


def test_the_best_boundary_and_as_many_of_the_last_as_are_wanted_are_kept(lab: Lab) -> None:
    for step in (5, 10, 15, 20, 25):
        job = dataclasses.replace(lab.job("run", {}), best_first=(10, 5), keep_last=2)
        lab.checkpoints["run"] = write_checkpoint(lab.volume, job, snapshot(step), FACTS)
    assert names(lab) == {"10-2", "15-3", "20-4", "25-5"}


def test_what_a_warm_clone_begins_with_is_kept(lab: Lab) -> None:
    commit(lab, 5)
    first = lab.checkpoints["run"].path
    for step in (10, 15, 20):
        job = lab.job("run", {})
        lab.checkpoints["run"] = write_checkpoint(lab.volume, job, snapshot(step), FACTS, frozenset({first}))
    assert names(lab) == {"5-1", "15-3", "20-4"}
    record = json.loads(lab.volume.run("lab-uid", "run-uid").record.read_text())
    assert [entry["step"] for entry in record["commits"]] == [5, 15, 20]


def test_the_record_says_what_a_run_was_cloned_from(lab: Lab) -> None:
    commit(lab, 5)
    lab.clone("run", "clone")
    write_checkpoint(lab.volume, lab.job("clone", {}), snapshot(5), FACTS)
    records = {run: json.loads(lab.volume.run("lab-uid", f"{run}-uid").record.read_text()) for run in ("run", "clone")}
    assert records["run"]["parentRef"] is None
    assert records["clone"]["parentRef"] == {
        "name": "run",
        "uid": "run-uid",
        "index": 1,
        "warmStart": True,
        "checkpoint": lab.checkpoints["run"].to_wire(),
    }


def test_what_attempts_before_left_is_removed_and_what_newer_ones_made_is_not(lab: Lab) -> None:
    commit(lab, 5)
    folder = lab.volume.run("lab-uid", "run-uid").checkpoints
    for name in (".tmp-10-1-abcd", "10-2", "15-9", ".tmp-15-9-abcd", "somebody-elses"):
        (folder / name).mkdir()
    lab.attempts["run"] = 4
    commit(lab, 10)
    assert names(lab) == {"5-1", "10-5", "15-9", ".tmp-15-9-abcd", "somebody-elses"}


def test_a_worker_that_was_fenced_off_removes_nothing_that_was_committed_after_it(lab: Lab) -> None:
    commit(lab, 5)
    late = lab.job("run", {})
    for step in (10, 15, 20):
        commit(lab, step)
    before = names(lab)
    write_checkpoint(lab.volume, late, snapshot(10), FACTS)
    assert before <= names(lab)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("filler_leaves", [0, 16 * 1024])
def test_a_full_disk_commits_nothing_loses_nothing_and_the_next_try_succeeds(
    filler_leaves: int, small_disk: Path, lab: Lab
) -> None:
    commit(lab, 5)
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - filler_leaves))
    with pytest.raises(RunFailure) as failure:
        write_checkpoint(lab.volume, lab.job("run", {}), snapshot(10, size=8192), FACTS)
    assert (failure.value.reason, failure.value.blame) == ("StorageFull", "Infrastructure")
    assert names(lab) == {"5-1"}
    read_checkpoint(lab.volume, lab.checkpoints["run"], FACTS)
    filler.unlink()
    commit(lab, 10)
    assert names(lab) == {"5-1", "10-3"}


def test_a_run_survives_a_full_disk(lab: Lab, tiny_model: Path, small_disk: Path) -> None:
    """The engine itself: the chunk whose checkpoint did not fit is computed again from the last commit."""
    config = {**CONFIG, "model_name": str(tiny_model)}
    other = Lab(lab.root, evals=False, chunks=2)
    elsewhere = Volume(lab.root / "roomy")
    engine = FitEngine(elsewhere, lab.claims, threads=1)
    engine._volume = lab.volume  # the data sets' cache has room, the checkpoints have not
    (small_disk / "filler").write_bytes(b"x" * 230 * 1024)
    outcome = engine.run_chunk(other.job("run", config), 0, other.control("run"))
    with pytest.raises(RunFailure, match="no space left on the volume for the checkpoint of step 3"):
        outcome.persist()
    (small_disk / "filler").unlink()
    other.chunk(engine, "run", config, 0)
    assert other.checkpoints["run"].step == 3


def test_a_checkpoint_holds_the_state_of_its_boundary_whatever_is_trained_while_it_is_written(
    lab: Lab, tiny_model: Path
) -> None:
    for kind in ({}, {"peft_params": CONFIG["peft_params"]}):
        config = {**CONFIG, "peft_params": None, **kind, "model_name": str(tiny_model)}
        name = "lora" if kind else "full"
        engine = FitEngine(lab.volume, lab.claims, threads=1)
        job = lab.job(name, config)
        first = engine.run_chunk(job, 0, lab.control(name))
        ordinary = first.persist()
        session = engine.sessions[job.run_uid]
        late = engine.run_chunk(dataclasses.replace(job, checkpoint=ordinary, attempt=2), 1, lab.control(name))
        again = first.persist()
        files = [(lab.volume.root / each.path / "model").glob("*.safetensors") for each in (ordinary, again)]
        before, after = ({key: t for file in each for key, t in load_file(file).items()} for each in files)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert late.step > first.step == ordinary.step
        assert session.step == late.step


def test_the_exported_model_is_an_ordinary_adapter_with_its_tokenizer(lab: Lab, tiny_model: Path) -> None:
    config = {**CONFIG, "model_name": str(tiny_model)}
    lab.finish(FitEngine(lab.volume, lab.claims, threads=1), "run", config)
    model = AutoPeftModelForCausalLM.from_pretrained(lab.model("run"))
    tokenizer = AutoTokenizer.from_pretrained(lab.model("run"))
    question = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1+1?"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**question, max_new_tokens=2).shape[0] == 1


def test_the_environment_names_versions_threads_and_device() -> None:
    facts = environment(3)
    assert facts["threads"] == 3
    assert facts["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert facts["device"]
