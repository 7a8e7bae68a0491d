"""What things are called in each mode: a run trains chunk by chunk, or answers shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rapidfireai.api.experiment import Mode


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one mode.

    Attributes:
        function: What a notebook calls.
        piece: What a run commits at once.
        unit: What is counted within a run.
        pause: When a worker that shall leave commits.
    """

    function: str
    piece: str
    unit: str
    pause: str


WORDS: Mapping[Mode, Words] = {
    "fit": Words("run_fit", "chunk", "step", "at its next step"),
    "evals": Words("run_evals", "shard", "row", "what it has answered"),
}
