"""Shards are random samples that cover every row once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.shards import batches, boundaries, order


@given(st.integers(1, 300), st.data())
def test_shards_cover_all_rows_and_differ_by_one_at_most(total: int, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, total))
    ends = boundaries(total, shards)
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert ends[-1] == total
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@given(st.integers(1, 300), st.integers(0, 9), st.integers(1, 50))
def test_batches_keep_the_order_in_which_rows_are_answered(total: int, seed: int, size: int) -> None:
    places = order(total, seed)
    assert sorted(places) == list(range(total))
    assert places == order(total, seed)
    cut = list(batches(places, size))
    assert tuple(place for batch in cut for place in batch) == places
    assert all(len(batch) == size for batch in cut[:-1])


def test_too_many_shards_are_refused() -> None:
    with pytest.raises(RunFailure, match=r"spec\.shards: 6 shards of 5 rows; write 5 at most"):
        boundaries(5, 6)
