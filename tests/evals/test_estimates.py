"""Estimates of metrics over all rows: what is documented, what is refused, and what must hold for any of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidfireai_worker.evals.estimates import SAMPLES, BatchMetrics, MetricEstimate, estimate
from rapidfireai_worker.evals.strategies import EstimateError, Strategy, UnknownStrategy

TOTAL = 1000


def right(*counts: int, rows: int = 10) -> list[BatchMetrics]:
    return [BatchMetrics(rows, {"Right": {"value": count}}) for count in counts]


def means(*values: float, rows: int = 10, **flags: Any) -> list[BatchMetrics]:
    return [BatchMetrics(rows, {"Score": {"value": value, "is_algebraic": True, **flags}}) for value in values]


def accuracy(metrics: dict[str, list[Any]]) -> dict[str, Any]:
    value = sum(each["value"] for each in metrics["Right"]) / sum(each["value"] for each in metrics[SAMPLES])
    return {"Accuracy": {"value": value, "is_algebraic": True, "value_range": (0, 1)}}


def bounds(found: MetricEstimate) -> tuple[float, float]:
    assert found.lower is not None
    assert found.upper is not None
    return found.lower, found.upper


SEVENTY = right(7, 8, 6, 7, 7, 9, 5, 7, 7, 7)
"""70 right of 100."""


@pytest.mark.parametrize(
    ("method", "use_fpc", "expected"),
    [
        ("normal", True, (0.61475, 0.78525)),
        ("normal", False, (0.610183, 0.789817)),
        ("wilson", True, (0.609231, 0.777389)),
        ("wilson", False, (0.604151, 0.781051)),
        ("hoeffding", True, (0.571095, 0.828905)),
        ("hoeffding", False, (0.56419, 0.83581)),
    ],
)
def test_a_share_of_rows_has_the_documented_interval(method: Any, use_fpc: bool, expected: tuple[float, float]) -> None:
    found = estimate(SEVENTY, TOTAL, Strategy(method, 0.95, use_fpc), accuracy)["Accuracy"]

    assert found.value == pytest.approx(0.7)
    assert bounds(found) == pytest.approx(expected, abs=1e-6)
    assert (found.level, found.method) == (0.95, method)


@pytest.mark.parametrize(
    ("method", "expected"), [("normal", (614.7496, 785.2504)), ("hoeffding", (571.0947, 828.9053))]
)
def test_a_sum_is_scaled_up_to_all_rows_with_the_documented_interval(
    method: Any, expected: tuple[float, float]
) -> None:
    found = estimate(SEVENTY, TOTAL, Strategy(method))["Right"]

    assert found.value == pytest.approx(700)
    assert bounds(found) == pytest.approx(expected, abs=1e-4)


def test_hoeffding_of_another_range_has_the_documented_interval() -> None:
    batches = means(*[2.8, 3.2] * 5, value_range=(0, 5))

    found = estimate(batches, TOTAL, Strategy("hoeffding"))["Score"]

    assert bounds(found) == pytest.approx((2.355474, 3.644526), abs=1e-6)


def test_the_variance_of_another_range_is_that_of_the_batches_and_not_of_a_uniform_distribution() -> None:
    """Where the documented 2.731487-3.268513 does not hold: it assumes (b - a)² / 12 whatever the rows are.

    Ratings of 0 and 5 alone have nearly three times that variance, and ratings that are all near 3 hardly any: the
    interval would miss far too often in the first case, and say nothing useful in the second.
    """
    quiet = means(*[2.95, 3.05] * 5, value_range=(0, 5))
    loud = [
        BatchMetrics(10, {"Score": {"value": 5 * fives / 10, "is_algebraic": True, "value_range": (0, 5)}})
        for fives in [5, 7] * 5
    ]

    narrow, wide = (estimate(each, TOTAL)["Score"] for each in (quiet, loud))

    assert narrow.value == wide.value == pytest.approx(3)
    assert narrow.margin is not None
    assert wide.margin is not None
    assert narrow.margin < 0.15 * 0.268513
    assert wide.margin == pytest.approx(0.268513 * math.sqrt(6 / (25 / 12)), rel=1e-4)


def test_a_share_that_is_one_so_far_is_not_certain() -> None:
    for method in ("normal", "wilson", "hoeffding"):
        found = estimate(right(*[10] * 10), TOTAL, Strategy(method), accuracy)["Accuracy"]

        assert found.value == found.upper == 1
        assert found.lower is not None
        assert found.lower < 1 - 3 / 100, "the rule of three"


def test_once_all_rows_are_seen_nothing_is_unsure() -> None:
    for method in ("normal", "wilson", "hoeffding"):
        found = estimate(SEVENTY, 100, Strategy(method), accuracy)["Accuracy"]

        assert (found.lower, found.value, found.upper, found.margin) == (0.7, 0.7, 0.7, 0)


def test_without_the_correction_the_data_set_is_itself_a_sample() -> None:
    found = estimate(SEVENTY, 100, Strategy(use_fpc=False), accuracy)["Accuracy"]

    assert bounds(found) == pytest.approx((0.610183, 0.789817), abs=1e-6)


def test_without_accumulate_metrics_fn_each_metric_is_a_sum() -> None:
    batches = [BatchMetrics(8, {"Tokens": {"value": 80 + extra}, "Right": 4 + extra}) for extra in (0, 2, 1, 3)]

    found = estimate(batches, 64)

    assert found["Tokens"].value == pytest.approx(2 * 326)
    assert found["Right"].value == pytest.approx(2 * 22)
    assert found["Tokens"].others == {"is_distributive": True}
    low, high = bounds(found["Tokens"])
    assert 500 < low < 652 < high < 800


def test_a_sum_without_a_range_says_that_its_interval_is_not_wilsons() -> None:
    batches = [BatchMetrics(10, {"Tokens": {"value": 100 + extra}}) for extra in range(3)]

    assert estimate(batches, TOTAL, Strategy("wilson"))["Tokens"].method == "normal"
    assert estimate(batches[:1], TOTAL, Strategy("wilson"))["Tokens"].lower is None, "one batch says nothing of it"


def test_without_accumulate_metrics_fn_a_metric_may_say_that_it_is_a_mean() -> None:
    batches = [*means(0.5, 0.75, rows=8), *means(1.0, rows=2)]

    assert estimate(batches, 36)["Score"].value == pytest.approx((4 + 6 + 2) / 18)


def test_a_ratio_is_as_unsure_as_leaving_out_batches_shows() -> None:
    rng = np.random.default_rng(5)
    batches = []
    for _ in range(40):
        positives = int(rng.binomial(10, 0.1))
        batches.append(
            BatchMetrics(10, {"TP": {"value": int(rng.binomial(positives, 0.7))}, "P": {"value": positives}})
        )

    def precision(metrics: dict[str, list[Any]]) -> Mapping[str, Any]:
        true, all_of_them = (sum(each["value"] for each in metrics[name]) for name in ("TP", "P"))
        return {"Precision": {"value": true / all_of_them, "is_algebraic": True}}

    found = estimate(batches, 100_000, accumulate=precision)["Precision"]

    positives = sum(each.metrics["P"]["value"] for each in batches)
    expected = 1.96 * math.sqrt(found.value * (1 - found.value) / positives)
    assert found.margin == pytest.approx(expected, rel=0.4), "of the positives alone, not of 400 rows"


def test_parts_of_which_a_metric_cannot_be_computed_are_left_out() -> None:
    def strict(metrics: dict[str, list[Any]]) -> Mapping[str, Any]:
        hits = sum(each["value"] for each in metrics["Right"])
        return {"Share of hits": {"value": metrics["Right"][0]["value"] * 0 + hits / hits, "is_algebraic": True}}

    found = estimate(right(0, 0, 3), TOTAL, accumulate=strict)["Share of hits"]

    assert found.value == 1
    assert found.lower is not None
    assert found.lower < 0.5, "three batches do not say much of a ratio"


def test_a_metric_that_says_neither_has_its_value_and_no_interval() -> None:
    found = estimate(SEVENTY, TOTAL, accumulate=lambda metrics: {"Batches": {"value": len(metrics["Right"])}})

    assert found == {"Batches": MetricEstimate(10.0)}
    assert found["Batches"].as_metric() == {"value": 10.0}


def test_a_metric_is_returned_as_documented() -> None:
    metric = estimate(SEVENTY, TOTAL, accumulate=accuracy)["Accuracy"].as_metric()

    assert metric == {
        "value": pytest.approx(0.7),
        "is_algebraic": True,
        "value_range": (0, 1),
        "lower_bound": pytest.approx(0.61475, abs=1e-6),
        "upper_bound": pytest.approx(0.78525, abs=1e-6),
        "margin_of_error": pytest.approx(0.08525, abs=1e-5),
        "confidence_interval": pytest.approx(0.08525, abs=1e-5),
        "confidence_level": 0.95,
        "ci_method": "normal",
    }


def test_batches_in_which_every_row_failed_count_for_nothing() -> None:
    batches = [*SEVENTY, BatchMetrics(0, {})]

    assert estimate(batches, TOTAL, accumulate=accuracy) == estimate(SEVENTY, TOTAL, accumulate=accuracy)
    assert estimate([BatchMetrics(0, {})], TOTAL, accumulate=accuracy) == {}


def test_numbers_of_numpy_are_numbers() -> None:
    values = (np.float32(0.5), np.int64(1), np.array(0.25), True)

    batches = [BatchMetrics(4, {"Score": {"value": value}}) for value in values]

    assert estimate(batches, 16)["Score"].value == pytest.approx(2.75)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ({"value": "high"}, "metric 'Score': its value is 'high', not a finite number; return"),
        ({"value": None}, "metric 'Score': its value is None, not a finite number"),
        ({"value": math.nan}, "metric 'Score': its value is nan, not a finite number"),
        ({"values": 1}, "metric 'Score': its value is 'missing', not a finite number"),
        ({"value": 3.5, "is_algebraic": True}, "3.5, outside value_range, which is (0, 1) unless it is given, (0, 1)"),
        ({"value": 7, "is_algebraic": True, "value_range": (0, 5)}, "its value is 7, outside its value_range (0, 5)"),
        (
            {"value": 80, "is_distributive": True, "value_range": (0, 5)},
            "its value is 8 a row, outside its value_range",
        ),
        ({"value": 1, "is_algebraic": True, "value_range": None}, "value_range=None is none; give two finite numbers"),
        ({"value": 1, "is_algebraic": True, "value_range": (0, None)}, "value_range=(0, None) is none"),
        ({"value": 1, "is_algebraic": True, "value_range": (1, 1)}, "value_range=(1, 1) is none"),
        ({"value": 1, "is_algebraic": True, "value_range": (0, math.inf)}, "value_range=(0, inf) is none"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_fix(metric: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EstimateError) as caught:
        estimate([BatchMetrics(10, {"Score": metric})], TOTAL)

    assert isinstance(caught.value, ValueError)
    assert "'Score'" in str(caught.value)
    assert sentence in str(caught.value)


def test_hoeffding_asks_for_the_range_of_sums_that_are_no_shares() -> None:
    batches = [BatchMetrics(10, {"Tokens": {"value": 100 + extra}}) for extra in range(3)]

    with pytest.raises(EstimateError, match=r"metric 'Tokens': hoeffding needs its value_range"):
        estimate(batches, TOTAL, Strategy("hoeffding"))


def test_accumulate_metrics_fn_returns_a_dictionary() -> None:
    with pytest.raises(EstimateError, match="accumulate_metrics_fn returned float; return a dictionary"):
        estimate(SEVENTY, TOTAL, accumulate=lambda metrics: 0.5)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        (
            {"strategy_name": "wilsen"},
            "strategy_name='wilsen': unknown; choose normal, wilson or hoeffding; did you me",
        ),
        ({"confidence_level": 95}, "confidence_level=95: give a number between 0 and 1"),
        ({"use_fpc": "yes"}, "use_fpc='yes': give true or false"),
        ({"confidence": 0.9}, "online_strategy_kwargs.confidence: unknown; it takes strategy_name, confidence_level"),
    ],
)
def test_a_strategy_that_there_is_not_is_refused_with_the_fix(kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnknownStrategy) as caught:
        Strategy.parse(kwargs)

    assert sentence in str(caught.value)


def test_what_a_strategy_leaves_out_is_as_documented() -> None:
    assert Strategy.parse(None) == Strategy("normal", 0.95, True)
    assert Strategy.parse({"strategy_name": "wilson", "confidence_level": 0.9}) == Strategy("wilson", 0.9, True)


METHODS = st.builds(
    Strategy, st.sampled_from(["normal", "wilson", "hoeffding"]), st.sampled_from([0.8, 0.95, 0.99]), st.booleans()
)


@st.composite
def many_batches(draw: st.DrawFn) -> list[BatchMetrics]:
    """Return batches of a share, a mean on (-2, 5) and the parts of a ratio."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    batches = []
    for rows in sizes:
        batches.append(
            BatchMetrics(
                rows,
                {
                    "Right": {"value": draw(st.integers(0, rows))},
                    "Mean": {"value": draw(st.floats(-2, 5)), "is_algebraic": True, "value_range": [-2, 5]},
                },
            )
        )
    return batches


