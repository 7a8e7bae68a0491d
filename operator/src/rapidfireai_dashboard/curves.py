"""Lines of runs and their logs -> series that a chart draws. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfireai_dashboard.runs import RunLine

Axis = Literal["step", "chunk", "time"]
AXES: Mapping[Axis, str] = {"step": "optimizer step", "chunk": "chunks", "time": "time"}
OBJECTIVE = "objective"
"""The metric that needs no log: the resources have it."""
MOST_POINTS = 60_000
"""How many points all curves together have at most; what is more is thinned out."""
FEWEST_POINTS = 12
"""How many points a curve keeps, however many curves there are."""
MOST_LOGS = 64
"""Of how many runs the logs are read at most; the objective of the others is still drawn."""
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6f00", "#9467bd")
"""Colours that people with colour blindness tell apart, for the first runs."""
_DASHES = ("solid", "dashed", "dotted")
_GOLDEN_ANGLE = 137.508
MOST_LOG_POINTS = 4000
"""How many points of a log are kept of each run."""
_NEVER_SHOWN = frozenset({"epoch", "boundary/epoch"})
_Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LogPoint:
    """One value of the chosen metric in a run's log.

    Attributes:
        time: When it was logged, in seconds since the epoch.
    """

    step: int
    time: float
    value: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants to see.

    Attributes:
        metric: `objective`, or the name of a metric of the logs.
        axis: What the horizontal axis shows.
        smoothing: How much of the previous value stays in the next one, from 0 (nothing) to below 1.
        log: Whether the vertical axis is logarithmic; what is not positive is left out then.
        hidden: The runs whose curves are not drawn.
        pinned: The runs whose curves stand out.
    """

    metric: str = OBJECTIVE
    axis: Axis = "step"
    smoothing: float = 0.0
    log: bool = False
    hidden: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()

    @property
    def needs_logs(self) -> bool:
        """Whether the resources alone do not know the curves."""
        return self.metric != OBJECTIVE or self.axis == "time"


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's series.

    Attributes:
        run: The run's name.
        label: What the hover says.
        points: (x, y), x growing; x is in milliseconds where the axis is time.
        band: (x, lower, upper): the confidence interval at each x, where the objective has one.
    """

    run: str
    label: str
    colour: str
    dash: str
    pinned: bool
    points: _Points
    band: tuple[tuple[float, float, float], ...] = ()


def colour(index: int) -> str:
    """Return the colour of the run with this number: the same on every page and every day."""
    if index <= len(_PALETTE):
        return _PALETTE[index - 1]
    return f"hsl({(index * _GOLDEN_ANGLE) % 360:.0f}, 62%, 48%)"


def dash(index: int) -> str:
    """Return how the curve of the run with this number is stroked, so that colour is not all that tells it apart."""
    return _DASHES[((index - 1) // len(_PALETTE)) % len(_DASHES)]


def metrics_of(lines: Iterable[RunLine], logged: Iterable[str]) -> list[str]:
    """Return the metrics that can be chosen, the objective first.

    Args:
        lines: The runs, which report their latest metrics.
        logged: Names that were seen in logs.
    """
    names = {name for line in lines for name in line.reported} | set(logged)
    return [OBJECTIVE, *sorted(names - _NEVER_SHOWN)]


def logs_wanted(lines: Iterable[RunLine], choice: Choice, best_first: Sequence[str]) -> list[RunLine]:
    """Return the runs whose logs are read: pinned ones, then the best, `MOST_LOGS` of them at most."""
    place = {name: rank for rank, name in enumerate(best_first)}
    shown = [line for line in lines if line.name not in choice.hidden and line.state != "Deleted"]
    shown.sort(key=lambda line: (line.name not in choice.pinned, place.get(line.name, len(place)), line.index))
    return shown[:MOST_LOGS]


def curves_of(
    lines: Sequence[RunLine], logs: Mapping[str, Sequence[LogPoint]], choice: Choice, labels: Mapping[str, str]
) -> list[Curve]:
    """Return the curves, pinned ones last, so that they are drawn on top; a run without a point has none.

    Args:
        lines: The runs.
        logs: The chosen metric in their logs, as far as it was read, by run.
        choice: What to show.
        labels: What the hover says of each run.
    """
    shown = [line for line in lines if line.name not in choice.hidden and line.state != "Deleted"]
    room = max(FEWEST_POINTS, MOST_POINTS // max(1, len(shown)))
    curves = []
    for line in shown:
        points = thinned(smoothed(_points(line, logs.get(line.name, ()), choice), choice.smoothing), room)
        if points:
            pinned = line.name in choice.pinned
            label = labels.get(line.name, f"r{line.index}")
            band = _band(line, choice)
            curves.append(Curve(line.name, label, colour(line.index), dash(line.index), pinned, points, band))
    return sorted(curves, key=lambda curve: curve.pinned)


def log_metric(line: RunLine, choice: Choice) -> str:
    """Return the name that the chosen metric has in a run's log."""
    return line.metric if choice.metric == OBJECTIVE else choice.metric


