"""Confidence intervals for a proportion of a finite population. Pure formulas, each with its source.

Everything here is on the unit scale: a metric in [a, b] is `(value - a) / (b - a)`. What is peculiar to a metric is in
`effective`, the number of rows of a yes-or-no metric that would be known as well as it is.

Sources:
    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference. JASA 22.
    Hoeffding, W. (1963): Probability inequalities for sums of bounded random variables. JASA 58.
    Cochran, W. G. (1977): Sampling Techniques, 3rd edition: 2.6 (finite population correction), 3.2 (proportions).
    Brown, L. D., Cai, T. T., DasGupta, A. (2001): Interval estimation for a binomial proportion. Stat. Science 16.
    Korn, E. L., Graubard, B. I. (1998): Confidence intervals for proportions with small expected number of positive
        counts estimated from survey data. Survey Methodology 24 (the effective sample size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

from rapidfireai_worker.evals.strategies import Strategy

FEW = 30
"""With fewer expected rows on one side than this, seen or still to come, a proportion is not nearly normal."""
Interval = tuple[float, float]
_STEPS = 200
_MANY = 1000
"""Degrees of freedom from which on more of them make no difference."""
_TWO = 2
_NEARLY = 1e-9
_WHOLE = 1e-6
"""How far from a whole number a sum of ones may be, after some arithmetic."""


def fpc(seen: int, total: int) -> float:
    """Return the finite population correction, sqrt((N - n) / (N - 1)); 0 once all rows are seen (Cochran 2.6)."""
    return math.sqrt((total - seen) / (total - 1)) if seen < total else 0.0


def normal_quantile(level: float) -> float:
    """Return z: a standard normal number lies within ±z with this probability."""
    return NormalDist().inv_cdf((1 + level) / 2)


@lru_cache
def t_quantile(level: float, freedom: int) -> float:
    """Return t: a number of Student's distribution lies within ±t with this probability; found by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _t_within(angle: float, freedom: int) -> float:
    """Return P(|T| < t) for tan(angle) = t / sqrt(freedom): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def normal(share: float, effective: float, correction: float, z: float) -> Interval:
    """Return p ± z sqrt(p (1 - p) / n) fpc (Cochran 3.2)."""
    half = z * math.sqrt(share * (1 - share) / effective) * correction
    return share - half, share + half


def wilson(share: float, effective: float, correction: float, z: float) -> Interval:
    """Return Wilson's score interval; the correction makes n into n / fpc²."""
    if not correction:
        return share, share
    weight = z * z * correction * correction / effective
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return centre - half, centre + half


