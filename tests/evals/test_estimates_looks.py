"""What repeated looks do to intervals: the figures of docs/intervals.md are these."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rapidfireai_worker.evals.intervals import Interval, Knowledge, interval
from rapidfireai_worker.evals.strategies import Strategy

ROWS = 1000
SETS = 4000
SHARE = 0.7
PAGE = Path(__file__).resolve().parents[2] / "docs" / "intervals.md"


@cache
def wilson(hits: int, seen: int) -> Interval:
    groups = tuple((rows, value) for rows, value in ((hits, 1.0), (seen - hits, 0.0)) if rows)
    found = interval(Knowledge(hits / seen, seen, groups, 2), (0, 1), ROWS, Strategy("wilson"))
    assert found is not None
    return found


def looked_at(rows: np.ndarray, looks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the intervals after each of `looks` shards but the last, for every data set."""
    ends = [ROWS * look // looks for look in range(1, looks)]
    found = [[wilson(int(hits), seen) for hits in rows[:, :seen].sum(axis=1)] for seen in ends]
    low, high = np.array(found).transpose(2, 1, 0)
    return low, high


def table() -> list[str]:
    """Return the rows of the page's table."""
    rng = np.random.default_rng(1)
    right = np.tile(np.arange(ROWS) < SHARE * ROWS, (SETS, 1))
    one, other = (rng.permuted(right, axis=1) for _ in range(2))
    lines = []
    for looks in (2, 4, 10, 20):
        (low, high), (least, most) = looked_at(one, looks), looked_at(other, looks)
        missed = (low > SHARE + 1e-9) | (high < SHARE - 1e-9)
        apart = (low > most) | (high < least)
        cells = (missed[:, 0].mean(), missed.any(axis=1).mean(), apart.any(axis=1).mean())
        lines.append(f"| {looks} | {looks - 1} | " + " | ".join(f"{100 * each:.0f} %" for each in cells) + " |")
    return lines


def best_of(configs: int, seen: int) -> tuple[float, float]:
    """Return by how many points the best of equal configs is overrated, and how often its interval has the truth."""
    rng = np.random.default_rng(2)
    hits = rng.hypergeometric(round(SHARE * ROWS), round((1 - SHARE) * ROWS), seen, (SETS, configs)).max(axis=1)
    ends = np.array([wilson(int(each), seen) for each in hits])
    return 100 * float((hits / seen).mean() - SHARE), float(((ends[:, 0] <= SHARE) & (ends[:, 1] >= SHARE)).mean())


def test_the_page_shows_what_repeated_looks_do() -> None:
    page = PAGE.read_text()

    for line in table():
        assert line in page


@pytest.mark.parametrize("configs", [1, 4, 16])
def test_the_page_shows_what_picking_the_best_does(configs: int) -> None:
    over, held = best_of(configs, 250)

    assert f"| {configs} | {over:.1f} points | {100 * held:.0f} % |" in PAGE.read_text()
