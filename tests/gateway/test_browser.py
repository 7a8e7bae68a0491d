"""How a browser logs in and out, and what a login is good for."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest
from tests.gateway.site import Site

from rapidfireai_gateway.sessions import COOKIE

pytestmark = pytest.mark.integration
OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(site: Site) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{site.dashboard_port}", trust_env=False, timeout=30)


def link_of(site: Site) -> str:
    answer = site.http().post("/api/v1/login-links")
    assert answer.status_code == 200, answer.text
    assert answer.json()["expiresSeconds"] == 120
    return str(answer.json()["url"])


def test_a_login_link_opens_the_dashboard_once(site: Site, browser: httpx.Client) -> None:
    link = link_of(site)
    assert urlsplit(link).port == site.dashboard_port
    opened = browser.get(link)
    assert opened.status_code == 200
    flags = opened.headers["set-cookie"].lower()
    assert all(flag in flags for flag in (COOKIE, "httponly", "samesite=strict"))
    assert site.token not in opened.text + flags
    assert opened.headers["referrer-policy"] == "no-referrer"
    again = httpx.get(link, trust_env=False)
    assert again.status_code == 401
    assert COOKIE not in again.headers.get("set-cookie", "")


def test_a_session_reads_and_changes_from_our_own_pages_alone(site: Site, browser: httpx.Client, name: str) -> None:
    browser.get(link_of(site))
    http = site.http("", cookies={COOKIE: browser.cookies[COOKIE]})
    assert http.get("/api/v1/whoami").json()["user"].endswith(":rapidfire-user")
    url, patch = f"{site.api}/experiments/{name}", {"spec": {"workers": {"replicas": 1}}}
    assert http.patch(url, json=patch).status_code == 403
    assert http.patch(url, json=patch, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert http.patch(url, json=patch, headers=OURS).is_success


def test_logging_out_ends_the_session_everywhere(site: Site, browser: httpx.Client) -> None:
    browser.get(link_of(site))
    http = site.http("", cookies={COOKIE: browser.cookies[COOKIE]})
    assert browser.post("/logout").status_code == 403
    assert http.get("/api/v1/whoami").is_success
    assert browser.post("/logout", headers=OURS).status_code == 303
    assert COOKIE not in browser.cookies
    assert http.get("/api/v1/whoami").status_code == 401


def test_a_pasted_token_logs_in_and_a_wrong_one_says_so(site: Site, browser: httpx.Client) -> None:
    wrong = browser.post("/login/token", data={"token": "nonsense"}, headers=OURS)
    assert wrong.status_code == 303
    assert wrong.headers["location"].startswith("/login?problem=the+token+is+not+valid")
    assert browser.post("/login/token", data={"token": site.token}).headers["location"].startswith("/login?")
    assert COOKIE not in browser.cookies
    right = browser.post("/login/token", data={"token": site.token}, headers=OURS)
    assert (right.status_code, right.headers["location"]) == (303, "/")
    assert COOKIE in browser.cookies


def test_a_link_needs_a_token_that_somebody_knows(site: Site) -> None:
    assert site.http("nonsense").post("/api/v1/login-links").status_code == 401


def test_no_token_and_no_code_is_in_the_log(site: Site, browser: httpx.Client) -> None:
    link = link_of(site)
    browser.get(link)
    said = site.log.read_text()
    assert site.token not in said
    assert link.partition("code=")[2] not in said
    assert browser.cookies[COOKIE] not in said
