"""A worker's process of its own, for the runs of several configs: `drive.py PLAN.json begin|finish`.

`begin` commits each run's first chunk. Of the runs in `kill` it then computes a part of a later chunk that nobody
commits, and dies by SIGKILL inside the last one's. `finish` goes on from the last commits to the end. What the operator
would keep is in ROOT/ledger.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.lab import Lab

from rapidfireai.api.run import Checkpoint, ParentRef
from rapidfireai_worker.engine import ChunkControl
from rapidfireai_worker.fit.engine import FitEngine


def read_ledger(lab: Lab) -> None:
    """Take up what another process's runs have committed and logged."""
    path = lab.root / "ledger.json"
    if path.exists():
        kept = json.loads(path.read_text())
        lab.checkpoints = {name: Checkpoint.model_validate(each) for name, each in kept["checkpoints"].items()}
        lab.attempts = kept["attempts"]
        lab.lines = {name: [tuple(line) for line in lines] for name, lines in kept["lines"].items()}


def write_ledger(lab: Lab) -> None:
    """Keep what runs have committed and logged for another process."""
    checkpoints = {name: each.model_dump() for name, each in lab.checkpoints.items()}
    kept = {"checkpoints": checkpoints, "attempts": lab.attempts, "lines": lab.lines}
    (lab.root / "ledger.json").write_text(json.dumps(kept))


def begin(lab: Lab, engine: FitEngine, runs: dict[str, Any], kill: list[str]) -> None:
    boundaries = {name: engine.prepare(lab.job(name, config)).boundaries for name, config in runs.items()}
    for name, config in runs.items():
        lab.chunk(engine, name, config, 0)
    write_ledger(lab)
    for name in kill:
        chunk = next(i for i, end in enumerate(boundaries[name]) if i and end - boundaries[name][i - 1] > 1)
        for before in range(1, chunk):
            lab.chunk(engine, name, runs[name], before)
        write_ledger(lab)
        inside = boundaries[name][chunk - 1] + 1

        def stop(control: ChunkControl, step: int, inside: int = inside, last: bool = name == kill[-1]) -> None:
            if step >= inside and last:
                os.kill(os.getpid(), signal.SIGKILL)
            control.park.set()

        outcome = engine.run_chunk(lab.job(name, runs[name]), chunk, lab.control(name, stop))
        assert outcome.step == inside, (name, outcome.step)


def finish(lab: Lab, engine: FitEngine, runs: dict[str, Any]) -> None:
    for name, config in runs.items():
        lab.finish(engine, name, config)
    write_ledger(lab)


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    lab = Lab(Path(plan["root"]), chunks=plan["chunks"], bundle=plan["bundle"])
    lab.parents = {name: ParentRef.model_validate(each) for name, each in plan.get("parents", {}).items()}
    read_ledger(lab)
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    if sys.argv[2] == "begin":
        begin(lab, engine, plan["runs"], plan["kill"])
    else:
        finish(lab, engine, plan["runs"])


if __name__ == "__main__":
    main()
