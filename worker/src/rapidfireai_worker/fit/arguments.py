"""Training arguments: the defaults of the platform, and what cannot work between threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from rapidfireai_worker.engine import RunFailure

Arguments = Callable[..., TrainingArguments]
"""Makes a trainer's arguments: its config class."""

_IMPOSSIBLE: dict[str, tuple[tuple[object, ...], str]] = {
    "dataloader_num_workers": ((0,), "loader processes would be forked from a process that runs threads; write 0"),
    "dataset_num_proc": ((None, 0, 1), "map processes would be forked from a process that runs threads; leave it out"),
    "enable_jit_checkpoint": ((False,), "runs are saved at every chunk and on SIGTERM anyway; write false"),
    "sync_ref_model": ((False,), "the reference model is shared with other runs and must not change; write false"),
    "use_vllm": ((False,), "runs generate with the model that they train; write false"),
}
"""Argument: the values that work, and what to do instead of any other. The SDK's table has refused others before."""

_GROUPS = (
    " Write a num_generations that divides per_device_train_batch_size x steps_per_generation (by default "
    "gradient_accumulation_steps), and per_device_eval_batch_size."
)


def seed_of(config: Mapping[str, Any], seed: int) -> int:
    """Return the run's seed: `training_args.seed` if the user gave one, else the experiment's."""
    return int(_given(config).get("seed", seed))


def training_arguments(make: Arguments, config: Mapping[str, Any], seed: int, output_dir: Path) -> TrainingArguments:
    """Return the trainer's arguments: the platform's defaults, then the user's, then where the run's files lie.

    Args:
        make: The config class of the trainer.
        config: The expanded leaf.
        seed: The experiment's seed.
        output_dir: Where the trainer writes whatever the user's save strategy asks for.

    Raises:
        RunFailure: If an argument is unknown, contradicts another or cannot work here, naming it.
    """
    given = _given(config)
    for name, (works, instead) in _IMPOSSIBLE.items():
        if name in given and given[name] not in works:
            raise RunFailure("UnsupportedArgument", f"training_args.{name}: {given[name]!r} cannot work: {instead}")
    fixed: dict[str, Any] = {"seed": seed_of(config, seed), "output_dir": str(output_dir)}
    if "dataset_num_proc" in given:
        fixed["dataset_num_proc"] = None
    try:
        return make(**(_defaults(given) | given | fixed))
    except (TypeError, ValueError) as error:
        fix = _GROUPS if "number of generations" in str(error) or "num_generations" in str(error) else ""
        raise RunFailure("InvalidConfig", f"training_args: {error}{fix}") from error


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(config.get("training_args") or {})


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"report_to": [], "disable_tqdm": True}
    if not torch.cuda.is_available():
        defaults |= {"use_cpu": True, "bf16": False}
    if not any(name.startswith("save_") or name == "load_best_model_at_end" for name in given):
        defaults["save_strategy"] = "no"  # every chunk is saved anyway
    return defaults
