"""Live changes: one watch for all who look, and an API server that goes away and comes back."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.gateway.site import Site
from tests.operator.builders import experiment
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration
Event = tuple[str, dict[str, Any]]


class Reader:
    """Reads server-sent events in a thread."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self._answer = http.send(http.build_request("GET", url, timeout=60), stream=True)
        assert self._answer.status_code == 200, self._answer.read()
        assert self._answer.headers["content-type"].startswith("text/event-stream")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        event = ""
        try:
            for line in self._answer.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self._events.put((event, json.loads(line.removeprefix("data: "))))
        except httpx.HTTPError:  # the test is over
            pass

    def next(self, wanted: str, seconds: float = 20.0) -> dict[str, Any]:
        """Return the data of the next event of this name; others are passed over."""
        seen = []
        while True:
            try:
                event, data = self._events.get(timeout=seconds)
            except queue.Empty:
                pytest.fail(f"no {wanted} within {seconds} s, but {seen}")
            if event == wanted:
                return data
            seen.append(event)

    def close(self) -> None:
        self._answer.close()


@contextmanager
def reading(site: Site, name: str) -> Iterator[Reader]:
    with site.http() as http:
        reader = Reader(http, f"{site.api}/experiments/{name}/changes")
        try:
            yield reader
        finally:
            reader.close()


@pytest.fixture
def name(site: Site, name: str) -> str:
    """An experiment with a run."""
    site.run(name, 1)
    return name


def test_a_snapshot_comes_first_and_then_what_changes(site: Site, name: str) -> None:
    other = f"{name}-other"
    assert site.http().post(f"{site.api}/experiments", json=experiment(other)).is_success
    with reading(site, name) as reader:
        snapshot = reader.next("snapshot")
        assert snapshot["experiment"]["metadata"]["name"] == name
        assert [run["metadata"]["name"] for run in snapshot["runs"]] == [f"{name}-r1"]
        assert snapshot["icops"] == []
        site.run(other, 1)  # nobody asked for it
        site.status(f"{name}-r1", state="Running")
        assert reader.next("run")["status"]["state"] == "Running"
        assert (
            site.http()
            .post(f"{site.api}/experiments/{name}/icops", json={"op": "Stop", "runs": [f"{name}-r1"]})
            .is_success
        )
        assert reader.next("icop")["spec"]["op"] == "Stop"
        assert site.http().delete(f"{site.api}/runs/{name}-r1").is_success
        assert reader.next("gone")["metadata"]["name"] == f"{name}-r1"
        site.http().patch(f"{site.api}/experiments/{name}", json={"spec": {"workers": {"replicas": 0}}})
        assert reader.next("experiment")["spec"]["workers"]["replicas"] == 0


def test_refusals_are_answers_and_no_events(site: Site, name: str) -> None:
    assert site.http().get(f"{site.api}/experiments/nobody/changes").status_code == 404
    assert site.http("").get(f"{site.api}/experiments/{name}/changes").status_code == 401
    rules = [{"apiGroups": ["rapidfire.ai"], "resources": ["experiments"], "verbs": ["get", "list", "watch"]}]
    some = site.http(site.account("sees-experiments", rules))
    answer = some.get(f"{site.api}/experiments/{name}/changes")
    assert answer.status_code == 403
    assert "list runs" in answer.json()["detail"]


def test_an_api_server_that_goes_away_is_told_and_its_return_as_well(site: Site, name: str) -> None:
    with reading(site, name) as reader:
        reader.next("snapshot")
        site.line.cut()
        try:
            told = reader.next("error")
            assert (told["status"], told["final"]) == (503, False)
            assert "does not answer" in told["detail"]
            answer = site.http().get(f"{site.api}/experiments/{name}")
            assert answer.status_code == 503
            assert "Retry-After" in answer.headers
            assert site.http().get(f"{site.api}/experiments/{name}-other/changes").status_code == 503
            assert site.http().get("/healthz").is_success
            site.status(f"{name}-r1", state="Failed")  # nobody sees it now
        finally:
            site.line.mend()
        snapshot = reader.next("snapshot", 30)
        assert snapshot["runs"][0]["status"]["state"] == "Failed"
        site.status(f"{name}-r1", state="Running")
        assert reader.next("run")["status"]["state"] == "Running"


def test_readers_share_one_watch_and_it_ends_with_the_last_of_them(site: Site, name: str) -> None:
    def watches() -> int:
        metrics = site.plane.kubectl("get", "--raw", "/metrics").stdout
        lines = [line for line in metrics.splitlines() if line.startswith("apiserver_longrunning_requests{")]
        mine = [line for line in lines if 'resource="runs"' in line and 'verb="WATCH"' in line]
        return sum(int(float(line.rpartition(" ")[2])) for line in mine)

    before = watches()
    with reading(site, name) as one, reading(site, name) as other:
        one.next("snapshot")
        other.next("snapshot")
        wait_for("watch", lambda: watches() > before)
        assert watches() == before + 1
