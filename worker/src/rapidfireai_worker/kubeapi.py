"""The API server as worker and volume service see it: plain dictionaries, errors sorted by what to do."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import aiohttp
import structlog
from kubernetes.aio.client import ApiClient, ApiException, AuthenticationV1Api, CustomObjectsApi, V1SelfSubjectReview
from kubernetes.aio.watch import Watch

from rapidfireai.api import GROUP, VERSION

Body = dict[str, Any]
T = TypeVar("T")
REQUEST_SECONDS = 10.0
"""How long one request may take."""
MERGE_PATCH = "application/merge-patch+json"
_WATCH_SECONDS = (40, 60)
"""A watch is renewed this often, with a list: whatever a silent connection swallowed is seen then."""
_REFUSALS = {400, 403, 404, 413, 422}
_log = structlog.get_logger(__name__)


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """The API server understood the request and does not accept it; asking again is of no use."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Forbidden(Refused):
    """The account has not the right: by mistake, or because an API server that has just started knows no roles yet."""


class Unavailable(Exception):  # noqa: N818 - it passes
    """The API server gave no answer, or said to come again; whether it acted is not known."""


class Conflict(Unavailable):
    """The object changed in between, or exists already; look at it and try again."""


class KubeApi:
    """The few requests that worker and volume service make, in one namespace.

    Args:
        client: An open client.
        namespace: The workspace.
        request_seconds: How long one request may take.
    """

    def __init__(self, client: ApiClient, namespace: str, request_seconds: float = REQUEST_SECONDS) -> None:
        self._objects = CustomObjectsApi(client)
        self._reviews = AuthenticationV1Api(client)
        self._request_seconds = request_seconds
        self._namespace = namespace

    async def get(self, plural: str, name: str, group: str = GROUP, version: str = VERSION) -> Body | None:
        """Return an object, or None if there is none.

        Raises:
            Refused: If reading it is not allowed.
            Unavailable: If the API server did not answer.
        """
        try:
            return await self._ask(self._objects.get_namespaced_custom_object, group, version, plural, name=name)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    async def create(self, plural: str, body: Body, group: str, version: str) -> Body:
        """Create an object and return it. Raises as `get`, and `Conflict`."""
        return await self._ask(self._objects.create_namespaced_custom_object, group, version, plural, body=body)

    async def replace(self, plural: str, body: Body, group: str, version: str) -> Body:
        """Replace an object whose resourceVersion is in `body`. Raises as `get`, and `Conflict`."""
        name = body["metadata"]["name"]
        return await self._ask(
            self._objects.replace_namespaced_custom_object, group, version, plural, name=name, body=body
        )

    async def patch_run_status(self, name: str, patch: Body, field_manager: str) -> Body:
        """Merge `patch` into a Run's status and return the Run. Raises as `get`."""
        return await self._ask(
            self._objects.patch_namespaced_custom_object_status,
            GROUP,
            VERSION,
            "runs",
            name=name,
            body=patch,
            field_manager=field_manager,
            _content_type=MERGE_PATCH,
        )

    async def list_all(self, plural: str) -> list[Body]:
        """Return all Runs, or Experiments, of the namespace. Raises as `get`."""
        listed = await self._ask(self._objects.list_namespaced_custom_object, GROUP, VERSION, plural)
        return list(listed["items"])

    async def own_uid(self) -> str:
        """Return the UID of the account that this client is, which no other cluster has. Raises as `get`."""
        review = await answer_of(
            self._reviews.create_self_subject_review(V1SelfSubjectReview(), _request_timeout=self._request_seconds)
        )
        return str(review.status.user_info.uid)

    async def follow_runs(
        self, keep: Callable[[Body], T | None], field_selector: str | None = None
    ) -> AsyncGenerator[Mapping[str, T], None]:
        """Yield the picture of the Runs, by UID, now and at every change. It never ends and outlives outages.

        Args:
            keep: Makes of a Run what is kept of it; None leaves it out.
            field_selector: Which Runs; all by default.
        """
        selection: dict[str, str] = {"field_selector": field_selector} if field_selector else {}
        while True:
            try:
                listed = await self._ask(
                    self._objects.list_namespaced_custom_object, GROUP, VERSION, "runs", **selection
                )
                kept = {item["metadata"]["uid"]: keep(item) for item in listed["items"]}
                picture = {uid: value for uid, value in kept.items() if value is not None}
                yield picture
                async with aclosing(self._changes(listed["metadata"]["resourceVersion"], selection)) as changes:
                    async for kind, body in changes:
                        value = keep(body) if kind != "DELETED" else None
                        uid = body["metadata"]["uid"]
                        picture = {key: old for key, old in picture.items() if key != uid}
                        if value is not None:
                            picture[uid] = value
                        yield picture
            except (Refused, Unavailable) as problem:
                _log.warning("cannot follow the runs, trying again", error=str(problem))
                await asyncio.sleep(random.uniform(0.5, 2))  # noqa: S311 - so that not all come at once

    async def _changes(self, version: str, selection: Mapping[str, str]) -> AsyncGenerator[tuple[str, Body], None]:
        """Yield (event type, Run) from `version` on, until the watch has had its time."""
        seconds = random.randint(*_WATCH_SECONDS)  # noqa: S311
        try:
            async with Watch() as watch:
                async for event in watch.stream(
                    self._objects.list_namespaced_custom_object,
                    group=GROUP,
                    version=VERSION,
                    namespace=self._namespace,
                    plural="runs",
                    resource_version=version,
                    timeout_seconds=seconds,
                    _request_timeout=seconds + self._request_seconds,
                    **selection,
                ):
                    yield event["type"], event["raw_object"]
        except ApiException as error:
            if error.status != 410:  # the version is too old: list again
                raise _sorted(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def _ask(self, method: Callable[..., Any], group: str, version: str, plural: str, **more: object) -> Body:
        answer: Body = await answer_of(
            method(
                group=group,
                version=version,
                namespace=self._namespace,
                plural=plural,
                _request_timeout=self._request_seconds,
                **more,
            )
        )
        return answer


async def answer_of(request: Awaitable[T]) -> T:
    """Return the API server's answer to a request.

    Raises:
        Refused: If the answer is no.
        Unavailable: If there is none.
    """
    try:
        return await request
    except ApiException as error:
        raise _sorted(error) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def _sorted(error: ApiException) -> Refused | Unavailable:
    """Return what an HTTP status means for the caller."""
    words = f"{error.status} {error.reason}: {_message(error)}"
    if error.status in _REFUSALS:
        return (Forbidden if error.status == 403 else Refused)(error.status, words)
    return Conflict(words) if error.status == 409 else Unavailable(words)


def _message(error: ApiException) -> str:
    """Return the API server's own sentence."""
    body = error.body if isinstance(error.body, str) else ""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
