"""Where the gateway is and the token that it knows the user by: one way for the SDK, the CLI and the notebook."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from rapidfireai.cluster.home import default_home, settings_of, token_of
from rapidfireai.errors import ClusterNotFoundError, RapidFireError

GATEWAY_ENV = "RAPIDFIRE_GATEWAY"
TOKEN_ENV = "RAPIDFIRE_TOKEN"  # noqa: S105 - the name of a variable
_LOCAL = "127.0.0.1"
_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway as a program of this user reaches it.

    Attributes:
        url: The REST API, without a slash at the end.
        dashboard_url: The dashboard; empty if only the gateway itself knows where that is.
        token: The bearer token of the user.
    """

    url: str
    dashboard_url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoginLink:
    """A link that opens the dashboard once, logged in.

    Attributes:
        url: The link; whoever has it is the user.
        seconds: How long it works.
    """

    url: str = field(repr=False)
    seconds: int


def address() -> Gateway:
    """Return the gateway: what `RAPIDFIRE_GATEWAY` and `RAPIDFIRE_TOKEN` say, else that of the local cluster.

    Raises:
        ClusterNotFoundError: If no gateway is known, or no token for it; the message has the fix.
    """
    url, token = os.environ.get(GATEWAY_ENV, "").rstrip("/"), os.environ.get(TOKEN_ENV, "")
    if url and not token:
        # The local cluster's token is for the local gateway alone: no other host may see it.
        raise ClusterNotFoundError(
            f"{TOKEN_ENV}: {GATEWAY_ENV} names a gateway and there is no token for it; set {TOKEN_ENV}, to what "
            "`kubectl create token rapidfire-user` prints for instance"
        )
    if url:
        return Gateway(url, "", token)
    gateway, dashboard = _local_urls()
    return Gateway(gateway, dashboard, token or _local_token())


def login_link(gateway: Gateway) -> LoginLink:
    """Return a new link to the dashboard.

    Raises:
        ClusterNotFoundError: If the gateway does not answer or does not know the token.
        RapidFireError: If it refuses.
    """
    import httpx  # noqa: PLC0415 - takes a moment, and whoever only asks for the address has no need of it

    try:
        answer = httpx.post(
            f"{gateway.url}/api/v1/login-links",
            headers={"Authorization": f"Bearer {gateway.token}"},
            timeout=_TIMEOUT,
            trust_env=_LOCAL not in gateway.url,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fix = "see `rapidfireai status`" if _LOCAL in gateway.url else f"check {GATEWAY_ENV}"
        raise ClusterNotFoundError(f"the gateway at {gateway.url} does not answer ({error}); {fix}") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ClusterNotFoundError(
            f"the gateway at {gateway.url} does not know the token; `rapidfireai start` renews that of the local "
            f"cluster, {TOKEN_ENV} overrides it"
        )
    try:
        said = answer.json()
        if answer.is_success:
            return LoginLink(str(said["url"]), int(said["expiresSeconds"]))
        raise RapidFireError(f"the gateway at {gateway.url} gives no login link: {said['detail']}")
    except (ValueError, KeyError, TypeError) as error:
        raise RapidFireError(
            f"what answers at {gateway.url} is no gateway: {answer.status_code} {answer.text[:80]!r}"
        ) from error


def _local_urls() -> tuple[str, str]:
    try:
        settings = json.loads(settings_of(default_home()).read_text())
        ports = int(settings["gateway_port"]), int(settings["dashboard_port"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterNotFoundError(
            "there is no gateway: run `rapidfireai start` for a cluster of this machine, or name one with "
            f"{GATEWAY_ENV} and {TOKEN_ENV}"
        ) from error
    return f"http://{_LOCAL}:{ports[0]}", f"http://{_LOCAL}:{ports[1]}"


def _local_token() -> str:
    path = token_of(default_home())
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ClusterNotFoundError(
            f"{path}: cannot be read ({error.strerror}); `rapidfireai start` writes it"
        ) from error
