"""Every metric that the parts really have, read from their registries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from rapidfireai_gateway.metrics import GatewayMetrics
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_worker.metrics import CONSTANT, WorkerMetrics
from rapidfireai_worker.volume.feed import Outbox
from rapidfireai_worker.volume.metrics import VolumeMetrics

TARGET_LABELS = frozenset({"namespace", "pod", "job", "instance", "container"})
"""What a scrape adds to each series."""
_SERIES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_SELECTOR = re.compile(r"\b((?:rapidfire|process)_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        part: Which part shows it.
        name: Its name, without the suffixes of its series.
        kind: counter, gauge or histogram.
        help: Its help text.
        labels: Its own labels.
    """

    part: str
    name: str
    kind: str
    help: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus knows it."""
        return tuple(self.name + suffix for suffix in _SERIES.get(self.kind, ("",)))


class UnknownMetricError(Exception):
    """A query asks for a metric or a label that no part has."""


def families() -> tuple[Family, ...]:
    """Return the metrics of all parts, by part and name."""
    found = [family for part, (registry, labels) in registries().items() for family in _of(part, registry, labels)]
    return tuple(sorted(found, key=lambda each: (each.part, each.name)))


def check(query: str, known: tuple[Family, ...]) -> None:
    """Check the metrics of a query and the labels that it asks them for.

    Raises:
        UnknownMetricError: If there is no such metric, or it has no such label.
    """
    by_series: dict[str, set[str]] = {}
    for family in known:
        extra = {"le"} if family.kind == "histogram" else set()
        for series in family.series:
            by_series.setdefault(series, set()).update(family.labels, extra)
    allowed = set(TARGET_LABELS)
    names = _SELECTOR.findall(query)
    if "ALERTS" in query:
        return  # Prometheus' own
    if not names:
        raise UnknownMetricError(f"no metric of ours in {query!r}")
    for name, matchers in names:
        if name not in by_series:
            raise UnknownMetricError(f"{name}: no part has this metric; used in {query!r}")
        allowed |= by_series[name]
        for label in _MATCHER.findall(matchers):
            if label not in by_series[name] | TARGET_LABELS:
                raise UnknownMetricError(f"{name}: has no label {label}; used in {query!r}")
    for group in _GROUPING.findall(query):
        for label in filter(None, (each.strip() for each in group.split(","))):
            if label not in allowed:
                raise UnknownMetricError(f"{label}: no metric of the query has this label: {query!r}")


def registries() -> Mapping[str, tuple[CollectorRegistry, tuple[str, ...]]]:
    """Return the registry of each part, with the labels that it adds to all that it shows."""
    return {
        "operator": (Metrics().registry, ()),
        "worker": (WorkerMetrics().registry, CONSTANT),
        "gateway": (GatewayMetrics().registry, ()),
        "volume": (VolumeMetrics(Path("/"), Outbox).registry, ()),
    }


def _of(part: str, registry: CollectorRegistry, constant: tuple[str, ...]) -> Iterator[Family]:
    # The client's public interface shows labels with values alone, and most series begin without one.
    for collector in registry._collector_to_names:
        labels: Any = getattr(collector, "_labelnames", ())
        described = collector.describe() if hasattr(collector, "describe") else []
        for metric in described or collector.collect():
            own = labels or getattr(metric, "_labelnames", ()) or ()
            yield Family(part, metric.name, metric.type, metric.documentation, (*constant, *own))
