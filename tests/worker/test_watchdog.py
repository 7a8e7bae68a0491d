"""When silence is a hang."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker.watchdog import GENEROSITY, Pulse, patience

seconds = st.floats(0, 1e6)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(seconds, seconds)
def test_nothing_hangs_before_the_floor_nor_before_many_times_what_was_needed(longest: float, floor: float) -> None:
    waits = patience(longest, floor)
    assert waits >= floor
    assert waits >= GENEROSITY * longest
    assert waits in (floor, GENEROSITY * longest)


def test_a_pulse_knows_the_longest_wait_between_two_steps() -> None:
    clock = Clock()
    pulse = Pulse(clock=clock)
    for wait in (50.0, 2.0, 7.0, 3.0):  # the first is loading
        clock.now += wait
        assert pulse.silence == wait
        pulse.beat()
    assert pulse.longest == 7.0
    assert pulse.silence == 0.0


def test_what_earlier_attempts_needed_counts() -> None:
    clock = Clock()
    pulse = Pulse(60.0, clock)
    pulse.beat()
    clock.now += 5.0
    pulse.beat()
    assert pulse.longest == 60.0
