"""From resources to what the engine is asked, and from what it answers to what is patched. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rapidfireai.api import Experiment, Run
from rapidfireai.api.code import Code
from rapidfireai.api.data import DataSource
from rapidfireai.api.run import Checkpoint, Estimate, Prepared, Progress, RunError
from rapidfireai.source import SOURCE_PATH
from rapidfireai_worker.engine import DataRef, RunFailure, RunJob
from rapidfireai_worker.failures import presentable
from rapidfireai_worker.retention import ranking
from rapidfireai_worker.slot import Grant

MAX_METRICS = 32
"""How many metrics a patch may carry; the log has them all."""
MAX_ESTIMATES = 16
"""How many estimates a patch may carry."""
Patch = dict[str, Any]


def job_of(run: Run, experiment: Experiment, grant: Grant, adapter: Checkpoint | None = None) -> RunJob:
    """Return what the engine must know of `run` to work on `grant`.

    Args:
        run: The run.
        experiment: Its experiment.
        grant: What is to be done.
        adapter: The last commit of the run that `adapter_of` names.
    """
    spec, code = experiment.spec, experiment.spec.code
    return RunJob(
        namespace=run.metadata.namespace,
        experiment=experiment.metadata.name,
        experiment_uid=experiment.volume_uid,
        run=run.metadata.name,
        run_uid=run.metadata.uid,
        volume_uid=run.volume_uid,
        attempt=grant.attempt,
        config=run.spec.config,
        seed=spec.seed,
        mode=spec.mode,
        chunks=spec.chunks,
        shards=spec.shards,
        train=_data_ref(spec.data.train) if spec.data.train else None,
        eval=_data_ref(spec.data.eval) if spec.data.eval else None,
        documents=_data_ref(spec.data.documents) if spec.data.documents else None,
        adapter=adapter,
        evaluate_at_boundaries=spec.evaluate_at_boundaries,
        checkpoint=checkpoint_of(run),
        parent=run.spec.parent_ref,
        keep_last=spec.retention.keep_last,
        best_first=ranking(run, experiment),
        resident_bytes=run.status.prepared.bytes if run.status.prepared else 0,
        bundle=code.bundle if code else None,
        bundle_python=code.python if code else None,
        source=code.source if code else None,
        source_name=_source_name(code),
        create_model=code.create_model if code else None,
    )


def with_source(experiment: Experiment, source: str | None) -> Experiment:
    """Return the experiment with the source of its ConfigMap, which the environment holds, in its place."""
    code = experiment.spec.code
    if code is None or code.config_map is None:
        return experiment
    spec = experiment.spec.model_copy(update={"code": code.model_copy(update={"source": source})})
    return experiment.model_copy(update={"spec": spec})


def _source_name(code: Code | None) -> str:
    if code is None or code.config_map is None:
        return SOURCE_PATH
    return f"ConfigMap {code.config_map.name}/{code.config_map.key}"


def _data_ref(source: DataSource) -> DataRef:
    return DataRef(source.uri, source.split, source.config, source.revision)


def adapter_of(run: Run) -> str | None:
    """Return the name of the run whose adapter `run` evaluates, if it evaluates one."""
    section = run.spec.config.get("vllm_config")
    name = section.get("adapter") if isinstance(section, Mapping) else None
    return str(name) if name else None


def checkpoint_of(run: Run) -> Checkpoint | None:
    """Return the last committed state of `run`."""
    return run.status.committed


def pinned_of(run: Run) -> frozenset[str]:
    """Return the paths of the checkpoints of `run` that warm clones begin with."""
    return frozenset(checkpoint.path for checkpoint in run.status.pinned)


def report(
    grant: Grant,
    step: int,
    metrics: Mapping[str, float],
    seconds: float,
    known: Iterable[str],
    estimates: Mapping[str, Estimate] | None = None,
) -> Patch:
    """Return the patch that tells how far an attempt is; it leaves the checkpoint as it is.

    Args:
        grant: What is worked on.
        step: The optimizer step that was reached.
        metrics: The latest metrics; without any the resource keeps those of the attempt before.
        seconds: How long the attempt has computed.
        known: Metrics and estimates that the resource shows now: those of an earlier attempt are taken away.
        estimates: What an evaluation estimates so far; without any the resource keeps those of the attempt before.
    """
    progress = Progress(
        attempt=grant.attempt,
        chunk=grant.chunk,
        step=step,
        loss=_for_people(metrics.get("loss")),
        metrics=_finite(metrics),
        estimates=_first(estimates or {}),
        seconds=seconds,
    )
    patch = _patch(progress, known)
    if not metrics:
        del patch["status"]["progress"]["loss"], patch["status"]["progress"]["metrics"]
    if not estimates:
        del patch["status"]["progress"]["estimates"]
    return patch


def chunk_commit(
    grant: Grant,
    checkpoint: Checkpoint,
    loss: float | None,
    metrics: Mapping[str, float],
    seconds: float,
    known: Iterable[str],
    estimates: Mapping[str, Estimate] | None = None,
) -> Patch:
    """Return the patch that commits a chunk whose state is durable in `checkpoint`."""
    progress = Progress(
        attempt=grant.attempt,
        chunk=grant.chunk,
        step=checkpoint.step,
        final=True,
        loss=_for_people(loss),
        metrics=_finite(metrics),
        estimates=_first(estimates or {}),
        seconds=seconds,
        checkpoint=checkpoint,
    )
    return _patch(progress, known)


def prepare_commit(grant: Grant, prepared: Prepared, seconds: float) -> Patch:
    """Return the patch that commits a prepare task."""
    progress = Progress(
        attempt=grant.attempt, chunk=grant.chunk, step=0, final=True, seconds=seconds, prepared=prepared
    )
    return _patch(progress, ())


def failure_commit(grant: Grant, failure: RunFailure, step: int, seconds: float) -> Patch:
    """Return the patch that ends an attempt without success; the checkpoint stays what it was."""
    error = RunError(
        reason=failure.reason[:64],
        message=presentable(failure.message),
        blame=failure.blame,
        retry=failure.retry,
    )
    progress = Progress(attempt=grant.attempt, chunk=grant.chunk, step=step, final=True, seconds=seconds, error=error)
    return _patch(progress, ())


def is_committed(run: Run, grant: Grant) -> bool:
    """Return whether `run` holds the final commit of this very attempt."""
    progress = run.status.progress
    return progress is not None and progress.final and progress.attempt == grant.attempt


def _patch(progress: Progress, known: Iterable[str]) -> Patch:
    """Return a merge patch that sets every key of the attempt: null takes away what is left of an earlier one."""
    keys = {field.alias or name for name, field in Progress.model_fields.items()} - {"checkpoint"}
    wire = {**dict.fromkeys(sorted(keys)), **progress.to_wire()}
    gone: Patch = dict.fromkeys(sorted(known))
    wire["metrics"] = {**gone, **progress.metrics}
    wire["estimates"] = {**gone, **{name: _whole(each) for name, each in progress.estimates.items()}}
    return {"status": {"progress": wire}}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that a patch may carry; JSON has no other numbers than finite ones."""
    numbers = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    return dict(list(numbers.items())[:MAX_METRICS])


def _first(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the estimates that a patch may carry, those with an interval first."""
    finite = {name: each for name, each in estimates.items() if math.isfinite(each.value)}
    return dict(sorted(finite.items(), key=lambda pair: pair[1].lower is None)[:MAX_ESTIMATES])


def _whole(estimate: Estimate) -> Patch:
    """Return an estimate with all of its keys: null takes away what is left of an earlier one."""
    return {**dict.fromkeys(field.alias or name for name, field in Estimate.model_fields.items()), **estimate.to_wire()}


def _for_people(loss: float | None) -> str | None:
    return f"{loss:.4g}" if loss is not None and math.isfinite(loss) else None
