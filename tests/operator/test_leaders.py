"""Who leads, by a clock that is turned by hand: two never do, whatever their clocks show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_operator.core.election import KEPT, Election

SECONDS = 10.0


def test_a_lease_is_taken_once_it_did_not_change_for_its_duration() -> None:
    election = Election("b", SECONDS)
    assert election.wait("a", "1", SECONDS, 100.0) == SECONDS
    assert election.wait("a", "1", SECONDS, 109.0) == 1.0
    assert election.wait("a", "2", SECONDS, 109.5) == SECONDS
    assert election.wait("a", "2", SECONDS, 119.5) == 0.0


@pytest.mark.parametrize("holder", ["", "b"])
def test_a_lease_that_was_given_back_or_is_its_own_is_taken_at_once(holder: str) -> None:
    assert Election("b", SECONDS).wait(holder, "1", SECONDS, 100.0) == 0.0


def test_a_leader_stops_before_its_lease_runs_out() -> None:
    election = Election("a", SECONDS)
    assert election.left(0.0) == 0.0
    election.renewed(100.0)
    assert election.left(100.0 + KEPT * SECONDS - 1) == pytest.approx(1.0)
    assert election.left(100.0 + KEPT * SECONDS) == 0.0
    election.renewed(105.0)
    election.resign()
    assert election.left(105.0) == 0.0


@given(
    offset=st.floats(-1e6, 1e6),
    renewals=st.lists(st.tuples(st.floats(0, 7), st.floats(0, 5)), min_size=1, max_size=8),
    looks=st.lists(st.floats(0.05, 3), min_size=1, max_size=60),
)
def test_a_leader_has_stopped_before_another_begins(
    offset: float, renewals: list[tuple[float, float]], looks: list[float]
) -> None:
    """Renewals travel for a while, the other's clock shows something else, and it looks when it likes."""
    leader, other = Election("a", SECONDS), Election("b", SECONDS)
    sent, arrivals = 0.0, []
    for pause, journey in renewals:
        sent += pause
        leader.renewed(sent)
        arrivals.append(sent + journey)
    now = arrivals[0]
    for pause in looks:
        now += pause
        version = str(sum(arrival <= now for arrival in arrivals))
        if now >= max(arrivals) and other.wait("a", version, SECONDS, now + offset) == 0.0:
            assert leader.left(now) == 0.0
            return
        other.wait("a", version, SECONDS, now + offset)
