"""Data sets behind a URL, from a real web server: fetched once for an experiment, or a sentence that says why not."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from tests.support.lab import Lab, write_rows

from rapidfireai_worker.engine import DataRef, RunFailure
from rapidfireai_worker.rows import remote
from rapidfireai_worker.rows.library import DataLibrary

pytestmark = pytest.mark.ml

EXPERIMENT = "5f0c8a3e-0000-4000-8000-000000000000"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; some paths answer as told.

    Attributes:
        asked: The paths that were asked for with GET.
        answers: What paths answer instead, for each request in turn.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.answers: dict[str, list[HTTPStatus]] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        planned = self.server.answers.get(self.path)
        if planned:
            self.send_error(planned.pop(0))
        else:
            super().do_GET()

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", [{"number": 1}, {"number": 2}])
    made = Server(folder)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


def load(lab: Lab, uri: str, experiment: str = EXPERIMENT) -> list[int]:
    """Load in a worker that has seen nothing yet."""
    library = DataLibrary(lab.volume, lab.claims)
    return list(library.load(DataRef(uri), "data.train", experiment)["number"])


def test_an_experiment_fetches_once_and_goes_on_with_the_same_rows(server: Server, lab: Lab, tmp_path: Path) -> None:
    uri = server.url("rows.jsonl?download=1")
    assert load(lab, uri) == [1, 2]
    write_rows(tmp_path / "served" / "rows.jsonl", [{"number": 3}])
    assert load(lab, uri) == [1, 2], "another worker reads what the first one fetched"
    assert server.asked == ["/rows.jsonl?download=1"]
    assert load(lab, uri, EXPERIMENT.replace("5", "6")) == [3], "another experiment reads what is there now"


def test_a_server_that_stumbles_is_asked_again(server: Server, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAIT", 0.01)
    server.answers["/rows.jsonl"] = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY]
    assert load(lab, server.url("rows.jsonl")) == [1, 2]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (HTTPStatus.NOT_FOUND, "DatasetNotFound", "does not exist; put it there or correct the URI"),
        (
            HTTPStatus.FORBIDDEN,
            "DatasetUnreadable",
            "may not be read; the worker's environment has to hold credentials",
        ),
        (HTTPStatus.IM_A_TEAPOT, "DatasetUnreadable", "cannot be read: ClientResponseError: 418"),
    ],
)
def test_what_cannot_be_fetched_is_named_with_the_fix(
    status: HTTPStatus, reason: str, words: str, server: Server, lab: Lab
) -> None:
    server.answers["/rows.jsonl"] = [status]
    uri = server.url("rows.jsonl")
    with pytest.raises(RunFailure) as caught:
        load(lab, uri)
    assert caught.value.reason == reason
    assert caught.value.message.startswith(f"data.train.uri: {uri} {words}")
    assert load(lab, uri) == [1, 2], "nothing of the failure stays"


def test_what_is_no_data_set_is_not_kept(server: Server, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "served" / "page.html").write_text("<html>")
    with pytest.raises(RunFailure, match=r"page.html is no file that ends in .jsonl"):
        load(lab, server.url("page.html"))


def test_a_host_that_is_not_there_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAIT", 0.01)
    with pytest.raises(RunFailure) as caught:
        load(lab, "http://127.0.0.1:9/rows.jsonl")
    assert caught.value.message.startswith("data.train.uri: http://127.0.0.1:9/rows.jsonl cannot be read: Client")