def hoeffding(share: float, rows: float, correction: float, level: float) -> Interval:
    """Return p ± sqrt(ln(2 / (1 - level)) / 2n) fpc: holds for every distribution within the range, whatever n is."""
    half = math.sqrt(math.log(2 / (1 - level)) / (2 * rows)) * correction
    return share - half, share + half


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of a metric.

    Attributes:
        mean: Its mean over the rows that were seen, or the ratio.
        rows: How many rows were seen.
        groups: (rows, pseudo-value) of random groups of them. Of a mean of rows the pseudo-value is the group's mean.
        trials: How many batches there are: how often a ratio was seen, when nothing else says it.
        guessed: Whether nobody has said what one row can count.
    """

    mean: float
    rows: int
    groups: tuple[tuple[int, float], ...]
    trials: int
    guessed: bool = False


def interval(known: Knowledge, bounds: Interval | None, total: int, strategy: Strategy) -> Interval | None:
    """Return the interval of a mean; None if nothing can be said: one batch or all alike, and no bounds.

    Args:
        known: What is known of the metric.
        bounds: The least and the most that one row can count; None if any number is possible.
        total: How many rows there are.
        strategy: What is asked for.
    """
    correction = fpc(known.rows, total) if strategy.use_fpc else 1.0
    if not correction:
        return known.mean, known.mean
    z = normal_quantile(strategy.level)
    if bounds is None:
        error = _error(known, strategy.level)
        if error is None:
            return None
        return known.mean - z * error * correction, known.mean + z * error * correction
    least, width = bounds[0], bounds[1] - bounds[0]
    share = min(max((known.mean - least) / width, 0.0), 1.0)
    unit = replace(known, mean=share, groups=tuple((rows, (value - least) / width) for rows, value in known.groups))
    lower, upper = _share_interval(unit, total, strategy, correction)
    lower, upper = least + width * max(lower, 0.0), least + width * min(upper, 1.0)
    return min(lower, known.mean), max(upper, known.mean)


def _share_interval(known: Knowledge, total: int, strategy: Strategy, correction: float) -> Interval:
    effective, of_rows = effective_rows(known, strategy.level)
    share = known.mean
    if strategy.method == "hoeffding":
        # It is of means of rows. A ratio of sums is known as well as a mean of fewer rows is, often.
        return hoeffding(share, known.rows if of_rows else min(known.rows, effective), correction, strategy.level)
    z = normal_quantile(strategy.level)
    both = normal(share, effective, correction, z), wilson(share, effective, correction, z)
    lower, upper = both[strategy.method == "wilson"]
    left = total - known.rows if strategy.use_fpc else total
    if min(effective, left) * min(share, 1 - share) < FEW - _WHOLE:
        lower, upper = min(low for low, _ in both), max(high for _, high in both)
    if strategy.use_fpc and left * min(share, 1 - share) < FEW - _WHOLE:
        lower, upper = lower - 0.5 / total, upper + 0.5 / total  # half a row: what is to come is counted in whole ones
    return lower, upper


def effective_rows(known: Knowledge, level: float) -> tuple[float, bool]:
    """Return how many yes-or-no rows would be as sure, and whether the metric is a mean of rows.

    The quantile of Student's distribution is in the number, so that z serves from here on.
    """
    most = known.mean * (1 - known.mean)
    of_rows = _is_mean_of_rows(known)
    if of_rows and _is_yes_or_no(known) and not known.guessed:
        return known.rows, True
    error = _error(known, level)
    if not error or most < _NEARLY:
        return (known.rows if of_rows else known.trials), of_rows
    by_batches = most / (error * error)
    if not of_rows:
        return by_batches, False
    return (min if _is_yes_or_no(known) else max)(known.rows, by_batches), True


def _is_yes_or_no(known: Knowledge) -> bool:
    """Return whether each row can have counted as nothing or all: the groups' sums are whole numbers."""
    return all(abs(rows * value - round(rows * value)) < _WHOLE for rows, value in known.groups)


def _is_mean_of_rows(known: Knowledge) -> bool:
    """Return whether the groups' pseudo-values have the metric as their mean and could be means of rows themselves."""
    if known.trials < _TWO:
        return True  # one batch tells nothing else
    if not known.groups:
        return False
    rows = sum(size for size, _ in known.groups)
    mean = math.fsum(size * value for size, value in known.groups) / rows
    inside = all(-_WHOLE <= value <= 1 + _WHOLE for _, value in known.groups)
    return inside and rows == known.rows and abs(mean - known.mean) < _WHOLE


def _error(known: Knowledge, level: float) -> float | None:
    """Return the standard error of the mean from what differs between groups, larger the fewer these are.

    With pseudo-values v of groups of n_g rows it is the root of the mean of (v - mean)² n_g / (n - n_g) over the
    groups: of equal groups, s² / G. Student's t with G - 1 degrees of freedom over z makes up for the small number.

    Returns:
        None if there is nothing to be learnt from the groups: fewer than two, or all alike.
    """
    count = len(known.groups)
    if count < _TWO:
        return None
    squares = [(value - known.mean) ** 2 * size / (known.rows - size) for size, value in known.groups]
    error = math.sqrt(math.fsum(squares) / count)
    if error <= _NEARLY * abs(known.mean):
        return None
    return error * t_quantile(level, min(count - 1, _MANY)) / normal_quantile(level)
