"""What the queries of several dashboards share: their variables, selectors and expressions."""

from __future__ import annotations

from monitoring.panels import Variable

CHOSEN = '{namespace=~"$namespace", experiment=~"$experiment"}'
IN_NAMESPACE = '{namespace=~"$namespace"}'
RATE = "[$__rate_interval]"
TRAINING = "a run trains"
EVALUATION = "an evaluation answers rows"
GPU = "a worker has a GPU"
API = "an evaluation asks an API"
NAMESPACE = Variable("namespace", "rapidfire_runs", "namespace")
EXPERIMENT = Variable("experiment", "rapidfire_runs", "experiment", '{namespace=~"$namespace"}')


def chosen_and(more: str) -> str:
    """Return the selector of the chosen experiments with one more matcher."""
    return CHOSEN[:-1] + ", " + more + "}"


def quantiles(metric: str, where: str, by: str = "", legend: str = "") -> dict[str, str]:
    """Return the median and the 95th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return {
        f"{name}{legend}": f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{where}{RATE})))"
        for name, share in (("median", 0.5), ("95 %", 0.95))
    }


def rate(series: str, by: str, where: str = CHOSEN) -> str:
    """Return how much a counter grows a second, summed by labels."""
    return f"sum by ({by}) (rate({series}{where}{RATE}))"


def increase(series: str, by: str, where: str = CHOSEN) -> str:
    """Return how much a counter grows from point to point, summed by labels."""
    return f"sum by ({by}) (increase({series}{where}{RATE}))"
