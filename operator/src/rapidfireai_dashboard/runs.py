"""Run resources -> the lines that the dashboard keeps and shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api import Run
from rapidfireai.api.run import ENDED
from rapidfireai.clone import written
from rapidfireai.progress.picture import chunks_done, flatten, problem_of

Row = dict[str, Any]
"""One line of a grid: JSON values by column."""
KNOB = "knob:"
"""What the columns of knobs begin with."""
_WISHES = {
    ("Stopped", "Boundary"): "stops at the next boundary",
    ("Stopped", "Immediate"): "stops now",
    ("Deleted", "Boundary"): "is deleted at the next boundary",
    ("Deleted", "Immediate"): "is deleted now",
    ("Running", "Boundary"): "resumes",
    ("Running", "Immediate"): "resumes",
}


@dataclass(frozen=True, slots=True)
class Point:
    """The objective at one chunk boundary.

    Attributes:
        lower: The lower end of its confidence interval; None if it has no interval.
        upper: The upper end.
    """

    chunk: int
    step: int
    value: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Who works on a run, and since when (seconds since the epoch)."""

    worker: str
    task: str
    chunk: int
    attempt: int
    since: float


@dataclass(frozen=True, slots=True)
class RunLine:
    """What the dashboard keeps of one run; far less than the resource.

    Attributes:
        wish: What was asked of the run and has not come about yet, or empty.
        chunks_total: 0 while it is not known.
        parent: The name of the run that it was cloned from, or empty.
        points: The objective, one point a boundary.
        metric: The metric that `points` show, or empty.
        reported: The names of the metrics that the run has reported.
        held: Its assignment.
        config: Its config, as the resource has it.
        knobs: Its config by dotted paths, as users write them.
    """

    name: str
    index: int
    state: str
    wish: str
    chunks_done: int
    chunks_total: int
    step: int
    loss: float | None
    parent: str
    warm: bool
    problem: str
    mlflow_run: str
    points: tuple[Point, ...]
    metric: str
    reported: tuple[str, ...]
    held: Held | None
    config: Mapping[str, Any]
    knobs: Mapping[str, Any]

    @property
    def objective(self) -> float | None:
        """The latest value of the objective."""
        return self.points[-1].value if self.points else None

    @property
    def interval(self) -> str:
        """The latest confidence interval of the objective, or empty."""
        if not self.points or self.points[-1].lower is None or self.points[-1].upper is None:
            return ""
        return f"[{self.points[-1].lower:.4g}, {self.points[-1].upper:.4g}]"


def line_of(run: Run) -> RunLine:
    """Return what is kept of a run."""
    spec, status = run.spec, run.status
    progress, prepared, given = status.progress, status.prepared, status.assignment
    metrics = progress.metrics if progress else {}
    return RunLine(
        name=run.metadata.name,
        index=spec.index,
        state=status.state or "Pending",
        wish=_wish(run),
        chunks_done=chunks_done(run),
        chunks_total=len(prepared.boundaries) if prepared else 0,
        step=status.step,
        loss=metrics.get("loss", metrics.get("chunk/loss")),
        parent=spec.parent_ref.name if spec.parent_ref else "",
        warm=bool(spec.parent_ref and spec.parent_ref.warm_start),
        problem=problem_of(run),
        mlflow_run=status.mlflow_run_id or "",
        points=tuple(Point(each.chunk, each.step, each.value, each.lower, each.upper) for each in status.objective),
        metric=status.objective_metric or "",
        reported=tuple(sorted(metrics)),
        held=Held(given.worker, given.task, given.chunk, given.attempt, given.granted_at) if given else None,
        config=spec.config,
        knobs=flatten(written(spec.config)),
    )


def _wish(run: Run) -> str:
    state, wanted = run.status.state or "Pending", run.spec.desired_state
    if state in ENDED or state == wanted or (wanted == "Running" and state != "Stopped"):
        return ""
    return _WISHES[wanted, run.spec.when]


def differing(lines: Iterable[RunLine]) -> tuple[str, ...]:
    """Return the paths of the knobs in which the runs differ, sorted; a knob that some lack differs."""
    first: dict[str, Any] | None = None
    found: set[str] = set()
    for line in lines:
        if first is None:
            first = dict(line.knobs)
        elif line.knobs != first:
            paths = line.knobs.keys() | first.keys()
            found |= {path for path in paths if path not in found and _differs(path, line.knobs, first)}
    return tuple(sorted(found))


def _differs(path: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return path not in one or path not in other or one[path] != other[path]


def heads(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest names that tell paths apart: the last word, or the whole path where two end alike."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: word if last.count(word) == 1 else path for path, word in zip(paths, last, strict=True)}


def row_of(line: RunLine, knobs: Sequence[str], best: str, colour: str) -> Row:
    """Return a run's row of the grid.

    Args:
        line: The run.
        knobs: The paths of the knobs that are columns.
        best: The name of the leading run.
        colour: The colour of its curve.
    """
    return {
        "name": line.name,
        "index": line.index,
        "label": f"r{line.index}",
        "best": line.name == best,
        "colour": colour,
        "state": f"{line.state}, {line.wish}" if line.wish else line.state,
        "chunks": f"{line.chunks_done}/{line.chunks_total}" if line.chunks_total else "",
        "done": line.chunks_done,
        "step": line.step,
        "loss": line.loss,
        "objective": line.objective,
        "interval": line.interval,
        "worker": line.held.worker if line.held else "",
        "parent": f"{_short(line.parent)}{' (warm)' if line.warm else ''}",
        "problem": line.problem,
        **{f"{KNOB}{path}": cell(line.knobs[path]) for path in knobs if path in line.knobs},
    }


def _short(name: str) -> str:
    """Return the `r3` of a run's name."""
    return f"r{name.rpartition('-r')[2]}" if name else ""


def cell(value: Any) -> str | float | bool:
    """Return a config's value as a grid sorts and shows it: numbers stay numbers."""
    if value is None:
        return "none"
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return ", ".join(str(cell(each)) for each in value)
    return str(value)


def text(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(cell(value))


@dataclass(frozen=True, slots=True)
class Transaction:
    """What changed in a grid: only that is sent to the browser."""

    add: tuple[Row, ...] = ()
    update: tuple[Row, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.update or self.remove)


def transaction(shown: Mapping[str, Row], rows: Mapping[str, Row]) -> Transaction:
    """Return what turns the rows that are shown into those that there are now, both by name."""
    return Transaction(
        add=tuple(row for name, row in rows.items() if name not in shown),
        update=tuple(row for name, row in rows.items() if name in shown and shown[name] != row),
        remove=tuple(name for name in shown if name not in rows),
    )


def best_of(lines: Iterable[RunLine], direction: str) -> str:
    """Return the name of the run with the best latest objective among those that are not deleted, or nothing."""
    sign = 1 if direction == "minimize" else -1
    ranked = [
        (sign * line.objective, line.index, line.name)
        for line in lines
        if line.objective is not None and line.state != "Deleted"
    ]
    return min(ranked)[2] if ranked else ""
