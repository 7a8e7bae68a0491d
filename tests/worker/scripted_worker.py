"""A worker whose engine follows a script in the run's config instead of training: `python scripted_worker.py`.

Everything else of the process is the real thing. The script's keys, all optional:

- `total`: optimizer steps;
- `gates`: steps before which it waits until somebody opens the gate, or `prepare`;
- `fails_at`, `exits_at`, `no_memory_at`, `breaks_at` (the device), `nan_at`: the step at which that happens;
- `persist_gate`: whether persisting waits for the gate `persist`; `persist_full`: whether the disk is full then;
  `persist_no_memory`: whether memory runs out then, unless nothing is warm;
- `pin_at`: the step whose checkpoint is persisted once the run has a pinned one;
- `boundary_metrics`: further metrics of each chunk;
- `estimates`: the estimates of each chunk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from typing import Any

from rapidfireai.api.run import Checkpoint, Estimate, Prepared
from rapidfireai_worker.engine import ChunkControl, ChunkOutcome, Discarded, Holdings, RunFailure, RunJob
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.main import run
from rapidfireai_worker.settings import WorkerSettings

TOTAL = 8
CHUNKS = 2


class AcceleratorError(RuntimeError):
    """Named as torch's: the worker tells it by its name."""


class ScriptedEngine:
    """Counts steps; writes down whatever is asked of it in `trace.jsonl` on the volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._sessions: dict[str, int] = {}

    def prepare(self, job: RunJob) -> Prepared:
        self._trace("prepare", job)
        self._wait_at(job, "prepare")
        total = job.config.get("total", TOTAL)
        boundaries = [total * (i + 1) // CHUNKS for i in range(CHUNKS)]
        self._sessions[job.run_uid] = 0
        return Prepared(total_steps=total, boundaries=boundaries, bytes=1000)

    def build_index(self, job: RunJob, control: ChunkControl) -> Prepared:
        self._trace("index", job)
        control.report(0, {"Documents Indexed": 3.0, "Documents": 9.0})
        self._wait_at(job, "index", control)
        if control.park.is_set():
            raise RunFailure("IndexAbandoned", "told to end", blame="Infrastructure")
        return Prepared(total_steps=TOTAL, boundaries=[4, 8], index="a" * 64, index_built=True)

    def run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        committed = job.checkpoint.step if job.checkpoint else 0
        step = self._sessions.setdefault(job.run_uid, committed)
        assert step == committed, f"session at {step}, committed {committed}"
        boundary = job.config.get("total", TOTAL) * (chunk + 1) // CHUNKS
        self._trace("chunk", job, chunk=chunk, step=step)
        metrics: dict[str, float] = {}
        while step < boundary and not control.park.is_set():
            self._wait_at(job, step + 1, control)
            step = self._step(job, step, control, metrics)
        metrics.update(job.config.get("boundary_metrics", [{}] * CHUNKS)[chunk])
        self._trace("computed", job, chunk=chunk, step=step)
        estimates = job.config.get("estimates", [{}] * CHUNKS)[chunk]
        return ChunkOutcome(
            step,
            {**metrics, "chunk/loss": 1.0},
            metrics.get("loss"),
            0.1,
            lambda: self._persist(job, step, control),
            {name: Estimate.model_validate(each) for name, each in estimates.items()},
        )

    def _step(self, job: RunJob, step: int, control: ChunkControl, metrics: dict[str, float]) -> int:
        step += 1
        if step == job.config.get("fails_at"):
            raise ValueError(f"the formatting function failed at step {step}")
        if step == job.config.get("no_memory_at"):
            raise MemoryError
        if step == job.config.get("breaks_at"):
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        if step == job.config.get("exits_at"):
            sys.exit("user code exits")
        loss = float("nan") if step == job.config.get("nan_at") else 8.0 / step
        metrics.update({"loss": loss, "learning_rate": 0.1 / step})
        self._sessions[job.run_uid] = step
        control.log("log", step, step, metrics)
        control.report(step, metrics)
        if control.discard.is_set():
            raise Discarded
        return step

    def evict(self, run_uid: str) -> None:
        self._sessions.pop(run_uid, None)
        self._write({"event": "evict", "uid": run_uid})

    def holdings(self) -> Holdings:
        return Holdings(dict.fromkeys(self._sessions, 1000), used=2000, budget=5000)

    def _persist(self, job: RunJob, step: int, control: ChunkControl) -> Checkpoint:
        self._trace("persist", job, step=step)
        while step == job.config.get("pin_at") and not control.pinned():
            time.sleep(0.005)
        if job.config.get("persist_gate"):
            self._wait_at(job, "persist", always=True)
        if job.config.get("persist_no_memory") and self._sessions:
            raise MemoryError
        if job.config.get("persist_full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
        directory = self._volume.run(job.experiment_uid, job.run_uid).checkpoint(step, job.attempt)
        (directory / "model").mkdir(parents=True, exist_ok=True)
        (directory / "model" / "adapter.txt").write_text(f"step {step}")
        manifest = json.dumps({"step": step})
        (directory / "manifest.json").write_text(manifest)
        self._trace("persisted", job, step=step, pinned=sorted(control.pinned()))
        digest = hashlib.sha256(manifest.encode()).hexdigest()
        return Checkpoint(path=str(directory.relative_to(self._volume.root)), digest=digest, step=step)

    def _wait_at(self, job: RunJob, gate: int | str, control: ChunkControl | None = None, always: bool = False) -> None:
        if not always and gate not in job.config.get("gates", []):
            return
        self._trace("waits", job)
        while not (self._volume.root / f"gate-{job.run}-{gate}").exists():
            if control is not None and (control.park.is_set() or control.discard.is_set()):
                return
            time.sleep(0.005)

    def _trace(self, event: str, job: RunJob, **more: Any) -> None:
        self._write({"event": event, "run": job.run, "attempt": job.attempt, **more})

    def _write(self, line: dict[str, Any]) -> None:
        with (self._volume.root / "trace.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _engine(settings: WorkerSettings) -> ScriptedEngine:
    while "ENGINE_WAITS" in os.environ and not (settings.volume / "gate-engine-").exists():
        time.sleep(0.01)
    return ScriptedEngine(Volume(settings.volume))


if __name__ == "__main__":
    run(_engine)
