"""Which checkpoints of a run stay on the volume. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rapidfireai.api import Experiment, Run
from rapidfireai.ranking import best_first

_NAME = re.compile(r"(?:\.tmp-)?\d+-(\d+)(?:-[0-9a-f]+)?")
"""The directory of a checkpoint, or of one that is being written: `<step>-<attempt>`."""


def ranking(run: Run, experiment: Experiment) -> tuple[int, ...]:
    """Return the steps of a run's boundaries, the best one first; nothing if the experiment does not keep the best."""
    return best_first(run, experiment) if experiment.spec.retention.keep_best else ()


def kept_steps(committed: Sequence[int], keep_last: int, best: Iterable[int]) -> frozenset[int]:
    """Return which commits stay.

    Args:
        committed: The steps of the commits that are there, in order; the last one always stays.
        keep_last: How many of the latest stay.
        best: Steps, the best first; the first one that is there stays.
    """
    leading = [step for step in best if step in committed][:1]
    return frozenset([*committed[-keep_last:], *leading])


def attempt_of(name: str) -> int | None:
    """Return the attempt that made a checkpoint's directory, or None for a stranger's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None
