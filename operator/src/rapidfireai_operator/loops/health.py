"""Whether the operator makes progress, and the two ports that say so."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from aiohttp import web

from rapidfireai_operator.adapters.clock import Clock
from rapidfireai_operator.adapters.metrics import Metrics

LONGEST_PASS_SECONDS = 120.0
"""A look at an experiment that takes longer hangs."""


@dataclass(slots=True)
class Health:
    """Which work began when; work that never ends turns the operator unhealthy.

    Args:
        clock: The clock.
        patience: Seconds without a comparison with the API server that are too many.
    """

    clock: Clock
    patience: float
    _begun: dict[Hashable, float] = field(default_factory=dict)
    _compared: float | None = None

    def begin(self, work: Hashable) -> None:
        """Remember that some work began."""
        self._begun[work] = self.clock.monotonic()

    def end(self, work: Hashable) -> None:
        """Remember that it is over, however it ended."""
        self._begun.pop(work, None)

    def turned(self) -> None:
        """Remember that the periodic comparison came round, successful or not."""
        self._compared = self.clock.monotonic()

    @property
    def oldest_pass(self) -> float:
        """How long the work that began first has been under way, in seconds."""
        now = self.clock.monotonic()
        return now - min(self._begun.values(), default=now)

    @property
    def comparison_age(self) -> float:
        """Seconds since the periodic comparison came round."""
        return self.clock.monotonic() - self._compared if self._compared is not None else 0.0

    def complaints(self) -> list[str]:
        """Return what hangs; nothing if all is well."""
        now = self.clock.monotonic()
        found = [
            f"{work} has been under way for {now - begun:.0f} s"
            for work, begun in self._begun.items()
            if now - begun > LONGEST_PASS_SECONDS
        ]
        if self._compared is None:
            self._compared = now
        if now - self._compared > self.patience:
            found.append(f"no comparison with the API server for {now - self._compared:.0f} s")
        return found


async def serve(address: str, port: int, path: str, answer: Callable[[], tuple[int, bytes]]) -> web.AppRunner:
    """Serve one page until the runner's `cleanup`.

    Args:
        address: The address to listen on.
        port: The port.
        path: The page's path.
        answer: Returns the page's status and text.

    Raises:
        OSError: If the port is taken.
    """

    async def page(_: web.Request) -> web.Response:
        status, text = answer()
        return web.Response(status=status, body=text, headers={"Content-Type": "text/plain; charset=utf-8"})

    application = web.Application()
    application.router.add_get(path, page)
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    return runner


async def serve_probes(
    health: Health, metrics: Metrics, address: str, port: int, health_port: int
) -> list[web.AppRunner]:
    """Serve `/metrics` and `/healthz`, the latter in the loop that it judges.

    Raises:
        OSError: If a port is taken.
    """

    def healthz() -> tuple[int, bytes]:
        complaints = health.complaints()
        return (503, "\n".join(complaints).encode()) if complaints else (200, b"ok")

    def page() -> tuple[int, bytes]:
        metrics.show_health(health.oldest_pass, health.comparison_age)
        return 200, metrics.render()

    return [
        await serve(address, port, "/metrics", page),
        await serve(address, health_port, "/healthz", healthz),
    ]
