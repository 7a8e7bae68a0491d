"""The metric histories of many runs, fetched side by side; what was fetched once is kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rapidfireai.volume import MetricLine, VolumeClient

_AT_ONCE = 16
"""How many runs are asked for at the same time."""


@dataclass(slots=True)
class _History:
    lines: list[MetricLine] = field(default_factory=list)
    cursor: str = ""


class Histories:
    """What runs logged, as their logs on the volume say.

    Args:
        volume: The workspace's volume service.
    """

    def __init__(self, volume: VolumeClient) -> None:
        self._volume = volume
        self._known: dict[str, _History] = {}

    def of(self, experiment_uid: str, run_uids: Sequence[str]) -> list[list[MetricLine]]:
        """Return every line of each run, in the order of `run_uids`; only what is new is fetched.

        Args:
            experiment_uid: The experiment that the runs belong to.
            run_uids: The runs. One that has logged nothing has no lines.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="metrics") as pool:
            return list(pool.map(lambda uid: self._fetch(experiment_uid, uid), run_uids))

    def _fetch(self, experiment_uid: str, run_uid: str) -> list[MetricLine]:
        known = self._known.setdefault(run_uid, _History())
        new, known.cursor = self._volume.metrics_after(experiment_uid, run_uid, known.cursor)
        known.lines += new
        return known.lines
