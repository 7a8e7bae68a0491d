"""Runs and their metrics as the rows that `get_runs_info()` and `get_results()` return. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from rapidfireai.api import Run
from rapidfireai.expand import restore
from rapidfireai.progress.picture import chunks_at, chunks_done, problem_of
from rapidfireai.volume import MetricLine


class RunStatus(Enum):
    """The state of a run, in the words of the Python API."""

    NEW = "New"
    ONGOING = "Ongoing"
    STOPPED = "Stopped"
    DELETED = "Deleted"
    COMPLETED = "Completed"
    FAILED = "Failed"


class RunSource(Enum):
    """Where a run came from."""

    INITIAL = "Initial"
    INTERACTIVE_CONTROL = "Interactive Control"


class RunEndedBy(Enum):
    """What ended a run."""

    EPOCH_COMPLETED = "Epoch Completed"
    INTERACTIVE_CONTROL = "Interactive Control"
    POLICY = "Policy"


STATUSES: Mapping[str, RunStatus] = {
    "Pending": RunStatus.NEW,
    "Running": RunStatus.ONGOING,
    "Stopped": RunStatus.STOPPED,
    "Succeeded": RunStatus.COMPLETED,
    "Failed": RunStatus.FAILED,
    "Deleted": RunStatus.DELETED,
}
_OF_TRAINING = frozenset({"num_chunks_visited_curr_epoch", "num_epochs_completed", "chunk_offset", "warm_started_from"})
"""Columns that mean nothing where nothing is trained."""
POLICY_PREFIX = "policy:"
"""How the name of who asked for something begins if it was a policy of the experiment."""


def run_records(runs: Sequence[Run], chunks_per_epoch: int) -> list[dict[str, Any]]:
    """Return the rows of an experiment's runs.

    Args:
        runs: All of its runs.
        chunks_per_epoch: `Experiment.spec.chunks`.
    """
    by_name = {run.metadata.name: run for run in runs}
    parents = [by_name.get(run.spec.parent_ref.name) if run.spec.parent_ref else None for run in runs]
    return [run_record(run, chunks_per_epoch, parent) for run, parent in zip(runs, parents, strict=True)]


def run_record(run: Run, chunks_per_epoch: int, parent: Run | None = None) -> dict[str, Any]:
    """Return the row of one run, its columns in the documented order.

    Args:
        run: The run.
        chunks_per_epoch: `Experiment.spec.chunks`.
        parent: The run that it was cloned from, if it is still there.
    """
    status = run.status
    state = status.state or "Pending"
    done = chunks_done(run)
    checkpoint = status.committed
    cloned_from = run.spec.parent_ref.index if run.spec.parent_ref else None
    warm = run.spec.parent_ref is not None and run.spec.parent_ref.warm_start
    return {
        "run_id": run.spec.index,
        "status": STATUSES[state],
        "metric_run_id": status.mlflow_run_id or "",
        "completed_steps": checkpoint.step if checkpoint else 0,
        "total_steps": status.prepared.total_steps if status.prepared else 0,
        "num_chunks_visited_curr_epoch": done % chunks_per_epoch,
        "num_epochs_completed": done // chunks_per_epoch,
        "chunk_offset": _offset(run, parent, chunks_per_epoch),
        "error": problem_of(run),
        "source": RunSource.INITIAL if cloned_from is None else RunSource.INTERACTIVE_CONTROL,
        "ended_by": _ended_by(run),
        "warm_started_from": cloned_from if warm else None,
        "cloned_from": cloned_from,
        "estimated_runtime": _estimated_seconds(run),
        "required_workers": 1,
        "config": {key: value for key, value in restore(run.spec.config).items() if key != "additional_kwargs"},
    }


def evals_records(runs: Sequence[Run], shards: int) -> list[dict[str, Any]]:
    """Return the rows of an experiment of evaluations: shards for chunks, and answered rows for steps.

    Args:
        runs: All of its runs.
        shards: `Experiment.spec.shards`.
    """
    return [_evals_record(run_record(run, shards), chunks_done(run), shards) for run in runs]


def _evals_record(record: Mapping[str, Any], done: int, shards: int) -> dict[str, Any]:
    """Return a run's row without what means nothing here, the shards standing where the chunks would."""
    made: dict[str, Any] = {}
    for name, value in record.items():
        if name == "num_chunks_visited_curr_epoch":
            made |= {"num_shards_visited": done, "num_shards": shards}
        elif name not in _OF_TRAINING:
            made[name] = value
    return made


def shard_lines(lines: Iterable[MetricLine]) -> list[MetricLine]:
    """Return those lines of an evaluation's log that say what was estimated after a shard."""
    return [line for line in lines if line.kind == "shard"]


def metric_records(lines_by_run: Mapping[int, Iterable[MetricLine]]) -> list[dict[str, Any]]:
    """Return one row for each (run, step) that logged something, in that order, with the metrics by name."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for run_id, lines in lines_by_run.items():
        for line in lines:
            row = rows.setdefault((run_id, line.step), {"run_id": run_id, "step": line.step})
            row |= {name: float("nan") if value is None else value for name, value in line.values.items()}
    return [rows[key] for key in sorted(rows)]


def _ended_by(run: Run) -> RunEndedBy | None:
    if run.status.state == "Succeeded":
        return RunEndedBy.EPOCH_COMPLETED
    if run.status.state not in {"Stopped", "Deleted"}:
        return None
    by_policy = (run.spec.requested_by or "").startswith(POLICY_PREFIX)
    return RunEndedBy.POLICY if by_policy else RunEndedBy.INTERACTIVE_CONTROL


def _offset(run: Run, parent: Run | None, chunks_per_epoch: int) -> int:
    """Return at which chunk of an epoch a warm clone goes on with the rows: where its parent stood."""
    checkpoint = run.spec.parent_ref.checkpoint if run.spec.parent_ref else None
    return chunks_at(parent, checkpoint.step) % chunks_per_epoch if parent and checkpoint else 0


def _estimated_seconds(run: Run) -> float:
    """Return about how many seconds the whole run computes, or 0.0 while nothing is known."""
    prepared, progress = run.status.prepared, run.status.progress
    if prepared is None or progress is None or not progress.seconds or progress.step == 0:
        return 0.0
    chunk_steps = prepared.total_steps / len(prepared.boundaries)
    return round(progress.seconds / chunk_steps * prepared.total_steps, 1)
