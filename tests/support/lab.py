"""Runs of a fit engine without a cluster: a volume in a folder, and the bookkeeping that the operator would do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rapidfireai.api.run import Checkpoint, ParentRef
from rapidfireai.bundle import make_bundle
from rapidfireai_worker.engine import ChunkControl, ChunkOutcome, DataRef, Engine, RunJob
from rapidfireai_worker.layout import Volume

WALL_CLOCK = ("runtime", "per_second", "step_time")

Line = tuple[str, int, int, dict[str, float]]


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Return sums as chats of different lengths."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {'the sum of ' * (i % 3)}{i % 9}+{i % 7}?"}],
            "completion": [{"role": "assistant", "content": f"It is {i % 9 + i % 7}."}],
        }
        for i in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steady(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a history without what depends on the clock."""
    return [{k: v for k, v in line.items() if not any(words in k for words in WALL_CLOCK)} for line in history]


@dataclasses.dataclass
class Lab:
    """One experiment's runs on one volume.

    Attributes:
        root: Holds the volume, `train.jsonl` and `eval.jsonl`.
        chunks: Chunks an epoch.
        checkpoints: The last commit of each run.
        parents: What each clone was cloned from.
        lines: What each run logged, each (kind, sequence) once, as the run's log on the volume keeps it.
    """

    root: Path
    chunks: int = 3
    seed: int = 42
    bundle: str | None = None
    evals: bool = True
    checkpoints: dict[str, Checkpoint] = dataclasses.field(default_factory=dict)
    lines: dict[str, list[Line]] = dataclasses.field(default_factory=dict)
    attempts: dict[str, int] = dataclasses.field(default_factory=dict)
    parents: dict[str, ParentRef] = dataclasses.field(default_factory=dict)

    @property
    def volume(self) -> Volume:
        return Volume(self.root / "volume")

    @property
    def claims(self) -> dict[str, Path]:
        return {"data": self.root}

    def job(self, name: str, config: Mapping[str, Any]) -> RunJob:
        """Return the next attempt's job of a run, from its last commit."""
        self.attempts[name] = self.attempts.get(name, 0) + 1
        return RunJob(
            namespace="lab",
            experiment="lab",
            experiment_uid="lab-uid",
            run=name,
            run_uid=f"{name}-uid",
            attempt=self.attempts[name],
            config=config,
            seed=self.seed,
            chunks=self.chunks,
            train=DataRef("pvc://data/train.jsonl"),
            eval=DataRef("pvc://data/eval.jsonl") if self.evals else None,
            checkpoint=self.checkpoints.get(name),
            parent=self.parents.get(name),
            bundle=self.bundle,
        )

    def clone(self, parent: str, name: str) -> None:
        """Let a run be a warm clone of another one, from that one's last commit."""
        checkpoint = self.checkpoints[parent]
        self.parents[name] = ParentRef(
            name=parent, uid=f"{parent}-uid", index=1, warm_start=True, checkpoint=checkpoint
        )

    def put_bundle(self, **objects: object) -> dict[str, Any]:
        """Put objects into a code bundle on the volume; return the references to them."""
        bundle = make_bundle(objects)
        path = self.volume.bundle(bundle.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.data)
        self.bundle = bundle.digest
        return {key: {"$ref": {"bundle": bundle.digest, "key": key, "label": key}} for key in objects}

    def control(self, name: str, on_step: Callable[[ChunkControl, int], None] | None = None) -> ChunkControl:
        """Return a control that keeps the run's lines, and checks that a replay repeats them.

        Args:
            name: The run.
            on_step: Called with the control and the step of each line that is logged.
        """
        lines = self.lines.setdefault(name, [])
        control: ChunkControl

        def log(kind: str, sequence: int, step: int, values: Mapping[str, float]) -> None:
            line = (kind, sequence, step, dict(values))
            known = [old for old in lines if old[:2] == line[:2]]
            if known:
                assert steady([known[0][3]]) == steady([line[3]]) and known[0][2] == step, (known[0], line)
            else:
                lines.append(line)
            if on_step is not None:
                on_step(control, step)

        def pinned() -> frozenset[str]:
            return frozenset(parent.checkpoint.path for parent in self.parents.values() if parent.checkpoint)

        control = ChunkControl(log=log, pinned=pinned)
        return control

    def chunk(
        self,
        engine: Engine,
        name: str,
        config: Mapping[str, Any],
        chunk: int,
        on_step: Callable[[ChunkControl, int], None] | None = None,
    ) -> ChunkOutcome:
        """Compute a chunk and commit it."""
        outcome = engine.run_chunk(self.job(name, config), chunk, self.control(name, on_step))
        self.checkpoints[name] = outcome.persist()
        return outcome

    def finish(self, engine: Engine, name: str, config: Mapping[str, Any]) -> None:
        """Run and commit every chunk that is left."""
        boundaries = engine.prepare(self.job(name, config)).boundaries
        done = self.checkpoints[name].step if name in self.checkpoints else 0
        for chunk, boundary in enumerate(boundaries):
            if boundary > done:
                self.chunk(engine, name, config, chunk)

    def model(self, name: str) -> Path:
        """Return the model folder of a run's last commit."""
        return self.volume.root / self.checkpoints[name].path / "model"

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return what the trainer logged, as its own history would hold it, without the clock."""
        logged = sorted((line for line in self.lines[name] if line[0] == "log"), key=lambda line: line[1])
        assert [line[1] for line in logged] == list(range(len(logged))), "a line is missing or doubled"
        return steady([{**values, "step": step} for _, _, step, values in logged])
