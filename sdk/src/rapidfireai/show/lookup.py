"""Names that people type -> the experiment or run that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from rapidfireai.api import Experiment, Run
from rapidfireai.connection import Connection
from rapidfireai.errors import ExperimentError
from rapidfireai.names import slug

_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for.

    Attributes:
        experiment: The experiment, or the one that the run belongs to.
        runs: Every run of it, by number.
        run: The run, if the name is a run's.
    """

    experiment: Experiment
    runs: Sequence[Run]
    run: Run | None = None


def find(connection: Connection, name: str) -> Found:
    """Return the experiment or run that a name stands for; experiments also go by what the user called them.

    Raises:
        ExperimentError: If there is none; the message has names that are near.
    """
    experiments = {each.metadata.name: each for each in connection.experiments()}
    called = {each.spec.display_name: each for each in experiments.values()}
    experiment = experiments.get(name) or called.get(name)
    if experiment is not None:
        return Found(experiment, connection.runs(experiment.metadata.name))
    owner = experiments.get(re.sub(r"-r\d+$", "", name))
    runs = connection.runs(owner.metadata.name) if owner else []
    for run in runs:
        if owner is not None and run.metadata.name == name:
            return Found(owner, runs, run)
    names = [run.metadata.name for run in runs] or list(experiments)
    raise ExperimentError(unknown(name, names, connection.namespace))


def find_run(connection: Connection, name: str) -> tuple[Found, Run]:
    """Return the run of this name, and what is around it.

    Raises:
        ExperimentError: If there is none, or the name is an experiment's.
    """
    found = find(connection, name)
    if found.run is None:
        runs = few(run.metadata.name for run in found.runs) or "none yet"
        raise ExperimentError(f"{name} is an experiment; name one of its runs: {runs}")
    return found, found.run


def unknown(name: str, names: Sequence[str], namespace: str) -> str:
    """Return the sentence about a name that nothing has, with those that are near."""
    sentence = f"there is no experiment or run {name} in namespace {namespace}"
    if near := get_close_matches(name, names, n=3) or get_close_matches(slug(name), names, n=3):
        return f"{sentence}; did you mean {' or '.join(sorted(near))}?"
    if not names:
        return f"{sentence}, it has none; name another namespace"
    return f"{sentence}; there are {few(names)}"


def few(names: Iterable[str]) -> str:
    """Return some names as words: the first few, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return ", ".join(known[:_MOST_NAMES]) + more
