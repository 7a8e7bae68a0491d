"""What is known of a run after some of its rows: its own figures, and the estimates of the user's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api.run import Estimate
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.commits import Answers, BatchRecord
from rapidfireai_worker.evals.estimates import SAMPLES, Accumulate, BatchMetrics, MetricEstimate, estimate
from rapidfireai_worker.evals.functions import Functions
from rapidfireai_worker.evals.strategies import EstimateError, Strategy

THROUGHPUT, FAILED = "Throughput", "Failed Rows"
_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """What an API asks for a million tokens; None if nobody says, as for a model of one's own."""

    read: float | None = None
    written: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands.

    Attributes:
        figures: `Samples Processed`, `Throughput` and so on.
        metrics: The estimates of the user's metrics, by name.
        seconds: How long it took so far.
    """

    figures: Mapping[str, float]
    metrics: Mapping[str, MetricEstimate]
    seconds: float

    def values(self) -> dict[str, float]:
        """Return what `progress.metrics` has."""
        return {**self.figures, **{name: each.value for name, each in self.metrics.items()}}

    def estimates(self) -> dict[str, Estimate]:
        """Return what `progress.estimates` has."""
        return {
            name: Estimate(value=each.value, lower=each.lower, upper=each.upper, level=each.level, method=each.method)
            for name, each in self.metrics.items()
            if math.isfinite(each.value)
        }

    def log_values(self) -> dict[str, float]:
        """Return what the run's log has."""
        bounds: dict[str, float] = {}
        for name, each in self.metrics.items():
            if each.lower is not None and each.upper is not None and each.margin is not None:
                bounds |= {
                    f"{name}_lower_bound": each.lower,
                    f"{name}_upper_bound": each.upper,
                    f"{name}_confidence_interval": each.margin,
                }
        return {**self.values(), **bounds}

    def cumulative(self) -> dict[str, dict[str, Any]]:
        """Return the metrics as `run_evals` returns them."""
        figures: dict[str, dict[str, Any]] = {name: {"value": _whole(value)} for name, value in self.figures.items()}
        first: dict[str, dict[str, Any]] = {
            SAMPLES: figures.pop(SAMPLES),
            "Processing Time": {"value": f"{self.seconds:.2f} seconds"},
            "Samples Per Second": {"value": f"{self.figures[THROUGHPUT]:.2f}"},
        }
        return {**first, **figures, **{name: each.as_metric() for name, each in self.metrics.items()}}


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def standing(
    answers: Answers, total: int, functions: Functions, strategy: Strategy, prices: Prices | None = None
) -> Standing:
    """Return where a run stands.

    Args:
        answers: All that it has answered.
        total: How many rows the data set has.
        functions: Its functions.
        strategy: How its intervals are computed.
        prices: What its tokens cost, if it asks an API.

    Raises:
        RunFailure: If `accumulate_metrics_fn` raises, or a metric cannot be worked with.
    """
    scored = [BatchMetrics(each.rows - each.failed, each.metrics) for each in answers.batches if each.metrics]
    try:
        metrics = estimate(scored, total, strategy, _accumulate(functions)) if scored else {}
    except EstimateError as error:
        raise RunFailure("InvalidMetric", str(error)) from error
    return Standing(figures(answers, prices), metrics, answers.seconds)


def _accumulate(functions: Functions) -> Accumulate | None:
    accumulate = functions.accumulate
    return None if accumulate is None else lambda parts: accumulate(metrics=parts)


def figures(answers: Answers, prices: Prices | None) -> dict[str, float]:
    """Return a run's own figures; tokens, cost and latency if it asks an API."""
    found: dict[str, float] = {
        SAMPLES: answers.rows - len(answers.failed),
        THROUGHPUT: answers.rows / answers.seconds if answers.seconds > 0 else 0.0,
        FAILED: len(answers.failed),
    }
    return found if prices is None else {**found, **_spending(answers.batches, prices)}


def _spending(batches: Sequence[BatchRecord], prices: Prices) -> dict[str, float]:
    read = sum(each.prompt_tokens for each in batches)
    written = sum(each.completion_tokens for each in batches)
    asked = sum(each.rows for each in batches)
    spent: dict[str, float] = {"system/total_tokens": read + written}
    if prices.read is not None or prices.written is not None:
        spent["system/token_spend_usd"] = (read * (prices.read or 0) + written * (prices.written or 0)) / _MILLION
    spent["system/query_latency_avg_seconds"] = sum(each.latency for each in batches) / asked if asked else 0.0
    return spent
