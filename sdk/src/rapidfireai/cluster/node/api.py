"""The API server as the node uses it: JSON in, JSON out, over the official client's connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import structlog
from kubernetes import aio
from kubernetes.aio.client.exceptions import ApiException
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential

from rapidfireai.cluster.node.facts import Json

CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_REQUEST_SECONDS = 15.0
_WATCH_SECONDS = 240
_LONGEST_WATCH_LINE = 2**24

log = structlog.get_logger()
T = TypeVar("T")


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def reason_of(error: Exception) -> str:
    """Return one sentence for what went wrong: the API server's own, where it answered."""
    if isinstance(error, ApiException):
        try:
            return str(json.loads(error.body or "")["message"])
        except (ValueError, KeyError, TypeError):
            return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__


def is_passing(error: BaseException) -> bool:
    """Say whether an error may go away by itself: no answer, an overloaded server."""
    if isinstance(error, ApiException):
        return error.status in {408, 429} or (error.status or 0) >= 500
    return isinstance(error, CONNECTION_ERRORS)


async def persist(action: Callable[[], Awaitable[T]], what: str) -> T:
    """Return the action's result, trying for as long as its errors are passing ones.

    Args:
        action: Makes the request anew each time it is called.
        what: For the log.
    """

    def report(state: RetryCallState) -> None:
        if state.attempt_number in {2, 10} and state.outcome is not None:
            log.warning("no success yet, still trying", what=what, error=repr(state.outcome.exception()))

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_passing), wait=wait_exponential(multiplier=0.1, max=5), before_sleep=report
    )

    async def attempt() -> T:  # a lambda is not recognised as asynchronous
        return await action()

    return await retrying(attempt)


class Api:
    """A connection with the identity of one kubeconfig. Use as an asynchronous context manager."""

    def __init__(self, client: aio.client.ApiClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: Path) -> Api:
        """Return a connection.

        Raises:
            kubernetes.aio.config.ConfigException: If the file is not a kubeconfig.
        """
        configuration = aio.client.Configuration()
        # The API server is on this machine: proxies in the environment are for other destinations.
        configuration.client_session_kwargs = {"trust_env": False, "read_bufsize": _LONGEST_WATCH_LINE}
        await aio.config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        return cls(aio.client.ApiClient(configuration))

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._client.configuration.host)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return an object or a list."""
        return await self.call("GET", path, query=query)

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Make a request and return the answer.

        Raises:
            ApiException: If the API server refuses.
            aiohttp.ClientError: If there is no answer; also OSError and TimeoutError.
        """
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        response = await self._send(method, path, query, body, content_type, timeout)
        answer: dict[str, Any] = json.loads(await response.read() or b"{}")
        return answer

    async def watch(self, path: str, query: Mapping[str, str], since: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield (event type, object) from resource version `since` until the API server ends the watch.

        Raises:
            ApiException: With status 410 if `since` is too old: list again.
        """
        words = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        timeout = aiohttp.ClientTimeout(total=_WATCH_SECONDS + 30)
        query = {**query, **words, "resourceVersion": since}
        response = await self._send("GET", path, query, None, "application/json", timeout)
        try:
            async for line in response.response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiException(status=event["object"].get("code"), reason=event["object"].get("message"))
                yield event["type"], event["object"]
        finally:
            response.response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        _, url, headers, data, _ = await self._client.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body
        )
        response = await self._client.call_api(method, url, headers, data, _request_timeout=timeout)
        if response.status >= 400:
            await response.read()
            raise ApiException(http_resp=response)
        return response


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the work's result; if the event comes first, give the work up and return None."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        stopped.cancel()


async def wait_or(event: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds` for the event; say whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
