"""A checked call of `run_fit` or `run_evals` -> an Experiment resource, and the code and data that it refers to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rapidfireai.api.code import Code
from rapidfireai.api.data import Data, DataSource
from rapidfireai.api.experiment import MAX_RUNS, ConfigGroup, ExperimentSpec, Mode, Objective
from rapidfireai.api.experiment import Experiment as ExperimentResource
from rapidfireai.api.policies import Policy
from rapidfireai.api.workers import Workers
from rapidfireai.bundle import Bundle
from rapidfireai.connection import Connection, NameTakenError
from rapidfireai.data import DataFile
from rapidfireai.errors import ConfigError, ExperimentError
from rapidfireai.keys import secret_body, secret_name, with_keys
from rapidfireai.names import free_name, slug
from rapidfireai.progress import sending
from rapidfireai.progress.picture import condition_is
from rapidfireai.volume import Kind, Sent
from rapidfireai.words import WORDS

_GARBAGE_SECONDS = 30.0
"""How long the Secret of a deleted experiment may take to go."""
_POLL_SECONDS = 0.5


class Store(Protocol):
    """Where code and data go."""

    def put(self, kind: Kind, digest: str, source: Path | bytes, sent: Sent) -> None:
        """Keep a file under its digest, unless it is there already."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked call of `run_fit` or `run_evals`; nothing of it has left this machine yet.

    Attributes:
        mode: Which of the two.
        groups: The config groups of the resource.
        runs: How many runs they expand into.
        pieces: Chunks an epoch, or shards of the data set.
        seed: The seed of runs that name none; of an evaluation also the order of its rows.
        bundle: The user's functions, if there are any.
        data: The data sets by their key in the resource.
        workers: How many workers were asked for; None leaves it to the room that there is.
        max_runs: How many runs there may be.
        objective: What ranks the runs.
        policies: What stops runs without anybody watching.
        keys: API keys by the variables that workers find them in; they go into a Secret and nowhere else.
    """

    mode: Mode
    groups: list[ConfigGroup]
    runs: int
    pieces: int
    seed: int
    bundle: Bundle | None
    data: Mapping[str, DataSource | DataFile]
    workers: int | None
    max_runs: int = MAX_RUNS
    objective: Objective = field(default_factory=Objective)
    policies: Sequence[Policy] = ()
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def has_files(self) -> bool:
        """Whether there is code or data that has to be sent."""
        return self.bundle is not None or any(isinstance(each, DataFile) for each in self.data.values())

    def send(self, store: Store) -> None:
        """Put code and data where workers find them.

        Raises:
            VolumeError: If they cannot be stored.
        """
        if self.bundle is not None:
            send(store, "bundles", "code", self.bundle.digest, self.bundle.data)
        for found in self.data.values():
            if isinstance(found, DataFile):
                send(store, "datasets", f"{found.path.stem} ({found.rows} rows)", found.digest, found.path)

    def spec(self, workers: int) -> ExperimentSpec:
        """Return the resource's spec.

        Raises:
            ConfigError: If a value is out of its range.
        """
        words = WORDS[self.mode]
        sources = {key: each if isinstance(each, DataSource) else each.source() for key, each in self.data.items()}
        cut: dict[str, Any] = {f"{words.piece}s": self.pieces}
        try:
            return ExperimentSpec(
                mode=self.mode,
                seed=self.seed,
                configs=self.groups,
                max_runs=self.max_runs,
                objective=self.objective,
                data=Data(**sources),
                code=Code(bundle=self.bundle.digest, python=self.bundle.python) if self.bundle else None,
                workers=Workers(replicas=workers),
                policies=list(self.policies),
                **cut,
            )
        except ValueError as error:
            raise ConfigError(words.function, str(error)) from error


def submit(
    connection: Connection,
    experiment_name: str,
    spec: ExperimentSpec,
    say: Callable[[str], None],
    keys: Mapping[str, str] | None = None,
) -> ExperimentResource:
    """Create the experiment and the Secret of its keys, or take up the unfinished one that asks for the same.

    Args:
        connection: The workspace.
        experiment_name: What the user calls it; where that is used, the next free suffix is added.
        spec: What it asks for.
        say: Told why it is not called as asked for, or that it goes on.
        keys: API keys by the variables that workers find them in.

    Raises:
        ExperimentError: If the API server refuses it.
    """
    keys = keys or {}
    there = {each.metadata.name: each for each in connection.experiments()}
    existing = there.get(slug(experiment_name))
    if existing is not None and _can_go_on(existing, spec):
        if keys:
            with suppress(NameTakenError):  # whoever made the experiment has usually made it too
                connection.create_secret(secret_body(existing.metadata.name, existing.metadata.uid, keys))
        connection.scale(existing.metadata.name, spec.workers.replicas)
        say(f"Going on with {existing.metadata.name}.")
        return existing
    while True:
        display_name = free_name(experiment_name, there.__contains__)
        name = slug(display_name)
        wire = with_keys(spec, name, keys).model_copy(update={"display_name": display_name}).to_wire()
        try:
            made = connection.create_experiment(name, wire)
        except NameTakenError:
            there = {each.metadata.name: each for each in connection.experiments()}
            continue
        if keys:
            _keep(connection, made, keys)
        if existing is not None:
            finished = condition_is(existing, "Finished", "True")
            why = "is finished" if finished else "is not finished and asks for something else"
            say(f"{existing.metadata.name} {why}; this one is {made.metadata.name}.")
        return made


def _keep(connection: Connection, made: ExperimentResource, keys: Mapping[str, str]) -> None:
    """Create the Secret of a new experiment's keys; without it the experiment is deleted again."""
    name = made.metadata.name
    deadline = time.monotonic() + _GARBAGE_SECONDS
    while True:
        try:
            connection.create_secret(secret_body(name, made.metadata.uid, keys))
        except NameTakenError as error:
            # That of a deleted experiment of this name is about to go.
            if time.monotonic() > deadline:
                connection.delete_experiment(name)
                fix = f"remove it: {connection.kubectl} delete secret {secret_name(name)}"
                raise ExperimentError(f"{error}, and it belongs to something else; {fix}") from error
            time.sleep(_POLL_SECONDS)
        except ExperimentError:
            connection.delete_experiment(name)
            raise
        else:
            return


def send(store: Store, kind: Kind, label: str, digest: str, source: Path | bytes) -> None:
    """Put a file where workers find it, and show how it goes.

    Raises:
        VolumeError: If it cannot be stored.
    """
    with sending(label) as sent:
        store.put(kind, digest, source, sent)


def _can_go_on(existing: ExperimentResource, spec: ExperimentSpec) -> bool:
    """Return whether an experiment is unfinished and asks for the same, workers and name aside."""
    theirs, ours = (_essence(each) for each in (existing.spec, spec))
    return theirs == ours and not condition_is(existing, "Finished", "True") and existing.status.state != "Refused"


def _essence(spec: ExperimentSpec) -> Mapping[str, Any]:
    """Return what decides the runs: the rest may have been edited meanwhile."""
    return spec.model_dump(include={"mode", "seed", "configs", "chunks", "shards", "data", "code"})
