"""Answered shards on the volume: each written whole or not at all, linked to the one before, verified when read."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.durable import sha256_of, sync, sync_directory
from rapidfireai_worker.engine import DataRef, RunFailure, RunJob
from rapidfireai_worker.evals.batches import ROW, BatchResult
from rapidfireai_worker.evals.functions import Columns
from rapidfireai_worker.failures import storage_failure
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.retention import attempt_of

FORMAT = 1
MANIFEST, ROWS, BATCHES, CUMULATIVE = "manifest.json", "rows.parquet", "batches.jsonl", "cumulative.json"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What is kept of a batch beside its rows: a line of `batches.jsonl`.

    Attributes:
        rows: How many rows it has.
        failed: How many of them have no answer.
        metrics: Its metrics, over the others.
        seconds: From asking to the last answer.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        latency: The sum of what each row took, in seconds.
    """

    rows: int
    failed: int
    metrics: Mapping[str, Any]
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    latency: float

    @classmethod
    def of(cls, batch: BatchResult) -> BatchRecord:
        """Return what is kept of a batch."""
        return cls(
            rows=len(batch.places),
            failed=len(batch.failed),
            metrics=batch.metrics,
            seconds=round(batch.seconds, 6),
            prompt_tokens=batch.prompt_tokens,
            completion_tokens=batch.completion_tokens,
            latency=round(batch.latency, 6),
        )

    @property
    def tokens(self) -> int:
        """Tokens that were read or written."""
        return self.prompt_tokens + self.completion_tokens

    def to_line(self) -> str:
        """Return the line."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**values, "tokens": self.tokens}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> BatchRecord:
        """Return what a line holds."""
        values = json.loads(line)
        return cls(**{name: values[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Answers:
    """All that was answered of a run, and committed: the chain of its shards, without their rows.

    Attributes:
        rows: How many rows of the order are done, failed ones among them.
        batches: All batches, those among them that tried failed rows again.
        failed: The places of the rows that have no answer.
        seconds: How long all of it took.
        links: The directories of the chain, oldest first.
        checkpoint: The last commit; None before the first.
    """

    rows: int = 0
    batches: tuple[BatchRecord, ...] = ()
    failed: tuple[int, ...] = ()
    seconds: float = 0.0
    links: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None

    def with_batches(self, rows: int, batches: Sequence[BatchResult], seconds: float) -> Answers:
        """Return what there is after more batches; they are not committed yet.

        Args:
            rows: How many rows of the order are done with them.
            batches: The batches, in the order in which they were asked.
            seconds: How long they took.
        """
        failed = dict.fromkeys(self.failed)
        for batch in batches:
            for place in batch.places:
                failed.pop(place, None)
            failed |= dict.fromkeys(batch.failed)
        return Answers(
            rows=rows,
            batches=(*self.batches, *map(BatchRecord.of, batches)),
            failed=tuple(failed),
            seconds=self.seconds + seconds,
            links=self.links,
            checkpoint=self.checkpoint,
        )


def read_answers(volume: Volume, checkpoint: Checkpoint | None, code: str | None) -> Answers:
    """Read what a run has committed, after verifying every file of the chain that is read.

    Args:
        volume: The shared volume.
        checkpoint: The last commit, or None before the first.
        code: The digest of the run's code now.

    Raises:
        RunFailure: If a link is missing, damaged, or not the one that was committed (CheckpointUnreadable), or was
            computed with other code (CodeChanged).
    """
    if checkpoint is None:
        return Answers()
    links: list[str] = []
    batches: list[list[BatchRecord]] = []
    newest: dict[str, Any] = {}
    link: Mapping[str, str] | None = {"path": checkpoint.path, "digest": checkpoint.digest}
    while link is not None:
        directory = volume.root / link["path"]
        try:
            manifest = json.loads(_verified(directory / MANIFEST, link["digest"]))
            lines = _verified(directory / BATCHES, manifest["files"][BATCHES]).decode().splitlines()
            batches.insert(0, [BatchRecord.from_line(line) for line in lines])
            links.insert(0, link["path"])
            newest = newest or manifest
            link = manifest["previous"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(directory, f"{type(error).__name__}: {error}") from error
    if newest["code"] != code:
        raise RunFailure(
            "CodeChanged",
            f"the first {newest['rows']} rows were answered with other code ({str(newest['code'])[:12]}) than the "
            f"experiment has now ({str(code)[:12]}); put it back, or clone the run",
        )
    return Answers(
        rows=newest["rows"],
        batches=tuple(each for shard in batches for each in shard),
        failed=tuple(newest["failed"]),
        seconds=newest["seconds"],
        links=tuple(links),
        checkpoint=checkpoint,
    )


def _verified(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"the digest of {path.name} is not the committed one")
    return content


def _unreadable(path: Path, why: str) -> RunFailure:
    fix = "restore the volume from a backup, or clone the run"
    return RunFailure("CheckpointUnreadable", f"answered shard {path} cannot be read: {why}; {fix}")


def write_answers(
    volume: Volume,
    job: RunJob,
    answers: Answers,
    fresh: Sequence[BatchResult],
    cumulative: Mapping[str, Any],
    facts: Mapping[str, Any],
    pinned: frozenset[str] = frozenset(),
) -> Answers:
    """Make batches durable: when this returns, they survive the machine.

    Args:
        volume: The shared volume.
        job: Whose they are; its attempt is in the directory's name.
        answers: All that is answered with them.
        fresh: The batches that are not committed yet.
        cumulative: The metrics over all of it, as `run_evals` returns them.
        facts: What they were computed with, for the manifest.
        pinned: The paths of commits that somebody began with: they stay.

    Returns:
        `answers`, committed.

    Raises:
        RunFailure: If the volume is full or cannot be written; nothing is left behind.
    """
    directory = job.directory(volume)
    final = directory.shard(answers.rows, job.attempt)
    temporary = directory.shards / f"{_TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
    before = answers.checkpoint
    try:
        directory.shards.mkdir(parents=True, exist_ok=True)
        _prune(directory, job, {*answers.links, *pinned})
        temporary.mkdir()
        pq.write_table(as_table(fresh), temporary / ROWS)
        count = len(fresh)
        (temporary / BATCHES).write_text("".join(each.to_line() for each in answers.batches[-count:] if count))
        (temporary / CUMULATIVE).write_text(json.dumps(cumulative, indent=1, default=str))
        digest = _seal(
            temporary,
            {
                "format": FORMAT,
                "run": job.run,
                "attempt": job.attempt,
                "rows": answers.rows,
                "failed": list(answers.failed),
                "seconds": round(answers.seconds, 6),
                "previous": None if before is None else {"path": before.path, "digest": before.digest},
                "code": job.code,
                "facts": dict(facts),
            },
        )
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync_directory(directory.shards)
        checkpoint = Checkpoint(path=str(final.relative_to(volume.root)), digest=digest, step=answers.rows)
        links = (*answers.links, checkpoint.path)
        _write_record(directory, job, links)
    except OSError as error:
        raise storage_failure(error, f"the answers of {answers.rows} rows") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it has its name by now, or failed; what stays is pruned later
    return Answers(answers.rows, answers.batches, answers.failed, answers.seconds, links, checkpoint)


def as_table(batches: Sequence[BatchResult]) -> pa.Table:
    """Return the rows of batches; a column that some do not have is null there, what Parquet cannot hold is JSON."""
    names = dict.fromkeys(name for batch in batches for name in batch.columns)
    return pa.table({name: _array(_values(name, batches)) for name in sorted(names, key=lambda name: name == ROW)})


def _values(name: str, batches: Sequence[BatchResult]) -> list[Any]:
    columns: list[Columns] = [batch.columns for batch in batches]
    return [value for each in columns for value in each.get(name, [None] * len(each[ROW]))]


def _array(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError):
        array = None
    if array is None or _has_empty_struct(array.type):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())
    return array


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Return whether a type is one of those that Parquet cannot write."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(each.type) for each in kind)
    return pa.types.is_list(kind) and _has_empty_struct(kind.value_type)


def _seal(temporary: Path, facts: Mapping[str, Any]) -> str:
    """Sync every file and write the manifest; return its digest."""
    files = {}
    for path in sorted(temporary.iterdir()):
        sync(path)
        files[path.name] = sha256_of(path)
    manifest = json.dumps({**facts, "files": files}, indent=1).encode()
    (temporary / MANIFEST).write_bytes(manifest)
    sync(temporary / MANIFEST)
    sync_directory(temporary)
    return hashlib.sha256(manifest).hexdigest()


def _prune(directory: RunDirectory, job: RunJob, stays: set[str]) -> None:
    """Remove what earlier attempts left and never committed; what newer ones did is safe."""
    names = {Path(path).name for path in stays}
    for path in directory.shards.iterdir():
        attempt = attempt_of(path.name)
        if path.name not in names and attempt is not None and attempt < job.attempt:
            shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again by the next attempt


def _write_record(directory: RunDirectory, job: RunJob, links: Sequence[str]) -> None:
    """Write the run's record, from which its resource could be rebuilt."""
    record = {
        "namespace": job.namespace,
        "experiment": {"name": job.experiment, "uid": job.experiment_uid},
        "run": {"name": job.run, "uid": job.run_uid},
        "mode": job.mode,
        "parentRef": None if job.parent is None else job.parent.to_wire(),
        "config": dict(job.config),
        "seed": job.seed,
        "shards": job.shards,
        "data": {"eval": _reference(job.eval), "documents": _reference(job.documents)},
        "bundle": job.bundle,
        "code": job.code,
        "commits": [],
        "answers": list(links),
    }
    temporary = directory.record.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(json.dumps(record, indent=1))
    sync(temporary)
    temporary.rename(directory.record)
    sync_directory(directory.root)


def _reference(ref: DataRef | None) -> dict[str, str] | None:
    return None if ref is None else {"uri": ref.uri, "split": ref.split}
