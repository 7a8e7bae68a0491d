"""A warm clone is a plain TRL run too: with its parent's weights to begin with, and the rows that its parent left.

What a clone has to equal is trained by a process that knows nothing of ours, from what the parent exported.
"""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.cases import CHUNKS, NAMES, config_of, write_sets
from tests.fit.drive import read_ledger
from tests.fit.reference import digest
from tests.fit.test_table import ROOT, start
from tests.support.lab import Lab, steady

from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.engine import ChunkControl
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("warm-clones")]  # what several tests compare is computed once

TABLE = "digest of every tensor, and logged values that equal those of the plain program with the parent's weights"
ROWS = 11
CHANGES: dict[str, dict[str, Any]] = {
    "SFT": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "max_steps": 6},
    "DPO": {"gradient_accumulation_steps": 1, "max_steps": 7, "beta": 0.4},
    "GRPO": {"gradient_accumulation_steps": 1, "max_steps": 15, "num_iterations": 1, "reward_weights": [0.5, 1.0]},
}
"""What clones have otherwise than their parents, beside the learning rate: other batches above all."""
GRANDCHILDREN = ("SFT LoRA", "DPO full", "GRPO LoRA")
Plain = dict[str, tuple[str, list[dict[str, Any]]]]
Family = tuple[Lab, dict[str, dict[str, Any]]]


def changed(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the config of a clone."""
    given = config["training_args"]
    rate = given["learning_rate"] * 0.3
    arguments = {**given, **CHANGES[config["trainer_type"]], "learning_rate": rate, "warmup_steps": 0, **more}
    return {**config, "training_args": arguments}


def position(lab: Lab, checkpoint: Checkpoint) -> dict[str, int]:
    found: dict[str, int] = json.loads((lab.volume.root / checkpoint.path / "manifest.json").read_text())["position"]
    return found


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Family:
    """Parents that were trained for a while, and the configs of clones of theirs; one of them was parked in a chunk."""
    lab = Lab(tmp_path_factory.mktemp("family"), chunks=CHUNKS)
    write_sets(lab.root)
    rewards = list(lab.put_bundle(letters=user_code.letters, length=user_code.length).values())
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    clones = {}
    for name in NAMES:
        config = config_of(name, tiny_model)
        if config["trainer_type"] == "GRPO":
            config["reward_funcs"] = rewards
        lab.chunk(engine, name, config, 0)

        def at_once(control: ChunkControl, step: int) -> None:
            control.park.set()

        lab.chunk(engine, name, config, 1, at_once if name.endswith("full") else None)
        lab.clone(name, f"clone of {name}")
        clones[f"clone of {name}"] = changed(config)
    for name in GRANDCHILDREN:
        parent = f"clone of {name}"
        lab.chunk(engine, parent, clones[parent], 0)
        lab.chunk(engine, parent, clones[parent], 1)
        lab.clone(parent, f"clone of {parent}")
        clones[f"clone of {parent}"] = changed(clones[parent])
        del lab.checkpoints[parent], lab.lines[parent]  # what happens to it comes later
    return lab, clones


@pytest.fixture(scope="module")
def plain(family: Family) -> Plain:
    """What the plain programs make of the clones."""
    lab, clones = family
    rows = {name: str(lab.root / f"{name}.jsonl") for name in ("train", "eval")}
    specs = []
    for name, config in clones.items():
        checkpoint = lab.parents[name].checkpoint
        assert checkpoint is not None
        parent = {"model": str(lab.volume.root / checkpoint.path / "model"), "row": position(lab, checkpoint)["row"]}
        out = str(lab.root / f"plain {name}")
        specs.append({"config": config, "seed": 42, "output_dir": out, "parent": parent, **rows})
        if config["trainer_type"] == "GRPO":
            specs[-1]["rewards"] = ["letters", "length"]
    (lab.root / "specs.json").write_text(json.dumps(specs))
    process = start("tests/fit/reference.py", lab.root / "specs.json")
    assert process.returncode == 0, process.stderr[-3000:]
    answers = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"digest"')]
    return {name: (each["digest"], steady(each["history"])) for name, each in zip(clones, answers, strict=True)}


def renamed(family: Family, how: str) -> Family:
    """Return the clones once more, under names of their own."""
    lab, clones = family
    for name in clones:
        lab.parents[f"{how} {name}"] = lab.parents[name]
    return lab, {f"{how} {name}": config for name, config in clones.items()}


def interleaved(family: Family, how: str, *, evict: bool = False) -> None:
    lab, runs = renamed(family, how)
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    last = {name: len(engine.prepare(lab.job(name, config)).boundaries) for name, config in runs.items()}
    for chunk in range(max(last.values())):
        for name, config in runs.items():
            if chunk < last[name]:
                lab.chunk(engine, name, config, chunk)
                if evict:
                    engine.evict(f"{name}-uid")


def killed(family: Family, how: str) -> None:
    """A first worker dies by SIGKILL inside chunks; another one goes on from what was committed."""
    lab, runs = renamed(family, how)
    parents = {name: lab.parents[name].to_wire() for name in runs}
    plan = {"root": str(lab.root), "chunks": CHUNKS, "bundle": lab.bundle, "parents": parents, "runs": runs}
    (lab.root / "plan.json").write_text(json.dumps({**plan, "kill": list(runs)}))
    drive = (ROOT / "tests/fit/drive.py", lab.root / "plan.json")
    first = start(*drive, "begin")
    assert first.returncode == -signal.SIGKILL, first.stderr[-3000:]
    second = start(*drive, "finish")
    assert second.returncode == 0, second.stderr[-3000:]
    read_ledger(lab)


@pytest.fixture(scope="module")
def after(family: Family) -> Callable[[str], Lab]:
    """The lab in which this happened to the clones; computed once."""

    @functools.cache
    def happened(how: str) -> Lab:
        kept = dict(family[0].checkpoints), dict(family[0].lines)
        if how == "killed":
            killed(family, how)
            family[0].checkpoints |= kept[0]
            family[0].lines |= kept[1]
        else:
            interleaved(family, how, evict=how == "evicted")
        return family[0]

    return happened


CLONES = [*(f"clone of {name}" for name in NAMES), *(f"clone of clone of {name}" for name in GRANDCHILDREN)]


@pytest.mark.parametrize("how", ["interleaved", "evicted", "killed"])
@pytest.mark.parametrize("name", CLONES)
def test_a_warm_clone_equals_the_plain_program_with_its_parents_weights(
    name: str,
    how: str,
    plain: Plain,
    after: Callable[[str], Lab],
    cell: Callable[[str, str, str, str], None],
) -> None:
    lab, run = after(how), f"{how} {name}"
    weights, history = plain[name]
    ours = digest(lab.model(run))
    cell(TABLE, name, how, f"{ours[:8]} of {weights[:8]}")
    assert lab.history(run) == history
    assert ours == weights
    (begin,) = [line for line in lab.lines[run] if line[:2] == ("boundary", -1)]
    assert begin[2] == 0
    assert begin[3].keys() >= {"boundary/eval_loss", "boundary/epoch"}
