"""How often intervals hold the truth: over 1,000 simulated data sets of each kind, and exactly for shares of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from rapidfireai_worker.evals.estimates import BatchMetrics, estimate
from rapidfireai_worker.evals.intervals import Interval, Knowledge, interval, t_quantile
from rapidfireai_worker.evals.strategies import Method, Strategy

SETS = 1000
MANY = 4000
"""Where the truth is held hardly more often than it must be, so that chance does not decide."""
ROWS = 800
BATCH = 8
SEEN = (56, 104, 400, 720)
AT_LEAST = 0.93
METHODS: tuple[Method, ...] = ("normal", "wilson", "hoeffding")
Array = np.ndarray


def means(kind: str) -> Array:
    """Return 1,000 data sets of a kind."""
    rng = np.random.default_rng(7)
    shape = (SETS, ROWS)
    match kind:
        case "mostly low on (0, 5)":
            return 5 * rng.beta(0.5, 3, shape)
        case "a long tail on (0, 5)":
            return np.minimum(rng.exponential(0.5, shape), 5)
        case "either end of (0, 5)":
            return 5 * rng.beta(0.3, 0.3, shape)
        case _:
            return 5 * np.where(rng.random(shape) < 0.4, 0, rng.beta(3, 2, shape))


def groups_of(rows: Array, seen: int) -> tuple[Array, Array]:
    """Return the batches' sizes, and their sums for every data set."""
    starts = np.arange(0, seen, BATCH)
    return np.diff(np.append(starts, seen)), np.add.reduceat(rows[:, :seen], starts, axis=1)


@lru_cache(maxsize=1000)
def _interval(known: Knowledge, bounds: Interval | None, method: Method) -> Interval | None:
    return interval(known, bounds, ROWS, Strategy(method))


def share_of_hits(known: Iterator[Knowledge], truth: Array, bounds: Interval | None, method: Method) -> float:
    hits = 0
    for each, true in zip(known, truth, strict=True):
        found = _interval(each, bounds, method)
        assert found is not None
        hits += found[0] - 1e-9 <= true <= found[1] + 1e-9
    return hits / len(truth)


def shares_known(rows: Array, seen: int) -> Iterator[Knowledge]:
    """Yield what is known of shares; of what batches they were does not matter to them."""
    for hits in rows[:, :seen].sum(axis=1).astype(int).tolist():
        yield Knowledge(hits / seen, seen, _split(seen, hits), 2)


def means_known(rows: Array, seen: int, guessed: bool) -> Iterator[Knowledge]:
    sizes, sums = groups_of(rows, seen)
    for mean, parts in zip(rows[:, :seen].mean(axis=1).tolist(), (sums / sizes).tolist(), strict=True):
        yield Knowledge(mean, seen, tuple(zip(sizes.tolist(), parts, strict=True)), len(sizes), guessed)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("guessed", [False, True])
def test_shares_and_sums_of_them_are_held(share: float, method: Method, guessed: bool) -> None:
    rng = np.random.default_rng(7)
    rows = (rng.random((SETS if guessed else MANY, ROWS)) < share).astype(float)

    for seen in SEEN:
        known = means_known(rows, seen, guessed) if guessed else shares_known(rows, seen)
        assert share_of_hits(known, rows.mean(axis=1), (0, 1), method) >= AT_LEAST, f"after {seen} rows"


@pytest.mark.parametrize(
    "kind", ["mostly low on (0, 5)", "a long tail on (0, 5)", "either end of (0, 5)", "nothing or a good rank"]
)
@pytest.mark.parametrize("method", METHODS)
def test_means_are_held(kind: str, method: Method) -> None:
    rows = means(kind)

    for seen in (16, *SEEN):
        known = means_known(rows, seen, guessed=False)
        assert share_of_hits(known, rows.mean(axis=1), (0, 5), method) >= AT_LEAST, f"after {seen} rows"


@pytest.mark.parametrize("kind", ["counts", "lengths"])
def test_sums_without_a_range_are_held(kind: str) -> None:
    rng = np.random.default_rng(7)
    shape = (MANY, ROWS)
    rows = rng.poisson(0.8, shape).astype(float) if kind == "counts" else rng.lognormal(4, 0.7, shape)

    for seen in SEEN:
        known = means_known(rows, seen, guessed=True)
        assert share_of_hits(known, rows.mean(axis=1), None, "normal") >= AT_LEAST, f"after {seen} rows"


