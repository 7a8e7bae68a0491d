"""`python -m rapidfireai_gateway`: the REST API and the dashboard, two servers in one process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import structlog
import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp

from rapidfireai.service import configure_logs
from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.metrics import GatewayMetrics
from rapidfireai_gateway.rest.app import create_app
from rapidfireai_gateway.settings import Settings

_DASHBOARD = "rapidfireai_dashboard.app"
"""The dashboard stands on the gateway, which knows it by this name alone."""
_GRACE_SECONDS = 5


def main() -> int:
    """Serve until told to stop; return the exit code."""
    configure_logs("httpx")  # it logs every address that is asked
    try:
        settings = Settings()
    except ValidationError as error:
        for mistake in error.errors():
            field = str(mistake["loc"][0])
            name = f"RAPIDFIRE_{field.upper()}" if field in Settings.model_fields else field
            structlog.get_logger(__name__).error("setting refused", variable=name, problem=mistake["msg"])
        return 2
    return asyncio.run(serve(settings))


async def serve(settings: Settings) -> int:
    """Serve both ports until told to stop, or until one of them fails; return the exit code."""
    async with Services.open(settings) as services:
        metrics = GatewayMetrics(services.feeds.count)
        metrics.serve(settings.address, settings.metrics_port)
        apps: dict[int, ASGIApp] = {
            settings.port: metrics.measured(create_app(services), "api"),
            settings.dashboard_port: metrics.measured(_dashboard(services), "dashboard"),
        }
        servers = [_Server(_config(app, settings.address, port)) for port, app in apps.items()]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _stop, servers)
        structlog.get_logger(__name__).info(
            "serving", address=settings.address, port=settings.port, dashboard_port=settings.dashboard_port
        )
        tasks = [asyncio.create_task(server.serve()) for server in servers]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        _stop(servers)
        await asyncio.gather(*tasks, return_exceptions=True)
        return 0 if all(server.started for server in servers) else 1


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, which has two."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _stop(servers: list[_Server]) -> None:
    for server in servers:
        server.should_exit = True


def _config(app: ASGIApp, address: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        log_config=None,
        access_log=False,  # addresses may hold a login code
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _dashboard(services: Services) -> ASGIApp:
    app: ASGIApp = import_module(_DASHBOARD).create_app(services)
    return app
