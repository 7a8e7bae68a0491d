"""A loop that hangs turns the operator unhealthy; one that merely fails does not."""

from __future__ import annotations

from dataclasses import dataclass

from rapidfireai_operator.loops.health import LONGEST_PASS_SECONDS, Health


@dataclass
class Hand:
    """A clock that is turned by hand."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def test_a_pass_that_never_ends_is_noticed() -> None:
    clock = Hand()
    health = Health(clock, patience=1000)
    health.begin("exp")
    clock.seconds = LONGEST_PASS_SECONDS
    assert health.complaints() == []
    clock.seconds += 1
    assert "exp has been under way for 121 s" in health.complaints()
    health.end("exp")
    assert health.complaints() == []


def test_a_comparison_that_never_comes_round_is_noticed() -> None:
    clock = Hand()
    health = Health(clock, patience=100)
    assert health.complaints() == []
    clock.seconds = 101
    assert health.complaints() == ["no comparison with the API server for 101 s"]
    health.turned()
    assert health.complaints() == []
