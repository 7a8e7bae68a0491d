"""What a pass decides about an experiment that is suspended, that expires, and whose runs have priorities."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.operator.test_reconcile import NOW, Scene

from rapidfireai.api import Condition
from rapidfireai_operator.core.conditions import Verdict
from rapidfireai_operator.core.diagnose import workers_ready
from rapidfireai_operator.core.expiry import announced, expiry
from rapidfireai_operator.core.schedule import Candidate, Snapshot, Worker, plan
from rapidfireai_operator.core.snapshot import JobView, Slot
from rapidfireai_operator.core.suspension import RUN_WAITS, suspension

FINISHED = (Verdict("Finished", "True", "AllSucceeded", "1 succeeded."),)


def judged(patch: Any, type_: str) -> dict[str, Any]:
    return next(each for each in patch.status["conditions"] if each["type"] == type_)


def finished(seconds: float) -> list[Condition]:
    moment = datetime.fromtimestamp(seconds, UTC)
    return [Condition(type="Finished", status="True", reason="AllSucceeded", last_transition_time=moment)]


def test_a_suspended_experiment_takes_its_workers_away_and_gives_out_nothing() -> None:
    scene = Scene(runs=2, replicas=2, suspend=True)
    scene.add("experiments", "exp", spec=scene.body["spec"], status={"nextIndex": 3})
    scene.worker(0)
    scene.worker(1)
    scene.run(1)
    scene.run(2)
    outcome = scene.look()
    assert (outcome.remove_jobs, outcome.make_jobs) == (("exp-w-0", "exp-w-1"), ())
    assert all("assignment" not in patch.status for patch in outcome.runs)
    assert {judged(patch, "Progressing")["message"] for patch in outcome.runs} == {RUN_WAITS}
    assert outcome.experiment is not None
    assert outcome.experiment.status["state"] == "Suspended"
    told = judged(outcome.experiment, "Suspended")
    assert (told["status"], told["reason"]) == ("False", "Suspending")


def test_an_experiment_that_was_never_suspended_says_nothing_about_it() -> None:
    assert suspension([], suspend=False, leaving=0) == []
    (told,) = suspension([], suspend=True, leaving=0)
    assert told.status == "True"


def test_an_experiment_expires_so_long_after_its_end() -> None:
    assert expiry([], FINISHED, None, NOW) is None
    assert expiry([], (), 60, NOW) is None
    assert expiry([], FINISHED, 60, NOW) == NOW + 60
    assert expiry(finished(NOW - 10), FINISHED, 60, NOW) == NOW + 50
    (told,) = announced(FINISHED, NOW + 50)
    assert told.message.startswith("1 succeeded. It is deleted at 2023-11-14T22:14:10Z (spec.ttlSecondsAfterFinished)")


def test_a_job_that_kueue_holds_back_is_said_to_wait_for_its_queue() -> None:
    slot = Slot("exp-w-0", JobView("exp-w-0", "u", "owner", suspended=True, queue="team"))
    verdict = workers_ready(1, [], {"exp-w-0": slot}, ["exp-w-0"], {})
    assert verdict.reason == "Queued"
    assert "queue team" in verdict.message


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=8))
def test_the_highest_priority_that_may_go_goes_first(runs: list[tuple[int, int]]) -> None:
    candidates = tuple(
        Candidate(f"r{index}", index, done=done, remaining=10, priority=priority)
        for index, (done, priority) in enumerate(runs)
    )
    (decision,) = plan(Snapshot(candidates, (Worker("w", "w/1"),)))[:1]
    turns = {each.turn for each in candidates}
    fair = [each for each in candidates if each.turn - 2 not in turns]
    chosen = next(each for each in fair if each.name == decision.run)
    assert chosen.priority == max(each.priority for each in fair)