def everything(metrics: dict[str, list[Any]]) -> dict[str, Any]:
    rows = [each["value"] for each in metrics[SAMPLES]]
    hits = [each["value"] for each in metrics["Right"]]
    mean = sum(each["value"] * n for each, n in zip(metrics["Mean"], rows, strict=True)) / sum(rows)
    return {
        "Mean": {"value": min(max(mean, -2.0), 5.0), "is_algebraic": True, "value_range": (-2, 5)},
        "Accuracy": {"value": sum(hits) / sum(rows), "is_algebraic": True},
        "Right": {"value": sum(hits), "is_distributive": True, "value_range": (0, 1)},
        "Odd": {"value": sum(hits[::2]) / (1 + sum(hits[::2]) + len(hits)), "is_algebraic": True},
    }


@settings(max_examples=60, deadline=None)
@given(many_batches(), METHODS, st.integers(0, 500), st.booleans())
def test_the_value_is_in_its_interval_and_the_interval_in_its_range(
    batches: list[BatchMetrics], strategy: Strategy, more: int, accumulates: bool
) -> None:
    total = sum(batch.rows for batch in batches) + more

    for name, found in estimate(batches, total, strategy, everything if accumulates else None).items():
        low, high = bounds(found)
        least, most = {"Mean": (-2, 5), "Right": (0, total)}.get(name, (0, 1))
        slack = 1e-9 * (most - least)
        assert least - slack <= low <= found.value <= high <= most + slack
        if more == 0 and strategy.use_fpc:
            assert low == high
        elif strategy.use_fpc or more:
            assert low < high


@settings(max_examples=40, deadline=None)
@given(many_batches(), METHODS, st.randoms(use_true_random=False))
def test_the_order_of_batches_does_not_matter(batches: list[BatchMetrics], strategy: Strategy, random: Any) -> None:
    total = 10 + sum(batch.rows for batch in batches)
    others = random.sample(batches, len(batches))

    assert estimate(others, total, strategy) == estimate(batches, total, strategy)
    assert estimate(others, total, strategy, everything) == estimate(batches, total, strategy, everything)


def test_the_interval_narrows_as_rows_are_seen() -> None:
    for method in ("normal", "wilson", "hoeffding"):
        margins = [
            estimate(SEVENTY * shards, TOTAL, Strategy(method), accuracy)["Accuracy"].margin or 0.0
            for shards in range(1, 11)
        ]

        assert margins == sorted(margins, reverse=True)
        assert margins[-1] == 0
