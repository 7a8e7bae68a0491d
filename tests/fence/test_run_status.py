"""What the fence lets through: the lives of runs, as their operator and their workers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fence.attacks import CHECKPOINT, FINAL, ONLY_ASSIGNED, ONLY_PROGRESS, OTHER_POD, STALE, progress

if TYPE_CHECKING:
    from tests.fence.conftest import Stage

pytestmark = pytest.mark.integration


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


def test_an_adopted_run_goes_on_from_its_commit_and_never_behind_it(stage: Stage) -> None:
    operator, worker = stage.operator(), stage.worker()
    assert operator.status("r", {**stage.assignment(attempt=6, chunk=1), "adopted": CHECKPOINT}) == ""
    earlier = progress(4, attempt=6, chunk=1, final=True, checkpoint={**CHECKPOINT, "step": 4})
    assert "the one that the run was adopted with" in worker.status("r", earlier)
    assert ONLY_PROGRESS in worker.status("r", {"adopted": {**CHECKPOINT, "step": 4}})
    later = {**CHECKPOINT, "path": "experiments/e/runs/r/checkpoints/16-6", "step": 16}
    assert worker.status("r", progress(16, attempt=6, chunk=1, final=True, checkpoint=later)) == ""


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
