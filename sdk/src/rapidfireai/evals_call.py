"""What `run_evals` was called with -> a submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from rapidfireai.api.experiment import MAX_RUNS, MAX_SHARDS, ConfigGroup, Objective
from rapidfireai.arguments import did_you_mean
from rapidfireai.automl.search import checked_runs, groups_of
from rapidfireai.bundle import Bundle, BundleBuilder
from rapidfireai.calls import no_others, one_of, whole
from rapidfireai.credentials import lift_secrets
from rapidfireai.data import DataFile, resolve
from rapidfireai.policies import policies_of
from rapidfireai.submission import Submission

_DIRECTIONS = get_args(Objective.model_fields["direction"].annotation)
_GPUS = "gpus_per_actor"
_CPUS = "cpus_per_actor"


@dataclass(frozen=True, slots=True)
class EvalsCall:
    """The arguments of `run_evals`, which documents them."""

    config_group: Any = None
    dataset: Any = None
    num_shards: int | None = None
    num_actors: int | None = None
    seed: int = 42
    objective: Any = None
    policies: Sequence[Any] | None = None
    max_runs: int = MAX_RUNS


DEFAULT_SHARDS = 4
"""Into how many shards the rows are cut if nobody says."""


def prepare(directory: Path, call: EvalsCall, others: dict[str, Any]) -> Submission:
    """Check the arguments of `run_evals` and return what they come to. All of it is looked at before any is sent.

    Args:
        directory: Where the data set is written; the submission needs it until it was sent.
        call: The arguments under their own names.
        others: Arguments under other names; taken out as they are understood.

    Raises:
        TypeError, ValueError: If an argument is wrong; the message names it and the fix.
        BundleError: If a function cannot be sent to the workers.
    """
    config_group = one_of("run_evals", "config_group", call.config_group, ("param_config",), others)
    num_shards = one_of("run_evals", "num_shards", call.num_shards, ("num_chunks",), others)
    workers = one_of("run_evals", "num_actors", call.num_actors, ("num_workers",), others)
    _resources(others)
    no_others("run_evals", others, [each.name for each in fields(EvalsCall)])
    if config_group is None or call.dataset is None:
        raise TypeError(f"run_evals needs {'config_group' if config_group is None else 'dataset'}")
    shards = whole("run_evals", "num_shards", DEFAULT_SHARDS if num_shards is None else num_shards, 1)
    if shards > MAX_SHARDS:
        raise ValueError(f"run_evals: num_shards must be at most {MAX_SHARDS}, not {shards}")
    seed = whole("run_evals", "seed", call.seed, 0)
    if workers is not None:
        whole("run_evals", "num_actors", workers, 1)
    max_runs = whole("run_evals", "max_runs", call.max_runs, 1)
    objective = objective_of(call.objective)
    policies = policies_of(call.policies)

    groups, bundle, keys = _bundled(config_group)
    runs = len(checked_runs(groups, max_runs))
    found = resolve(call.dataset, "dataset", directory)
    if isinstance(found, DataFile) and shards > found.rows:
        raise ValueError(
            f"run_evals: num_shards is {shards}, and the dataset has {found.rows} rows; a shard has at least one row: "
            f"write num_shards={found.rows} or less"
        )
    return Submission(
        mode="evals",
        groups=groups,
        runs=runs,
        pieces=shards,
        seed=seed,
        bundle=bundle,
        data={"eval": found},
        workers=workers,
        max_runs=max_runs,
        objective=objective,
        policies=policies,
        keys=keys,
    )


def _bundled(config_group: Any) -> tuple[list[ConfigGroup], Bundle | None, dict[str, str]]:
    """Return the groups of the resource, the bundle that their objects lie in, and the keys that were in them."""
    builder = BundleBuilder()
    groups = groups_of(config_group, builder.lift, "evals")
    bundle = builder.build()
    # Only now the references can carry the bundle's digest.
    groups = groups_of(config_group, builder.lift, "evals") if bundle else groups
    keys: dict[str, str] = {}
    without = []
    for group in groups:
        config, found = lift_secrets(group.config)
        keys |= found
        without.append(group.model_copy(update={"config": config}))
    return without, bundle, keys


def objective_of(given: Any) -> Objective:
    """Return what ranks the runs.

    Args:
        given: Such as "maximize:Accuracy" or `{"metric": "Accuracy", "direction": "maximize"}`; None ranks nothing.

    Raises:
        TypeError, ValueError: If it is something else.
    """
    if given is None:
        return Objective()
    if isinstance(given, Objective):
        return given
    if isinstance(given, Mapping):
        return _objective_of_mapping(dict(given))
    if not isinstance(given, str):
        raise TypeError(f'run_evals: objective must be such as "maximize:Accuracy", not {given!r}')
    direction, colon, metric = (part.strip() for part in given.partition(":"))
    if not colon:
        raise ValueError(
            f'run_evals: objective is {given!r}, and does not say which way is better; write "maximize:{given}" or '
            f'"minimize:{given}"'
        )
    if direction not in _DIRECTIONS or not metric:
        near = did_you_mean(direction, _DIRECTIONS)
        raise ValueError(f'run_evals: objective must be "maximize:METRIC" or "minimize:METRIC", not {given!r}{near}')
    return _objective_of_mapping({"metric": metric, "direction": direction})


def _objective_of_mapping(given: dict[str, Any]) -> Objective:
    if not {"metric", "direction"} <= set(given):
        raise ValueError(f'run_evals: objective needs "metric" and "direction"; it is {given!r}')
    try:
        return Objective.model_validate(given)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        path = "".join(f".{part}" for part in mistake["loc"])
        raise ValueError(f"run_evals: objective{path}: {mistake['msg']}; it is {mistake['input']!r}") from error


def _resources(others: dict[str, Any]) -> None:
    """Take what notebooks say of an actor's share of the machine: here a worker has what its template says."""
    gpus, cpus = others.pop(_GPUS, None), others.pop(_CPUS, None)
    if gpus is not None and (isinstance(gpus, bool) or gpus not in {0, 1}):
        raise ValueError(
            f"run_evals: {_GPUS} must be 0 or 1, not {gpus!r}: a worker has one GPU where nodes have some. For more, "
            "as tensor parallelism needs, take the manifest (to_yaml) and write nvidia.com/gpu into "
            "workers.template.spec.containers[0].resources.limits"
        )
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, int | float) or cpus <= 0):
        raise ValueError(f"run_evals: {_CPUS} must be a positive number, not {cpus!r}; better leave it out")
    if cpus is not None:
        print(f"run_evals: {_CPUS} has no effect; workers have the CPUs that their template gives them")
