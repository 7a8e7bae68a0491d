"""Uploads and metrics through the gateway, with a real volume service behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest
from tests.gateway.site import Site
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration
CONTENT = bytes(range(256)) * 40_000  # 10 MB: more than the gateway takes of other bodies
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CURSOR = "Rapidfire-Cursor"


def test_a_data_set_streams_through_and_goes_on_where_it_broke_off(volume: Site) -> None:
    http, url = volume.http(), f"{volume.api}/datasets/{DIGEST}"
    absent = http.head(url)
    assert (absent.status_code, absent.headers["Upload-Offset"]) == (404, "0")

    def broken() -> Iterator[bytes]:
        yield CONTENT[:4_000_000]
        raise ConnectionAbortedError("the user's machine went to sleep")

    with pytest.raises(ConnectionAbortedError):
        http.put(url, content=broken(), headers={"Upload-Offset": "0"})
    there = int(
        wait_for("bytes that are there", lambda: (seen := http.head(url).headers["Upload-Offset"]) != "0" and seen)
    )
    too_far = http.put(url, content=b"x", headers={"Upload-Offset": str(there + 1)})
    assert too_far.status_code == 409
    assert too_far.headers["Upload-Offset"] == str(there)
    whole = http.put(url, content=CONTENT[there:], headers={"Upload-Offset": str(there)})
    assert whole.status_code == 201, whole.text
    assert whole.json() == {"digest": DIGEST, "bytes": len(CONTENT)}
    assert http.head(url).status_code == 200


def test_what_is_not_what_it_says_is_refused(volume: Site) -> None:
    answer = volume.http().put(f"{volume.api}/bundles/{'0' * 64}", content=b"something else")
    assert answer.status_code == 422
    assert volume.http().put(f"{volume.api}/bundles/nonsense", content=b"x").status_code == 422
    assert volume.http("").put(f"{volume.api}/bundles/{DIGEST}", content=b"x").status_code == 401


def test_who_may_not_create_experiments_may_not_upload(volume: Site) -> None:
    rules = [
        {"apiGroups": ["rapidfire.ai"], "resources": ["experiments"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["rapidfire-workspace"], "verbs": ["get"]},
    ]
    answer = volume.http(volume.account("looks-on", rules)).put(f"{volume.api}/bundles/{DIGEST}", content=b"x")
    assert answer.status_code == 403
    assert "create experiments" in answer.json()["detail"]


def test_metrics_come_after_a_cursor(volume: Site, name: str) -> None:
    run = volume.run(name, 1)
    http, url = volume.http(), f"{volume.api}/runs/{run}/metrics"
    nothing = http.get(url)
    assert (nothing.status_code, nothing.text) == (200, "")

    uids = [
        http.get(f"{volume.api}/{path}").json()["metadata"]["uid"] for path in (f"experiments/{name}", f"runs/{run}")
    ]
    log = volume.volume / "experiments" / uids[0] / "runs" / uids[1] / "logs" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"kind": "log", "sequence": n, "step": n, "time": 1.0, "values": {"loss": 1.0 / n}} for n in (1, 2)]
    log.write_text(json.dumps(lines[0]) + "\n")
    first = http.get(url)
    assert [json.loads(line) for line in first.text.splitlines()] == lines[:1]
    with log.open("a") as file:
        file.write(json.dumps(lines[1]) + "\n")
    rest = http.get(url, params={"after": first.headers[CURSOR]})
    assert [json.loads(line) for line in rest.text.splitlines()] == lines[1:]
    empty = http.get(url, params={"after": rest.headers[CURSOR]})
    assert (empty.text, empty.headers[CURSOR]) == ("", rest.headers[CURSOR])


def test_a_volume_service_that_is_down_is_named(site: Site, name: str) -> None:
    run = site.run(name, 1)
    patch = json.dumps({"data": {"volume-url": "http://127.0.0.1:9"}})
    words = ("patch", "configmap", "rapidfire-workspace", "--namespace", site.namespace, "--type=merge", "--patch")
    before = site.plane.kubectl("get", *words[1:5], "--output=jsonpath={.data.volume-url}").stdout
    assert site.plane.kubectl(*words, patch).returncode == 0
    try:
        # Somebody whom the gateway has not asked about the address for yet.
        rules = [
            {"apiGroups": ["rapidfire.ai"], "resources": ["experiments", "runs"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        ]
        http = site.http(site.account("new-here", rules))
        answer: httpx.Response = http.get(f"{site.api}/runs/{run}/metrics")
        assert answer.status_code == 502
        assert f"the volume service of namespace {site.namespace} does not answer" in answer.json()["detail"]
        assert http.get(f"{site.api}/runs/{run}").is_success
    finally:
        site.plane.kubectl(*words, json.dumps({"data": {"volume-url": before}}))
