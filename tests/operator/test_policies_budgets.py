"""Limits of time and cost: what was used, when all runs stop, and that it happens once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.test_reconcile import NOW, PREPARED, Scene

from rapidfireai.api import Run, RunSpec, RunStatus
from rapidfireai.api.policies import Policy, Usage
from rapidfireai_operator.core import policies
from rapidfireai_operator.core.budgets import limits, use
from rapidfireai_operator.core.conditions import instant
from rapidfireai_operator.core.outcome import Outcome
from rapidfireai_operator.core.race import racer
from rapidfireai_operator.core.snapshot import PodView, Slot
from rapidfireai_operator.core.summary import Tally, tally

HOUR = 3600.0
DONE = {"type": "Complete", "status": "True", "reason": "Applied", "lastTransitionTime": "2023-11-14T22:13:20Z"}
COST = Policy.model_validate({"maxCost": {"limit": 20, "pricePerWorkerHour": 2.5}})
TIME = Policy.model_validate({"maxDuration": {"limit": "8h"}})


def run(state: Any) -> Tally:
    return replace(tally(Run(spec=RunSpec(experiment_ref="exp", index=1, config={})), RunStatus()), state=state)


def workers(count: int, phase: str = "Running") -> dict[str, Slot]:
    return {f"w{each}": Slot(f"w{each}", pods={"p": PodView("p", "p", phase)}) for each in range(count)}


def test_time_counts_while_a_run_is_under_way_and_workers_while_their_pods_run() -> None:
    waiting = use(Usage(), [run("Pending")], workers(2, "Pending"), NOW)
    assert waiting == Usage(), "nothing is used while the cluster has no room"
    begun = use(waiting, [run("Pending")], workers(2), NOW)
    training = use(begun, [run("Running")], workers(2), NOW + 60)
    one_left = use(training, [run("Running")], workers(1), NOW + 160)
    rest = use(one_left, [run("Stopped")], workers(1), NOW + 200)
    gone = use(rest, [run("Stopped")], {}, NOW + 500)
    assert (gone.active_seconds, gone.worker_seconds) == (140, 2 * 160 + 340)
    assert use(gone, [run("Stopped")], {}, NOW + 9000) is gone, "nothing is written while nothing changes"


@pytest.mark.parametrize(
    ("policy", "usage", "reached"),
    [
        (TIME, Usage(active=True, since=instant(NOW)), NOW + 8 * HOUR),
        (TIME, Usage(active=True, active_seconds=7 * HOUR, since=instant(NOW)), NOW + HOUR),
        (TIME, Usage(active=False, active_seconds=7 * HOUR, since=instant(NOW)), None),
        (COST, Usage(workers=2, since=instant(NOW)), NOW + 4 * HOUR),
        (COST, Usage(workers=0, worker_seconds=HOUR, since=instant(NOW)), None),
        (COST, Usage(workers=0, worker_seconds=9 * HOUR, since=instant(NOW)), NOW),
    ],
)
def test_a_limit_is_reached_when_what_is_used_adds_up_to_it(
    policy: Policy, usage: Usage, reached: float | None
) -> None:
    (limit,) = limits([policy], usage)
    assert limit.reached_at == reached


def scene(spent: float, **status: Any) -> Scene:
    """Return two runs under way, whose experiment has run for `spent` seconds."""
    made = Scene(runs=2, replicas=0, policies=[{"maxDuration": {"limit": "8h"}}])
    usage = {"activeSeconds": spent, "active": True, "since": "2023-11-14T22:13:20Z"}
    made.add("experiments", "exp", spec=made.body["spec"], status={"nextIndex": 3, "usage": usage, **status})
    made.run(1, prepared=PREPARED)
    made.run(2, prepared=PREPARED)
    return made


def operations(outcome: Outcome) -> list[Any]:
    return [(body["metadata"]["name"], body["spec"]) for body in outcome.make_icops]


def test_the_operator_looks_again_when_the_limit_is_reached() -> None:
    outcome = scene(7.5 * HOUR).look()
    assert not outcome.make_icops
    assert outcome.look_again == pytest.approx(NOW + HOUR / 2, abs=0.2) or outcome.look_again == NOW + 10.1


def test_all_runs_stop_by_one_operation_that_says_why() -> None:
    made = scene(8 * HOUR)
    ((name, spec),) = operations(made.look())
    assert name.startswith("exp-maxduration-8h-")
    assert spec == {
        "experimentRef": "exp",
        "op": "Stop",
        "requestedBy": "policy:maxDuration",
        "selector": {"states": ["Pending", "Running"]},
        "when": "Immediate",
        "reason": "the experiment has run for 8h; raise maxDuration, or resume runs by hand",
    }
    assert operations(made.look(NOW + 1)) == [(name, spec)], "an operator that died before it was made says the same"


def test_a_limit_that_was_reached_is_on_record_and_holds_once() -> None:
    made = scene(8 * HOUR)
    (body,) = made.look().make_icops
    made.add("icops", body["metadata"]["name"], spec=body["spec"], status={"conditions": [DONE]})
    outcome = made.look()
    assert not outcome.make_icops
    assert outcome.experiment is not None
    (record,) = outcome.experiment.status["policies"]
    assert (record["policy"], record["limit"]) == ("maxDuration", "8h")
    assert [event.message for event in outcome.experiment.events if event.reason == "PolicyActed"] == [
        "maxDuration stopped all runs: the experiment has run for 8h; raise maxDuration, or resume runs by hand"
    ]
    assert not scene(9 * HOUR, policies=[record]).look().make_icops, "somebody resumed them and deleted the ICOp"
    raised = scene(9 * HOUR, policies=[{**record, "limit": "7h"}])
    assert operations(raised.look()), "another limit is another decision"


def test_policies_wait_until_all_runs_are_made() -> None:
    made = scene(8 * HOUR)
    world, spec = made.world(), made.verdict().spec
    racers = [racer(each, each.status) for each in world.runs]
    tallies = [each.tally for each in world.standings]
    assert policies.apply(world, spec, tallies, racers, complete=True).icops
    assert not policies.apply(world, spec, tallies, racers, complete=False).icops


def test_a_loser_gets_no_further_chunk_while_its_stop_is_on_its_way() -> None:
    made = Scene(runs=2, replicas=2, policies=[{"successiveHalving": {"eta": 2}}])
    made.add("experiments", "exp", spec=made.body["spec"], status={"nextIndex": 3})
    checkpoint = {"path": "4-2", "digest": "0" * 64, "step": 4}
    progress = {"attempt": 2, "chunk": 0, "step": 4, "final": True, "checkpoint": checkpoint}
    for index, value in ((1, 0.5), (2, 0.7)):
        curve = [{"chunk": 0, "step": 4, "value": value}]
        made.run(index, attempt=2, progress=progress, objective=curve, objectiveMetric="boundary/eval_loss")
    made.worker(0)
    made.worker(1)
    outcome = made.look()
    assert [body["spec"]["runs"] for body in outcome.make_icops] == [["exp-r2"]]
    given = {patch.name for patch in outcome.runs if patch.status.get("assignment")}
    assert given == {"exp-r1"}


def halved(name: str | None = None) -> Scene:
    """Return two runs of which the second was stopped by an ICOp; of a name of one's own, or as the policy calls it."""
    made = Scene(runs=2, replicas=0, policies=[{"successiveHalving": {"eta": 2}}])
    made.add("experiments", "exp", spec=made.body["spec"], status={"nextIndex": 3})
    checkpoint = {"path": "4-2", "digest": "0" * 64, "step": 4}
    progress = {"attempt": 2, "chunk": 0, "step": 4, "final": True, "checkpoint": checkpoint}
    for index, value in ((1, 0.5), (2, 0.7)):
        curve = [{"chunk": 0, "step": 4, "value": value}]
        made.run(index, attempt=2, progress=progress, objective=curve, objectiveMetric="boundary/eval_loss")
    (body,) = made.look().make_icops
    metadata = body["metadata"]
    made.add("icops", name or metadata["name"], metadata["labels"], spec=body["spec"], status={"conditions": [DONE]})
    return made


def test_what_a_run_was_stopped_for_is_kept_at_the_run() -> None:
    outcome = halved().look()
    (written,) = [patch for patch in outcome.runs if patch.status.get("stoppedBy")]
    reason = "boundary/eval_loss 0.7 after 1 chunk is place 2 of 2; the best one goes on, with 0.5 or better"
    assert written.name == "exp-r2"
    assert written.status["stoppedBy"] == [{"policy": "successiveHalving", "chunks": 1, "reason": reason}]
    assert outcome.experiment is not None
    assert [(each["chunks"], each["stopped"]) for each in outcome.experiment.status["policies"]] == [(1, 1)]


def test_an_icop_that_only_looks_like_a_policys_counts_for_nothing() -> None:
    assert not any(patch.status.get("stoppedBy") for patch in halved("mine").look().runs)
