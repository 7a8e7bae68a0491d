"""Experiments that go on with what a lost cluster has left: which runs are made, how they begin, who may have them."""

from __future__ import annotations

from typing import Any

from tests.operator.builders import merged
from tests.operator.test_reconcile import NOW, PREPARED, Scene

from rapidfireai.api import ExperimentSpec, Run
from rapidfireai_operator.core.acceptance import Refused, judge
from rapidfireai_operator.core.adoption import beginning, configs_of, home_of_new, rival
from rapidfireai_operator.core.lifecycle import Holding, Limits, candidate, chunks_done, describe, settle
from rapidfireai_operator.core.snapshot import Subject

OLD, HOME = "0a0a0a0a-0000-4000-8000-000000000001", "0b0b0b0b-0000-4000-8000-000000000001"
COMMIT = {"path": f"experiments/{OLD}/runs/{HOME}/checkpoints/8-3", "digest": "c" * 64, "step": 8}
LIMITS = Limits(0, 2, "eval_loss")


def home(index: int) -> str:
    return f"{HOME[:-1]}{index}"


def before(index: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "experimentUID": OLD,
        "runUID": home(index),
        "attempt": 5,
        "checkpoint": COMMIT,
        "prepared": PREPARED,
        **more,
    }


def adopted(*runs: dict[str, Any], next_index: int = 1) -> dict[str, Any]:
    return {"uid": OLD, "nextIndex": next_index, "runs": list(runs)}


def run(desired: str = "Running", status: dict[str, Any] | None = None, **more: Any) -> Run:
    spec = {"experimentRef": "exp", "index": 1, "config": {}, "desiredState": desired, "adopted": before(**more)}
    return Run.from_body({"metadata": {"name": "exp-r1", "uid": "new"}, "spec": spec, "status": status or {}})


def test_runs_are_made_again_with_their_numbers_and_used_numbers_stay_used() -> None:
    clone = {
        "index": 5,
        "config": {"model_name": "tiny", "training_args": {}},
        "desiredState": "Stopped",
        "priority": 3,
        "parentRef": {"name": "old-r1", "uid": HOME, "index": 1, "warmStart": True, "checkpoint": COMMIT},
        "adopted": before(5),
    }
    brought = adopted({"index": 1, "adopted": before()}, {"index": 3, "adopted": before(3)}, clone, next_index=7)
    outcome = Scene(runs=4, adopted=brought).look()
    made = {body["spec"]["index"]: body["spec"] for body in outcome.create}
    assert sorted(made) == [1, 3, 5]
    assert made[1]["config"]["training_args"]["learning_rate"] == 0.001
    assert made[3]["adopted"]["checkpoint"] == COMMIT
    assert (made[5]["config"], made[5]["desiredState"], made[5]["priority"]) == (clone["config"], "Stopped", 3)
    assert made[5]["parentRef"]["name"] == "exp-r1", "the parent is called as it is now"


def test_a_new_run_has_its_files_beside_those_of_the_adopted_ones() -> None:
    scene = Scene(runs=2, adopted=adopted({"index": 1, "adopted": before()}, next_index=2))
    made = {body["spec"]["index"]: body["spec"] for body in scene.look().create}
    assert made[2]["adopted"] == {"experimentUID": OLD}
    assert home_of_new(scene.subject()) == {"adopted": {"experimentUID": OLD}}
    assert home_of_new(Scene().subject()) == {}
    new = Run.from_body({"metadata": {"uid": "own"}, "spec": {**made[2]}, "status": {}})
    assert new.volume_uid == "own"
    status = describe(new, settle(new, Holding(), LIMITS, NOW).status, NOW).status
    assert (status.state, status.attempt, status.committed) == ("Pending", 0, None)


def test_what_the_lost_operator_had_not_made_yet_is_made_as_usual() -> None:
    spec = {"adopted": adopted({"index": 1, "adopted": before()}, next_index=3)}
    parsed = ExperimentSpec.model_validate({**Scene(runs=4).body["spec"], **spec})
    leaves = [{"n": n} for n in range(1, 5)]
    assert configs_of(parsed, leaves) == ({"n": 1}, None, {"n": 3}, {"n": 4})


def test_the_next_clone_gets_a_number_behind_all_that_were_used() -> None:
    scene = Scene(runs=1, adopted=adopted({"index": 1, "adopted": before()}, next_index=7))
    scene.run(1)
    patch = scene.look().experiment
    assert patch is not None and patch.status["nextIndex"] == 7


