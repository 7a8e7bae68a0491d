"""Durable checkpoints: written whole or not at all, verified when they are read."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError

from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.causes import as_os_error
from rapidfireai_worker.durable import sha256_of, sync
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.failures import storage_failure
from rapidfireai_worker.fit.statefile import Frozen
from rapidfireai_worker.fit.stream import Position
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.record import recorded_commits
from rapidfireai_worker.retention import attempt_of, kept_steps

MANIFEST = "manifest.json"
MODEL = "model"
"""Folder of what `save_pretrained` writes: an ordinary adapter or model with its tokenizer."""
STATE = "state"
"""Folder of everything else that the run needs to go on."""
TRAINER_STATE = "trainer_state.json"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
_TEMPORARY = ".tmp-"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A run's whole state at a step, in memory: nothing in it changes while the run goes on.

    Attributes:
        step: The optimizer step.
        state: Weights that are the run's own, optimizer, schedule, random states, what the trainer keeps in memory.
        trainer_state: The trainer's own state file.
        export: Writes the model and tokenizer into a folder in their ordinary form.
        position: Where the run stands in the stream of rows: a warm clone goes on there.
    """

    step: int
    state: Frozen
    trainer_state: str
    export: Callable[[Path], None]
    position: Position


@dataclass(frozen=True)
class Restored:
    """What was read of a checkpoint.

    Attributes:
        step: The optimizer step that it holds.
        state: As in `Snapshot`, as the tree that was frozen.
        trainer_folder: The folder that holds the trainer's own state file.
        code: The digest of the code that it was computed with, or None.
        position: As in `Snapshot`; None if an earlier version wrote it.
    """

    step: int
    state: Any
    trainer_folder: Path
    code: str | None = None
    position: Position | None = None


