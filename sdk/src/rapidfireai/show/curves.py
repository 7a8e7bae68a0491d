"""The metrics of runs -> the curves of one picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from rapidfireai.api import Experiment, Run
from rapidfireai.api.experiment import Mode
from rapidfireai.errors import ExperimentError
from rapidfireai.progress.picture import differing_knobs
from rapidfireai.show.lookup import few
from rapidfireai.volume import MetricLine

XAxis = Literal["data", "step"]
AXES: Mapping[Mode, Mapping[XAxis, str]] = {
    "fit": {"data": "passes over the data", "step": "optimizer step"},
    "evals": {"data": "share of the rows", "step": "rows answered"},
}
_BOUNDARY = ("boundary/", "chunk/")
"""Prefixes of what is measured at the end of every chunk, the comparable series."""
_EPOCHS = ("epoch", "boundary/epoch")
_LOWER, _UPPER = "_lower_bound", "_upper_bound"
_BOUNDS = (_LOWER, _UPPER, "_confidence_interval")
"""How the names end of what goes with a metric of an evaluation."""
_ACCOUNTS = ("Samples Processed", "Throughput", "Failed Rows")
_SYSTEM = "system/"
"""What evaluations log besides the user's metrics."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's series.

    Attributes:
        run: The run's name.
        label: Its number and the knobs in which it differs from the others.
        points: (x, value), x growing.
        bounds: (x, lower, upper) of the points that have a confidence interval.
    """

    run: str
    label: str
    points: tuple[tuple[float, float], ...]
    bounds: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """All runs in one picture.

    Attributes:
        title: What is shown.
        metric: The metric's full name.
        x: What stands on the horizontal axis.
        curves: Best first, by their last values.
    """

    title: str
    metric: str
    x: str
    curves: tuple[Curve, ...]


def figure_of(
    experiment: Experiment,
    runs: Sequence[Run],
    logs: Mapping[str, Sequence[MetricLine]],
    metric: str | None = None,
    x: XAxis = "data",
) -> Figure:
    """Return the curves of a metric.

    Args:
        experiment: The experiment.
        runs: Its runs.
        logs: What each run logged, by its name.
        metric: The metric; by default the objective, or the first one that the evaluations report. `eval_loss` means
            the one that is measured at every boundary, if there is one.
        x: What stands on the horizontal axis.

    Raises:
        ExperimentError: If no run has logged it yet; the message names what there is.
    """
    mode = experiment.spec.mode
    there = _there(logs, mode)
    chosen = choose_metric(metric, _objective(experiment, there), there)
    labels = differing_knobs([run.spec.config for run in runs])
    curves = []
    for run, knobs in zip(runs, labels, strict=True):
        lines = logs.get(run.metadata.name, ())
        share = _share_per_row(run) if mode == "evals" else _epochs_per_step(run, experiment.spec.chunks)
        points = _points(lines, chosen, x, share)
        if points:
            label = " ".join(filter(None, (f"r{run.spec.index}", knobs)))
            curves.append(Curve(run.metadata.name, label, points, _bounds(lines, chosen, x, share)))
    sign = -1 if _more_is_better(experiment, chosen) else 1
    curves.sort(key=lambda curve: sign * curve.points[-1][1])
    return Figure(experiment.spec.display_name or experiment.metadata.name, chosen, AXES[mode][x], tuple(curves))


def _there(logs: Mapping[str, Sequence[MetricLine]], mode: Mode) -> list[str]:
    """Return the series that can be shown."""
    names = {name for lines in logs.values() for line in lines for name in line.values} - set(_EPOCHS)
    if mode == "evals":
        names -= {f"{name}{end}" for name in names for end in _BOUNDS}
    return sorted(names)


def _objective(experiment: Experiment, there: Sequence[str]) -> str:
    """Return what is shown if nobody says: an evaluation may have no objective."""
    objective = experiment.spec.objective.metric
    if experiment.spec.mode == "fit" or objective in there:
        return objective
    own = [name for name in there if name not in _ACCOUNTS and not name.startswith(_SYSTEM)]
    return (own or [*there, objective])[0]


def _more_is_better(experiment: Experiment, metric: str) -> bool:
    if experiment.spec.mode == "evals" and metric != experiment.spec.objective.metric:
        return "loss" not in metric.lower()
    return experiment.spec.objective.direction == "maximize" and "loss" not in metric


def choose_metric(wanted: str | None, objective: str, there: Sequence[str]) -> str:
    """Return the full name of the metric to show.

    Raises:
        ExperimentError: If no run has logged it.
    """
    if not there:
        raise ExperimentError("no run has logged anything yet; try again after the first chunk")
    names = [wanted] if wanted else [objective, "chunk/loss", "loss"]
    for name in names:
        for full in (*(f"{prefix}{name}" for prefix in _BOUNDARY), name):
            if full in there:
                return full
    short = {name.partition("/")[2] if name.startswith(_BOUNDARY) else name: name for name in there}
    near = get_close_matches(names[0], short, n=1)
    hint = f"did you mean {short[near[0]]}?" if near else f"there are {few(there)}"
    raise ExperimentError(f"no run has logged the metric {names[0]}; {hint}")


def _points(
    lines: Sequence[MetricLine], metric: str, x: XAxis, epochs_per_step: float | None
) -> tuple[tuple[float, float], ...]:
    points: dict[float, float] = {}
    for line in lines:
        value = line.values.get(metric)
        place = float(line.step) if x == "step" else _share(line, epochs_per_step)
        if value is not None and place is not None:
            points[place] = value
    return tuple(sorted(points.items()))


def _bounds(
    lines: Sequence[MetricLine], metric: str, x: XAxis, share: float | None
) -> tuple[tuple[float, float, float], ...]:
    """Return the confidence intervals of a metric, where there are some."""
    lower, upper = (dict(_points(lines, f"{metric}{end}", x, share)) for end in (_LOWER, _UPPER))
    return tuple((place, lower[place], upper[place]) for place in sorted(lower.keys() & upper.keys()))


def _share_per_row(run: Run) -> float | None:
    return 1 / run.status.prepared.total_steps if run.status.prepared else None


def _share(line: MetricLine, epochs_per_step: float | None) -> float | None:
    """Return how often the data was passed over at a line."""
    for name in _EPOCHS:
        if (epoch := line.values.get(name)) is not None:
            return epoch
    return line.step * epochs_per_step if epochs_per_step is not None else None


def _epochs_per_step(run: Run, chunks: int) -> float | None:
    """Return the share of the data that a step takes, for lines that do not say where they are."""
    prepared = run.status.prepared
    return len(prepared.boundaries) / chunks / prepared.total_steps if prepared else None
