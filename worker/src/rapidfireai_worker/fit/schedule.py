"""Where a run is cut into chunks: pure arithmetic over optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rapidfireai.api.run import MAX_CHUNKS
from rapidfireai_worker.engine import RunFailure


@dataclass(frozen=True, slots=True)
class Schedule:
    """A run's optimizer steps.

    Attributes:
        total_steps: Of the whole run.
        steps_per_epoch: Of one pass over the rows.
    """

    total_steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """How many passes over the rows are begun."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def boundaries(self, chunks: int) -> list[int]:
        """Return the step at which each chunk ends; chunks are equal in steps, up to rounding.

        Args:
            chunks: Chunks an epoch.

        Raises:
            RunFailure: If there are more chunks than steps, with the largest value that works.
        """
        count = chunks * self.epochs
        most = min(self.total_steps, MAX_CHUNKS)
        if count > most:
            raise RunFailure(
                "TooManyChunks",
                f"spec.chunks: {chunks} chunks in each of {self.epochs} epochs are more than the {self.total_steps} "
                f"optimizer steps of this run; write {most // self.epochs} or less",
            )
        return [math.ceil(index * self.total_steps / count) for index in range(1, count + 1)]
