"""Requests to the API server, each with its caller's token. The gateway itself has no rights, and no token."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Self

import httpx

from rapidfireai.api.base import API_VERSION
from rapidfireai.kube import service_account_dir
from rapidfireai_gateway.errors import GatewayError, from_api_server, not_logged_in, unavailable
from rapidfireai_gateway.settings import Settings

Body = dict[str, Any]
Kind = Literal["experiments", "runs", "icops"]
CONTENT_TYPES: Mapping[str, str] = {"PATCH": "application/merge-patch+json"}
_BUSY_SECONDS = 0.7
"""How long an API server is left alone that has too much to do, or just learns of our resources."""
PAGE = 500
"""How many objects are listed at a time."""
_WATCH_SECONDS = 300
_SILENCE_SECONDS = 90.0
"""A watch gets a bookmark every minute; one that is silent for longer has lost its server."""


def trust(settings: Settings) -> ssl.SSLContext:
    """Return whom the gateway takes for the API server: whoever the cluster's authority vouches for."""
    directory = service_account_dir()
    if settings.ca:
        return ssl.create_default_context(cadata=settings.ca)
    return ssl.create_default_context(cafile=str(directory / "ca.crt") if directory else None)


def path_of(kind: Kind, namespace: str, *words: str) -> str:
    """Return the path of a resource, or of what belongs to it."""
    return "/".join(["/apis", API_VERSION, "namespaces", namespace, kind, *words])


class Kube:
    """The API server.

    Args:
        server: Its address.
        context: Whom to trust.
    """

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        # A proxy of the environment leads away from the cluster.
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=40)
        self._http = httpx.AsyncClient(
            base_url=server, verify=context, trust_env=False, limits=limits, timeout=httpx.Timeout(15.0, connect=4.0)
        )
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._watches = httpx.AsyncClient(
            base_url=server,
            verify=context,
            trust_env=False,
            limits=unlimited,
            timeout=httpx.Timeout(_SILENCE_SECONDS, connect=4.0),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()
        await self._watches.aclose()

    async def call(
        self,
        token: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Body:
        """Make a request and return the object that it answers.

        Raises:
            GatewayError: If it is refused, or the API server does not answer.
        """
        text = await self.text(token, method, path, body, params)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise unavailable("the API server answered something that is no JSON; is a proxy in between?") from error
        if not isinstance(answer, dict):
            raise unavailable("the API server answered something that is no object; is a proxy in between?")
        return answer

    async def text(
        self,
        token: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> str:
        """Make a request and return the text that it answers.

        Raises:
            GatewayError: If it is refused, or the API server does not answer.
        """
        headers = _authorization(token)
        if body is not None:
            headers["Content-Type"] = CONTENT_TYPES.get(method, "application/json")
        content = None if body is None else json.dumps(body).encode()
        for last in (False, False, True):
            try:
                answer = await self._http.request(method, path, content=content, params=params, headers=headers)
            except httpx.HTTPError as error:
                raise unavailable() from error
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS or last:
                break
            await asyncio.sleep(_BUSY_SECONDS)  # it has not begun on the request
        if answer.is_error:
            raise from_api_server(answer.status_code, answer.text)
        return answer.text

    async def pages(self, token: str, path: str, params: Mapping[str, str]) -> AsyncIterator[tuple[list[Body], str]]:
        """Yield a list's items page by page, each with the list's resourceVersion.

        Raises:
            GatewayError: As for `call`.
        """
        more: dict[str, str] = {}
        while True:
            page = await self.call(token, "GET", path, params={**params, "limit": str(PAGE), **more})
            metadata = page.get("metadata") or {}
            yield page.get("items") or [], str(metadata.get("resourceVersion", ""))
            if not metadata.get("continue"):
                return
            more = {"continue": metadata["continue"]}

    async def items(self, token: str, path: str, params: Mapping[str, str] | None = None) -> list[Body]:
        """Return all items of a list.

        Raises:
            GatewayError: As for `call`.
        """
        return [item async for page, _ in self.pages(token, path, params or {}) for item in page]

    async def watch(
        self, token: str, path: str, params: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield (type, object) of what changes after `version`, until the API server ends it, as it now and then does.

        Raises:
            GatewayError: If it is refused, or breaks off; with status 410 if `version` is too old.
        """
        wanted = {
            **params,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        try:
            async with self._watches.stream("GET", path, params=wanted, headers=_authorization(token)) as answer:
                if answer.is_error:
                    text = (await answer.aread()).decode(errors="replace")
                    if answer.status_code == 410:
                        raise GatewayError(410, "the version is too old; list anew")
                    raise from_api_server(answer.status_code, text)
                async for line in answer.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise GatewayError(410, "the version is too old; list anew")
                    yield event["type"], event["object"]
        except (httpx.HTTPError, ValueError) as error:
            raise unavailable() from error


def _authorization(token: str) -> dict[str, str]:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise not_logged_in("what was sent as a token is none; send `Authorization: Bearer TOKEN`")
    return {"Authorization": f"Bearer {token}", "Accept": "application/json"}
