"""What a lost cluster has left on a volume: its records, and the newest commit that is whole. Nothing is unpickled."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.garbage import Census
from rapidfireai_worker.volume.janitor import Janitor
from rapidfireai_worker.volume.recorder import Recorder, kept_of
from rapidfireai_worker.volume.remains import experiment_in, experiments_on, run_in
from rapidfireai_worker.volume.settings import VolumeSettings
from rapidfireai_worker.volume.shards import Commits
from rapidfireai_worker.volume.whole import Broken, Commit, verified

EXPERIMENT, RUN = "0a0a0a0a-0000-4000-8000-000000000001", "0b0b0b0b-0000-4000-8000-000000000001"
NEW, NEWER = "0c0c0c0c-0000-4000-8000-000000000001", "0d0d0d0d-0000-4000-8000-000000000001"
BUNDLE = "b" * 64
SPEC = {
    "configs": [{"trainer": "SFT", "config": {}}],
    "data": {"train": {"uri": "hf://owner/rows"}},
    "code": {"bundle": BUNDLE, "python": "3.11"},
}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def write(volume: Volume, name: str, step: int, **more: Any) -> dict[str, Any]:
    """Write a commit; return the entry that records have of it."""
    directory = volume.run(EXPERIMENT, RUN).root / name
    (directory / "state").mkdir(parents=True)
    (directory / "state" / "weights").write_bytes(name.encode())
    digest = hashlib.sha256(name.encode()).hexdigest()
    is_shard = name.startswith("shards/")
    files = {"state/weights": digest if is_shard else {"sha256": digest, "bytes": len(name)}}
    manifest = json.dumps({"format": 1, "step": step, "files": files, **more}).encode()
    (directory / "manifest.json").write_bytes(manifest)
    path = str(directory.relative_to(volume.root))
    return {"path": path, "digest": hashlib.sha256(manifest).hexdigest(), "step": step}


def experiment(uid: str = EXPERIMENT, name: str = "exp", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, "managedFields": []}, "spec": {**SPEC, **spec}, "status": {}}


def run(commit: dict[str, Any] | None = None, uid: str = RUN, owner: str = EXPERIMENT, **more: Any) -> dict[str, Any]:
    progress = {"attempt": 4, "chunk": 1, "step": 9, "metrics": {"loss": 2.0}}
    progress |= {"checkpoint": commit} if commit else {}
    owners = [{"kind": "Experiment", "uid": owner, "controller": True}]
    status = {"attempt": 4, "state": "Running", "progress": progress, "assignment": {"pod": "p"}}
    spec = {"experimentRef": "exp", "index": 1, "config": {"a": 1}, "desiredState": "Stopped", **more}
    return {"metadata": {"name": "exp-r1", "uid": uid, "ownerReferences": owners}, "spec": spec, "status": status}


def keep(volume: Volume, *runs: dict[str, Any]) -> None:
    recorder = Recorder(volume)
    recorder.keep_experiments([experiment()])
    recorder.keep_runs([kept for each in runs if (kept := kept_of(each)) is not None])


def say(volume: Volume, **record: Any) -> Path:
    """Write what the worker says of the run."""
    path = volume.run(EXPERIMENT, RUN).record
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"run": {"name": "exp-r7", "uid": RUN}, "experiment": {"name": "exp"}, "config": {"a": 2}}
    path.write_text(json.dumps({**names, "commits": [], **record}))
    return path


def test_what_the_api_server_has_is_kept_without_what_passes(volume: Volume) -> None:
    commit = write(volume, "checkpoints/8-3", 8)
    keep(volume, run(commit))
    (found,) = experiments_on(volume)
    assert (found.uid, found.name, found.runs, found.problem, found.record) == (EXPERIMENT, "exp", (RUN,), "", None)
    record = experiment_in(volume, EXPERIMENT).record
    assert record is not None and record["spec"] == SPEC
    kept = run_in(volume, EXPERIMENT, RUN)
    assert kept.record is not None and kept.checkpoint is not None
    assert kept.record["spec"] == run(commit)["spec"]
    assert kept.record["status"]["progress"] == {"attempt": 4, "chunk": 1, "step": 8, "checkpoint": commit}
    assert "assignment" not in kept.record["status"]
    assert kept.checkpoint.model_dump() == commit
    assert (kept.attempt, kept.remarks) == (4, ())


def test_what_did_not_change_is_not_written_again(volume: Volume) -> None:
    recorder = Recorder(volume)
    first = kept_of(run())
    assert first is not None
    recorder.keep_runs([first])
    path = volume.run(EXPERIMENT, RUN).resource
    os.utime(path, (1, 1))
    body = run()
    body["status"]["progress"]["step"] = 10
    again = kept_of(body)
    assert again is not None
    recorder.keep_runs([again])
    assert path.stat().st_mtime == 1


def test_an_adopted_run_is_kept_where_its_files_are(volume: Volume) -> None:
    adopted = {"experimentUID": EXPERIMENT, "runUID": RUN, "attempt": 9}
    keep(volume, run(uid=NEWER, owner=NEW, adopted=adopted))
    assert run_in(volume, EXPERIMENT, RUN).attempt == 9
    assert not (volume.experiments / NEW).exists()


def test_a_run_that_was_made_after_the_adoption_is_kept_beside_the_others(volume: Volume) -> None:
    keep(volume, run(), run(uid=NEWER, owner=NEW, adopted={"experimentUID": EXPERIMENT}))
    (found,) = experiments_on(volume)
    assert found.runs == (RUN, NEWER)


def test_a_commit_that_the_worker_recorded_last_is_newer_than_what_the_api_server_showed(volume: Volume) -> None:
    first, second = write(volume, "checkpoints/8-3", 8), write(volume, "checkpoints/12-5", 12)
    keep(volume, run(first))
    say(volume, commits=[first, second])
    found = run_in(volume, EXPERIMENT, RUN)
    assert (found.checkpoint and found.checkpoint.step, found.attempt) == (12, 5)


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest", "link"])
def test_the_newest_whole_commit_is_taken_and_the_others_are_named(volume: Volume, damage: str) -> None:
    first, second = write(volume, "checkpoints/8-3", 8), write(volume, "checkpoints/12-5", 12)
    keep(volume, run(second))
    say(volume, commits=[first, second])
    directory = volume.root / second["path"]
    weights = directory / "state" / "weights"
    if damage == "manifest":
        (directory / "manifest.json").write_text("{")
    elif damage == "changed":
        weights.write_bytes(b"something else")
    else:
        weights.unlink()
    if damage == "link":
        weights.symlink_to(volume.root / first["path"] / "state" / "weights")
    found = run_in(volume, EXPERIMENT, RUN)
    assert found.checkpoint is not None and found.checkpoint.step == 8
    assert len(found.remarks) == 1 and second["path"] in found.remarks[0]


def test_the_answers_of_an_evaluation_are_verified_link_by_link(volume: Volume) -> None:
    first = write(volume, "shards/4-1", 4)
    link = {"path": first["path"], "digest": first["digest"]}
    second = write(volume, "shards/8-2", 8, previous=link)
    say(volume, answers=[first["path"], second["path"]])
    assert (found := run_in(volume, EXPERIMENT, RUN).checkpoint) is not None
    assert found.model_dump() == second
    (volume.root / first["path"] / "state" / "weights").write_bytes(b"other")
    broken = run_in(volume, EXPERIMENT, RUN)
    assert broken.checkpoint is None and len(broken.remarks) == 2


def test_a_commit_of_a_newer_form_or_of_another_place_is_none(volume: Volume) -> None:
    newer = write(volume, "checkpoints/8-3", 8, format=2)
    with pytest.raises(Broken, match="a newer version wrote"):
        verified(volume.root, Commit(newer["path"], newer["digest"]))
    with pytest.raises(Broken, match="is no commit"):
        verified(volume.root, Commit("../../etc"))
    keep(volume, run(write(volume, "checkpoints/12-4", 12) | {"path": f"experiments/{NEW}/runs/{RUN}/checkpoints/1-1"}))
    assert run_in(volume, EXPERIMENT, RUN).checkpoint is None, "what lies in another run's directory is not its own"


def test_a_record_that_is_not_whole_is_replaced_by_the_other(volume: Volume) -> None:
    commit = write(volume, "checkpoints/8-3", 8)
    keep(volume, run(commit))
    said = say(volume, commits=[commit])
    said.write_text('{"config": ')
    found = run_in(volume, EXPERIMENT, RUN)
    assert found.record is not None and found.record["spec"]["desiredState"] == "Stopped"
    assert found.checkpoint is not None and "run.json cannot be read" in found.remarks[0]
    say(volume, commits=[commit])
    volume.run(EXPERIMENT, RUN).resource.write_text("")
    older = run_in(volume, EXPERIMENT, RUN)
    assert older.record is not None and older.record["spec"]["index"] == 7
    assert older.checkpoint is not None and "it goes on" in older.remarks[0]


def test_what_an_earlier_version_left_says_what_is_missing(volume: Volume) -> None:
    say(volume, commits=[write(volume, "checkpoints/8-3", 8)])
    found = experiment_in(volume, EXPERIMENT)
    assert (found.name, found.record) == ("exp", None)
    assert "--spec" in found.problem
    assert run_in(volume, EXPERIMENT, RUN).record is not None


def test_a_run_without_any_record_says_why(volume: Volume) -> None:
    volume.run(EXPERIMENT, RUN).root.mkdir(parents=True)
    assert "are not there" in run_in(volume, EXPERIMENT, RUN).problem
    say(volume).write_text("half")
    volume.run(EXPERIMENT, RUN).resource.write_text('{"format": 2}')
    problem = run_in(volume, EXPERIMENT, RUN).problem
    assert "a newer version wrote" in problem and "cannot be read" in problem


def test_links_in_the_place_of_records_and_directories_are_not_followed(volume: Volume, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"metadata": {"name": "secret"}}))
    (volume.experiments / EXPERIMENT).mkdir(parents=True)
    volume.experiment_record(EXPERIMENT).symlink_to(outside)
    (volume.experiments / NEW).symlink_to(tmp_path)
    (found,) = experiments_on(volume)
    assert found.name == "" and "cannot be read" in found.problem


class Runs:
    """The runs that an API server has."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = bodies

    async def get(self, plural: str, name: str) -> dict[str, Any] | None:
        return next((each for each in self.bodies if each["metadata"]["name"] == name), None)

    async def list_all(self, plural: str) -> list[dict[str, Any]]:
        return list(self.bodies)


