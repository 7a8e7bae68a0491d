"""The volume service takes away what nobody needs: a real process, told by a real API server."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Workspace

pytestmark = pytest.mark.integration

SOON = {
    "RAPIDFIRE_CLEANUP_SECONDS": "0.2",
    "RAPIDFIRE_KEEP_DELETED_DAYS": "0.000001",
    "RAPIDFIRE_KEEP_UNUSED_DAYS": "0.000001",
}


def upload(workspace: Workspace, kind: str, digest: str) -> Path:
    directory = workspace.volume / kind / digest
    directory.mkdir(parents=True)
    (directory / "file").write_text("content")
    return directory


def pass_by(workspace: Workspace) -> None:
    """Wait until a whole pass has begun and ended: something that may go has gone, twice."""
    for _ in range(2):
        canary = upload(workspace, "datasets", uuid.uuid4().hex * 2)
        workspace.wait("pass of the cleanup", lambda gone=canary: not gone.exists())


def checkpoints(workspace: Workspace, run: str) -> Path:
    return workspace.log_path(run).parent.parent / "checkpoints"


def commits(workspace: Workspace, run: str, *names: str) -> dict[str, Any]:
    """Write checkpoints and their record; return the status of a run that has committed the last one."""
    directory = checkpoints(workspace, run)
    entries = []
    for name in names:
        (directory / name / "model").mkdir(parents=True)
        path = str((directory / name).relative_to(workspace.volume))
        entries.append({"path": path, "digest": "0" * 64, "step": int(name.partition("-")[0])})
    (directory.parent / "run.json").write_text(json.dumps({"commits": entries}))
    progress = {"attempt": 4, "chunk": 3, "step": entries[-1]["step"], "final": True, "checkpoint": entries[-1]}
    values = [{"chunk": i, "step": entry["step"], "value": abs(i - 1)} for i, entry in enumerate(entries)]
    return {"objective": values, "progress": progress}


def there(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def commit_as_worker(workspace: Workspace, run: str, status: dict[str, Any]) -> None:
    workspace.create_pod("e-w-0-aaaaa")
    for _ in range(3):
        workspace.assign(run, "e-w-0-aaaaa/1")
    workspace.assign(run, "e-w-0-aaaaa/1", chunk=3)
    workspace.write_progress(run, status["progress"])
    workspace.write(run, {"objective": status["objective"]})


def test_a_run_that_rests_keeps_its_last_and_its_best_commit(workspace: Workspace) -> None:
    run = workspace.create_run()
    commit_as_worker(workspace, run, commits(workspace, run, "4-1", "8-2", "12-3", "16-4"))
    directory = checkpoints(workspace, run)
    for name in (".tmp-16-3-0badcafe", "20-5", ".tmp-20-5-0badcafe", "somebody-elses"):
        (directory / name).mkdir()
    everything = there(directory)
    service = workspace.volume_service(**SOON)
    pass_by(workspace)
    assert there(directory) == everything, "the run is assigned: its worker makes room itself"

    workspace.write(run, {"assignment": None})
    newer = {"20-5", ".tmp-20-5-0badcafe", "somebody-elses"}
    workspace.wait("end of the cleanup", lambda: there(directory) == {"8-2", "16-4"} | newer)
    pass_by(workspace)
    assert there(directory) == {"8-2", "16-4"} | newer
    assert "spec.retention" in service.words


def test_as_many_commits_stay_as_the_experiment_says_and_fewer_once_it_says_so(workspace: Workspace) -> None:
    workspace.patch_experiment({"retention": {"keepLast": 3, "keepBest": False}})
    run = workspace.create_run()
    commit_as_worker(workspace, run, commits(workspace, run, "2-1", "4-1", "8-2", "12-3", "16-4"))
    directory = checkpoints(workspace, run)
    workspace.write(run, {"assignment": None})
    workspace.volume_service(**SOON)
    workspace.wait("end of the cleanup", lambda: there(directory) == {"8-2", "12-3", "16-4"})
    pass_by(workspace)
    assert there(directory) == {"8-2", "12-3", "16-4"}, "4-1 was the best one"
    workspace.patch_experiment({"retention": {"keepLast": 1}})
    workspace.wait("the two that are too many", lambda: there(directory) == {"16-4"})


def test_what_a_warm_clone_began_with_stays_whatever_becomes_of_the_parent(workspace: Workspace) -> None:
    parent = workspace.create_run()
    commit_as_worker(workspace, parent, status := commits(workspace, parent, "4-1", "8-2", "12-3", "16-4"))
    directory = checkpoints(workspace, parent)
    begin = {**status["progress"]["checkpoint"], "step": 12}
    begin["path"] = begin["path"].replace("16-4", "12-3")
    uid = workspace.run(parent)["metadata"]["uid"]
    reference = {"name": parent, "uid": uid, "index": 1, "warmStart": True, "checkpoint": begin}
    workspace.create_clone(reference)
    pinned = {**begin, "step": 4, "path": begin["path"].replace("12-3", "4-1")}
    workspace.write(parent, {"assignment": None, "pinned": [pinned]})
    workspace.volume_service(**SOON)
    pass_by(workspace)
    assert there(directory) == {"4-1", "8-2", "12-3", "16-4"}

    workspace.write(parent, {"pinned": []})
    workspace.wait("end of the cleanup", lambda: there(directory) == {"8-2", "12-3", "16-4"})
    workspace.admin.delete(workspace.path("runs", parent))
    pass_by(workspace)
    assert there(directory) == {"8-2", "12-3", "16-4"}


def shards(workspace: Workspace, run: str, *names: str) -> dict[str, Any]:
    """Write a chain of answered shards; return the status of a run that has committed the last one."""
    directory = checkpoints(workspace, run).with_name("shards")
    previous: dict[str, Any] | None = None
    for name in names:
        (directory / name).mkdir(parents=True)
        manifest = json.dumps({"format": 1, "rows": int(name.partition("-")[0]), "files": {}, "previous": previous})
        (directory / name / "manifest.json").write_text(manifest)
        path = str((directory / name).relative_to(workspace.volume))
        previous = {"path": path, "digest": hashlib.sha256(manifest.encode()).hexdigest()}
    end = {**(previous or {}), "step": int(names[-1].partition("-")[0])}
    progress = {"attempt": 4, "chunk": 3, "step": end["step"], "final": True, "checkpoint": end}
    return {"progress": progress, "objective": []}


def test_every_shard_that_was_committed_stays_and_what_was_abandoned_goes(workspace: Workspace) -> None:
    run = workspace.create_run()
    chained = ["30-1", "60-2", "90-4"]
    commit_as_worker(workspace, run, shards(workspace, run, *chained))
    directory = checkpoints(workspace, run).with_name("shards")
    newer = {"120-5", ".tmp-120-5-0badcafe", "somebody-elses"}
    for name in ("90-3", ".tmp-90-3-0badcafe", *newer):
        (directory / name).mkdir()
    everything = there(directory)
    service = workspace.volume_service(**SOON)
    pass_by(workspace)
    assert there(directory) == everything, "the run is assigned: its worker makes room itself"

    workspace.write(run, {"assignment": None})
    workspace.wait("end of the cleanup", lambda: there(directory) == {*chained, *newer})
    pass_by(workspace)
    assert there(directory) == {*chained, *newer}, "keepLast is 1, and is of checkpoints alone"
    assert "it was never committed" in service.words


def test_while_the_chain_cannot_be_read_every_shard_stays(workspace: Workspace) -> None:
    run = workspace.create_run()
    commit_as_worker(workspace, run, shards(workspace, run, "30-1", "60-2", "90-4"))
    directory = checkpoints(workspace, run).with_name("shards")
    (directory / "60-2" / "manifest.json").write_text("{}")
    (directory / "90-3").mkdir()
    workspace.write(run, {"assignment": None})
    service = workspace.volume_service(**SOON)
    pass_by(workspace)
    assert there(directory) == {"30-1", "60-2", "90-3", "90-4"}
    assert "shards are kept" in service.words


def test_an_index_that_no_run_searches_goes_and_one_that_is_being_made_stays(workspace: Workspace) -> None:
    run = workspace.create_run()
    searched, unused = upload(workspace, "indexes", "d" * 64), upload(workspace, "indexes", "f" * 64)
    making = upload(workspace, "indexes", ".tmp-0badcafe")
    prepared = {"totalSteps": 8, "boundaries": [8], "index": "d" * 64, "indexBuilt": True}
    workspace.write(run, {"prepared": prepared})
    workspace.volume_service(**SOON)
    workspace.wait("removal of the index", lambda: not unused.exists())
    pass_by(workspace)
    assert searched.exists()
    assert (searched / ".used").exists()
    assert making.exists()

    workspace.admin.delete(workspace.path("runs", run))
    workspace.wait("removal of the other", lambda: not searched.exists())


def test_what_a_deleted_experiment_left_goes_and_what_others_left_stays(workspace: Workspace) -> None:
    run = workspace.create_run()
    commits(workspace, run, "4-1")
    own = workspace.log_path(run).parents[3]
    restored = own.with_name(str(uuid.uuid4()))  # of another cluster, from a backup
    shutil.copytree(own, restored)
    used, unused = upload(workspace, "bundles", "a" * 64), upload(workspace, "bundles", "b" * 64)
    data = upload(workspace, "datasets", "c" * 64)
    spec = {
        "configs": [{"trainer": "SFT", "config": {}}],
        "data": {"train": {"uri": f"blob://sha256/{'c' * 64}"}},
        "code": {"bundle": "a" * 64, "python": "3.11"},
    }
    workspace.post(workspace.path("experiments"), workspace._object("Experiment", "other", spec))
    workspace.volume_service(**SOON)
    pass_by(workspace)
    assert own.exists()
    assert not unused.exists()

    workspace.admin.delete(workspace.path("experiments", "e"))
    workspace.admin.delete(workspace.path("runs", run))
    workspace.wait("removal of the experiment", lambda: not own.exists())
    pass_by(workspace)
    assert restored.exists()
    assert used.exists()
    assert data.exists()


def test_a_deleted_experiment_stays_for_its_grace(workspace: Workspace) -> None:
    run = workspace.create_run()
    commits(workspace, run, "4-1")
    own = workspace.log_path(run).parents[3]
    workspace.volume_service(**SOON | {"RAPIDFIRE_KEEP_DELETED_DAYS": "1"})
    pass_by(workspace)
    workspace.admin.delete(workspace.path("experiments", "e"))
    workspace.admin.delete(workspace.path("runs", run))
    workspace.wait("note of its absence", lambda: json.loads((own / "lifetime.json").read_text())["gone_since"])
    pass_by(workspace)
    assert (own / "runs").exists()


def test_nothing_is_removed_while_the_api_server_does_not_tell_what_exists(workspace: Workspace) -> None:
    unused = upload(workspace, "bundles", "b" * 64)
    bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{workspace.namespace}/rolebindings"
    workspace.admin.delete(f"{bindings}/rapidfire-volume")
    service = workspace.volume_service(**SOON)
    workspace.wait("passes of the cleanup", lambda: service.words.count("nothing is cleaned up now") > 1)
    assert unused.exists()
