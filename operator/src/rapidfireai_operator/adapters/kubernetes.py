"""The API server, as plain dictionaries: lists, merge patches, server-side apply; and kopf's session to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from kubernetes import aio

from rapidfireai.api.base import EXPERIMENT_LABEL, GROUP, VERSION
from rapidfireai_operator.adapters.metrics import Metrics

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
MANAGER = "rapidfireai-operator"
_TIMEOUT_SECONDS = 20
_PAGE = 500
_JSON, _MERGE, _APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"
_ROOTS = {
    "experiments": f"/apis/{GROUP}/{VERSION}",
    "runs": f"/apis/{GROUP}/{VERSION}",
    "icops": f"/apis/{GROUP}/{VERSION}",
    "jobs": "/apis/batch/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
}
LABELLED = frozenset({"jobs", "pods", "leases"})
"""Kinds of which only what carries the experiment's label concerns the operator."""


class ApiError(Exception):
    """The API server refused a request, or did not answer.

    Args:
        code: The HTTP status; 0 without an answer.
        reason: Kubernetes' word for it.
        message: Its sentence.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def refused(self) -> bool:
        """Whether asking again would not help: the request itself is wrong or not allowed."""
        return self.code in {400, 403, 404, 405, 413, 422}


class ConflictError(ApiError):
    """The object changed since it was read, or is already there."""


class NotFoundError(ApiError):
    """The object is not there."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list and the version that it was made at."""

    items: list[dict[str, Any]]
    version: int


class Api:
    """The API server.

    Args:
        client: From `rapidfireai.kube.connect`, which re-reads the token.
        metrics: Where errors are counted.
        guard: Called right before each write; raises if this process may not write.
    """

    def __init__(
        self, client: aio.client.ApiClient, metrics: Metrics, guard: Callable[[], None] = lambda: None
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._guard = guard

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """Return an object.

        Raises:
            NotFoundError: If it is not there.
            ApiError: If the API server refuses or does not answer.
        """
        return await self._request("GET", plural, namespace, name)

    async def list(self, plural: str, namespace: str) -> Listing:
        """Return all objects of a kind that concern the operator.

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        items: list[dict[str, Any]] = []
        query = {"limit": str(_PAGE)} | ({"labelSelector": EXPERIMENT_LABEL} if plural in LABELLED else {})
        while True:
            page = await self._request("GET", plural, namespace, query=query)
            items += page["items"]
            if not page["metadata"].get("continue"):
                return Listing(items, int(page["metadata"]["resourceVersion"]))
            query["continue"] = page["metadata"]["continue"]

    async def description(self) -> dict[str, Any]:
        """Return what the API server says of this project's kinds, as OpenAPI v3; every account may ask for it.

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        return await self._send("GET", "openapi", f"/openapi/v3/apis/{GROUP}/{VERSION}")

    async def create(self, plural: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object.

        Raises:
            ConflictError: If it is already there.
            ApiError: If the API server refuses or does not answer.
        """
        return await self._request("POST", plural, namespace, body=body, query={"fieldManager": MANAGER})

    async def replace(self, plural: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object by what it was when it was read, changed.

        Raises:
            ConflictError: If somebody changed it meanwhile.
            ApiError: If the API server refuses or does not answer.
        """
        return await self._request("PUT", plural, namespace, name, body=body, query={"fieldManager": MANAGER})

    async def apply(self, plural: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object that the operator owns whole, or bring it to that form (server-side apply).

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        query = {"fieldManager": MANAGER, "force": "true"}
        name = body["metadata"]["name"]
        return await self._request("PATCH", plural, namespace, name, body=body, content=_APPLY, query=query)

    async def patch(
        self, plural: str, namespace: str, name: str, body: Mapping[str, Any], *, status: bool = False
    ) -> dict[str, Any]:
        """Merge-patch an object, or its status; with `metadata.resourceVersion` in it only if nothing changed.

        Raises:
            ConflictError: If the object changed.
            NotFoundError: If it is gone.
            ApiError: If the API server refuses or does not answer.
        """
        path = f"{name}/status" if status else name
        query = {"fieldManager": MANAGER}
        return await self._request("PATCH", plural, namespace, path, body=body, content=_MERGE, query=query)

    async def delete(self, plural: str, namespace: str, name: str, uid: str, version: str | None = None) -> None:
        """Delete an object once what it owns is gone; nothing happens if it is gone or another one by now.

        Args:
            plural: What it is.
            namespace: Where.
            name: Its name.
            uid: Its UID.
            version: Its resourceVersion, if nothing shall happen either if it changed since.

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
        body = {"propagationPolicy": "Foreground", "preconditions": preconditions}
        try:
            await self._request("DELETE", plural, namespace, name, body=body)
        except (NotFoundError, ConflictError):
            return

    async def _request(
        self,
        method: Method,
        plural: str,
        namespace: str,
        path: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        content: str = _JSON,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        where = f"{_ROOTS[plural]}/namespaces/{namespace}/{plural}" + (f"/{path}" if path else "")
        return await self._send(method, plural, where, body=body, content=content, query=query)

    async def _send(
        self,
        method: Method,
        plural: str,
        where: str,
        *,
        body: Mapping[str, Any] | None = None,
        content: str = _JSON,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        begun = time.monotonic()
        try:
            words = await self._client.param_serialize(
                method,
                where,
                query_params=list((query or {}).items()),
                header_params={"Accept": _JSON, "Content-Type": content},
                body=dict(body) if body is not None else None,
                auth_settings=["BearerToken"],
            )
            if method != "GET":
                self._guard()
            response = await self._client.call_api(*words, _request_timeout=_TIMEOUT_SECONDS)
            payload = await response.read()
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            self._count(method, plural, 0, begun)
            raise ApiError(0, type(error).__name__, str(error)) from error
        self._count(method, plural, response.status, begun)
        if response.status >= 400:
            raise _error(response.status, payload)
        answer = json.loads(payload)
        return answer if isinstance(answer, dict) else {}

    def _count(self, method: Method, plural: str, code: int, begun: float) -> None:
        self._metrics.api_requests.labels(method, plural, str(code)).inc()
        self._metrics.api_seconds.labels(method, plural).observe(time.monotonic() - begun)
        if code == 0 or code >= 400:
            self._metrics.api_errors.labels(method, plural, str(code)).inc()


def _error(code: int, payload: bytes) -> ApiError:
    try:
        status = json.loads(payload)
        reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    except (ValueError, AttributeError):  # a proxy's page, not the API server's Status
        reason, message = "", payload[:200].decode(errors="replace")
    kind = {404: NotFoundError, 409: ConflictError}.get(code, ApiError)
    return kind(code, reason, message)


def open_session(client: aio.client.ApiClient) -> aiohttp.ClientSession:
    """Return a session that authenticates each request as the client does, with a token that is re-read.

    kopf has its own client; it takes over this session, so that it stays logged in when tokens expire.
    """

    async def authenticate(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        token = await client.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            request.headers["Authorization"] = token
        return await handler(request)

    connector = aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context)
    return aiohttp.ClientSession(connector=connector, middlewares=(authenticate,), read_bufsize=2**21)
