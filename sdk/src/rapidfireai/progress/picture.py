"""The resources of an experiment -> one picture for people. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.api import Experiment, ICOp, Run
from rapidfireai.api.base import Condition
from rapidfireai.api.experiment import Mode
from rapidfireai.api.run import ENDED
from rapidfireai.config_fields import name_of
from rapidfireai.progress.estimates import estimates_of, in_words

_ABSENT = object()
_ACCOUNT = "system:serviceaccount:"
_THROUGHPUT = "Throughput"
_FAILED_ROWS = "Failed Rows"
_INDEXED = "Documents Indexed"
_TO_INDEX = "Documents"
_WAITING_FOR_INDEX = "WaitingForIndex"


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is being built.

    Attributes:
        done: Documents in it.
        total: All documents; 0 while they are not counted.
        waited_for: Whether another run builds it.
    """

    done: int = 0
    total: int = 0
    waited_for: bool = False

    def __str__(self) -> str:
        if self.waited_for:
            return "waits for its index"
        if not self.total:
            return f"index {self.done} documents" if self.done else "builds its index"
        return f"index {self.done}/{self.total} documents"

    @property
    def tenths(self) -> int:
        """How many tenths of the documents are in it."""
        return 10 * self.done // self.total if self.total else 0


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as a row of a table.

    Attributes:
        knobs: The knobs in which the runs of the experiment differ, as `r=8 learning_rate=0.0001`.
        chunks_done: Committed chunks or shards.
        chunks_total: All of them; 0 while they are not known.
        step: The optimizer step, or how many rows were answered.
        problem: Why it failed, or empty.
        origin: For a clone of which run it is one, and whether it began with its weights; else empty.
        by: Who stopped or deleted it, as far as that is known.
        throughput: Rows a second of an evaluation, or empty.
        failed_rows: Rows of an evaluation that have no answer.
        estimates: Metrics of an evaluation by name, as `52.0% [43.1%, 60.9%]`.
        index: What becomes of the index that it needs, while it is not there.
    """

    name: str
    state: str
    knobs: str
    chunks_done: int
    chunks_total: int
    step: int
    total_steps: int
    loss: str
    objective: str
    worker: str
    problem: str
    origin: str = ""
    by: str = ""
    throughput: str = ""
    failed_rows: int = 0
    estimates: Mapping[str, str] = field(default_factory=dict)
    index: Index | None = None

    @property
    def standing(self) -> str:
        """The state, and who brought it about or what it waits for."""
        if self.index is not None:
            return f"{self.state}, {self.index}"
        return f"{self.state} by {self.by}" if self.by else self.state

    @property
    def rows(self) -> str:
        """The rows of an evaluation that were answered, and those that could not be."""
        if not self.total_steps:
            return ""
        return f"{self.step}/{self.total_steps}" + (f" ({self.failed_rows} failed)" if self.failed_rows else "")

    @property
    def about(self) -> str:
        """What it is: where it comes from, and its knobs."""
        return ", ".join(filter(None, (self.origin, self.knobs)))


@dataclass(frozen=True, slots=True)
class Picture:
    """An experiment at one moment.

    Attributes:
        workers: Ready and wanted workers, as `2/2`.
        best: The leading run and its value, or empty.
        eta: About how long until the end, or empty.
        notes: What keeps the experiment from going on, in sentences.
        mode: Whether its runs train or evaluate.
    """

    name: str
    state: str
    rows: tuple[RunRow, ...]
    workers: str
    best: str
    eta: str
    notes: tuple[str, ...]
    mode: Mode = "fit"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of evaluations that there are estimates of."""
        return tuple(sorted({name for row in self.rows for name in row.estimates}))

    @property
    def chunks(self) -> tuple[int, int]:
        """Committed chunks or shards of all runs, and all of them as far as they are known."""
        return sum(row.chunks_done for row in self.rows), sum(row.chunks_total for row in self.rows)


def picture_of(experiment: Experiment, runs: Sequence[Run]) -> Picture:
    """Return what there is to see of an experiment and its runs."""
    status = experiment.status
    differing = differing_knobs([run.spec.config for run in runs])
    blocking = [status_condition(experiment, kind) for kind in ("Accepted", "Expanded", "WorkersReady")]
    finished = condition_is(experiment, "Finished", "True")
    return Picture(
        name=experiment.metadata.name,
        state=status.state or "Pending",
        rows=tuple(_row(run, knobs) for run, knobs in zip(runs, differing, strict=True)),
        workers=status.workers.summary or f"0/{experiment.spec.workers.replicas}",
        best=status.best.summary if status.best else "",
        eta=status.eta or "",
        notes=tuple(each.message for each in blocking if each and each.status == "False" and not finished),
        mode=experiment.spec.mode,
    )


