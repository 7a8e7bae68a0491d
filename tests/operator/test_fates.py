"""Whether a process lives, and who pays if not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rapidfireai.api.run import Assignment
from rapidfireai_operator.core.fates import fate, takes_work
from rapidfireai_operator.core.snapshot import JobView, LeaseView, PodView, Slot, Termination

THEN = datetime(2026, 1, 1, tzinfo=UTC)
POD = PodView("exp-w-0-abcde", "uid-1", phase="Running")
LEASE = LeaseView("exp-w-0-abcde/first", THEN, age=3.0)
SLOT = Slot("exp-w-0", JobView("exp-w-0", "job-1", "owner"), {"uid-1": POD}, LEASE)
GIVEN = Assignment(
    worker="exp-w-0",
    pod=POD.name,
    pod_uid=POD.uid,
    process=LEASE.holder,
    attempt=1,
    task="chunk",
    chunk=0,
    granted_at=0.0,
)


def slot(pod: PodView | None = POD, lease: LeaseView | None = LEASE) -> Slot:
    return Slot("exp-w-0", SLOT.job, {pod.uid: pod} if pod is not None else {}, lease)


def ended(code: int, seconds: float = 1.0, reason: str = "Error") -> Termination:
    return Termination(code, reason, "", THEN + timedelta(seconds=seconds))


def test_a_worker_that_renews_lives_and_takes_work() -> None:
    assert fate(GIVEN, {"exp-w-0": SLOT}, 30) is None
    assert takes_work(SLOT, 30) == LEASE.holder


CRASHES = {
    "its container ended": slot(replace(POD, terminated=ended(137, reason="OOMKilled"))),
    "its container waits to be started again": slot(
        replace(POD, waiting_reason="CrashLoopBackOff", restarts=1, last_terminated=ended(139))
    ),
    "its container was started again and has not renewed": slot(replace(POD, restarts=1, last_terminated=ended(1))),
    "a new process took the Lease": slot(
        replace(POD, restarts=1, last_terminated=ended(-9 & 0xFF, -9)), replace(LEASE, holder="exp-w-0-abcde/second")
    ),
}


@pytest.mark.parametrize("seen", CRASHES.values(), ids=CRASHES.keys())
def test_a_process_that_took_itself_down_crashed(seen: Slot) -> None:
    judged = fate(GIVEN, {"exp-w-0": seen}, 30)
    assert judged is not None
    assert judged.crashed, judged.message


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            ended(137, reason="OOMKilled"),
            "(OOMKilled): it used more memory than its limit: raise resources.limits.memory",
        ),
        (ended(137), "exit code 137: it was killed, most likely because the machine ran out of memory"),
        (ended(124), "exit code 124: it hung: nothing came of its chunk"),
        (ended(3), "exit code 3: the device is broken"),
    ],
)
def test_a_crash_says_what_it_was_and_what_helps(how: Termination, words: str) -> None:
    judged = fate(GIVEN, {"exp-w-0": slot(replace(POD, terminated=how))}, 30)
    assert judged is not None
    assert judged.crashed
    assert words in judged.message


NOT_ITS_FAULT = {
    "the pod is gone": slot(None),
    "the pod was deleted and its container ended": slot(replace(POD, leaving=True, terminated=ended(137))),
    "the node is being drained": slot(replace(POD, disrupted=True, terminated=ended(137))),
    "the pod was evicted": slot(replace(POD, phase="Failed", reason="Evicted", terminated=ended(137))),
    "it obeyed SIGTERM": slot(replace(POD, terminated=ended(143))),
    "it lost the API server": slot(replace(POD, terminated=ended(75))),
    "it said goodbye": slot(lease=replace(LEASE, holder="")),
    "it fell silent": slot(lease=replace(LEASE, age=31.0)),
    "another pod took over": slot(lease=replace(LEASE, holder="exp-w-0-fghij/x")),
}


@pytest.mark.parametrize("seen", NOT_ITS_FAULT.values(), ids=NOT_ITS_FAULT.keys())
def test_what_the_cluster_did_is_no_crash(seen: Slot) -> None:
    judged = fate(GIVEN, {"exp-w-0": seen}, 30)
    assert judged is not None
    assert not judged.crashed, judged.message
    assert judged.message


def test_an_earlier_termination_says_nothing_about_the_process_that_lives_now() -> None:
    assert fate(GIVEN, {"exp-w-0": slot(replace(POD, restarts=1, last_terminated=ended(1, -60)))}, 30) is None


def test_a_pod_that_was_told_to_leave_lives_but_gets_nothing_new() -> None:
    leaving = slot(replace(POD, leaving=True))
    assert fate(GIVEN, {"exp-w-0": leaving}, 30) is None
    assert takes_work(leaving, 30) is None