def environment(threads: int) -> dict[str, Any]:
    """Return what bit-identity depends on besides the code: versions, threads, device."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "threads": threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_checkpoint(
    volume: Volume,
    job: RunJob,
    snapshot: Snapshot,
    facts: Mapping[str, Any],
    pinned: frozenset[str] = frozenset(),
) -> Checkpoint:
    """Make a snapshot durable: when this returns, it survives the machine.

    Args:
        volume: The shared volume.
        job: Whose state it is; its attempt is in the checkpoint's name.
        snapshot: The state.
        facts: What goes into the manifest besides, from `environment`.
        pinned: The paths of the run's checkpoints that somebody began with: they stay.

    Raises:
        RunFailure: If the volume is full (StorageFull, Infrastructure) or cannot be written; nothing is left behind.
    """
    directory = job.directory(volume)
    temporary = directory.checkpoints / f"{_TEMPORARY}{snapshot.step}-{job.attempt}-{uuid.uuid4().hex[:8]}"
    final = directory.checkpoint(snapshot.step, job.attempt)
    try:
        committed = _prune(directory, job, pinned)
        _fill(temporary, snapshot)
        digest = _seal(
            temporary,
            {
                "run": job.run,
                "attempt": job.attempt,
                "step": snapshot.step,
                "position": snapshot.position._asdict(),
                "code": job.code,
                **facts,
            },
        )
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync(directory.checkpoints)
        checkpoint = Checkpoint(path=str(final.relative_to(volume.root)), digest=digest, step=snapshot.step)
        write_record(directory, job, [*committed, checkpoint.model_dump()])
    except (OSError, SafetensorError) as error:
        raise storage_failure(as_os_error(error), f"the checkpoint of step {snapshot.step}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it has its name by now, or failed; what stays is pruned later
    return checkpoint


def read_checkpoint(volume: Volume, checkpoint: Checkpoint, facts: Mapping[str, Any]) -> Restored:
    """Read a committed checkpoint, after verifying every file of it.

    Args:
        volume: The shared volume.
        checkpoint: What was committed.
        facts: What bit-identity depends on here, from `environment`; a difference is logged.

    Raises:
        RunFailure: If it is missing, damaged or not the one that was committed, naming the path.
    """
    directory = volume.root / checkpoint.path
    try:
        manifest_bytes = (directory / MANIFEST).read_bytes()
        if hashlib.sha256(manifest_bytes).hexdigest() != checkpoint.digest:
            raise _unreadable(directory / MANIFEST, "its digest is not the committed one")
        manifest = json.loads(manifest_bytes)
        for name, expected in manifest["files"].items():
            if sha256_of(directory / name) != expected["sha256"]:
                raise _unreadable(directory / name, "its digest is not the manifest's")
        state = Frozen.read(directory / STATE).thaw()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(directory, f"{type(error).__name__}: {error}") from error
    there = {name: manifest.get(name) for name in facts}
    if there != dict(facts):
        _log.warning("restored where results may differ in the last bits", path=checkpoint.path, then=there, now=facts)
    position = manifest.get("position")
    return Restored(
        checkpoint.step,
        state,
        directory / STATE,
        manifest.get("code"),
        None if position is None else Position(**position),
    )


def _unreadable(path: Path, why: str) -> RunFailure:
    fix = "restore the volume from a backup, or clone the run"
    return RunFailure("CheckpointUnreadable", f"checkpoint {path} cannot be read: {why}; {fix}")


def _fill(temporary: Path, snapshot: Snapshot) -> None:
    (temporary / STATE).mkdir(parents=True)
    snapshot.state.write(temporary / STATE)
    (temporary / STATE / TRAINER_STATE).write_text(snapshot.trainer_state)
    snapshot.export(temporary / MODEL)


def _seal(temporary: Path, facts: Mapping[str, Any]) -> str:
    """Sync every file and write the manifest; return its digest."""
    files = {}
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        sync(path)
        files[str(path.relative_to(temporary))] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    manifest = json.dumps({"format": 1, **facts, "files": files}, indent=1).encode()
    (temporary / MANIFEST).write_bytes(manifest)
    sync(temporary / MANIFEST)
    for path in [*(path for path in temporary.rglob("*") if path.is_dir()), temporary]:
        sync(path)
    return hashlib.sha256(manifest).hexdigest()


def _prune(directory: RunDirectory, job: RunJob, pinned: frozenset[str]) -> list[dict[str, Any]]:
    """Remove what earlier attempts left and nobody can need; return the commits that stay, oldest first.

    The committed checkpoint stays, which the resource refers to until a new one is committed, what the experiment's
    retention says, and what a warm clone begins with. Only what attempts before this one made is ever touched: if this
    attempt was fenced off meanwhile, what newer ones have committed is safe.
    """
    directory.checkpoints.mkdir(parents=True, exist_ok=True)
    last = job.checkpoint
    commits = [entry for entry in recorded_commits(directory) if last is not None and entry["step"] < last.step]
    if last is not None:
        commits.append(last.model_dump())
    steps = kept_steps([entry["step"] for entry in commits], job.keep_last, job.best_first)
    kept = [entry for entry in commits if entry["step"] in steps or entry["path"] in pinned]
    names = {Path(path).name for path in (*pinned, *(entry["path"] for entry in kept))}
    for path in directory.checkpoints.iterdir():
        attempt = attempt_of(path.name)
        if path.name not in names and attempt is not None and attempt < job.attempt:
            shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again by the next attempt
    return kept


def write_record(directory: RunDirectory, job: RunJob, commits: list[dict[str, Any]]) -> None:
    """Write the run's record, from which its resource could be rebuilt.

    Args:
        directory: The run's directory.
        job: What the run is.
        commits: The checkpoints that are there, oldest first.
    """
    record = {
        "namespace": job.namespace,
        "experiment": {"name": job.experiment, "uid": job.experiment_uid},
        "run": {"name": job.run, "uid": job.run_uid},
        "parentRef": None if job.parent is None else job.parent.to_wire(),
        "config": dict(job.config),
        "seed": job.seed,
        "chunks": job.chunks,
        "data": {"train": _reference(job.train), "eval": _reference(job.eval)},
        "bundle": job.bundle,
        "code": job.code,
        "commits": commits,
    }
    temporary = directory.record.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(json.dumps(record, indent=1))
    sync(temporary)
    temporary.rename(directory.record)
    sync(directory.root)


def _reference(ref: Any) -> dict[str, str] | None:
    return None if ref is None else {"uri": ref.uri, "split": ref.split}