def test_adopted_answers_are_found_by_the_directory_and_by_nothing_else(volume: Volume) -> None:
    commit = write(volume, "shards/8-2", 8, previous=None)
    body = run(uid=NEWER, owner=NEW, adopted={"experimentUID": EXPERIMENT, "runUID": RUN})
    body["status"] = {"adopted": commit}
    commits = Commits(volume, Runs(body))
    (link,) = asyncio.run(commits.of(EXPERIMENT, RUN))
    assert link.path == commit["path"]
    for experiment_uid, run_uid in ((NEW, NEWER), (NEW, RUN), (EXPERIMENT, NEWER)):
        with pytest.raises(HTTPException, match="does not exist"):
            asyncio.run(commits.of(experiment_uid, run_uid))


def settings(volume: Volume) -> VolumeSettings:
    return VolumeSettings.model_construct(volume=volume.root, keep_deleted_days=0.0, keep_unused_days=0.0)


def old_bundle(volume: Volume) -> Path:
    volume.bundle(BUNDLE).parent.mkdir(parents=True)
    os.utime(volume.bundle(BUNDLE).parent, (1, 1))
    return volume.bundle(BUNDLE).parent


def test_what_may_be_adopted_stays_and_so_does_its_code(volume: Volume) -> None:
    keep(volume, run())
    bundle, janitor = old_bundle(volume), Janitor(volume, settings(volume))
    for _ in range(3):
        janitor.clean([], [], "account-of-the-new-cluster")
    assert bundle.is_dir() and volume.run(EXPERIMENT, RUN).root.is_dir()


def test_what_was_adopted_goes_when_its_new_experiment_is_deleted(volume: Volume) -> None:
    keep(volume, run())
    bundle, janitor = old_bundle(volume), Janitor(volume, settings(volume))
    janitor.clean([experiment(NEW, "again", adopted={"uid": EXPERIMENT})], [], "account")
    assert volume.run(EXPERIMENT, RUN).root.is_dir()
    for _ in range(3):
        janitor.clean([], [], "account")
    assert not (volume.experiments / EXPERIMENT).exists()
    assert not bundle.exists()


def test_an_adopted_run_counts_under_the_directory_that_it_has() -> None:
    adopted = {"experimentUID": EXPERIMENT, "runUID": RUN}
    body = run(uid=NEWER, owner=NEW, adopted=adopted)
    del body["status"]["assignment"]
    census = Census.of([], [body])
    assert census.is_alive(EXPERIMENT) and not census.is_alive(NEW)
    assert set(census.runs) == {RUN}
