"""The files of checkpoints one by one, from a real volume service: what is told, from any byte on, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import NewWorkspace, Process, Workspace

pytestmark = pytest.mark.integration
CONTENT = b"0123456789" * 100


@pytest.fixture(scope="module")
def workspace(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with new_workspace(tmp_path_factory.mktemp("workspace")) as made:
        yield made


@pytest.fixture(scope="module")
def user(service: Process, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{service.address}"
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture(scope="module")
def checkpoint(workspace: Workspace) -> Path:
    """Write a checkpoint; its folder is in the run's."""
    folder = workspace.log_path(workspace.create_run()).parent.parent / "checkpoints" / "8-2"
    (folder / "model" / "nested").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "model" / "weights.bin").write_bytes(CONTENT)
    (folder / "model" / "nested" / "a file.txt").write_text("text")
    (folder / "model" / "link").symlink_to("/etc/hostname")
    (folder / "state").mkdir()
    (folder / "state" / "state.json").write_text("not for users")
    entries = [{"path": f"x/checkpoints/{name}", "digest": "0" * 64, "step": 8} for name in ("4-1", "8-2")]
    (folder.parents[1] / "run.json").write_text(json.dumps({"commits": entries}))
    return folder


def url_of(workspace: Workspace, checkpoint: Path) -> str:
    return f"/v1/{checkpoint.relative_to(workspace.volume)}"


def test_files_are_sent_whole_or_from_any_byte_on(workspace: Workspace, user: httpx.Client, checkpoint: Path) -> None:
    url = url_of(workspace, checkpoint)
    assert user.get(f"{url}/manifest.json").text == "{}"
    assert user.get(f"{url}/model/nested/a%20file.txt").text == "text"
    assert user.get(f"{url}/model/weights.bin").content == CONTENT
    rest = user.get(f"{url}/model/weights.bin", headers={"Range": "bytes=995-"})
    assert (rest.status_code, rest.content) == (206, b"56789")
    assert rest.headers["Content-Range"] == "bytes 995-999/1000"
    # Another kind of range may be answered whole.
    assert user.get(f"{url}/model/weights.bin", headers={"Range": "bytes=-5"}).content == CONTENT
    assert user.get(f"{url}/model/weights.bin", headers={"Range": "bytes=1000-"}).status_code == 416


@pytest.mark.parametrize(
    "file",
    [
        "state/state.json",
        "model/link",
        "model/nested",
        "model/missing",
        "model/%2e%2e/state/state.json",
        "model%2f..%2fstate",
    ],
)
def test_only_files_of_the_model_are_told(
    file: str, workspace: Workspace, user: httpx.Client, checkpoint: Path
) -> None:
    answer = user.get(f"{url_of(workspace, checkpoint)}/{file}")
    assert answer.status_code == 404
    assert "not for users" not in answer.text


def test_checkpoints_that_are_there_are_listed(workspace: Workspace, user: httpx.Client, checkpoint: Path) -> None:
    answer = user.get(url_of(workspace, checkpoint.parent)).json()
    assert [each["path"] for each in answer["checkpoints"]] == ["x/checkpoints/8-2"]
    other = checkpoint.parents[2] / "00000000-0000-0000-0000-000000000000" / "checkpoints"
    assert user.get(url_of(workspace, other)).json() == {"checkpoints": []}


def test_who_has_no_token_gets_nothing(workspace: Workspace, user: httpx.Client, checkpoint: Path) -> None:
    nobody = {"Authorization": ""}
    for path in (checkpoint.parent, checkpoint / "manifest.json"):
        assert user.get(url_of(workspace, path), headers=nobody).status_code == 401
