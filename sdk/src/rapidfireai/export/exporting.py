"""`export`: from a run's name to a directory that holds its model, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rapidfireai.api import Experiment, Run
from rapidfireai.api.run import Checkpoint
from rapidfireai.connection import Connection
from rapidfireai.errors import ExperimentError, VolumeError
from rapidfireai.export.card import Provenance, body, front_matter
from rapidfireai.export.fetching import fetch_manifest, fetch_model
from rapidfireai.export.merging import check_can_merge, merge_files
from rapidfireai.progress import fetching
from rapidfireai.ranking import best_first
from rapidfireai.show.lookup import Found, find_run
from rapidfireai.volume import VolumeClient

CARD = "README.md"
_UNCHANGED_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
_COMPUTED_ANEW = ("pissa", "olora", "loftq")
"""Initialisations that rewrite the base, and that loading the adapter repeats to the bit on equal hardware."""


def export_run(
    connection: Connection,
    volume: VolumeClient,
    name: str,
    directory: Path,
    *,
    merge: bool = False,
    best: bool = False,
) -> Path:
    """Fetch the model or adapter of a run, with its tokenizer and a model card, and return the directory.

    Args:
        connection: The workspace.
        volume: Its volume service.
        name: The run.
        directory: Where the files go; it is there once all of them are.
        merge: Merge an adapter into its base model, on this machine; a whole model stays as it is.
        best: The commit with the best objective, instead of the last one.

    Raises:
        ExperimentError: If there is no such run, it has committed nothing yet, the directory is not empty or cannot be
            written, or the adapter cannot be merged.
        VolumeError: If the volume service refuses or cannot be reached.
    """
    directory = directory.expanduser().resolve()
    found, run = find_run(connection, name)
    if found.experiment.spec.mode == "evals":
        raise ExperimentError(
            f"{name} is an evaluation and has no model; its answers are what run_evals returns, and "
            f"Experiment.attach({found.experiment.metadata.name!r}).get_evaluations() at any time"
        )
    check_can_load(run)
    if merge:
        check_can_merge()
    try:
        _check_free(directory)
        partial = directory.with_name(f".{directory.name}.partial")
        provenance = _fetch(connection, volume, found, run, partial, best=best)
        if merge and provenance.is_adapter:
            provenance = _merged(provenance, partial)
        _write_card(provenance, partial / CARD)
        partial.rename(directory)
    except OSError as error:
        raise ExperimentError(
            f"{directory} cannot be written: {error.strerror or error}; what was fetched stays beside it"
        ) from error
    return directory


def check_can_load(run: Run) -> None:
    """Raise ExperimentError if a run's adapter means nothing on the base model as it is published."""
    initial = (run.spec.config.get("peft_params") or {}).get("init_lora_weights", True)
    if initial not in _UNCHANGED_BASE and initial not in _COMPUTED_ANEW:
        raise ExperimentError(
            f"{run.metadata.name} cannot be exported: init_lora_weights {initial!r} has rewritten its base model, and "
            "who loads the adapter does not get the same base again; train with 'pissa' or 'olora' instead"
        )


def choose(run: Run, experiment: Experiment, there: Sequence[Checkpoint], *, best: bool) -> Checkpoint:
    """Return which checkpoint to export.

    Args:
        run: The run.
        experiment: Its experiment.
        there: What is on the volume.
        best: The one with the best objective, instead of the last one.

    Raises:
        ExperimentError: If the run has committed nothing yet, or none of its boundaries was measured.
    """
    name, last = run.metadata.name, run.status.committed
    if last is None:
        raise ExperimentError(f"{name} has committed no chunk yet; there is nothing to export")
    if not best:
        return last
    committed = {each.step: each for each in (*there, last) if each.step <= last.step}
    for step in best_first(run, experiment):
        if step in committed:
            return committed[step]
    raise ExperimentError(f"{name}: no boundary that is still on the volume has an objective; export the last commit")


def _check_free(directory: Path) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        raise ExperimentError(f"{directory} is not empty; name a new directory, or empty it")
    if directory.exists() and not directory.is_dir():
        raise ExperimentError(f"{directory} is a file; name a new directory")


def _fetch(
    connection: Connection, volume: VolumeClient, found: Found, run: Run, folder: Path, *, best: bool
) -> Provenance:
    """Fetch the model; a run that goes on meanwhile may take the checkpoint away, and then its next one is fetched."""
    uid, tried, problem = found.experiment.volume_uid, None, None
    while True:
        there = volume.checkpoints(uid, run.volume_uid) if best else []
        checkpoint = choose(run, found.experiment, there, best=best)
        if problem is not None and checkpoint == tried:
            raise problem
        try:
            manifest = fetch_manifest(volume, checkpoint)
            with fetching(f"{run.metadata.name} at step {checkpoint.step}") as done:
                fetch_model(volume, checkpoint, manifest, folder, done)
        except VolumeError as error:
            tried, problem = checkpoint, error
            run = connection.run(run.metadata.name)
        else:
            lines = volume.metrics(uid, run.volume_uid)
            return Provenance(found.experiment, run, found.runs, checkpoint, manifest, lines)


def _merged(provenance: Provenance, folder: Path) -> Provenance:
    """Put the merged model in the adapter's place."""
    target = folder.with_name(f"{folder.name}-merged")
    shutil.rmtree(target, ignore_errors=True)  # of a try that was cut short
    print(f"merging {provenance.run.metadata.name} into its base model")
    try:
        merge_files(folder, target, _dtype(provenance))
        shutil.rmtree(folder)
        target.rename(folder)
    finally:
        shutil.rmtree(target, ignore_errors=True)  # renamed by now, or of no use
    return replace(provenance, merged=True)


def _dtype(provenance: Provenance) -> str:
    """Return how the worker had loaded the base model."""
    kwargs = provenance.run.spec.config.get("model_kwargs") or {}
    default = "float32" if provenance.manifest.facts.get("device") == "cpu" else "auto"
    return str(kwargs.get("dtype") or kwargs.get("torch_dtype") or default).removeprefix("torch.")


def _write_card(provenance: Provenance, path: Path) -> None:
    try:
        from huggingface_hub import ModelCard, ModelCardData  # noqa: PLC0415 - slow to import
    except ModuleNotFoundError as error:
        raise ExperimentError("a model card needs huggingface_hub: pip install huggingface_hub") from error
    data = ModelCardData(**front_matter(provenance))
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body(provenance)}").save(path)
