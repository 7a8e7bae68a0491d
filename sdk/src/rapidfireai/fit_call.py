"""What `run_fit` was called with -> a submission."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rapidfireai.api.experiment import MAX_RUNS, ConfigGroup, Objective
from rapidfireai.automl.search import checked_runs, groups_of
from rapidfireai.bundle import CREATE_MODEL, Bundle, BundleBuilder
from rapidfireai.calls import no_others, one_of, whole
from rapidfireai.data import resolve
from rapidfireai.policies import policies_of
from rapidfireai.submission import Submission

_ONE_GPU = "num_gpus"
_WITHOUT_EFFECT = "monte_carlo_simulations"


@dataclass(frozen=True, slots=True)
class FitCall:
    """The arguments of `run_fit`, which documents them."""

    config_group: Any = None
    create_model_fn: Callable[..., Any] | None = None
    train_dataset: Any = None
    eval_dataset: Any = None
    num_chunks: int | None = None
    seed: int = 42
    num_workers: int | None = None
    max_runs: int = MAX_RUNS
    policies: Sequence[Any] | None = None


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
    return Submission(
        mode="fit",
        groups=groups,
        runs=runs,
        pieces=chunks,
        seed=seed,
        bundle=bundle,
        data=found,
        workers=call.num_workers,
        max_runs=max_runs,
        objective=_objective(groups, found),
        policies=policies,
    )


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


def _objective(groups: Sequence[ConfigGroup], data: Mapping[str, object]) -> Objective:
    """Return what ranks the runs: GRPO's loss says nothing about how good a model is, its rewards do."""
    if "eval" in data and all(group.trainer == "GRPO" for group in groups):
        return Objective(metric="eval_reward", direction="maximize")
    return Objective()
