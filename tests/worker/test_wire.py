"""What is patched: every key of an attempt, within the resource's bounds, and nothing that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai.api import Experiment, Run
from rapidfireai.api.run import Checkpoint, Estimate, Prepared, Progress
from rapidfireai_worker import wire
from rapidfireai_worker.engine import DataRef, RunFailure
from rapidfireai_worker.failures import failure_of
from rapidfireai_worker.slot import Grant

GRANT = Grant(uid="u", name="e-r1", attempt=3, task="chunk", chunk=1, granted_at=1.0)
CHECKPOINT = Checkpoint(path="experiments/e/runs/u/checkpoints/8-3", digest="0" * 64, step=8)
KEYS = {"attempt", "chunk", "step", "final", "loss", "metrics", "estimates", "seconds", "prepared", "error"}


def progress_of(patch: dict[str, Any]) -> dict[str, Any]:
    """What the resource holds after the patch."""
    assert patch.keys() == {"status"}
    assert patch["status"].keys() == {"progress"}
    set_keys = {key: value for key, value in patch["status"]["progress"].items() if value is not None}
    for name in ("metrics", "estimates"):
        set_keys[name] = {key: value for key, value in set_keys[name].items() if value is not None}
    return Progress.model_validate(set_keys).to_wire()


@pytest.mark.parametrize(
    "patch",
    [
        wire.report(GRANT, 5, {"loss": 1.0}, 0.5, (), {"Accuracy": Estimate(value=0.5)}),
        wire.prepare_commit(GRANT, Prepared(total_steps=8, boundaries=[4, 8]), 0.5),
        wire.failure_commit(GRANT, RunFailure("Reason", "why"), 5, 0.5),
    ],
)
def test_every_key_is_set_or_taken_away_but_the_checkpoint_is_kept(patch: dict[str, Any]) -> None:
    assert patch["status"]["progress"].keys() == KEYS


def test_an_attempt_that_only_began_leaves_the_last_metrics_in_place() -> None:
    assert wire.report(GRANT, 5, {}, 0.0, ["loss"])["status"]["progress"].keys() == KEYS - {
        "loss",
        "metrics",
        "estimates",
    }


def test_a_chunks_commit_names_its_checkpoint_and_the_step_in_it() -> None:
    progress = progress_of(wire.chunk_commit(GRANT, CHECKPOINT, 1.25, {"loss": 1.25}, 2.0, ["old", "loss"]))
    assert (progress["attempt"], progress["chunk"], progress["step"], progress["final"]) == (3, 1, 8, True)
    assert progress["checkpoint"]["step"] == 8
    assert progress["metrics"] == {"loss": 1.25}
    assert progress["loss"] == "1.25"


def test_an_estimate_takes_away_what_is_left_of_an_earlier_one() -> None:
    now = {f"m{number}": Estimate(value=number) for number in range(20)}
    now["sure"] = Estimate(value=0.5, lower=0.4, upper=0.6, level=0.95, method="normal")
    patch = wire.chunk_commit(GRANT, CHECKPOINT, None, {}, 2.0, ["old", "m0"], now)
    sent = patch["status"]["progress"]["estimates"]
    assert sent["old"] is None
    assert sent["m0"] == {"value": 0.0, "lower": None, "upper": None, "level": None, "method": None}
    held = progress_of(patch)["estimates"]
    assert len(held) == wire.MAX_ESTIMATES
    assert held["sure"]["upper"] == 0.6


def test_the_adapter_of_an_evaluation_is_that_of_the_run_that_it_names() -> None:
    spec = {"experimentRef": "e", "index": 1}
    for config, name in ({"vllm_config": {"adapter": "sft-r1"}}, "sft-r1"), ({"api_config": {}}, None), ({}, None):
        assert wire.adapter_of(Run.from_body({"metadata": {}, "spec": {**spec, "config": config}})) == name


@given(
    st.dictionaries(st.text(min_size=1, max_size=10), st.floats(), max_size=60),
    st.none() | st.floats(),
    st.lists(st.text(min_size=1, max_size=10)),
)
def test_no_metrics_make_a_patch_that_the_resource_would_refuse(
    metrics: dict[str, float], loss: float | None, known: list[str]
) -> None:
    patch = wire.chunk_commit(GRANT, CHECKPOINT, loss, metrics, 1.0, known)
    held = progress_of(patch)["metrics"]
    assert len(held) <= wire.MAX_METRICS
    assert all(math.isfinite(value) for value in held.values())
    assert held.items() <= metrics.items()
    assert set(known) <= patch["status"]["progress"]["metrics"].keys()


def test_a_long_message_keeps_its_end_in_a_traceback_and_its_beginning_otherwise() -> None:
    raised = failure_of(ValueError("x" * 9000 + " the end"))
    for failure, kept in ((raised, " the end"), (RunFailure("R", "the beginning " + "x" * 9000), "the beginning")):
        error = progress_of(wire.failure_commit(GRANT, failure, 5, 0.5))["error"]
        assert len(error["message"]) <= 4096
        assert kept in error["message"]


def test_a_job_has_all_that_the_engine_must_know() -> None:
    experiment = Experiment.from_body(
        {
            "metadata": {"name": "e", "uid": "eu"},
            "spec": {
                "seed": 7,
                "chunks": 3,
                "evaluateAtBoundaries": False,
                "configs": [{"trainer": "SFT", "config": {}}],
                "data": {"train": {"uri": "pvc://c/t.jsonl"}, "eval": {"uri": "hf://o/n", "split": "test"}},
                "code": {"bundle": "1" * 64, "python": "3.11"},
            },
        }
    )
    run = Run.from_body(
        {
            "metadata": {"name": "e-r1", "uid": "u", "namespace": "n"},
            "spec": {"experimentRef": "e", "index": 1, "config": {"model_name": "m"}},
            "status": {
                "progress": {"attempt": 2, "chunk": 0, "step": 4, "final": True, "checkpoint": CHECKPOINT.to_wire()}
            },
        }
    )
    job = wire.job_of(run, experiment, GRANT)
    assert (job.namespace, job.experiment, job.experiment_uid, job.run, job.run_uid) == ("n", "e", "eu", "e-r1", "u")
    assert (job.attempt, job.seed, job.chunks, job.evaluate_at_boundaries) == (3, 7, 3, False)
    assert (job.train, job.eval) == (DataRef("pvc://c/t.jsonl", "train"), DataRef("hf://o/n", "test"))
    assert (job.bundle, job.bundle_python, job.checkpoint) == ("1" * 64, "3.11", CHECKPOINT)
    assert job.config == {"model_name": "m"}


@pytest.mark.parametrize(
    ("failure", "retry"),
    [
        (RunFailure("OutOfMemory", "why"), False),
        (RunFailure("UserCodeError", "why"), True),
        (RunFailure("OutOfMemory", "why", blame="Infrastructure"), True),
    ],
)
def test_a_failure_says_whether_another_try_may_help(failure: RunFailure, retry: bool) -> None:
    error = Progress.model_validate(wire.failure_commit(GRANT, failure, 5, 0.5)["status"]["progress"] | {"metrics": {}})
    assert error.error is not None
    assert error.error.retry is retry


@pytest.mark.parametrize(
    ("retention", "last", "best"),
    [({}, 1, (8, 4)), ({"keepLast": 3}, 3, (8, 4)), ({"keepLast": 2, "keepBest": False}, 2, ())],
)
def test_a_worker_keeps_the_commits_that_the_experiment_says(
    retention: dict[str, Any], last: int, best: tuple[int, ...]
) -> None:
    spec = {"configs": [{"trainer": "SFT", "config": {}}], "data": {"train": {"uri": "pvc://c/t"}}}
    body = {"metadata": {"name": "e", "uid": "eu"}, "spec": {**spec, "retention": retention}}
    points = [{"chunk": index, "step": 4 * index + 4, "value": 2.0 - index} for index in range(2)]
    run = {"spec": {"experimentRef": "e", "index": 1, "config": {}}, "status": {"objective": points}}
    run["metadata"] = {"name": "e-r1", "uid": "u", "namespace": "n"}
    job = wire.job_of(Run.from_body(run), Experiment.from_body(body), GRANT)
    assert (job.keep_last, job.best_first) == (last, best)
