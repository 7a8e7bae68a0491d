"""Who is let in, and how: codes, sessions, cookies, forwarded tokens, and pages of somebody else."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from rapidfireai_gateway.auth import Caller, caller, require
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.limits import TokenBuckets
from rapidfireai_gateway.sessions import COOKIE, Sessions


class Clock:
    """Seconds that tests move."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(3600.0, 60.0, clock)


def request(method: str = "GET", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw})


def test_a_login_code_works_once(sessions: Sessions) -> None:
    code = sessions.new_code("secret")
    session = sessions.redeem(code)
    assert session is not None
    assert sessions.token(session) == "secret"
    assert sessions.redeem(code) is None


def test_a_login_code_is_short_lived_and_a_session_ends(sessions: Sessions, clock: Clock) -> None:
    code, session = sessions.new_code("secret"), sessions.open("secret")
    clock.now += 61
    assert sessions.redeem(code) is None
    assert sessions.token(session) == "secret"
    clock.now += 3600
    assert sessions.token(session) is None


def test_logging_out_ends_the_session(sessions: Sessions) -> None:
    session = sessions.open("secret")
    sessions.close(session)
    sessions.close("never was one")
    assert sessions.token(session) is None


def test_neither_codes_nor_sessions_are_kept_in_plain_text(sessions: Sessions) -> None:
    code, session = sessions.new_code("a"), sessions.open("b")
    kept = repr(vars(sessions))
    assert code not in kept
    assert session not in kept


def test_a_bearer_token_comes_first_then_the_proxy_then_the_cookie(sessions: Sessions) -> None:
    cookie = f"{COOKIE}={sessions.open('of-session')}"
    everything = {"authorization": "bearer of-caller", "x_token": "of-proxy", "cookie": cookie}
    assert caller(request(**everything), sessions, "X-Token") == Caller("of-caller", "bearer")
    del everything["authorization"]
    assert caller(request(**everything), sessions, "X-Token") == Caller("of-proxy", "forwarded")
    assert caller(request(**everything), sessions) == Caller("of-session", "session")


def test_a_forwarded_token_counts_only_in_the_configured_header(sessions: Sessions) -> None:
    assert caller(request(x_token="stolen"), sessions) is None
    assert caller(request(x_other="stolen"), sessions, "X-Token") is None
    assert caller(request(x_token="Bearer t"), sessions, "X-Token") == Caller("t", "forwarded")


@pytest.mark.parametrize("scheme", ["Basic dTpw", "Bearer", "Bearer ", "t"])
def test_what_is_no_bearer_token_is_nobody(sessions: Sessions, scheme: str) -> None:
    with pytest.raises(GatewayError) as raised:
        require(request(authorization=scheme), sessions)
    assert raised.value.status == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"origin": "http://here:8851", "host": "here:8851"}, True),
        ({"origin": "http://here:8850", "host": "here:8851"}, False),
        ({"origin": "null", "host": "here:8851"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("how", ["cookie", "x_token"])
def test_what_comes_by_itself_is_taken_from_our_own_pages_alone(
    sessions: Sessions, headers: dict[str, str], allowed: bool, how: str
) -> None:
    proof = {"cookie": f"{COOKIE}={sessions.open('t')}", "x_token": "t"}[how]
    asked = request("POST", **headers, **{how: proof})
    if allowed:
        assert require(asked, sessions, "X-Token").token == "t"
    else:
        with pytest.raises(GatewayError) as raised:
            require(asked, sessions, "X-Token")
        assert raised.value.status == 403
    assert require(request("GET", **headers, **{how: proof}), sessions, "X-Token").token == "t"


def test_a_token_may_come_from_any_page(sessions: Sessions) -> None:
    asked = request("POST", authorization="Bearer t", sec_fetch_site="cross-site")
    assert require(asked, sessions).token == "t"


def test_a_bucket_empties_and_fills_up_again(clock: Clock) -> None:
    buckets = TokenBuckets(rate=2.0, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") == 0.5
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
