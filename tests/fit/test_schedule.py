"""Chunks cover a run's steps once, and as evenly as steps allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.schedule import Schedule

pytestmark = pytest.mark.ml

schedules = st.builds(Schedule, total_steps=st.integers(1, 5000), steps_per_epoch=st.integers(1, 5000))


@given(schedules, st.integers(1, 1000))
def test_boundaries_rise_to_the_last_step_or_the_largest_number_that_works_is_named(
    schedule: Schedule, chunks: int
) -> None:
    try:
        boundaries = schedule.boundaries(chunks)
    except RunFailure as failure:
        most = int(failure.message.split("; write ")[1].split()[0])
        assert most < chunks
        assert most == 0 or schedule.boundaries(most)
        with pytest.raises(RunFailure):
            schedule.boundaries(most + 1)
        return
    sizes = [after - before for before, after in zip([0, *boundaries], boundaries, strict=False)]
    assert boundaries[-1] == schedule.total_steps
    assert len(boundaries) == chunks * schedule.epochs
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_too_many_chunks_are_refused_with_the_number_that_works() -> None:
    with pytest.raises(RunFailure, match=r"spec\.chunks: 7 .* 12 optimizer steps of this run; write 6 or less"):
        Schedule(total_steps=12, steps_per_epoch=6).boundaries(7)
