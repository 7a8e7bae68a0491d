"""The volume service as a real process, asked with real tokens."""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.runlog import RunLog
from rapidfireai_worker.volume.store import open_inside, remove_abandoned

if TYPE_CHECKING:
    from conftest import NewWorkspace, Process, Workspace

ABSENT = "0" * 64


@pytest.fixture(scope="module")
def workspace(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One for all tests here: they neither need nor make an empty one."""
    with new_workspace(tmp_path_factory.mktemp("workspace")) as made:
        yield made


@pytest.fixture
def user(service: Process, token: str) -> Iterator[httpx.Client]:
    with client(service, token) as http:
        yield http


@pytest.fixture
def run(workspace: Workspace) -> str:
    return workspace.create_run()


@dataclass(frozen=True)
class Blob:
    """Something to upload that nobody uploaded before."""

    data: bytes = field(default_factory=lambda: os.urandom(9000))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def client(service: Process, token: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=f"http://{service.address}", headers=headers, trust_env=False, timeout=30)


def detail(answer: httpx.Response) -> str:
    return str(answer.json()["detail"])


def path_of(workspace: Workspace, run: str) -> str:
    return f"/v1/experiments/{workspace.experiment['metadata']['uid']}/runs/{workspace.run(run)['metadata']['uid']}"


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "name"), [("bundles", "bundle.pkl"), ("datasets", "data.parquet")])
def test_an_upload_is_there_under_its_digest(workspace: Workspace, user: httpx.Client, kind: str, name: str) -> None:
    blob = Blob()
    assert user.head(f"/v1/{kind}/{blob.digest}").status_code == 404
    for _ in range(2):
        answer = user.put(f"/v1/{kind}/{blob.digest}", content=blob.data)
        assert (answer.status_code, answer.json()) == (201, {"digest": blob.digest, "bytes": len(blob.data)})
    found = user.head(f"/v1/{kind}/{blob.digest}")
    assert (found.status_code, found.headers["content-length"]) == (200, str(len(blob.data)))
    assert (workspace.volume / kind / blob.digest / name).read_bytes() == blob.data
    assert list((workspace.volume / "uploads").iterdir()) == []


@pytest.mark.integration
def test_many_may_upload_the_same_at_once(workspace: Workspace, user: httpx.Client) -> None:
    blob = Blob(os.urandom(4 << 20))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: user.put(f"/v1/datasets/{blob.digest}", content=blob.data), range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert (workspace.volume / "datasets" / blob.digest / "data.parquet").read_bytes() == blob.data
    assert list((workspace.volume / "uploads").iterdir()) == []


@pytest.mark.integration
def test_another_content_than_the_digest_says_is_refused(workspace: Workspace, user: httpx.Client) -> None:
    blob = Blob()
    answer = user.put(f"/v1/bundles/{ABSENT}", content=blob.data)
    assert (answer.status_code, blob.digest in detail(answer), ABSENT in detail(answer)) == (422, True, True)
    assert user.head(f"/v1/bundles/{ABSENT}").status_code == 404
    assert list((workspace.volume / "uploads").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("declared", [True, False])
def test_too_large_an_upload_is_refused(workspace: Workspace, token: str, declared: bool) -> None:
    blob = Blob()
    with client(workspace.volume_service(RAPIDFIRE_MAX_BUNDLE_BYTES="1000"), token) as user:
        content: bytes | Iterator[bytes] = blob.data if declared else iter([blob.data[:800], blob.data[800:]])
        answer = user.put(f"/v1/bundles/{blob.digest}", content=content)
        assert answer.status_code == 413
        assert "at most 1000 bytes" in detail(answer)
        assert "RAPIDFIRE_MAX_BUNDLE_BYTES" in detail(answer)
        assert user.put(f"/v1/datasets/{blob.digest}", content=blob.data).status_code == 201


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/bundles/abc", "digest=abc: "),
        (f"/v1/bundles/{ABSENT.upper()[:-1]}X", "digest="),
        (f"/v1/secrets/{ABSENT}", "kind=secrets: "),
    ],
)
def test_a_wrong_address_is_explained(user: httpx.Client, path: str, words: str) -> None:
    answer = user.put(path, content=b"rows")
    assert answer.status_code == 422
    assert detail(answer).startswith(words)


@pytest.mark.integration
def test_whoever_cannot_say_who_they_are_is_told_how(workspace: Workspace, service: Process) -> None:
    for token in ("", "nonsense", workspace.token("rapidfire-user", audiences=["somebody-else"])):
        with client(service, token) as http:
            answer = http.put(f"/v1/bundles/{ABSENT}", content=b"rows")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "token" in detail(answer)
    assert "kubectl create token rapidfire-user" in detail(client(service).get(f"{path_of_nothing()}/metrics"))


def path_of_nothing() -> str:
    return f"/v1/experiments/{uuid.uuid4()}/runs/{uuid.uuid4()}"


@pytest.mark.integration
def test_a_token_of_the_users_own_for_the_api_server_is_taken(workspace: Workspace, service: Process) -> None:
    blob = Blob()
    with client(service, workspace.token("rapidfire-user")) as http:
        assert http.put(f"/v1/bundles/{blob.digest}", content=blob.data).status_code == 201


@pytest.mark.integration
def test_rights_are_the_api_servers(workspace: Workspace, service: Process) -> None:
    """A worker may neither send nor fetch; a reader may fetch and not send."""
    with client(service, workspace.token("rapidfire-worker")) as worker:
        refused = worker.put(f"/v1/bundles/{ABSENT}", content=b"rows")
        assert refused.status_code == 403
        assert "may not create experiments.rapidfire.ai in namespace" in detail(refused)
        assert "Role rapidfire-user" in detail(refused)
    with client(service, workspace.token("default")) as other:
        assert other.head(f"/v1/bundles/{ABSENT}").status_code == 403
        assert other.get(f"{path_of_nothing()}/metrics").status_code == 403
        assert other.get(f"{path_of_nothing()}/checkpoints").status_code == 403


@pytest.mark.integration
def test_metrics_are_read_once_and_from_where_one_left(workspace: Workspace, user: httpx.Client, run: str) -> None:
    path = f"{path_of(workspace, run)}/metrics"
    early = user.get(path)
    assert (early.status_code, "logged nothing yet" in detail(early)) == (404, True)
    log = RunLog(workspace.log_path(run))
    for each in (1, 2):
        log.append("log", each, each, {"loss": each / 2})
    log.append("boundary", 1, 2, {"boundary/eval_loss": float("nan")})
    with workspace.log_path(run).open("ab") as file:  # a worker that was thought dead, and then killed
        file.write(b'{"kind":"log","sequence":2,"step":2,"time":9.0,"values":{}}\n{"kind":"lo')
    first = user.get(path)
    lines = [httpx.Response(200, text=line).json() for line in first.text.splitlines()]
    assert [(line["kind"], line["sequence"], line["values"]) for line in lines] == [
        ("log", 1, {"loss": 0.5}),
        ("log", 2, {"loss": 1.0}),
        ("boundary", 1, {"boundary/eval_loss": None}),
    ]
    cursor = first.headers["rapidfire-cursor"]
    assert user.get(path, params={"after": cursor}).text == ""
    later = RunLog(workspace.log_path(run))
    later.append("log", 3, 3, {"loss": 1.5})
    following = user.get(path, params={"after": cursor})
    assert [httpx.Response(200, text=line).json()["sequence"] for line in following.text.splitlines()] == [3]
    wrong = user.get(path, params={"after": "yesterday"})
    assert (wrong.status_code, "Rapidfire-Cursor" in detail(wrong)) == (422, True)


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_full_volume_is_said_so_and_keeps_nothing_half(workspace: Workspace, token: str) -> None:
    small = workspace.directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        service = workspace.volume_service(RAPIDFIRE_VOLUME=str(small))
        with client(service, token) as user:
            large, fitting = Blob(os.urandom(3 << 20)), Blob()
            answer = user.put(f"/v1/datasets/{large.digest}", content=large.data)
            assert answer.status_code == 507
            assert "the volume is full" in detail(answer)
            assert user.put(f"/v1/datasets/{fitting.digest}", content=fitting.data).status_code == 201
        assert list((small / "uploads").iterdir()) == []
        service.popen.kill()
        service.end()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.integration
def test_a_wrong_environment_is_refused_by_the_variables_name(workspace: Workspace) -> None:
    process = workspace.launch_volume_service(RAPIDFIRE_MAX_BUNDLE_BYTES="lots")
    assert process.end() == 2
    assert "RAPIDFIRE_MAX_BUNDLE_BYTES: " in process.words


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        open_inside(tmp_path, Path(path), os.O_RDONLY)


def test_only_old_uploads_are_abandoned(tmp_path: Path) -> None:
    uploads = Volume(tmp_path).uploads
    remove_abandoned(Volume(tmp_path))
    uploads.mkdir()
    for name, age in (("old", 2 * 86400), ("young", 60)):
        (uploads / name).touch()
        now = (uploads / name).stat().st_mtime
        os.utime(uploads / name, (now - age, now - age))
    remove_abandoned(Volume(tmp_path))
    assert [file.name for file in uploads.iterdir()] == ["young"]
