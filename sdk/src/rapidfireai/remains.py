"""What experiments have left on the volume, as the volume service tells it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from rapidfireai.api.run import Checkpoint


class ExperimentRemains(BaseModel):
    """The directory of an experiment.

    Attributes:
        uid: Its name: the UID of the experiment that it was made for.
        name: What the experiment was called, as far as that is known.
        created_at: When the experiment was made.
        changed_at: When a record in it was last written, in seconds since the epoch.
        deleted_at: When the experiment was found to be deleted, by a cluster that was not lost then.
        runs: The UIDs of its runs.
        record: `experiment.json`; None in a list, or if there is no whole one.
        problem: Why there is none.
    """

    uid: str
    name: str = ""
    created_at: str = ""
    changed_at: float = 0.0
    deleted_at: float | None = None
    runs: tuple[str, ...] = ()
    record: dict[str, Any] | None = None
    problem: str = ""


class RunRemains(BaseModel):
    """The directory of a run.

    Attributes:
        uid: Its name: the UID of the run that it was made for.
        record: The Run as it was; None if it cannot be told.
        checkpoint: The newest commit of which every file is there and has its digest.
        attempt: The last attempt that may have written there.
        remarks: What is not as it should be, a sentence each.
        problem: Why there is no record.
    """

    uid: str
    record: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    attempt: int = 0
    remarks: tuple[str, ...] = ()
    problem: str = ""
