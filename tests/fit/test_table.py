"""One table: each trainer, with an adapter and without, whatever happened to the run, is the plain TRL run bit for bit.

The plain programs run in a process that knows nothing of ours.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.cases import CHUNKS, NAMES, config_of, write_sets
from tests.fit.drive import read_ledger, write_ledger
from tests.fit.reference import digest
from tests.support.lab import Lab, steady

from rapidfireai_worker.fit.engine import FitEngine

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("table")]  # what several tests compare is computed once

ROOT = Path(__file__).resolve().parents[2]
TABLE = "digest of every tensor, and logged values that equal the plain TRL program's"
Plain = dict[str, tuple[str, list[dict[str, Any]]]]
After = Callable[[str], Lab]


def start(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Plain:
    """What the plain programs make of the cases."""
    root = tmp_path_factory.mktemp("plain")
    rows = write_sets(root)
    specs: list[dict[str, Any]] = [
        {"config": config_of(name, tiny_model), "seed": 42, "output_dir": str(root / name), **rows} for name in NAMES
    ]
    for spec in specs:
        if spec["config"]["trainer_type"] == "GRPO":
            spec["rewards"] = ["letters", "length"]
    (root / "specs.json").write_text(json.dumps(specs))
    process = start("tests/fit/reference.py", root / "specs.json")
    assert process.returncode == 0, process.stderr[-3000:]
    answers = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"digest"')]
    return {name: (each["digest"], steady(each["history"])) for name, each in zip(NAMES, answers, strict=True)}


def lab_in(root: Path, tiny_model: Path) -> tuple[Lab, dict[str, dict[str, Any]]]:
    write_sets(root)
    lab = Lab(root, chunks=CHUNKS)
    rewards = list(lab.put_bundle(letters=user_code.letters, length=user_code.length).values())
    configs = {name: config_of(name, tiny_model) for name in NAMES}
    for config in configs.values():
        if config["trainer_type"] == "GRPO":
            config["reward_funcs"] = rewards
    return lab, configs


def interleaved(lab: Lab, configs: dict[str, dict[str, Any]], *, evict: bool = False) -> None:
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    last = {name: len(engine.prepare(lab.job(name, config)).boundaries) for name, config in configs.items()}
    for chunk in range(max(last.values())):
        for name, config in configs.items():
            if chunk < last[name]:
                lab.chunk(engine, name, config, chunk)
                if evict:
                    engine.evict(f"{name}-uid")


def evicted(lab: Lab, configs: dict[str, dict[str, Any]]) -> None:
    interleaved(lab, configs, evict=True)


def killed_and_moved(lab: Lab, configs: dict[str, dict[str, Any]]) -> None:
    """A first worker dies by SIGKILL. This process is a second one, a third one finishes what both have left."""
    runs = {f"{how} {name}": config for how in ("killed", "moved") for name, config in configs.items()}
    plan = {"root": str(lab.root), "chunks": CHUNKS, "bundle": lab.bundle, "runs": runs}
    plan["kill"] = [f"killed {name}" for name in configs]
    (lab.root / "plan.json").write_text(json.dumps(plan))
    drive = (ROOT / "tests/fit/drive.py", lab.root / "plan.json")
    first = start(*drive, "begin")
    assert first.returncode == -signal.SIGKILL, first.stderr[-3000:]
    read_ledger(lab)
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    for name, config in configs.items():
        lab.chunk(engine, f"moved {name}", config, 1)
        lab.chunk(engine, f"moved {name}", config, 2)
    write_ledger(lab)
    third = start(*drive, "finish")
    assert third.returncode == 0, third.stderr[-3000:]
    read_ledger(lab)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> After:
    """The lab in which this happened to the runs of all cases; computed once."""

    @functools.cache
    def happened(what: Callable[[Lab, dict[str, dict[str, Any]]], None]) -> Lab:
        lab, configs = lab_in(tmp_path_factory.mktemp(what.__name__), tiny_model)
        what(lab, configs)
        return lab

    ways = {"interleaved": interleaved, "evicted": evicted, "killed": killed_and_moved, "moved": killed_and_moved}
    return lambda how: happened(ways[how])


def values_of(history: list[dict[str, Any]]) -> list[tuple[int, str, Any]]:
    return [(index, name, value) for index, line in enumerate(history) for name, value in line.items()]


@pytest.mark.parametrize("how", ["interleaved", "evicted", "killed", "moved"])
@pytest.mark.parametrize("name", NAMES)
def test_whatever_happens_to_a_run_it_equals_the_plain_program(
    name: str, how: str, plain: Plain, after: After, cell: Callable[[str, str, str, str], None]
) -> None:
    lab = after(how)
    run = f"{how} {name}" if how in {"killed", "moved"} else name
    weights, history = plain[name]
    expected, values = values_of(history), values_of(lab.history(run))
    same = sum(mine == theirs for mine, theirs in zip(values, expected, strict=False))
    ours = digest(lab.model(run))
    cell(TABLE, name, "plain program", f"{weights[:8]} {len(expected)} values")
    cell(TABLE, name, how, f"{ours[:8]} {same}/{len(expected)} equal")
    assert values == expected
    assert ours == weights
