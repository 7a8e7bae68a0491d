"""What a metric over all rows is likely to be, after some of them: the estimate and its confidence interval. Pure.

Rows are answered in the order of a seeded permutation, so those seen so far are a simple random sample without
replacement, and their batches are random groups of it: how much the batches differ says how sure the whole is.

What is estimated, of n rows seen out of N:
    is_algebraic: a mean, or a ratio of sums such as F1. The value is what `accumulate_metrics_fn` returned.
    is_distributive: a sum. The value is scaled up to the whole data set, `value / n * N`; `value_range` is of one row.
    neither: the value as it is, without an interval: nobody but the user knows what it would be for more rows.
    Without `accumulate_metrics_fn` every metric is a sum over the batches, as documented; `"is_algebraic": True` in
    what `compute_metrics_fn` returns makes it a mean, weighted by rows.

How its variance is estimated:
    1. Rows that count as nothing or all (accuracy): p (1 - p) / n, as it must be. It is recognised by its batches:
       each one's sum is a whole number.
    2. Other means and sums of rows: from the differences between batches, with Student's t for their small number. No
       more than p (1 - p) / n, which no metric in its range can exceed (Bhatia and Davis 2000). The uniform
       distribution on [a, b], variance (b - a)² / 12, is never assumed: ratings that are mostly 0 or 5 have three
       times as much.
    3. Ratios and whatever else `accumulate_metrics_fn` computes: delete-one-group jackknife over at most 20 groups
       of batches, by calling it without each (Cochran 6.17; Busing, Meijer, van der Leeden 1999 for groups of
       different size). A ratio of sums over few of the rows (precision) is thus as unsure as it is.
    4. Batches that are all alike say nothing of it: p (1 - p) / n for means of rows; for ratios with the number of
       batches in place of n; no interval for sums whose range is not known.

The interval is then of the method that was asked for, see `intervals`, for the number of yes-or-no rows that would be
as sure (the effective number, which agrees with n in the first case). Where fewer than 30 rows are to be expected on
one side, normal and Wilson's intervals each miss too often, in opposite directions: the hull of the two is taken. So a
share of exactly 0 or 1 has a width, about that of the rule of three, until all rows are seen.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfireai_worker.evals.intervals import Knowledge, interval
from rapidfireai_worker.evals.strategies import (
    BadRange,
    EstimateError,
    NoRange,
    NotANumber,
    OutsideRange,
    Strategy,
)

Accumulate = Callable[[dict[str, list[Any]]], Mapping[str, Any]]
"""The user's `accumulate_metrics_fn`: from {metric: [what each batch had]} to {metric: {"value": ...}}."""
SAMPLES = "Samples Processed"
"""How many rows a batch had, which `accumulate_metrics_fn` finds among the batches' metrics."""
GROUPS = 20
"""Into how many groups batches are put at most, so that the user's function is called as often."""
_NEARLY = 1e-9
_TWO = 2
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What one batch contributes.

    Attributes:
        rows: How many rows were scored; failed ones are not among them.
        metrics: What `compute_metrics_fn` returned, as it is: `{name: {"value": ...}}`.
    """

    rows: int
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetricEstimate:
    """A metric over all rows.

    Attributes:
        value: The estimate.
        lower: Where the interval begins; None if there is none.
        upper: Where it ends.
        level: The confidence level.
        method: `normal`, `wilson` or `hoeffding`.
        others: What else the user's function said of the metric: flags, `value_range` and so on.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    method: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def margin(self) -> float | None:
        """Half the interval's width."""
        return None if self.lower is None or self.upper is None else (self.upper - self.lower) / 2

    def as_metric(self) -> dict[str, Any]:
        """Return the metric as `run_evals` returns it."""
        if self.margin is None:
            return {**self.others, "value": self.value}
        return {
            **self.others,
            "value": self.value,
            "lower_bound": self.lower,
            "upper_bound": self.upper,
            "margin_of_error": self.margin,
            "confidence_interval": self.margin,
            "confidence_level": self.level,
            "ci_method": self.method,
        }


