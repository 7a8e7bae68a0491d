"""Experiments and runs as rows, for columns that people read and for records that programs read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rapidfireai.api import Experiment, Run
from rapidfireai.progress.picture import RunRow, picture_of

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of text.

    Attributes:
        heads: What stands above the columns.
        rows: The cells.
        records: The rows as mappings, numbers as numbers.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[dict[str, Any], ...]

    def lines(self) -> list[str]:
        """Return the table as aligned lines."""
        return aligned([self.heads, *self.rows])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def experiments_table(experiments: Sequence[Experiment], now: datetime) -> Table:
    """Return the experiments of a workspace, newest last."""
    ordered = sorted(experiments, key=lambda each: (each.metadata.creation_timestamp or now, each.metadata.name))
    records = tuple(_experiment_record(each, now) for each in ordered)
    keys = ("name", "state", "runs", "active", "chunks", "workers", "best", "eta", "age")
    return Table(tuple(key.upper() for key in keys), _cells(records, keys), records)


def runs_table(experiment: Experiment, runs: Sequence[Run], now: datetime, *, wide: bool = False) -> Table:
    """Return the runs of an experiment by number.

    Args:
        experiment: The experiment.
        runs: All of its runs: the knobs that are shown are those in which they differ.
        now: The time.
        wide: Also show where a run is, how often it was tried, and its age.
    """
    picture = picture_of(experiment, runs)
    records = tuple(_run_record(run, row, now) for run, row in zip(runs, picture.rows, strict=True))
    cells = [
        {
            **record,
            "knobs": row.about,
            "state": row.standing,
            "chunks": _of(row.chunks_done, row.chunks_total),
            "step": _of(row.step, row.total_steps),
        }
        for record, row in zip(records, picture.rows, strict=True)
    ]
    more = ("worker", "attempt", "age") if wide else ()
    keys = ("name", "state", "chunks", "step", "loss", "objective", *more, "knobs")
    return Table(tuple(key.upper() for key in keys), _cells(cells, keys), records)


def age(since: datetime | None, now: datetime) -> str:
    """Return how long something has been there, as coarsely as kubectl says it."""
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _cells(records: Sequence[dict[str, Any]], keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(record[key]) for key in keys) for record in records)


def _experiment_record(experiment: Experiment, now: datetime) -> dict[str, Any]:
    status = experiment.status
    return {
        "name": experiment.metadata.name,
        "displayName": experiment.spec.display_name or experiment.metadata.name,
        "state": status.state or "Pending",
        "runs": status.runs.total,
        "active": status.runs.active,
        "chunks": status.chunks.summary,
        "workers": status.workers.summary or f"0/{experiment.spec.workers.replicas}",
        "best": status.best.summary if status.best else "",
        "eta": status.eta or "",
        "age": age(experiment.metadata.creation_timestamp, now),
    }


def _run_record(run: Run, row: RunRow, now: datetime) -> dict[str, Any]:
    checkpoint = run.status.progress.checkpoint if run.status.progress else None
    return {
        "name": row.name,
        "state": row.state,
        "desiredState": run.spec.desired_state,
        "requestedBy": run.spec.requested_by or "",
        "parent": run.spec.parent_ref.name if run.spec.parent_ref else "",
        "warmStart": bool(run.spec.parent_ref and run.spec.parent_ref.warm_start),
        "chunksDone": row.chunks_done,
        "chunksTotal": row.chunks_total,
        "step": row.step,
        "totalSteps": row.total_steps,
        "loss": row.loss,
        "objective": row.objective,
        "worker": row.worker,
        "attempt": run.status.attempt,
        "checkpoint": checkpoint.path if checkpoint else "",
        "age": age(run.metadata.creation_timestamp, now),
        "knobs": row.knobs,
        "problem": row.problem,
    }


def _of(done: int, total: int) -> str:
    return f"{done}/{total}" if total else ""


def only(table: Table, name: str) -> Table:
    """Return the one row of a table that has this name."""
    kept = [index for index, record in enumerate(table.records) if record["name"] == name]
    return Table(table.heads, tuple(table.rows[i] for i in kept), tuple(table.records[i] for i in kept))