def status_condition(resource: Experiment | ICOp | Run, kind: str) -> Condition | None:
    """Return a condition of a resource, or None if nobody has judged that yet."""
    return next((each for each in resource.status.conditions if each.type == kind), None)


def condition_is(resource: Experiment | ICOp | Run, kind: str, status: str) -> bool:
    """Return whether a condition has been judged to be `status`."""
    found = status_condition(resource, kind)
    return found is not None and found.status == status


def chunks_done(run: Run) -> int:
    """Return how many chunks of a run are committed."""
    checkpoint = run.status.committed
    return chunks_at(run, checkpoint.step) if checkpoint else 0


def chunks_at(run: Run, step: int) -> int:
    """Return how many chunks of a run are done at a step; 0 while they are not known."""
    return bisect_right(run.status.prepared.boundaries, step) if run.status.prepared else 0


def problem_of(run: Run) -> str:
    """Return why a run failed, as `Reason: message`, or nothing."""
    if run.status.state != "Failed":
        return ""
    judged = status_condition(run, "Succeeded")
    if judged is not None and judged.status == "False" and judged.message:
        return f"{judged.reason}: {judged.message}"
    error = run.status.progress.error if run.status.progress else None
    return f"{error.reason}: {error.message}" if error else "no reason is known"


def differing_knobs(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each config the values in which the configs differ, under the shortest names that tell them apart.

    Of knobs of one mapping that only change together, such as rank and alpha of an adapter, the shortest stands for
    all.
    """
    flat = [flatten(config) for config in configs]
    chosen: dict[tuple[str, tuple[int, ...]], str] = {}
    for key in sorted({key for each in flat for key in each}, key=lambda key: (_width(key, flat), key)):
        values = [each.get(key, _ABSENT) for each in flat]
        pattern = tuple(map(values.index, values))
        if any(pattern):
            chosen.setdefault((key.rpartition(".")[0], pattern), key)
    differing = sorted(chosen.values())
    names = _short_names(differing)
    return [" ".join(f"{names[key]}={_text(each[key])}" for key in differing if key in each) for each in flat]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined with dots; a Python object shows its name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = name_of(value)
        if name is not None:
            flat[f"{prefix}{key}"] = name
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _row(run: Run, knobs: str) -> RunRow:
    status = run.status
    prepared, progress = status.prepared, status.progress
    metrics = progress.metrics if progress else {}
    return RunRow(
        name=run.metadata.name,
        state=status.state or "Pending",
        knobs=knobs,
        chunks_done=chunks_done(run),
        chunks_total=len(prepared.boundaries) if prepared else 0,
        step=status.step,
        total_steps=prepared.total_steps if prepared else 0,
        loss=(progress.loss if progress else None) or "",
        objective=status.display.objective,
        worker=status.assignment.worker if status.assignment else "",
        problem=problem_of(run),
        origin=origin_of(run),
        by=person(run.spec.requested_by) if status.state in {"Stopped", "Deleted"} else "",
        throughput=f"{metrics[_THROUGHPUT]:.3g}" if _THROUGHPUT in metrics else "",
        failed_rows=int(metrics.get(_FAILED_ROWS, 0)),
        estimates={name: in_words(name, each) for name, each in estimates_of(run).items()},
        index=index_of(run),
    )


def index_of(run: Run) -> Index | None:
    """Return what becomes of the index that a run needs, while that keeps it from answering."""
    assignment, progress = run.status.assignment, run.status.progress
    if assignment is not None and assignment.task == "index":
        here = progress is not None and progress.attempt == assignment.attempt
        metrics = progress.metrics if progress and here else {}
        return Index(int(metrics.get(_INDEXED, 0)), int(metrics.get(_TO_INDEX, 0)))
    waits = status_condition(run, "Progressing")
    waiting = waits is not None and waits.status == "True" and waits.reason == _WAITING_FOR_INDEX
    return Index(waited_for=True) if waiting and run.status.state not in ENDED else None


def origin_of(run: Run) -> str:
    """Return of which run a run is a clone, or nothing."""
    parent = run.spec.parent_ref
    if parent is None:
        return ""
    at = f" at step {parent.checkpoint.step}" if parent.checkpoint else ""
    return f"warm clone of {parent.name}{at}" if parent.warm_start else f"clone of {parent.name}"


def person(user: str | None) -> str:
    """Return the name of a user as people say it: a service account without what stands before its name."""
    return (user or "").rpartition(":")[2] if (user or "").startswith(_ACCOUNT) else user or ""


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _width(key: str, configs: Sequence[Mapping[str, Any]]) -> int:
    """Return how much room a knob takes at most."""
    return len(key.rpartition(".")[2]) + max(len(_text(each[key])) for each in configs if key in each)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
