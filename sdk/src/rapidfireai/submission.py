"""What `run_fit` was called with -> an Experiment resource, and the code and data that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from rapidfireai.api.experiment import (
    MAX_RUNS,
    Code,
    ConfigGroup,
    Data,
    DataSource,
    ExperimentSpec,
    Objective,
    Workers,
)
from rapidfireai.api.experiment import Experiment as ExperimentResource
from rapidfireai.api.policies import Policy
from rapidfireai.automl.search import checked_runs, groups_of
from rapidfireai.bundle import CREATE_MODEL, Bundle, BundleBuilder
from rapidfireai.calls import no_others, one_of, whole
from rapidfireai.connection import Connection, NameTakenError
from rapidfireai.data import DataFile, resolve
from rapidfireai.errors import ConfigError
from rapidfireai.names import free_name, slug
from rapidfireai.policies import policies_of
from rapidfireai.progress import sending
from rapidfireai.progress.picture import condition_is
from rapidfireai.volume import Kind, Sent

_ONE_GPU = "num_gpus"
_WITHOUT_EFFECT = "monte_carlo_simulations"


@dataclass(frozen=True, slots=True)
class FitCall:
    """The arguments of `run_fit`, which documents them."""

    config_group: Any
    create_model_fn: Callable[..., Any] | None
    train_dataset: Any
    eval_dataset: Any
    num_chunks: int | None
    seed: int
    num_workers: int | None
    max_runs: int = MAX_RUNS
    policies: Sequence[Any] | None = None


class Store(Protocol):
    """Where code and data go."""

    def put(self, kind: Kind, digest: str, source: Path | bytes, sent: Sent) -> None:
        """Keep a file under its digest, unless it is there already."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked call of `run_fit`; nothing of it has left this machine yet.

    Attributes:
        groups: The config groups of the resource.
        runs: How many runs they expand into.
        chunks: Chunks an epoch.
        seed: The seed of runs that name none.
        bundle: The user's functions, if there are any.
        data: The data sets by their key in the resource.
        workers: How many workers were asked for; None leaves it to the room that there is.
        max_runs: How many runs there may be.
        policies: What stops runs without anybody watching.
    """

    groups: list[ConfigGroup]
    runs: int
    chunks: int
    seed: int
    bundle: Bundle | None
    data: Mapping[str, DataSource | DataFile]
    workers: int | None
    max_runs: int = MAX_RUNS
    policies: Sequence[Policy] = ()

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
        for key, found in self.data.items():
            if isinstance(found, DataFile):
                send(store, "datasets", f"{key}_dataset ({found.rows} rows)", found.digest, found.path)

    def spec(self, workers: int) -> ExperimentSpec:
        """Return the resource's spec.

        Raises:
            ConfigError: If a value is out of its range.
        """
        sources = {key: each if isinstance(each, DataSource) else each.source() for key, each in self.data.items()}
        try:
            return ExperimentSpec(
                seed=self.seed,
                configs=self.groups,
                max_runs=self.max_runs,
                chunks=self.chunks,
                objective=self._objective(),
                data=Data(**sources),
                code=Code(bundle=self.bundle.digest, python=self.bundle.python) if self.bundle else None,
                workers=Workers(replicas=workers),
                policies=list(self.policies),
            )
        except ValueError as error:
            raise ConfigError("run_fit", str(error)) from error

    def _objective(self) -> Objective:
        """Return what ranks the runs: GRPO's loss says nothing about how good a model is, its rewards do."""
        if "eval" in self.data and all(group.trainer == "GRPO" for group in self.groups):
            return Objective(metric="eval_reward", direction="maximize")
        return Objective()


