"""What the gateway shows Prometheus, on a port of its own: requests, errors and durations by route, and live feeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = "rapidfire_gateway_"
_SECONDS = (0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "other"
"""Files of the dashboard, and what matches no route: callers do not choose how many series there are."""
_BROKEN = 500
_log = structlog.get_logger(__name__)


class GatewayMetrics:
    """The metrics of one gateway process; units are in the names.

    Args:
        feeds: Returns how many experiments are watched now.
    """

    def __init__(self, feeds: Callable[[], int] = lambda: 0) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        route = ("port", "method", "route")
        self.requests = Counter(
            _PREFIX + "requests",
            "Requests by their route's template; port is api or dashboard.",
            [*route, "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            _PREFIX + "request_seconds",
            "Time until the answer begins; a stream goes on after it.",
            route,
            registry=registry,
            buckets=_SECONDS,
        )
        self.under_way = Gauge(
            _PREFIX + "requests_under_way", "Requests that are not answered to the end, streams too.", registry=registry
        )
        Gauge(
            _PREFIX + "feeds", "Experiments that are watched now, once for each caller.", registry=registry
        ).set_function(lambda: float(feeds()))

    def measured(self, app: ASGIApp, port: str) -> ASGIApp:
        """Return an application whose requests are measured.

        Args:
            app: What answers.
            port: What it is called in the metrics.
        """
        return _Measured(app, self, port)

    def serve(self, address: str, port: int) -> None:
        """Serve `/metrics`; a port that is taken costs the metrics, not the gateway."""
        try:
            start_http_server(port, addr=address, registry=self.registry)
        except OSError as error:
            words = "no /metrics: set RAPIDFIRE_METRICS_PORT to a free port"
            _log.error(words, address=address, port=port, error=str(error))

    def count(self, labels: Sequence[str], code: int, seconds: float) -> None:
        """Count a request whose answer began."""
        self.requests.labels(*labels, str(code)).inc()
        self.seconds.labels(*labels).observe(seconds)


class _Measured:
    """Measures the requests of an application. Plain ASGI."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, port: str) -> None:
        self._app, self._metrics, self._port = app, metrics, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through and note what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, answered = time.monotonic(), False

        def note(code: int) -> None:
            nonlocal answered
            answered = True
            self._metrics.count((self._port, _method(scope), _route(scope)), code, time.monotonic() - begun)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(int(message["status"]))
            await send(message)

        with self._metrics.under_way.track_inprogress():
            try:
                await self._app(scope, receive, noting)
            except Exception:
                if not answered:
                    note(_BROKEN)
                raise


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in _METHODS else _NO_ROUTE


def _route(scope: Scope) -> str:
    """Return the template of the route that took a request; the router has left it in the scope by then."""
    return str(getattr(scope.get("route"), "path", _NO_ROUTE))
