"""Following an experiment until it is finished."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rapidfireai.api import Experiment
from rapidfireai.connection import Connection
from rapidfireai.errors import ClusterNotFoundError, ExperimentError
from rapidfireai.progress import View, picture_of
from rapidfireai.progress.picture import condition_is, status_condition

_POLL_SECONDS = 1.0
_RUNS_PER_SECOND = 200
"""How many runs may be listed a second while an experiment is followed."""
_OPERATOR_SECONDS = 20.0
"""After so long without a sign of the operator the user hears of it."""


class RefusedError(ExperimentError):
    """The operator does not accept the experiment; the message says why."""


def follow(connection: Connection, name: str, views: Sequence[View]) -> None:
    """Show how an experiment goes on, and return once no run can go on.

    A cluster that does not answer is waited for: the experiment does not depend on who watches it.

    Raises:
        RefusedError: If the operator does not accept the experiment.
        ExperimentError: If it was deleted meanwhile.
    """
    started = time.monotonic()
    while True:
        try:
            experiment, runs = connection.experiment(name), connection.runs(name)
        except ClusterNotFoundError as error:
            _tell(views, f"{error}; waiting for it")
            time.sleep(_POLL_SECONDS)
            continue
        refuse(experiment)
        for view in views:
            view.update(picture_of(experiment, runs))
        if condition_is(experiment, "Finished", "True"):
            return
        if not experiment.status.conditions and time.monotonic() - started > _OPERATOR_SECONDS:
            _tell(views, "no operator has looked at the experiment yet; see `rapidfireai status`")
        time.sleep(max(_POLL_SECONDS, len(runs) / _RUNS_PER_SECOND))


def refuse(experiment: Experiment) -> None:
    """Raise RefusedError if the operator does not accept the experiment or cannot make its runs."""
    for kind in ("Accepted", "Expanded"):
        judged = status_condition(experiment, kind)
        if judged is not None and judged.status == "False" and experiment.status.state == "Refused":
            raise RefusedError(f"{experiment.metadata.name} was refused: {judged.message}")


def _tell(views: Sequence[View], text: str) -> None:
    for view in views:
        view.note(text)
