"""The gateway's API as Python calls: what the notebook asks over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from rapidfireai.errors import ClusterNotFoundError, RapidFireError
from rapidfireai.gateway import Gateway

_WAIT_SECONDS = 10
_TIMEOUT = httpx.Timeout(30, connect=5)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_ANSWER = 0
"""The status of an answer that never came."""


class GatewayError(RapidFireError):
    """The gateway refused a request, or did not answer.

    Attributes:
        status: The HTTP status; 0 if nothing came back.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, 0 if nothing did, and the body or what is wrong."""

    status: int
    text: str


def same_place(one: str, other: str) -> bool:
    """Return whether two addresses are on one host, so that one's token may be shown to the other."""
    hosts = [urlsplit(each).hostname or "" for each in (one, other)]
    return hosts[0] == hosts[1] or (_is_here(one) and _is_here(other))


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK


class GatewayClient:
    """Requests to the gateway with the user's token, from any thread.

    Args:
        look_up: Asked for address and token: at first, and again when the token is not taken any more, since the local
            cluster makes new ones.
    """

    def __init__(self, look_up: Callable[[], Gateway]) -> None:
        self._look_up, self._gateway = look_up, look_up()
        # A proxy of the environment leads away from this machine.
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=not _is_here(self._gateway.url))

    @property
    def gateway(self) -> Gateway:
        """Address and token as they are now."""
        return self._gateway

    def renew(self) -> Gateway:
        """Look address and token up again; they stay as they were while nobody knows them."""
        with suppress(ClusterNotFoundError):  # the local cluster was purged: what is asked next says so
            self._gateway = self._look_up()
        return self._gateway

    def send(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request below `/api/v1` and return what came of it.

        Args:
            method: Such as GET.
            path: Below `/api/v1`, from its slash on.
            body: Sent as JSON unless it is None.
        """
        answer = self._send(method, path, body)
        if answer.status == httpx.codes.UNAUTHORIZED:
            used = self._gateway.token
            if self.renew().token != used:
                answer = self._send(method, path, body)
        return answer

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the JSON of its answer.

        Raises:
            GatewayError: If it is refused, or nothing answers.
        """
        answer = self.send(method, path, body)
        if answer.status == httpx.codes.UNAUTHORIZED:
            raise GatewayError(
                answer.status,
                f"the gateway at {self._gateway.url} does not take the token: it has expired, or is another cluster's. "
                "Local cluster: `rapidfireai start` makes a new one; elsewhere pass token=... or set RAPIDFIRE_TOKEN",
            )
        if not httpx.codes.is_success(answer.status):
            raise GatewayError(answer.status, _detail(answer.text))
        try:
            return httpx.Response(answer.status, text=answer.text).json()
        except ValueError as error:
            raise GatewayError(
                answer.status, f"what answers at {self._gateway.url} is no gateway: {answer.text[:80]!r}"
            ) from error

    def operate(self, namespace: str, experiment: str, spec: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Create an ICOp and return it once it is complete.

        Args:
            namespace: The workspace.
            experiment: The experiment's resource name.
            spec: `spec` of the ICOp without `experimentRef`.
            seconds: How long to wait for the operator.

        Raises:
            GatewayError: If it is refused, nothing answers, or the operator has not carried it out in time.
        """
        icop = dict(self.call("POST", f"/namespaces/{namespace}/experiments/{experiment}/icops", spec))
        name, deadline = icop["metadata"]["name"], time.monotonic() + seconds
        while not _complete(icop):
            if (left := deadline - time.monotonic()) <= 0:
                raise GatewayError(
                    NO_ANSWER,
                    f"no operator has carried out {name} within {seconds:.0f} s; it stays asked for. "
                    "See `rapidfireai status`",
                )
            wait = max(1, min(_WAIT_SECONDS, int(left)))
            icop = dict(self.call("GET", f"/namespaces/{namespace}/icops/{name}?wait={wait}"))
        return icop

    def _send(self, method: str, path: str, body: object) -> Answer:
        gateway = self._gateway
        headers = {"Authorization": f"Bearer {gateway.token}"}
        try:
            answer = self._http.request(method, f"{gateway.url}/api/v1{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            return Answer(NO_ANSWER, f"the gateway at {gateway.url} does not answer: {error}")
        return Answer(answer.status_code, answer.text)


def _complete(icop: Mapping[str, Any]) -> bool:
    conditions = (icop.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)


def _detail(text: str) -> str:
    try:
        detail = httpx.Response(200, text=text).json()["detail"]
    except (ValueError, KeyError, TypeError):  # not the gateway's own words, or no answer at all
        return text[:500]
    return detail if isinstance(detail, str) else str(detail)