def estimate(
    batches: Sequence[BatchMetrics],
    total: int,
    strategy: Strategy = Strategy(),  # noqa: B008 - it is immutable
    accumulate: Accumulate | None = None,
) -> dict[str, MetricEstimate]:
    """Return what is known of each metric over all rows; in whatever order the batches come, it is the same.

    Args:
        batches: The batches of all committed shards.
        total: How many rows the data set has.
        strategy: How intervals are computed.
        accumulate: The user's `accumulate_metrics_fn`, if there is one. What it raises is raised; it is also called
            with parts of the batches, where nothing it raises matters.

    Raises:
        EstimateError: If a metric cannot be worked with; the sentence names it and the fix.
    """
    scored = sorted((batch for batch in batches if batch.rows > 0), key=_shuffled)
    if not scored:
        return {}
    samples = _by_groups(scored, accumulate) if accumulate else _by_batches(scored)
    return {name: _estimate(sample, total, strategy) for name, sample in samples.items()}


@dataclass(frozen=True, slots=True)
class _Sample:
    """A metric over the rows that were seen.

    Attributes:
        name: The metric's name.
        rows: How many rows were seen.
        value: The mean, or the sum.
        groups: (rows, value without them) of each group of batches; values that could not be computed are left out.
        batches: How many batches there are.
        flags: What the user's function said of it.
    """

    name: str
    rows: int
    value: float
    groups: Sequence[tuple[int, float]]
    batches: int
    flags: Mapping[str, Any]


def _shuffled(batch: BatchMetrics) -> bytes:
    """Return a key that sorts batches as at random, whatever their metrics are, and always alike."""
    return hashlib.sha256(repr((batch.rows, sorted(batch.metrics.items(), key=str))).encode()).digest()


def _by_batches(batches: Sequence[BatchMetrics]) -> dict[str, _Sample]:
    """Return each metric as the sum over the batches, or as their mean if they say that it is one."""
    rows = sum(batch.rows for batch in batches)
    samples = {}
    for name in sorted({name for batch in batches for name in batch.metrics}):
        flags = next(_fields(batch.metrics[name]) for batch in batches if name in batch.metrics)
        having = [batch for batch in batches if name in batch.metrics] if flags.get("is_algebraic") else batches
        seen = sum(batch.rows for batch in having)
        values = [_number(name, batch.metrics[name]) if name in batch.metrics else 0.0 for batch in having]
        if flags.get("is_algebraic"):
            weighted = [value * batch.rows for value, batch in zip(values, having, strict=True)]
            whole = math.fsum(weighted)
            without = [
                (batch.rows, (whole - part) / (seen - batch.rows))
                for part, batch in zip(weighted, having, strict=True)
                if seen > batch.rows
            ]
            samples[name] = _Sample(name, seen, whole / seen, without, len(having), flags)
        else:
            whole = math.fsum(values)
            without = [(batch.rows, whole - value) for value, batch in zip(values, having, strict=True)]
            flags = {"is_distributive": True, **flags}
            samples[name] = _Sample(name, rows, whole, without if len(batches) >= _TWO else [], len(batches), flags)
    return samples


def _by_groups(batches: Sequence[BatchMetrics], accumulate: Accumulate) -> dict[str, _Sample]:
    """Return what the user's function makes of all batches, and of all without each group of them."""
    rows = sum(batch.rows for batch in batches)
    accumulated = _accumulated(batches, accumulate)
    count = min(GROUPS, len(batches))
    without = [_without(batches, start, count, accumulate) for start in range(count)] if count >= _TWO else []
    samples = {}
    for name, metric in accumulated.items():
        if name == SAMPLES:
            continue
        values = [(size, _lenient(parts.get(name))) for size, parts in without]
        known = [(size, value) for size, value in values if value is not None]
        samples[name] = _Sample(name, rows, _number(name, metric), known, len(batches), _fields(metric))
    return samples


def _without(
    batches: Sequence[BatchMetrics], start: int, step: int, accumulate: Accumulate
) -> tuple[int, Mapping[str, Any]]:
    """Return the rows of a group, which is every `step`th batch, and what the user's function makes of the others."""
    rows = sum(batch.rows for batch in batches[start::step])
    try:
        return rows, _accumulated([each for at, each in enumerate(batches) if at % step != start], accumulate)
    except Exception:  # the user's code: a ratio of nothing in this part, say; of the whole it was fine
        return rows, {}


