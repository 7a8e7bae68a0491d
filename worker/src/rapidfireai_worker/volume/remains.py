"""What experiments have left on the volume: their records, and the newest commit of each run that is whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath
from pydantic import ValidationError

from rapidfireai.api import API_VERSION
from rapidfireai.api.run import Checkpoint
from rapidfireai.remains import ExperimentRemains, RunRemains
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.retention import attempt_of
from rapidfireai_worker.volume.checkpoints import Admit
from rapidfireai_worker.volume.janitor import Lifetime
from rapidfireai_worker.volume.memory import FORMAT
from rapidfireai_worker.volume.store import open_inside
from rapidfireai_worker.volume.whole import Broken, Commit, verified

_UID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Uid = Annotated[str, InPath(pattern=f"^{_UID}$")]
_RECORD_BYTES = 64 << 20
_NO_RECORD = "experiment.json is not there: an earlier version made the experiment; give its manifest with --spec"


class NotWhole(Exception):  # noqa: N818 - it is an outcome
    """A record is there and cannot be understood; the message says why."""


def experiments_on(volume: Volume) -> list[ExperimentRemains]:
    """Return the directories of all experiments, without their records."""
    return [
        experiment_in(volume, path.name).model_copy(update={"record": None}) for path in _uids_in(volume.experiments)
    ]


def experiment_in(volume: Volume, uid: str) -> ExperimentRemains:
    """Return what is in the directory of an experiment."""
    directory = volume.experiments / uid
    runs = [RunDirectory(path) for path in _uids_in(directory / "runs")]
    path, record, problem = volume.experiment_record(uid), None, ""
    try:
        record = _record(volume, path)
        problem = "" if record is not None else _NO_RECORD
    except NotWhole as why:
        problem = str(why)
    metadata = (record or {}).get("metadata", {})
    return ExperimentRemains(
        uid=uid,
        name=metadata.get("name") or _name_by_runs(volume, runs),
        created_at=str(metadata.get("creationTimestamp", "")),
        changed_at=max(
            map(_changed, [path, *(file for run in runs for file in (run.resource, run.record))]), default=0
        ),
        deleted_at=_deleted_at(directory),
        runs=tuple(run.root.name for run in runs),
        record=record,
        problem=problem,
    )


def run_in(volume: Volume, experiment_uid: str, run_uid: str) -> RunRemains:
    """Return what is in the directory of a run; every file of its newest commit is read."""
    directory, remarks = volume.run(experiment_uid, run_uid), []
    kept: dict[str, Any] | None = None
    said: dict[str, Any] | None = None
    try:
        kept = _record(volume, directory.resource)
    except NotWhole as why:
        remarks.append(f"{why}; what was wanted of the run is not known, it goes on")
    try:
        said = _record(volume, directory.record)
    except NotWhole as why:
        remarks.append(str(why))
    record = kept or _as_run(said)
    if record is None:
        return RunRemains(uid=run_uid, problem="; ".join(remarks) or "resource.json and run.json are not there")
    checkpoint = None
    for commit in _commits(volume, directory, record, said or {}):
        try:
            checkpoint = verified(volume.root, commit)
            break
        except Broken as why:
            remarks.append(str(why))
    attempt = max(_attempts(directory, record), default=0)
    return RunRemains(uid=run_uid, record=record, checkpoint=checkpoint, attempt=attempt, remarks=tuple(remarks))


def _record(volume: Volume, path: Path) -> dict[str, Any] | None:
    """Return a record, or None if there is none.

    Raises:
        NotWhole: If it is not whole, or if a newer version wrote it.
    """
    relative = path.relative_to(volume.root)
    try:
        with os.fdopen(open_inside(volume.root, relative, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            record = json.loads(file.read(_RECORD_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NotWhole(f"{relative} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise NotWhole(f"{relative} is no record")
    if int(record.get("format", 1)) > FORMAT:
        raise NotWhole(f"a newer version wrote {relative}; install that one")
    return record


def _as_run(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the Run that a worker's `run.json` describes; None if it does not."""
    run, config = (said or {}).get("run"), (said or {}).get("config")
    if said is None or not isinstance(run, Mapping) or not isinstance(config, Mapping):
        return None
    name = str(run.get("name", ""))
    experiment, _, index = name.rpartition("-r")
    if not index.isdecimal():
        return None
    parent = {"parentRef": said["parentRef"]} if said.get("parentRef") else {}
    spec = {"experimentRef": experiment, "index": int(index), "config": dict(config), **parent}
    return {"apiVersion": API_VERSION, "metadata": {"name": name}, "spec": spec, "status": {}}


