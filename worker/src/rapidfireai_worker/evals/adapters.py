"""Adapters that are evaluated: copied to the experiment's own directory, so that nobody's retention takes them."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path

from rapidfireai_worker.durable import sync_directory
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.failures import storage_failure
from rapidfireai_worker.layout import Volume

_FIELD = "vllm_config.adapter"
_MODEL = "model/"
"""Where a checkpoint has its model or adapter in the ordinary form."""


def adapter_of(volume: Volume, job: RunJob, name: str) -> Path:
    """Return the directory of a run's adapter, the same one for all runs of the experiment that name it.

    The first who needs it copies what that run has committed last. It stays what it is: runs of one experiment are
    compared with each other, while the other run may go on.

    Args:
        volume: The shared volume.
        job: Who evaluates it.
        name: The name of the run that trained it.

    Raises:
        RunFailure: If that run has no adapter, naming the field and the fix.
    """
    directory = volume.experiments / job.experiment_uid / "adapters" / name
    if directory.is_dir():
        return directory
    if job.adapter is None:
        raise RunFailure(
            "AdapterNotFound",
            f"{_FIELD}: there is no run {name!r} in namespace {job.namespace} that has committed anything; name one as "
            "`kubectl get runs` shows it, once it has finished a chunk",
        )
    temporary = directory.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        _copy(volume.root / job.adapter.path, job.adapter.digest, temporary, name)
        (temporary / "source.json").write_text(json.dumps({"run": name, **job.adapter.to_wire()}, indent=1))
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():  # else another worker was first: its copy is everybody's
                raise
        sync_directory(directory.parent)
    except OSError as error:
        raise storage_failure(error, f"the adapter of {name}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # nothing is left of it if it has its name by now
    return directory


def _copy(checkpoint: Path, digest: str, target: Path, name: str) -> None:
    """Copy the adapter of a checkpoint, each file as its manifest knows it."""
    try:
        text = (checkpoint / "manifest.json").read_bytes()
        if hashlib.sha256(text).hexdigest() != digest:
            raise ValueError("manifest.json is not the one that was committed")  # noqa: TRY301 - as what else is wrong
        files = {file: each["sha256"] for file, each in json.loads(text)["files"].items() if file.startswith(_MODEL)}
        if f"{_MODEL}adapter_config.json" not in files:
            raise RunFailure(
                "InvalidConfig",
                f"{_FIELD}: run {name!r} trains a whole model and no adapter; give the folder that `rapidfireai "
                "export` makes of it as model_config.model",
            )
        for file, expected in files.items():
            content = (checkpoint / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{file} is not what its manifest says")  # noqa: TRY301 - as what else is wrong
            copy = target / file.removeprefix(_MODEL)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise RunFailure(
            "AdapterNotFound",
            f"{_FIELD}: the last commit of run {name!r} cannot be read ({error}); it may just have been replaced by a "
            "newer one, which the next try finds",
        ) from error
