"""The columns in which a picture is drawn, in terminals and notebooks alike. Pure."""

from __future__ import annotations

from rapidfireai.progress.picture import Picture, RunRow

BAR = 2
"""Which column has the bar."""


def headings(picture: Picture) -> tuple[str, ...]:
    """Return what stands above the columns."""
    if picture.mode == "evals":
        return ("run", "state", "shards", "rows", "rows/s", *picture.metrics, "worker", "knobs")
    return ("run", "state", "chunks", "step", "loss", "objective", "worker", "knobs")


def cells(picture: Picture, row: RunRow) -> tuple[str, ...]:
    """Return the texts of a row, one a column; that of the bar says what the bar shows."""
    chunks = of(row.chunks_done, row.chunks_total)
    if picture.mode == "evals":
        metrics = (row.estimates.get(name, "") for name in picture.metrics)
        return (row.name, row.standing, chunks, row.rows, row.throughput, *metrics, row.worker, row.about)
    step = of(row.step, row.total_steps)
    return (row.name, row.standing, chunks, step, row.loss, row.objective, row.worker, row.about)


def of(done: int, total: int) -> str:
    """Return how much of what is done, or nothing while nobody knows how much there is."""
    return f"{done}/{total}" if total else ""
