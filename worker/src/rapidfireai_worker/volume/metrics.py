"""What the volume service shows Prometheus: numbers alone, so nobody has to log in for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rapidfireai_worker.volume.feed import Outbox

_PREFIX = "rapidfire_volume_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT"})
_log = structlog.get_logger(__name__)


class VolumeMetrics:
    """The metrics of one volume service; units are in the names.

    Args:
        root: Where the volume is mounted.
        outbox: Returns what MLflow has not got yet.
    """

    def __init__(self, root: Path, outbox: Callable[[], Outbox]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Standing(root, outbox))

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        self.uploads = counter("uploads", "Uploads that are whole, bundles and datasets.", ["kind"])
        self.upload_bytes = counter("upload_bytes", "Bytes of uploads that are whole.", ["kind"])
        self.answers = counter("answers", "Requests that were answered, by HTTP status.", ["method", "code"])
        self.removed_bytes = counter(
            "removed_bytes",
            "Bytes that were removed: retention (old checkpoints), uncommitted (shards), deleted (experiments), unused "
            "(uploads and indexes), trash (what an earlier pass left).",
            ["reason"],
        )
        self.cleanup_errors = counter("cleanup_errors", "Passes of the clean-up that failed.")

    def uploaded(self, kind: str, size: int) -> None:
        """Count an upload of `size` bytes."""
        self.uploads.labels(kind).inc()
        self.upload_bytes.labels(kind).inc(size)

    def removed(self, reason: str, size: int) -> None:
        """Count `size` bytes that were removed."""
        self.removed_bytes.labels(reason).inc(size)

    def add_to(self, app: FastAPI) -> None:
        """Count answers, and serve `/metrics`, in a thread: it looks at the volume."""
        app.add_middleware(_Counted, answers=self.answers)

        @app.get("/metrics", include_in_schema=False)
        def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE)


class _Counted:
    """Counts the answers of an application.

    Args:
        app: What answers.
        answers: Where they are counted.
    """

    def __init__(self, app: ASGIApp, answers: Counter) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers.labels(_method_of(scope), str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting)


def _method_of(scope: Scope) -> str:
    """Return the method of a request; what is no method of ours is one word, however many there are."""
    method = str(scope["method"])
    return method if method in _METHODS else "other"


class _Standing(Collector):
    """What is looked up when Prometheus asks.

    Args:
        root: Where the volume is mounted.
        outbox: Returns what MLflow has not got yet.
    """

    def __init__(self, root: Path, outbox: Callable[[], Outbox]) -> None:
        self._root = root
        self._outbox = outbox

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the metrics without values."""
        texts = {
            "size_bytes": "Size of the volume.",
            "free_bytes": "What is free on the volume.",
            "mlflow_outbox_bytes": "Bytes of runs' logs that MLflow has not got yet.",
            "mlflow_outbox_age_seconds": "For how long nothing could be sent of the run that has waited longest.",
        }
        return [GaugeMetricFamily(_PREFIX + name, text, labels=[]) for name, text in texts.items()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Look at the volume and the outbox."""
        families = self.describe()
        outbox = self._outbox()
        values: list[float | None] = [None, None, outbox.bytes, outbox.age]
        try:
            usage = shutil.disk_usage(self._root)
            values[:2] = [usage.total, usage.free]
        except OSError as error:  # a volume that does not answer costs these two numbers alone
            _log.warning("the volume cannot be measured", error=str(error))
        for family, value in zip(families, values, strict=True):
            if value is not None:
                family.add_metric([], value)
        yield from families