def _commits(
    volume: Volume, directory: RunDirectory, record: Mapping[str, Any], said: Mapping[str, Any]
) -> list[Commit]:
    """Return the commits that the records name, the newest first."""
    status, found = record.get("status", {}), []
    for entry in ((status.get("progress") or {}).get("checkpoint"), status.get("adopted"), *said.get("commits", [])):
        with suppress(ValidationError):  # whatever it is, it is no commit
            if entry is not None:
                known = Checkpoint.model_validate(entry)
                found.append(Commit(known.path, known.digest))
    found += [Commit(str(path)) for path in said.get("answers", [])]
    own = f"{directory.root.relative_to(volume.root)}/"
    by_path = {each.path: each for each in reversed(found) if each.path.startswith(own)}
    return sorted(by_path.values(), key=lambda each: each.step, reverse=True)


def _attempts(directory: RunDirectory, record: Mapping[str, Any]) -> Iterable[int]:
    """Yield every attempt that has left something."""
    yield int(record.get("status", {}).get("attempt", 0))
    yield int((record.get("spec", {}).get("adopted") or {}).get("attempt", 0))
    for folder in (directory.checkpoints, directory.shards):
        with suppress(FileNotFoundError):  # it has committed nothing
            yield from (attempt_of(path.name) or 0 for path in folder.iterdir())


def _uids_in(path: Path) -> list[Path]:
    """Return the directories that are named by a UID, links not among them."""
    try:
        with os.scandir(path) as entries:
            found = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [path / name for name in sorted(found) if re.fullmatch(_UID, name)]


def _name_by_runs(volume: Volume, runs: Iterable[RunDirectory]) -> str:
    """Return the name of an experiment as one of its runs knows it."""
    for run in runs:
        with suppress(NotWhole):  # another run may know it
            said = _record(volume, run.record) or {}
            if isinstance(said.get("experiment"), Mapping):
                return str(said["experiment"].get("name", ""))
    return ""


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _deleted_at(directory: Path) -> float | None:
    try:
        return Lifetime.model_validate_json((directory / "lifetime.json").read_bytes()).gone_since
    except (FileNotFoundError, ValidationError):
        return None


def add_remains_routes(app: FastAPI, admit: Admit, volume: Volume) -> None:
    """Add the routes.

    Args:
        app: The service.
        admit: Lets a request in, or raises what it is answered with.
        volume: The shared volume.
    """

    @app.get("/v1/experiments")
    async def experiments(request: Request) -> dict[str, Any]:
        await admit(request, "get")
        found = await asyncio.to_thread(experiments_on, volume)
        return {"experiments": [each.model_dump(mode="json") for each in found]}

    @app.get("/v1/experiments/{experiment}")
    async def experiment(request: Request, experiment: Uid) -> dict[str, Any]:
        await admit(request, "get")
        if not (volume.experiments / experiment).is_dir():
            raise HTTPException(404, f"experiments/{experiment} is not on the volume; ask for /v1/experiments what is")
        return (await asyncio.to_thread(experiment_in, volume, experiment)).model_dump(mode="json")

    @app.get("/v1/experiments/{experiment}/runs/{run}")
    async def run(request: Request, experiment: Uid, run: Uid) -> dict[str, Any]:
        await admit(request, "get")
        return (await asyncio.to_thread(run_in, volume, experiment, run)).model_dump(mode="json")