def prepare(directory: Path, call: FitCall, others: dict[str, Any]) -> Submission:
    """Check the arguments of `run_fit` and return what they come to. All of it is looked at before any of it is sent.

    Args:
        directory: Where data sets are written; the submission needs it until it was sent.
        call: The arguments under their own names.
        others: Arguments under other names; taken out as they are understood.

    Raises:
        TypeError, ValueError: If an argument is wrong; the message names it and the fix.
        BundleError: If a function cannot be sent to the workers.
    """
    config_group = one_of("run_fit", "config_group", call.config_group, ("param_config",), others)
    num_chunks = one_of("run_fit", "num_chunks", call.num_chunks, ("num_shards",), others)
    _newer_arguments(others)
    no_others("run_fit", others, [each.name for each in fields(FitCall)])
    if config_group is None or call.train_dataset is None:
        raise TypeError(f"run_fit needs {'config_group' if config_group is None else 'train_dataset'}")
    if call.create_model_fn is not None and not callable(call.create_model_fn):
        raise TypeError(f"create_model_fn must be a function, not {call.create_model_fn!r}")
    chunks = whole("run_fit", "num_chunks", num_chunks, 1)
    seed = whole("run_fit", "seed", call.seed, 0)
    if call.num_workers is not None:
        whole("run_fit", "num_workers", call.num_workers, 1)
    max_runs = whole("run_fit", "max_runs", call.max_runs, 1)
    policies = policies_of(call.policies)

    groups, bundle = _bundled(config_group, call.create_model_fn)
    runs = len(checked_runs(groups, max_runs))
    datasets = {"train": call.train_dataset, "eval": call.eval_dataset}
    found = {key: resolve(value, f"{key}_dataset", directory) for key, value in datasets.items() if value is not None}
    return Submission(groups, runs, chunks, seed, bundle, found, call.num_workers, max_runs, policies)


def submit(
    connection: Connection, experiment_name: str, spec: ExperimentSpec, say: Callable[[str], None]
) -> ExperimentResource:
    """Create the experiment, or take up the unfinished one that asks for the same.

    Args:
        connection: The workspace.
        experiment_name: What the user calls it; where that is used, the next free suffix is added.
        spec: What it asks for.
        say: Told why it is not called as asked for, or that it goes on.

    Raises:
        ExperimentError: If the API server refuses it.
    """
    there = {each.metadata.name: each for each in connection.experiments()}
    existing = there.get(slug(experiment_name))
    if existing is not None and _can_go_on(existing, spec):
        connection.scale(existing.metadata.name, spec.workers.replicas)
        say(f"Going on with {existing.metadata.name}.")
        return existing
    while True:
        display_name = free_name(experiment_name, there.__contains__)
        wire = spec.model_copy(update={"display_name": display_name}).to_wire()
        try:
            made = connection.create_experiment(slug(display_name), wire)
        except NameTakenError:
            there = {each.metadata.name: each for each in connection.experiments()}
            continue
        if existing is not None:
            finished = condition_is(existing, "Finished", "True")
            why = "is finished" if finished else "is not finished and asks for something else"
            say(f"{existing.metadata.name} {why}; this one is {made.metadata.name}.")
        return made


def _newer_arguments(others: dict[str, Any]) -> None:
    """Take what newer notebooks say and what is always so here."""
    others.pop(_WITHOUT_EFFECT, None)
    gpus = others.pop(_ONE_GPU, None)
    if gpus not in {None, 1}:
        raise ValueError(
            f"run_fit: num_gpus must be 1, not {gpus!r}; a run uses one GPU, and num_workers of them train"
        )


def _bundled(config_group: Any, create_model_fn: Callable[..., Any] | None) -> tuple[list[ConfigGroup], Bundle | None]:
    """Return the groups of the resource, and the bundle that their functions lie in."""
    builder = BundleBuilder()
    if create_model_fn is not None:
        builder.add(CREATE_MODEL, create_model_fn)
    groups = groups_of(config_group, builder.lift)
    bundle = builder.build()
    # Only now the references can carry the bundle's digest.
    return (groups_of(config_group, builder.lift) if bundle else groups), bundle


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
    return spec.model_dump(include={"mode", "seed", "configs", "chunks", "data", "code"})