def _points(line: RunLine, log: Sequence[LogPoint], choice: Choice) -> _Points:
    points: dict[float, float] = {}
    if choice.needs_logs:
        boundaries = [point.step for point in line.points]
        points = {_place(each, choice.axis, boundaries): each.value for each in log}
    else:
        for point in line.points:
            points[float(point.step if choice.axis == "step" else point.chunk + 1)] = point.value
    return tuple((x, y) for x, y in sorted(points.items()) if math.isfinite(y) and (y > 0 or not choice.log))


def _band(line: RunLine, choice: Choice) -> tuple[tuple[float, float, float], ...]:
    """Return the confidence intervals of a run's objective, if that is what is shown, as it is."""
    if choice.needs_logs or choice.log or choice.smoothing > 0:
        return ()
    return tuple(
        (float(point.step if choice.axis == "step" else point.chunk + 1), point.lower, point.upper)
        for point in line.points
        if point.lower is not None and point.upper is not None
    )


def _place(point: LogPoint, axis: Axis, boundaries: Sequence[int]) -> float:
    if axis == "time":
        return 1000 * point.time
    return float(point.step) if axis == "step" else chunk_at(point.step, boundaries)


def chunk_at(step: int, boundaries: Sequence[int]) -> float:
    """Return how many chunks a step is: whole at a boundary, a share between two, an estimate beyond the last."""
    after = bisect_left(boundaries, step)
    before = boundaries[after - 1] if after else 0
    if after < len(boundaries):
        return after + (step - before) / (boundaries[after] - before)
    # The next boundary is not known before it is reached: take the chunk to be as long as the first.
    length = boundaries[0] if boundaries else 0
    return after + min(1.0, (step - before) / length) if length else 0.0


def smoothed(points: _Points, share: float) -> _Points:
    """Return an exponential moving average that is right from its first point on.

    Args:
        points: (x, y).
        share: How much of the previous average stays in the next, from 0 to below 1.
    """
    if share <= 0:
        return points
    average = weight = 0.0
    made = []
    for x, y in points:
        average = share * average + (1 - share) * y
        weight = share * weight + (1 - share)
        made.append((x, average / weight))
    return tuple(made)


def thinned(points: _Points, most: int) -> _Points:
    """Return at most so many points: the first, the last, and the least and greatest of each part between."""
    if len(points) <= most:
        return points
    inner, parts = points[1:-1], max(1, (most - 2) // 2)
    kept: list[tuple[float, float]] = [points[0]]
    for part in range(parts):
        piece = inner[part * len(inner) // parts : (part + 1) * len(inner) // parts]
        ends = {min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])} if piece else set()
        kept += sorted(ends)
    return (*kept, points[-1])
