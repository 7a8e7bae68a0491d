"""The resources of an experiment -> one picture for people. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api import Experiment, ICOp, Run
from rapidfireai.api.base import Condition
from rapidfireai.config_fields import name_of

_ABSENT = object()
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as a row of a table.

    Attributes:
        knobs: The knobs in which the runs of the experiment differ, as `r=8 learning_rate=0.0001`.
        chunks_done: Committed chunks.
        chunks_total: All chunks; 0 while they are not known.
        problem: Why it failed, or empty.
        origin: For a clone of which run it is one, and whether it began with its weights; else empty.
        by: Who stopped or deleted it, as far as that is known.
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

    @property
    def standing(self) -> str:
        """The state, and who brought it about."""
        return f"{self.state} by {self.by}" if self.by else self.state

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
    """

    name: str
    state: str
    rows: tuple[RunRow, ...]
    workers: str
    best: str
    eta: str
    notes: tuple[str, ...]

    @property
    def chunks(self) -> tuple[int, int]:
        """Committed chunks of all runs, and all chunks as far as they are known."""
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
    checkpoint = run.status.progress.checkpoint if run.status.progress else None
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
    return RunRow(
        name=run.metadata.name,
        state=status.state or "Pending",
        knobs=knobs,
        chunks_done=chunks_done(run),
        chunks_total=len(prepared.boundaries) if prepared else 0,
        step=progress.step if progress else 0,
        total_steps=prepared.total_steps if prepared else 0,
        loss=(progress.loss if progress else None) or "",
        objective=status.display.objective,
        worker=status.assignment.worker if status.assignment else "",
        problem=problem_of(run),
        origin=origin_of(run),
        by=person(run.spec.requested_by) if status.state in {"Stopped", "Deleted"} else "",
    )


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
