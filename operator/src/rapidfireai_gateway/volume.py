"""The volume service of a workspace, asked with a token that is of use nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx
from cachetools import TTLCache

from rapidfireai.connection import USER_ACCOUNT, VOLUME_AUDIENCE, WORKSPACE_CONFIG
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.kube import Kube

_TOKEN_SECONDS = 3600
_ADDRESS_SECONDS = 30
_MOST = 1024


class Volumes:
    """The volume services of all workspaces.

    Args:
        kube: The API server; it says where a service is, and makes tokens for it.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(60.0, connect=4.0))
        self._tokens: TTLCache[tuple[str, str], str] = TTLCache(_MOST, _TOKEN_SECONDS / 2)
        self._addresses: TTLCache[tuple[str, str], str] = TTLCache(_MOST, _ADDRESS_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def ask(
        self,
        token: str,
        namespace: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Ask the volume service of a workspace as the owner of `token`; the answer is read as it comes.

        Raises:
            GatewayError: If it refuses or does not answer; a 404 of HEAD is an answer.
        """
        url = await self._address(token, namespace) + path
        mine = {**(headers or {}), "Authorization": f"Bearer {await self._token(token, namespace)}"}
        try:
            async with self._http.stream(method, url, headers=mine, params=params, content=content) as answer:
                if answer.is_error and (method, answer.status_code) != ("HEAD", httpx.codes.NOT_FOUND):
                    await answer.aread()
                    raise _refusal(answer)
                yield answer
        except httpx.HTTPError as error:
            raise GatewayError(
                502, f"the volume service of namespace {namespace} does not answer; try again in a moment"
            ) from error

    async def _address(self, token: str, namespace: str) -> str:
        key = (_digest(token), namespace)
        if key not in self._addresses:
            path = f"/api/v1/namespaces/{namespace}/configmaps/{WORKSPACE_CONFIG}"
            data = (await self._kube.call(token, "GET", path)).get("data") or {}
            self._addresses[key] = str(data.get("volume-url", "")).rstrip("/")
        return self._addresses[key]

    async def _token(self, token: str, namespace: str) -> str:
        """Return a token for the volume service: the workspace's user account's, else the caller's own."""
        key = (_digest(token), namespace)
        if key not in self._tokens:
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{USER_ACCOUNT}/token"
            spec = {"audiences": [VOLUME_AUDIENCE], "expirationSeconds": _TOKEN_SECONDS}
            try:
                made: dict[str, Any] = await self._kube.call(token, "POST", path, {"spec": spec})
            except GatewayError as error:
                if error.status == 403:
                    return token
                raise
            self._tokens[key] = str(made["status"]["token"])
        return self._tokens[key]


def _refusal(answer: httpx.Response) -> GatewayError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):  # a proxy in between has other words
        detail = f"the volume service answered {answer.status_code}"
    if answer.status_code >= 500 and answer.status_code != 507:
        return GatewayError(502, detail)
    kept = {name: answer.headers[name] for name in ("Upload-Offset",) if name in answer.headers}
    return GatewayError(answer.status_code, detail, kept)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