def _accumulated(batches: Sequence[BatchMetrics], accumulate: Accumulate) -> Mapping[str, Any]:
    parts: dict[str, list[Any]] = {}
    for batch in batches:
        for name, metric in {SAMPLES: {"value": batch.rows}, **batch.metrics}.items():
            parts.setdefault(name, []).append(dict(metric) if isinstance(metric, Mapping) else metric)
    accumulated = accumulate(parts)
    if not isinstance(accumulated, Mapping):
        raise EstimateError(
            f"accumulate_metrics_fn returned {type(accumulated).__name__}; return a dictionary such as "
            '{"Accuracy": {"value": 0.5, "is_algebraic": True, "value_range": (0, 1)}}'
        )
    return accumulated


def _fields(metric: object) -> dict[str, Any]:
    return {key: value for key, value in metric.items() if key != "value"} if isinstance(metric, Mapping) else {}


def _number(name: str, metric: object) -> float:
    """Return a metric's value.

    Raises:
        NotANumber: If it is none.
    """
    value = _lenient(metric)
    if value is None:
        shown = metric.get("value", "missing") if isinstance(metric, Mapping) else metric
        raise NotANumber(
            f"metric {name!r}: its value is {_short(shown)}, not a finite number; return "
            f'{{"{name}": {{"value": a number}}}}'
        )
    return value


def _lenient(metric: object) -> float | None:
    """Return a metric's value; None if it is not a finite number."""
    value = metric.get("value") if isinstance(metric, Mapping) else metric
    if not isinstance(value, numbers.Real) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # a number of numpy or torch
    if not isinstance(value, numbers.Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _estimate(sample: _Sample, total: int, strategy: Strategy) -> MetricEstimate:
    """Return the estimate of one metric."""
    algebraic = bool(sample.flags.get("is_algebraic"))
    sums = bool(sample.flags.get("is_distributive")) and not algebraic
    if not sums and not algebraic:
        return MetricEstimate(sample.value, others=sample.flags)
    knowledge = _knowledge(sample, sums)
    low, high = _range(sample.name, sample.flags, knowledge, sums)
    if low is None and strategy.method == "hoeffding":
        raise NoRange(
            f"metric {sample.name!r}: hoeffding needs its value_range, since a row adds more than 0 to 1; give "
            '"value_range": (least, most) of one row with it, or choose strategy_name normal'
        )
    found = interval(knowledge, None if low is None or high is None else (low, high), total, strategy)
    scale = total if sums else 1
    value = scale * knowledge.mean
    if found is None:
        return MetricEstimate(value, others=sample.flags)
    lower, upper = (scale * bound for bound in found)
    method = "normal" if low is None else strategy.method  # Wilson's is of what has a range
    return MetricEstimate(value, lower, upper, strategy.level, method, sample.flags)


def _knowledge(sample: _Sample, sums: bool) -> Knowledge:
    """Return the mean and what each group's would be, were it one of rows: its pseudo-value of the jackknife."""
    rows = sample.rows
    mean = sample.value / rows if sums else sample.value
    groups = []
    for size, rest in sample.groups:
        others = rest if sums else rest * (rows - size)
        groups.append((size, ((sample.value if sums else rows * mean) - others) / size))
    guessed = sums and "value_range" not in sample.flags
    return Knowledge(mean, rows, tuple(groups), sample.batches, guessed)


def _range(name: str, flags: Mapping[str, Any], knowledge: Knowledge, sums: bool) -> tuple[float | None, float | None]:
    """Return the least and the most that a row can count, (0, 1) if nothing is said; None if a sum does not keep to it.

    Raises:
        BadRange: If `value_range` is none.
        OutsideRange: If the mean is outside.
    """
    given = flags.get("value_range", (0, 1))
    ends = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    least, most = (_lenient(end) for end in ends) if len(ends) == _TWO else (None, None)
    if least is None or most is None or least >= most:
        raise BadRange(
            f"metric {name!r}: value_range={_short(given)} is none; give two finite numbers, the smaller one first, "
            "such as (0, 1)"
        )
    slack = _NEARLY * (most - least)
    if least - slack <= knowledge.mean <= most + slack:
        if knowledge.guessed and any(not least - slack <= value <= most + slack for _, value in knowledge.groups):
            return None, None
        return least, most
    if knowledge.guessed:
        return None, None
    what = f"{knowledge.mean:g} a row" if sums else f"{knowledge.mean:g}"
    said = "its value_range" if "value_range" in flags else "value_range, which is (0, 1) unless it is given,"
    raise OutsideRange(
        f"metric {name!r}: its value is {what}, outside {said} ({least:g}, {most:g}); give with it the "
        f'"value_range" that {"one row" if sums else "the metric"} can have'
    )