def test_a_run_under_way_is_given_its_next_chunk_without_being_prepared() -> None:
    scene = Scene(runs=1, replicas=1, adopted=adopted({"index": 1, "adopted": before()}, next_index=2))
    scene.add("runs", "exp-r1", spec=run().spec.to_wire(), status={})
    scene.worker(0)
    (patch,) = scene.look().runs
    given = patch.status["assignment"]
    assert (given["task"], given["chunk"], given["attempt"]) == ("chunk", 2, 6)
    assert patch.status["adopted"] == COMMIT
    assert patch.status["display"]["chunks"] == "2/4"


def test_a_run_that_had_ended_stays_so_and_gets_no_work() -> None:
    for state in ("Succeeded", "Failed"):
        one = run(state=state, error={"reason": "NonFiniteLoss", "message": "the loss is nan"})
        step = settle(one, Holding(), LIMITS, NOW)
        described = describe(one, step.status, NOW).status
        assert described.state == state
        assert candidate(one, described, NOW) is None
        said = {each.type: (each.status, each.reason) for each in described.conditions}
        assert said["Finished"][0] == "True"
        if state == "Failed":
            assert said["Succeeded"] == ("False", "NonFiniteLoss")


def test_a_run_whose_last_commit_nobody_took_up_has_succeeded() -> None:
    through = run(checkpoint={**COMMIT, "step": PREPARED["totalSteps"]})
    status = settle(through, Holding(), LIMITS, NOW).status
    assert status.state == "Succeeded"
    assert candidate(through, status, NOW) is None


def test_a_stopped_run_stands_where_it_stood() -> None:
    stopped = run("Stopped", objective=[{"chunk": 1, "step": 8, "value": 1.5}], objectiveMetric="chunk/loss")
    status = describe(stopped, settle(stopped, Holding(), LIMITS, NOW).status, NOW).status
    assert (status.state, status.display.chunks, status.display.objective) == ("Stopped", "2/4", "1.5")
    assert status.committed is not None and status.committed.step == 8


def test_its_own_commit_takes_the_place_of_the_adopted_one() -> None:
    later = {"attempt": 6, "chunk": 2, "step": 12, "final": True, "checkpoint": {**COMMIT, "step": 12}}
    going_on = run(status={"state": "Running", "attempt": 6, "adopted": COMMIT, "prepared": PREPARED})
    assert chunks_done(going_on.status) == 2
    assert beginning(going_on) == going_on.status, "it has begun: nothing is begun twice"
    body = merged(going_on.status.to_wire(), {"progress": later})
    assert chunks_done(run(status=body).status) == 3


def test_a_run_of_which_only_the_commit_is_known_is_prepared_and_may_be_at_its_end() -> None:
    held = {"worker": "w", "pod": "p", "podUID": "u", "process": "p/1", "attempt": 6, "task": "prepare", "chunk": -1}
    done = {"attempt": 6, "chunk": -1, "step": 0, "final": True, "prepared": {"totalSteps": 8, "boundaries": [4, 8]}}
    status = {"state": "Running", "attempt": 6, "adopted": COMMIT, "assignment": {**held, "grantedAt": 1.0}}
    ended = run(prepared=None, status={**status, "progress": done})
    assert settle(ended, Holding(), LIMITS, NOW).status.state == "Succeeded"


def test_two_runs_never_share_a_directory() -> None:
    brought = adopted({"index": 1, "adopted": before()}, {"index": 2, "adopted": before()}, next_index=3)
    verdict = judge("exp", Scene(runs=2, adopted=brought).body["spec"], allow_file_uris=False)
    assert isinstance(verdict, Refused)
    assert f"{HOME} is the directory of two runs" in verdict.message


def subject(name: str, uid: str, created: str, adopts: str = "") -> Subject:
    spec = {"adopted": {"uid": adopts}} if adopts else {}
    body = {"metadata": {"creationTimestamp": created}, "spec": spec}
    return Subject("n", name, uid, 1, "1", False, body, None)  # type: ignore[arg-type]


def test_one_experiment_at_a_time_has_a_directory() -> None:
    first = subject("first", "1", "2026-01-01T00:00:00Z", OLD)
    second = subject("second", "2", "2026-01-01T00:00:01Z", OLD)
    others = [first, second, subject("plain", "3", "2026-01-01T00:00:00Z")]
    assert rival(first, others) is None
    assert rival(second, others) == "first"
    owner = subject("owner", OLD, "2026-02-01T00:00:00Z")
    assert rival(first, [*others, owner]) == "owner", "it was never lost"