def ratio_parts(kind: str) -> tuple[Array, Array]:
    """Return what is above and below the line of a ratio, for every row of every data set."""
    rng = np.random.default_rng(11)
    shape = (SETS, ROWS)
    if kind == "precision":
        below = (rng.random(shape) < 0.3).astype(float)
        return below * (rng.random(shape) < 0.8), below
    if kind == "f1":
        truth = rng.random(shape) < 0.3
        said = np.where(truth, rng.random(shape) < 0.7, rng.random(shape) < 0.1)
        return 2.0 * (truth & said), truth.astype(float) + said
    lengths = rng.integers(1, 20, shape)
    return rng.binomial(lengths, rng.beta(4, 2, shape)).astype(float), lengths.astype(float)


def ratios_known(above: Array, below: Array, seen: int) -> Iterator[Knowledge]:
    """Yield what leaving out each of 20 groups of batches shows, as `estimate` finds it."""
    sizes, tops = groups_of(above, seen)
    _, bottoms = groups_of(below, seen)
    count = min(20, len(sizes))
    group = np.arange(len(sizes)) % count
    rows, top, bottom = (
        np.stack([each[..., group == one].sum(axis=-1) for one in range(count)], axis=-1)
        for each in (sizes, tops, bottoms)
    )
    whole = tops.sum(axis=1, keepdims=True) / bottoms.sum(axis=1, keepdims=True)
    rest = (tops.sum(axis=1, keepdims=True) - top) / (bottoms.sum(axis=1, keepdims=True) - bottom)
    pseudo = (seen * whole - (seen - rows) * rest) / rows
    for ratio, values in zip(whole[:, 0].tolist(), pseudo.tolist(), strict=True):
        yield Knowledge(ratio, seen, tuple(zip(rows.tolist(), values, strict=True)), len(sizes))


@pytest.mark.parametrize("kind", ["precision", "f1", "tokens"])
@pytest.mark.parametrize("method", METHODS)
def test_ratios_are_held(kind: str, method: Method) -> None:
    above, below = ratio_parts(kind)

    for seen in SEEN:
        truth = above.sum(axis=1) / below.sum(axis=1)
        known = ratios_known(above, below, seen)
        assert share_of_hits(known, truth, (0, 1), method) >= AT_LEAST, f"after {seen} rows"


def test_an_estimate_knows_of_ratios_what_is_simulated_here() -> None:
    above, below = ratio_parts("f1")
    seen = 160  # as many batches as groups
    sizes, tops = groups_of(above[:1], seen)
    _, bottoms = groups_of(below[:1], seen)
    batches = [
        BatchMetrics(rows, {"Top": {"value": top}, "Bottom": {"value": bottom}})
        for rows, top, bottom in zip(sizes.tolist(), tops[0].tolist(), bottoms[0].tolist(), strict=True)
    ]

    found = estimate(
        batches,
        ROWS,
        accumulate=lambda parts: {
            "F1": {
                "value": sum(each["value"] for each in parts["Top"]) / sum(each["value"] for each in parts["Bottom"]),
                "is_algebraic": True,
            }
        },
    )["F1"]

    expected = interval(next(ratios_known(above, below, seen)), (0, 1), ROWS, Strategy())
    assert (found.lower, found.upper) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("method", ["normal", "wilson"])
def test_shares_are_held_exactly_at_every_number_of_rows(share: float, method: Method) -> None:
    """No simulation: every outcome with its probability, of a data set whose rows were drawn, seen without return."""
    total = 400
    chances = stats.binom.pmf(np.arange(total + 1), total, share)
    for seen in (10, 34, 58, 82, 100, 200, 300, 380, 399):
        hits = np.arange(seen + 1)
        found = [
            interval(Knowledge(count / seen, seen, _split(seen, count), 2), (0, 1), total, Strategy(method))
            for count in hits.tolist()
        ]
        low, high = np.array(found).T
        held = 0.0
        for right, chance in enumerate(chances):
            if chance > 1e-7:
                inside = (low <= right / total + 1e-9) & (high >= right / total - 1e-9)
                held += chance * stats.hypergeom.pmf(hits[inside], total, right, seen).sum()

        assert held >= AT_LEAST, f"after {seen} rows"


def _split(seen: int, count: int) -> tuple[tuple[int, float], ...]:
    return tuple((rows, value) for rows, value in ((count, 1.0), (seen - count, 0.0)) if rows)


def test_quantiles_of_students_distribution_are_right() -> None:
    for freedom in (1, 2, 3, 4, 7, 19, 40, 1001):
        assert t_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
