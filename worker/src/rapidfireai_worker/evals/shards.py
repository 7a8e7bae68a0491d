"""Which rows belong to which shard and batch. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rapidfireai_worker.engine import RunFailure


def order(total: int, seed: int) -> tuple[int, ...]:
    """Return the places of all rows in the order in which they are answered: a permutation that the seed decides.

    So each shard is a random sample of the data set, and the first few shards together are one.
    """
    return tuple(np.random.default_rng(seed).permutation(total).tolist())


def boundaries(total: int, shards: int) -> list[int]:
    """Return how many rows are answered after each shard; the first ones have the row more that does not divide.

    Raises:
        RunFailure: If there are more shards than rows.
    """
    if shards > total:
        raise RunFailure("InvalidConfig", f"spec.shards: {shards} shards of {total} rows; write {total} at most")
    least, more = divmod(total, shards)
    return [shard * least + min(shard, more) for shard in range(1, shards + 1)]


def batches(places: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Yield the places of each batch, the last one of which may be smaller."""
    for start in range(0, len(places), size):
        yield tuple(places[start : start + size])
