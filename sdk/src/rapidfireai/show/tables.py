"""Experiments and runs as rows, for columns that people read and for records that programs read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rapidfireai.api import Experiment, Run
from rapidfireai.progress.columns import of
from rapidfireai.progress.estimates import estimates_of
from rapidfireai.progress.picture import RunRow, picture_of

_METRIC = "metric "
_IN_EVALS = {"chunksDone": "shardsDone", "chunksTotal": "shardsTotal", "step": "rows", "totalSteps": "totalRows"}
_OF_TRAINING = frozenset({"warmStart", "loss"})
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
    record = _evals_record if picture.mode == "evals" else _run_record
    records = tuple(record(run, row, now) for run, row in zip(runs, picture.rows, strict=True))
    cells = [
        {
            **each,
            "knobs": row.about,
            "state": row.standing,
            "chunks": of(row.chunks_done, row.chunks_total),
            "shards": of(row.chunks_done, row.chunks_total),
            "step": of(row.step, row.total_steps),
            "rows": row.rows,
            "rows/s": row.throughput,
            **{_metric(name): row.estimates.get(name, "") for name in picture.metrics},
        }
        for each, row in zip(records, picture.rows, strict=True)
    ]
    more = ("worker", "attempt", "age") if wide else ()
    keys: tuple[str, ...] = ("name", "state", "chunks", "step", "loss", "objective", *more, "knobs")
    if picture.mode == "evals":
        keys = ("name", "state", "shards", "rows", "rows/s", *map(_metric, picture.metrics), *more, "knobs")
    heads = tuple(key.removeprefix(_METRIC) if key.startswith(_METRIC) else key.upper() for key in keys)
    return Table(heads, _cells(cells, keys), records)


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
        "mode": experiment.spec.mode,
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
    checkpoint = run.status.committed
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


def _evals_record(run: Run, row: RunRow, now: datetime) -> dict[str, Any]:
    """Return the record of an evaluation: shards for chunks, rows for steps, estimates for a loss."""
    record = _run_record(run, row, now)
    renamed = {_IN_EVALS.get(name, name): value for name, value in record.items() if name not in _OF_TRAINING}
    estimates = {
        name: each.model_dump(mode="json", exclude_none=True) for name, each in sorted(estimates_of(run).items())
    }
    return {
        **renamed,
        "throughput": row.throughput,
        "failedRows": row.failed_rows,
        "index": str(row.index or ""),
        "estimates": estimates,
    }


def _metric(name: str) -> str:
    """Return the key of a metric's column: users call metrics what they like."""
    return f"{_METRIC}{name}"


def only(table: Table, name: str) -> Table:
    """Return the one row of a table that has this name."""
    kept = [index for index, record in enumerate(table.records) if record["name"] == name]
    return Table(table.heads, tuple(table.rows[i] for i in kept), tuple(table.records[i] for i in kept))
