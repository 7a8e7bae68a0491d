"""The node's HTTPS endpoint, for the API server alone: container logs."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from rapidfireai.cluster.node.credentials import ADDRESS, Credentials
from rapidfireai.cluster.node.logs import LogFile, LogOptions, since_of

API_SERVER = "kube-apiserver"
"""Common name of the certificate with which the API server speaks to nodes."""
_NOT_DONE = "the process node does not do {what}: its pods are ordinary processes of this machine\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LogSource(Protocol):
    """Whoever knows the logs of the pods."""

    def find_log(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogFile | None:
        """Return a log, None if that run never was.

        Raises:
            KeyError: If there is no such pod or container here.
        """


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a context that asks every client for a certificate of the cluster's authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(credentials.authority))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(credentials.certificate, credentials.key)
    return context


@web.middleware
async def only_the_api_server(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse every client but the API server; others have to ask it, so that it can judge their rights."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    subject = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    if ("commonName", API_SERVER) not in subject:
        raise web.HTTPForbidden(text="only the API server may ask the node; use kubectl\n")
    return await handler(request)


def options_of(query: dict[str, str]) -> LogOptions:
    """Return what a reader of a log asks for.

    Raises:
        ValueError: If a value is malformed.
    """
    return LogOptions(
        follow=query.get("follow") == "true",
        tail=int(query["tailLines"]) if "tailLines" in query else None,
        since=since_of(query.get("sinceSeconds"), query.get("sinceTime")),
        timestamps=query.get("timestamps") == "true",
        limit=int(query["limitBytes"]) if "limitBytes" in query else None,
    )


def application(source: LogSource) -> web.Application:
    """Return the endpoint as an application."""

    async def container_logs(request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        container = request.match_info["container"]
        try:
            options = options_of(query)
            log = source.find_log(
                request.match_info["namespace"],
                request.match_info["pod"],
                container,
                previous=query.get("previous") == "true",
            )
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        except KeyError as error:
            raise web.HTTPNotFound(text=f"{error.args[0]} is not on this node\n") from error
        if log is None:
            what = "previous terminated container" if query.get("previous") == "true" else "container"
            raise web.HTTPBadRequest(text=f'{what} "{container}" has not started: there is no log\n')
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for line in log.read(options):
            await response.write(line)
        await response.write_eof()
        return response

    async def not_done(request: web.Request) -> web.StreamResponse:
        what = request.path.split("/")[1]
        name = {"portForward": "port-forward", "run": "exec"}.get(what, what)
        raise web.HTTPNotImplemented(text=_NOT_DONE.format(what=name))

    async def healthy(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    app = web.Application(middlewares=[only_the_api_server])
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    app.router.add_get("/healthz", healthy)
    for path in ("exec", "attach", "portForward", "run"):
        app.router.add_route("*", f"/{path}/{{rest:.*}}", not_done)
    return app


async def serve(source: LogSource, credentials: Credentials) -> tuple[web.AppRunner, int]:
    """Start serving on a free port; return what to clean up, and the port."""
    runner = web.AppRunner(application(source), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, ADDRESS, 0, ssl_context=tls_context(credentials))
    await site.start()
    return runner, int(runner.addresses[0][1])
