"""Attacks on a run's status, each by somebody who holds a valid token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.fence.conftest import Identity, Stage

pytestmark = pytest.mark.integration
CHECKPOINT = {"path": "experiments/e/runs/r/checkpoints/8-1", "digest": "0" * 64, "step": 8}
OTHER_POD = "e-w-1-bbbbb"


def progress(step: int, attempt: int = 1, chunk: int = 0, final: bool = False, **more: Any) -> dict[str, Any]:
    return {"progress": {"attempt": attempt, "chunk": chunk, "step": step, "final": final, **more}}


def test_the_life_of_a_run_passes(stage: Stage) -> None:
    operator, first, second = stage.operator(), stage.worker(), stage.worker(OTHER_POD)
    assert operator.status("r", stage.assignment(attempt=1, chunk=-1)) == ""
    prepared = {"totalSteps": 16, "boundaries": [8, 16], "bytes": 1}
    assert first.status("r", progress(0, chunk=-1, final=True, prepared=prepared)) == ""
    assert operator.status("r", {"assignment": None, "prepared": prepared}) == ""
    assert operator.status("r", stage.assignment(attempt=2, chunk=0)) == ""
    assert first.status("r", progress(0, attempt=2, prepared=None)) == ""
    assert first.status("r", progress(4, attempt=2, loss="1.5", metrics={"loss": 1.5})) == ""
    assert first.status("r", progress(8, attempt=2, final=True, checkpoint=CHECKPOINT)) == ""
    assert operator.status("r", stage.assignment(attempt=3, chunk=1, pod=OTHER_POD)) == ""
    assert second.status("r", progress(8, attempt=3, chunk=1)) == ""
    later = {**CHECKPOINT, "path": "experiments/e/runs/r/checkpoints/16-3", "step": 16}
    assert second.status("r", progress(16, attempt=3, chunk=1, final=True, checkpoint=later)) == ""
    assert operator.status("r", {"assignment": None, "state": "Succeeded"}) == ""
    assert stage.read()["progress"]["checkpoint"]["step"] == 16


def test_the_life_of_an_evaluation_passes_and_its_index_is_fenced_alike(stage: Stage) -> None:
    operator, first, second = stage.operator(), stage.worker(), stage.worker(OTHER_POD)
    prepared = {"totalSteps": 16, "boundaries": [8, 16], "index": "a" * 64, "indexBuilt": False}
    built = {**prepared, "indexBuilt": True}
    assert operator.status("r", stage.assignment(attempt=1, chunk=-1, task="prepare")) == ""
    assert first.status("r", progress(0, chunk=-1, final=True, prepared=prepared)) == ""
    assert operator.status("r", {"assignment": None, "prepared": prepared}) == ""
    assert operator.status("r", stage.assignment(attempt=2, chunk=-1, task="index")) == ""
    indexed = {"Documents Indexed": 5.0, "Documents": 9.0}
    assert first.status("r", progress(0, attempt=2, chunk=-1, metrics=indexed, prepared=None)) == ""
    # The builder dies, another one begins: what the first one still says of it is too late.
    assert operator.status("r", stage.assignment(attempt=3, chunk=-1, pod=OTHER_POD, task="index")) == ""
    assert ONLY_ASSIGNED in first.status("r", progress(0, attempt=2, chunk=-1, final=True, prepared=built))
    assert STALE in second.status("r", progress(0, attempt=3, chunk=0, final=True, prepared=built))
    assert ONLY_PROGRESS in second.status("r", {"prepared": built})
    assert second.status("r", progress(0, attempt=3, chunk=-1, final=True, prepared=built)) == ""
    assert FINAL in second.status("r", progress(0, attempt=3, chunk=-1, final=True, prepared=prepared))
    assert operator.status("r", {"assignment": None, "prepared": built}) == ""
    assert operator.status("r", stage.assignment(attempt=4, chunk=0)) == ""
    estimates = {"Accuracy": {"value": 0.5, "lower": 0.4, "upper": 0.6, "level": 0.95, "method": "wilson"}}
    shard = {**CHECKPOINT, "path": "experiments/e/runs/r/shards/8-4"}
    done = progress(8, attempt=4, final=True, checkpoint=shard, estimates=estimates, prepared=None)
    assert first.status("r", done) == ""
    curve = [{"chunk": 0, "step": 8, "value": 0.5, "lower": 0.4, "upper": 0.6}]
    assert operator.status("r", {"assignment": None, "objective": curve, "objectiveMetric": "Accuracy"}) == ""


def test_a_failed_attempt_keeps_the_checkpoint_and_may_be_tried_again(stage: Stage) -> None:
    operator, worker = stage.operator(), stage.worker()
    operator.status("r", stage.assignment())
    assert worker.status("r", progress(8, final=True, checkpoint=CHECKPOINT)) == ""
    operator.status("r", stage.assignment(attempt=2, chunk=1))
    error = {"reason": "UserCodeError", "message": "it raised", "blame": "Run"}
    assert worker.status("r", progress(9, attempt=2, chunk=1, final=True, error=error)) == ""
    assert operator.status("r", stage.assignment(attempt=3, chunk=1)) == ""
    assert worker.status("r", progress(8, attempt=3, chunk=1, error=None)) == ""
    assert stage.read()["progress"]["checkpoint"] == CHECKPOINT


Who = Callable[["Stage"], "Identity"]
WORKER: Who = lambda stage: stage.worker()  # noqa: E731
OPERATOR: Who = lambda stage: stage.operator()  # noqa: E731
ONLY_ASSIGNED = "only the pod that this run is assigned to may report its progress"
STALE = "stale: this attempt or chunk is no longer the assigned one"
ONLY_PROGRESS = "a worker may write status.progress only"
FINAL = "this attempt has committed already; a final commit is final"
BACK = "progress never goes back"
CHECKPOINT_FINAL = "the checkpoint changes only with a final commit"


@pytest.mark.parametrize(
    ("who", "status", "sentence"),
    [
        pytest.param(lambda s: s.worker(OTHER_POD), progress(6), ONLY_ASSIGNED, id="another pod"),
        pytest.param(WORKER, progress(6, attempt=1, chunk=1), STALE, id="another chunk"),
        pytest.param(WORKER, progress(6, attempt=2), STALE, id="an attempt that was not given out"),
        pytest.param(WORKER, progress(3), BACK, id="going backwards"),
        pytest.param(WORKER, {**progress(6), "state": "Succeeded"}, ONLY_PROGRESS, id="writing state"),
        pytest.param(WORKER, {"state": "Succeeded"}, ONLY_PROGRESS, id="writing state alone"),
        pytest.param(WORKER, {"assignment": {"attempt": 2, "chunk": 1}}, ONLY_PROGRESS, id="writing assignment"),
        pytest.param(WORKER, {"assignment": None}, ONLY_PROGRESS, id="giving its assignment back"),
        pytest.param(WORKER, {"attempt": 2}, ONLY_PROGRESS, id="writing attempt"),
        pytest.param(WORKER, {"objective": [{"chunk": 0, "step": 1, "value": 0.1}]}, ONLY_PROGRESS, id="a curve"),
        pytest.param(WORKER, {"progress": None}, "may not remove status.progress", id="removing progress"),
        pytest.param(WORKER, progress(6, checkpoint=CHECKPOINT), CHECKPOINT_FINAL, id="a checkpoint before the commit"),
        pytest.param(
            lambda s: s.account("rapidfire-worker"), progress(6), ONLY_ASSIGNED, id="a token that is bound to no pod"
        ),
        pytest.param(
            lambda s: s.account("rapidfire-volume"), progress(6), "cannot patch resource", id="another account"
        ),
        pytest.param(lambda s: s.account("rapidfire-user"), progress(6), "cannot patch resource", id="a user"),
        pytest.param(
            lambda s: s.administrator(), progress(6), "by the operator and by its worker alone", id="an administrator"
        ),
        pytest.param(OPERATOR, progress(6), "the operator never writes it", id="the operator writing progress"),
        pytest.param(OPERATOR, {"progress": None}, "the operator never writes it", id="the operator clearing progress"),
        pytest.param(OPERATOR, {"attempt": 0}, "status.attempt never goes back", id="a lower attempt"),
        pytest.param(OPERATOR, {"attempt": None}, "status.attempt never goes back", id="no attempt"),
        pytest.param(
            OPERATOR, {"assignment": {"chunk": 1}}, "status.attempt grows with every assignment", id="the same attempt"
        ),
        pytest.param(
            OPERATOR, {"attempt": 2}, "status.assignment.attempt is status.attempt", id="a counter of its own"
        ),
        pytest.param(
            OPERATOR,
            {"assignment": {"attempt": 2, "chunk": 1}},
            "status.assignment.attempt is status.attempt",
            id="an attempt that the counter does not know",
        ),
    ],
)
def test_refused_while_a_chunk_is_under_way(stage: Stage, who: Who, status: dict[str, Any], sentence: str) -> None:
    assert stage.operator().status("r", stage.assignment()) == ""
    assert stage.worker().status("r", progress(4)) == ""
    before = stage.read()
    assert sentence in who(stage).status("r", status)
    assert stage.read() == before


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        pytest.param(progress(9), "a final commit is final", id="more progress"),
        pytest.param(progress(8, final=True), "a final commit is final", id="the same commit"),
        pytest.param(
            progress(9, final=True, checkpoint={**CHECKPOINT, "step": 9}),
            "a final commit is final",
            id="another commit",
        ),
    ],
)
def test_refused_after_the_final_commit(stage: Stage, status: dict[str, Any], sentence: str) -> None:
    stage.operator().status("r", stage.assignment())
    assert stage.worker().status("r", progress(8, final=True, checkpoint=CHECKPOINT)) == ""
    assert sentence in stage.worker().status("r", status)
    assert stage.read()["progress"]["step"] == 8


@pytest.mark.parametrize("checkpoint", [None, {**CHECKPOINT, "step": 4}], ids=["removed", "of an earlier step"])
def test_a_later_commit_cannot_take_the_checkpoint_back(stage: Stage, checkpoint: dict[str, Any] | None) -> None:
    stage.operator().status("r", stage.assignment())
    stage.worker().status("r", progress(8, final=True, checkpoint=CHECKPOINT))
    assert stage.operator().status("r", stage.assignment(attempt=2, chunk=1)) == ""
    answer = stage.worker().status("r", progress(16, attempt=2, chunk=1, final=True, checkpoint=checkpoint))
    assert "never removed or replaced by one of an earlier step" in answer


def test_refused_once_the_run_was_given_to_another_attempt(stage: Stage) -> None:
    stage.operator().status("r", stage.assignment())
    assert stage.operator().status("r", stage.assignment(attempt=2)) == ""
    assert STALE in stage.worker().status("r", progress(8, attempt=1, final=True, checkpoint=CHECKPOINT))


def test_refused_once_the_run_was_given_to_another_pod(stage: Stage) -> None:
    stage.operator().status("r", stage.assignment())
    assert stage.operator().status("r", stage.assignment(attempt=2, pod=OTHER_POD)) == ""
    assert ONLY_ASSIGNED in stage.worker().status("r", progress(8, final=True, checkpoint=CHECKPOINT))


def test_refused_once_the_assignment_was_cleared(stage: Stage) -> None:
    stage.operator().status("r", stage.assignment())
    assert stage.operator().status("r", {"assignment": None}) == ""
    assert ONLY_ASSIGNED in stage.worker().status("r", progress(8, final=True, checkpoint=CHECKPOINT))


def test_an_attempt_is_not_used_again_after_its_assignment_was_cleared(stage: Stage) -> None:
    stage.operator().status("r", stage.assignment())
    stage.operator().status("r", {"assignment": None})
    assert "status.attempt grows with every assignment" in stage.operator().status("r", stage.assignment())


def test_a_pod_of_the_same_name_with_another_uid_is_another_pod(stage: Stage) -> None:
    stage.operator().status("r", stage.assignment())
    stage.delete_pod("e-w-0-aaaaa")
    stage.create_pod("e-w-0-aaaaa")
    assert ONLY_ASSIGNED in stage.worker().status("r", progress(4))


def test_a_worker_may_not_touch_the_spec_or_make_and_delete_runs(stage: Stage) -> None:
    path = f"/apis/rapidfire.ai/v1alpha1/namespaces/{stage.namespace}/runs"
    merge = {"Content-Type": "application/merge-patch+json"}
    worker = stage.worker()
    spec = {"spec": {"desiredState": "Stopped"}}
    assert "cannot patch resource" in worker.send("PATCH", f"{path}/r", json=spec, headers=merge)
    assert "cannot delete resource" in worker.send("DELETE", f"{path}/r")
    assert "cannot create resource" in worker.send("POST", path, json={})


def test_the_largest_status_is_still_checked(stage: Stage) -> None:
    """The cost of an expression is bounded by the API server; a long run must not run into the bound."""
    prepared = {"totalSteps": 4096, "boundaries": list(range(1, 4097)), "bytes": 1}
    curve = [{"chunk": each, "step": each, "value": 0.5} for each in range(256)]
    operator, worker = stage.operator(), stage.worker()
    assert operator.status("r", {**stage.assignment(), "prepared": prepared, "objective": curve}) == ""
    metrics = {f"boundary/metric_{each}": 0.5 for each in range(32)}
    assert worker.status("r", progress(1, metrics=metrics, prepared=prepared)) == ""
    assert operator.status("r", {"state": "Stopped"}) == ""
    assert worker.status("r", progress(2, final=True, checkpoint=CHECKPOINT)) == ""
    assert "a final commit is final" in worker.status("r", progress(3))
