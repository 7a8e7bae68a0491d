"""The answered shards of a run from a real volume service: the committed chain, verified, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import NewWorkspace, Process, Workspace

pytestmark = pytest.mark.integration
POD = "e-w-0-aaaaa"
ROWS = b"0123456789" * 10


@pytest.fixture(scope="module")
def workspace(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with new_workspace(tmp_path_factory.mktemp("workspace")) as made:
        made.create_pod(POD)
        yield made


@pytest.fixture(scope="module")
def user(service: Process, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{service.address}"
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as http:
        yield http


def shards_of(workspace: Workspace, run: str) -> Path:
    return workspace.log_path(run).parents[1] / "shards"


def url_of(workspace: Workspace, path: Path) -> str:
    return f"/v1/{path.relative_to(workspace.volume)}"


def answer(workspace: Workspace, run: str, rows: int, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """Answer the next shard and commit it, as a worker does; return its link."""
    attempt = workspace.assign(run, f"{POD}/1")
    folder = shards_of(workspace, run) / f"{rows}-{attempt}"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(ROWS)
    files = {"rows.parquet": hashlib.sha256(ROWS).hexdigest()}
    manifest = json.dumps({"format": 1, "rows": rows, "files": files, "previous": previous})
    (folder / "manifest.json").write_text(manifest)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    link = {"path": str(folder.relative_to(workspace.volume)), "digest": digest}
    progress = {"attempt": attempt, "chunk": 0, "step": rows, "final": True, "checkpoint": {**link, "step": rows}}
    workspace.write_progress(run, progress)
    return link


def test_the_committed_shards_are_told_oldest_first_as_soon_as_they_are(
    workspace: Workspace, user: httpx.Client
) -> None:
    run = workspace.create_run()
    url = url_of(workspace, shards_of(workspace, run))
    assert user.get(url).json() == {"shards": []}
    first = answer(workspace, run, 30)
    assert user.get(url).json() == {"shards": [{**first, "rows": 30}]}
    (shards_of(workspace, run) / "60-9").mkdir()  # somebody else's, never committed
    second = answer(workspace, run, 60, first)
    assert user.get(url).json() == {"shards": [{**first, "rows": 30}, {**second, "rows": 60}]}


def test_files_that_the_manifest_names_are_sent_whole_or_from_any_byte_on(
    workspace: Workspace, user: httpx.Client
) -> None:
    run = workspace.create_run()
    link = answer(workspace, run, 30)
    (workspace.volume / link["path"] / "notes.txt").write_text("nobody named it")
    url = f"/v1/{link['path']}"

    assert user.get(f"{url}/rows.parquet").content == ROWS
    assert hashlib.sha256(user.get(f"{url}/manifest.json").content).hexdigest() == link["digest"]
    rest = user.get(f"{url}/rows.parquet", headers={"Range": "bytes=95-"})
    assert (rest.status_code, rest.content, rest.headers["Content-Range"]) == (206, b"56789", "bytes 95-99/100")
    assert user.get(f"{url}/rows.parquet", headers={"Range": "bytes=100-"}).status_code == 416
    unnamed = user.get(f"{url}/notes.txt")
    assert unnamed.status_code == 404
    assert unnamed.json()["detail"].endswith("ask for one of manifest.json, rows.parquet")


def test_what_no_run_has_committed_is_not_sent(workspace: Workspace, user: httpx.Client) -> None:
    run = workspace.create_run()
    link = answer(workspace, run, 30)
    abandoned = shards_of(workspace, run) / "30-7"
    abandoned.mkdir()
    (abandoned / "manifest.json").write_text("{}")

    refused = user.get(f"{url_of(workspace, abandoned)}/manifest.json")

    assert refused.status_code == 404
    assert "30-7 is no shard that the run has committed" in refused.json()["detail"]
    stranger = link["path"].replace(workspace.run(run)["metadata"]["uid"], "00000000-0000-0000-0000-000000000000")
    unknown = user.get(f"/v1/{stranger.rpartition('/')[0]}")
    assert unknown.status_code == 404
    assert "does not exist; it may have been deleted" in unknown.json()["detail"]


@pytest.mark.parametrize("damage", ["changed", "missing", "a link", "of another run"])
def test_a_chain_that_is_not_what_was_committed_is_not_passed_off_as_a_result(
    damage: str, workspace: Workspace, user: httpx.Client
) -> None:
    run, other = workspace.create_run(), workspace.create_run()
    first = answer(workspace, run, 30)
    manifest = workspace.volume / first["path"] / "manifest.json"
    if damage == "changed":
        manifest.write_text(manifest.read_text().replace("30", "31"))
    elif damage == "missing":
        manifest.unlink()
    elif damage == "a link":
        manifest.rename(manifest.with_name("elsewhere"))
        manifest.symlink_to("elsewhere")
    else:
        first = {**answer(workspace, other, 30), "digest": first["digest"][::-1]}
    answer(workspace, run, 60, first)

    refused = user.get(url_of(workspace, shards_of(workspace, run)))

    assert refused.status_code == 500
    assert "restore the volume from a backup, or clone the run" in refused.json()["detail"]


def test_who_has_no_token_gets_nothing(workspace: Workspace, user: httpx.Client) -> None:
    run = workspace.create_run()
    link = answer(workspace, run, 30)
    for path in (link["path"].rpartition("/")[0], f"{link['path']}/manifest.json"):
        assert user.get(f"/v1/{path}", headers={"Authorization": ""}).status_code == 401
