"""Where programs find the gateway and the token: the environment, else the local cluster's directory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rapidfireai.cluster.user_token import store
from rapidfireai.errors import ClusterNotFoundError, RapidFireError
from rapidfireai.gateway import Gateway, address, login_link


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAPIDFIREAI_HOME", str(tmp_path))
    for name in ("RAPIDFIRE_GATEWAY", "RAPIDFIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def started(home: Path) -> None:
    settings = {"kubelocal": "/k", "mlflow_port": 2, "volume_port": 4, "gateway_port": 1851, "dashboard_port": 1853}
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "token").write_text("local-token\n")


def test_the_local_clusters_gateway_is_found_in_its_directory(home: Path) -> None:
    started(home)
    assert address() == Gateway("http://127.0.0.1:1851", "http://127.0.0.1:1853", "local-token")
    assert "local-token" not in repr(address())


def test_the_environment_overrides_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(home)
    monkeypatch.setenv("RAPIDFIRE_TOKEN", "mine")
    assert address() == Gateway("http://127.0.0.1:1851", "http://127.0.0.1:1853", "mine")
    monkeypatch.setenv("RAPIDFIRE_GATEWAY", "https://rapidfire.example/")
    assert address() == Gateway("https://rapidfire.example", "", "mine")


def test_the_local_token_goes_to_no_other_gateway(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(home)
    monkeypatch.setenv("RAPIDFIRE_GATEWAY", "https://rapidfire.example")
    with pytest.raises(ClusterNotFoundError, match=r"^RAPIDFIRE_TOKEN: .*there is no token for it"):
        address()


def test_without_a_cluster_it_is_said_how_to_get_one(home: Path) -> None:
    with pytest.raises(ClusterNotFoundError, match=r"rapidfireai start.*RAPIDFIRE_GATEWAY and RAPIDFIRE_TOKEN"):
        address()
    started(home)
    (home / "token").unlink()
    with pytest.raises(ClusterNotFoundError, match=r"token: cannot be read .*rapidfireai start` writes it"):
        address()


class Answers(BaseHTTPRequestHandler):
    """Answers as the path's first part says."""

    def do_POST(self) -> None:
        status, body = {
            "/ok": (201, {"url": "http://d/login?once=1", "expiresSeconds": 120}),
            "/unknown": (401, {"detail": "the token is not known"}),
            "/refused": (429, {"detail": "too many links; wait a minute"}),
            "/other": (200, ["something else"]),
        }[self.path.removesuffix("/api/v1/login-links")]
        assert self.headers["Authorization"] == "Bearer t"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_login_link_is_asked_for_and_what_goes_wrong_is_a_sentence(server: str) -> None:
    link = login_link(Gateway(f"{server}/ok", "", "t"))
    assert (link.url, link.seconds) == ("http://d/login?once=1", 120)
    assert "once" not in repr(link)
    for path, words in (
        ("unknown", "does not know the token; `rapidfireai start` renews"),
        ("refused", "gives no login link: too many links; wait a minute"),
        ("other", "is no gateway: 200"),
    ):
        with pytest.raises(RapidFireError, match=words):
            login_link(Gateway(f"{server}/{path}", "", "t"))
    with pytest.raises(ClusterNotFoundError, match="does not answer"):
        login_link(Gateway("http://127.0.0.1:9", "", "t"))


def test_the_token_is_for_its_owner_alone(home: Path) -> None:
    path = home / "token"
    for token in ("first", "renewed"):
        store(token, path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("renewed", 0o600)
    assert [each.name for each in home.iterdir()] == ["token"]
