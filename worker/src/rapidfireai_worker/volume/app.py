"""The volume service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from rapidfireai.kube import connect
from rapidfireai_worker.failures import is_storage_full
from rapidfireai_worker.kubeapi import Forbidden, KubeApi, Refused, Unavailable
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.runlog import Cursor, read_after, to_json_lines
from rapidfireai_worker.volume import auth
from rapidfireai_worker.volume.auth import Gatekeeper
from rapidfireai_worker.volume.checkpoints import add_checkpoint_routes
from rapidfireai_worker.volume.feed import Feed, Outbox
from rapidfireai_worker.volume.janitor import Janitor, mark_used
from rapidfireai_worker.volume.leasing import Budgets, Experiments, add_budget_routes
from rapidfireai_worker.volume.metrics import VolumeMetrics
from rapidfireai_worker.volume.recorder import Recorder
from rapidfireai_worker.volume.remains import add_remains_routes
from rapidfireai_worker.volume.settings import VolumeSettings
from rapidfireai_worker.volume.shards import Commits, add_shard_routes
from rapidfireai_worker.volume.store import (
    TooLarge,
    Upload,
    WrongDigest,
    WrongOffset,
    received,
    remove_abandoned,
)

CURSOR_HEADER = "Rapidfire-Cursor"
OFFSET_HEADER = "Upload-Offset"
Kind = Literal["bundles", "datasets"]
Offset = Annotated[int, Header(ge=0)]
Digest = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
Uid = Annotated[str, InPath(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_log = structlog.get_logger(__name__)


def create_app(settings: VolumeSettings) -> FastAPI:
    """Return the service; it connects to the API server and begins to feed MLflow when it starts up."""
    feed = Feed(Volume(settings.volume), settings.mlflow_url) if settings.mlflow_url else None
    metrics = VolumeMetrics(settings.volume, feed.outbox if feed is not None else Outbox)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        volume = Volume(settings.volume)
        await asyncio.to_thread(remove_abandoned, volume)
        client = await connect()
        api = KubeApi(client, settings.pod_namespace)
        app.state.commits = Commits(volume, api)
        app.state.service = Service(settings, volume, Gatekeeper(client, settings.pod_namespace), metrics)
        app.state.experiments = Experiments(api)
        janitor = Janitor(volume, settings, metrics.removed, metrics.cleanup_errors.inc)
        tasks = [asyncio.create_task(janitor.run(api)), asyncio.create_task(Recorder(volume).run(api))]
        if feed is not None:
            tasks.append(asyncio.create_task(feed.run(api)))
        _log.info("serving", namespace=settings.pod_namespace, mlflow=settings.mlflow_url or "none")
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # they were told to end
        await client.close()

    app = FastAPI(title="RapidFire AI volume service", lifespan=lifespan, openapi_url=None)
    _add_routes(app, Volume(settings.volume))
    _add_answers(app)
    metrics.add_to(app)
    return app


class Service:
    """What the routes do.

    Args:
        settings: What the service knows of itself.
        volume: The shared volume.
        gatekeeper: Who lets requests in.
        metrics: Where uploads are counted.
    """

    def __init__(
        self, settings: VolumeSettings, volume: Volume, gatekeeper: Gatekeeper, metrics: VolumeMetrics
    ) -> None:
        self.gatekeeper = gatekeeper
        self._limits = {"bundles": settings.max_bundle_bytes, "datasets": settings.max_dataset_bytes}
        self._volume = volume
        self._metrics = metrics

    def path(self, kind: Kind, digest: str) -> Path:
        """Return where an upload lies."""
        return self._volume.bundle(digest) if kind == "bundles" else self._volume.dataset(digest)

    async def received(self, digest: str) -> int:
        """Return how many bytes of an upload are there that broke off and that nobody sends now."""
        return await asyncio.to_thread(received, self._volume, digest)

    async def take(self, kind: Kind, digest: str, offset: int, request: Request) -> int:
        """Stream a request's body to the volume, behind the bytes that are there; return the whole size in bytes.

        Raises:
            HTTPException: If it is too large, begins elsewhere or is not what its digest says.
            OSError: If the volume does not take it.
        """
        limit = self._limits[kind]
        too_large = HTTPException(
            413, f"at most {limit} bytes are taken; raise RAPIDFIRE_MAX_{kind[:-1].upper()}_BYTES"
        )
        if offset + int(request.headers.get("content-length", 0)) > limit:
            raise too_large
        try:
            upload = await asyncio.to_thread(Upload, self._volume, digest, limit, offset)
        except WrongOffset as error:
            sentence = f"{error} bytes of it are here, and {OFFSET_HEADER} is {offset}; ask with HEAD and go on there"
            raise HTTPException(409, sentence, {OFFSET_HEADER: str(error)}) from error
        try:
            async for block in request.stream():
                await asyncio.to_thread(upload.write, block)
            await asyncio.to_thread(upload.keep, self.path(kind, digest))
        except TooLarge:
            raise too_large from None
        except WrongDigest as error:
            raise HTTPException(
                422, f"the sha256 of the {upload.bytes} bytes received is {error}, not {digest}; send them again"
            ) from error
        finally:
            await asyncio.to_thread(upload.close)
        self._metrics.uploaded(kind, upload.bytes)
        _log.info("uploaded", kind=kind, digest=digest, bytes=upload.bytes)
        return upload.bytes

    async def metrics(self, experiment: str, run: str, after: str) -> tuple[bytes, Cursor]:
        """Return the lines of a run's log behind a cursor, and the cursor behind them.

        A link in the log's place does no harm: what is no log line is passed over.
        """
        try:
            cursor = Cursor.parse(after) if after else Cursor()
        except ValueError as error:
            raise HTTPException(422, f"after={after}: give the {CURSOR_HEADER} of an earlier answer") from error
        path = self._volume.run(experiment, run).metrics
        lines, cursor = await asyncio.to_thread(read_after, path, cursor)
        if not lines and not await asyncio.to_thread(path.exists):
            raise HTTPException(404, f"run {run} has logged nothing yet; ask again once it trains")
        return to_json_lines(lines), cursor


def _add_routes(app: FastAPI, volume: Volume) -> None:
    def service(request: Request) -> Service:
        found: Service = request.app.state.service
        return found

    async def admit(request: Request, verb: auth.Verb) -> Service:
        await service(request).gatekeeper.admit(request.headers.get("authorization"), verb)
        return service(request)

    async def known(request: Request, experiment: str) -> bool:
        experiments: Experiments = request.app.state.experiments
        return await experiments.knows(experiment)

    add_checkpoint_routes(app, admit, volume)
    add_budget_routes(app, admit, Budgets(volume), known)
    add_shard_routes(app, admit, volume)
    add_remains_routes(app, admit, volume)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.head("/v1/{kind}/{digest}")
    async def look(request: Request, kind: Kind, digest: Digest) -> Response:
        path = (await admit(request, "get")).path(kind, digest)
        if not await asyncio.to_thread(path.is_file):
            offset = {OFFSET_HEADER: str(await service(request).received(digest))}
            raise HTTPException(404, f"{kind}/{digest} is not there; send it with PUT", offset)
        await asyncio.to_thread(mark_used, path.parent)  # who asks is about to use it
        return Response(headers={"Content-Length": str(path.stat().st_size)})

    @app.put("/v1/{kind}/{digest}", status_code=201)
    async def take(request: Request, kind: Kind, digest: Digest, upload_offset: Offset = 0) -> dict[str, Any]:
        size = await (await admit(request, "create")).take(kind, digest, upload_offset, request)
        return {"digest": digest, "bytes": size}

    @app.get("/v1/experiments/{experiment}/runs/{run}/metrics")
    async def metrics(request: Request, experiment: Uid, run: Uid, after: str = "") -> Response:
        lines, cursor = await (await admit(request, "get")).metrics(experiment, run, after)
        return Response(lines, media_type="application/x-ndjson", headers={CURSOR_HEADER: str(cursor)})


def _add_answers(app: FastAPI) -> None:
    """Turn every error into `{"detail": "a sentence with the fix"}`."""

    def answer(status: int, sentence: str, **headers: str) -> JSONResponse:
        return JSONResponse({"detail": sentence}, status, headers)

    @app.exception_handler(auth.NotAuthenticated)
    async def unauthenticated(_: Request, error: auth.NotAuthenticated) -> JSONResponse:
        return answer(401, str(error), **{"WWW-Authenticate": "Bearer"})

    @app.exception_handler(auth.NotAllowed)
    async def forbidden(_: Request, error: auth.NotAllowed) -> JSONResponse:
        return answer(403, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "; ".join(f"{each['loc'][-1]}={each['input']}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        return answer(503, f"the API server does not answer, try again: {error}", **{"Retry-After": "2"})

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        status = 503 if isinstance(error, Forbidden) else 500  # an API server that has just started knows no roles yet
        return answer(
            status, f"the volume service lacks rights, see the chart's ServiceAccount rapidfire-volume: {error}"
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, "the upload broke off; ask with HEAD how much of it is here, and go on there")

    @app.exception_handler(OSError)
    async def storage(_: Request, error: OSError) -> JSONResponse:
        if is_storage_full(error):
            return answer(507, "the volume is full; delete experiments that are done with, or enlarge its claim")
        _log.error("the volume failed", exc_info=error)
        return answer(500, f"the volume failed: {error.strerror or error}")
