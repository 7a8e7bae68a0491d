"""The budgets of a volume service on loopback, without an API server that says who may ask."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.budgets import Terms
from rapidfireai_worker.volume.leasing import Budgets, add_budget_routes

EXPERIMENT = "00000000-0000-4000-8000-000000000001"


@contextmanager
def lease_service(volume: Path, terms: Terms | None = None, port: int = 0) -> Iterator[int]:
    """Serve leases and yield the port."""

    async def admit(request: Request, verb: str) -> Any:
        return None

    async def known(request: Request, experiment: str) -> bool:
        return experiment == EXPERIMENT

    app = FastAPI()
    add_budget_routes(app, admit, Budgets(Volume(volume), terms), known)
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
