"""What a worker decides to do next, for every picture that the API server may show it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai.api import Run
from rapidfireai_worker.slot import Grant, Slot, decide, finish, grant_of, must_leave

ME = "e-w-0-aaaaa/1"
OTHER = "e-w-0-aaaaa/0"
UIDS = ("a", "b", "c", "d")


def run_of(
    uid: str,
    *,
    process: str | None = ME,
    attempt: int = 1,
    granted: float = 1.0,
    desired: str = "Running",
    state: str = "Running",
    committed: int = 0,
    deleted: bool = False,
    when: str = "Boundary",
) -> Run:
    status: dict[str, Any] = {"state": state, "attempt": attempt}
    if process is not None:
        status["assignment"] = {
            "worker": "e-w-0",
            "pod": "e-w-0-aaaaa",
            "podUID": "u",
            "process": process,
            "attempt": attempt,
            "task": "chunk",
            "chunk": 0,
            "grantedAt": granted,
        }
    if committed:
        status["progress"] = {"attempt": committed, "chunk": 0, "step": 4, "final": True}
    return Run.from_body(
        {
            "metadata": {
                "name": f"e-{uid}",
                "uid": uid,
                "deletionTimestamp": datetime(2026, 1, 1, tzinfo=UTC) if deleted else None,
            },
            "spec": {"experimentRef": "e", "index": 1, "config": {}, "desiredState": desired, "when": when},
            "status": status,
        }
    )


runs = st.fixed_dictionaries(
    {},
    optional={
        uid: st.builds(
            run_of,
            st.just(uid),
            process=st.sampled_from([ME, OTHER, None]),
            attempt=st.integers(1, 4),
            granted=st.sampled_from([1.0, 2.0, 3.0]),
            desired=st.sampled_from(["Running", "Stopped", "Deleted"]),
            when=st.sampled_from(["Boundary", "Immediate"]),
            committed=st.integers(0, 4),
            deleted=st.booleans(),
        )
        for uid in UIDS
    },
)
grants = st.builds(
    Grant,
    uid=st.sampled_from(UIDS),
    name=st.just("e-a"),
    attempt=st.integers(1, 4),
    task=st.just("chunk"),
    chunk=st.just(0),
    granted_at=st.sampled_from([1.0, 2.0]),
)
slots = st.builds(
    Slot,
    process=st.just(ME),
    computing=st.none() | grants,
    concluding=st.frozensets(grants, max_size=2),
    finished=st.dictionaries(st.sampled_from(UIDS), st.integers(1, 4)),
    residents=st.frozensets(st.sampled_from(UIDS)),
    leaving=st.booleans(),
)


@given(runs, slots)
def test_only_an_open_assignment_of_this_very_process_is_begun(runs: dict[str, Run], slot: Slot) -> None:
    start = decide(runs, slot).start
    if start is None:
        return
    run = runs[start.uid]
    assert start == grant_of(run, ME)
    assert run.spec.desired_state == "Running"
    assert run.metadata.deletion_timestamp is None
    assert run.status.progress is None or run.status.progress.attempt < start.attempt
    assert start.attempt > slot.finished.get(start.uid, 0)
    assert slot.computing is None
    assert not slot.leaving
    assert start.uid not in {grant.uid for grant in slot.busy}


@given(runs, slots)
def test_no_older_assignment_is_passed_over(runs: dict[str, Run], slot: Slot) -> None:
    start = decide(runs, slot).start
    if start is not None:
        without = {uid: run for uid, run in runs.items() if uid != start.uid}
        following = decide(without, slot).start
        assert following is None or (start.granted_at, start.uid) < (following.granted_at, following.uid)


@given(runs, slots)
def test_what_was_begun_is_withdrawn_exactly_when_it_is_no_longer_assigned(runs: dict[str, Run], slot: Slot) -> None:
    withdrawn = decide(runs, slot).withdrawn
    for grant in slot.busy:
        run = runs.get(grant.uid)
        assert (grant in withdrawn) == (run is None or grant_of(run, ME) != grant)


@given(runs, slots)
def test_what_was_begun_is_parked_exactly_when_its_run_is_to_end_at_once(runs: dict[str, Run], slot: Slot) -> None:
    decision = decide(runs, slot)
    assert not decision.parked & decision.withdrawn
    for grant in slot.busy - decision.withdrawn:
        spec = runs[grant.uid].spec
        assert (grant in decision.parked) == (spec.desired_state != "Running" and spec.when == "Immediate")


@given(runs, slots)
def test_a_resident_is_looked_at_only_if_nothing_is_to_do_for_it(runs: dict[str, Run], slot: Slot) -> None:
    idle = decide(runs, slot).idle
    assert idle <= slot.residents
    for uid in slot.residents:
        busy = uid in {grant.uid for grant in slot.busy} or (uid in runs and grant_of(runs[uid], ME) is not None)
        assert (uid in idle) == (not busy)


@given(runs)
def test_every_open_assignment_is_done_once(runs: dict[str, Run]) -> None:
    """Working through what is there ends, and no attempt is begun twice."""
    slot, begun = Slot(ME), []
    while (start := decide(runs, slot).start) is not None:
        begun.append((start.uid, start.attempt))
        slot = finish(replace(slot, computing=start, concluding=frozenset()), start)
        slot = replace(slot, computing=None)
    assert len(begun) == len(set(begun))
    assert decide(runs, slot).withdrawn == frozenset()


@pytest.mark.parametrize("desired", ["Stopped", "Deleted"])
def test_a_run_that_is_to_stop_goes_on_to_its_boundary(desired: str) -> None:
    run = run_of("a", desired=desired)
    grant = grant_of(run, ME)
    assert grant is not None
    decision = decide({"a": run}, Slot(ME, computing=grant))
    assert (decision.withdrawn, decision.parked) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("run", "leaves"),
    [
        (None, True),
        (run_of("a", process=None), False),
        (run_of("a", process=None, state="Pending"), False),
        (run_of("a", process=None, desired="Stopped"), True),
        (run_of("a", process=None, desired="Deleted"), True),
        (run_of("a", process=None, state="Deleted"), True),
        (run_of("a", process=None, state="Succeeded"), True),
        (run_of("a", process=None, state="Failed"), True),
        (run_of("a", process=None, deleted=True), True),
    ],
)
def test_a_resident_leaves_when_its_run_is_gone_stopped_or_over(run: Run | None, leaves: bool) -> None:
    assert must_leave(run) is leaves
