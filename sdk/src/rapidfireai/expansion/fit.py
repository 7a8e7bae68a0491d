"""A config of a fine-tuning, checked, and the leaf that it becomes. Pure.

The loops nest in this order: the members of `peft_config`, their knobs, `training_args`, `model_kwargs`, the functions,
and `ref_model_kwargs` or `reward_funcs`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api.experiment import Trainer
from rapidfireai.arguments import LORA_CONFIG, TRAINER_CONFIGS, did_you_mean
from rapidfireai.config_fields import PARTS, check_fields, generation
from rapidfireai.credentials import refuse_secrets
from rapidfireai.errors import ConfigError

FIXED_KEYS = ("model_name", "tokenizer", "tokenizer_kwargs", "model_type")
"""Keys that take one value: the runs of a config share them."""
ADDITIONAL = ("compute_metrics", "formatting_func", "generation_config")
"""Keys of the leaf's `additional_kwargs`."""
REFERENCE_KEYS: Mapping[str, str] = {
    "ref_model_name": "model_name",
    "ref_model_type": "model_type",
    "ref_model_kwargs": "model_kwargs",
}
"""What describes DPO's reference model, and its name in the leaf's `ref_model_config`."""
ONLY_FOR: Mapping[str, Trainer] = {**dict.fromkeys(REFERENCE_KEYS, "DPO"), "reward_funcs": "GRPO"}
"""Keys that one trainer alone takes."""


@dataclass(frozen=True, slots=True)
class FitTemplate:
    """One checked config; the parts that may hold knobs, outermost loop first."""

    trainer: Trainer
    fixed: dict[str, Any]
    reference: dict[str, Any]
    peft: Any
    training_args: dict[str, Any]
    model_kwargs: dict[str, Any]
    additional: dict[str, Any]
    last: Any
    why_none = "makes no run"

    @property
    def parts(self) -> tuple[Any, ...]:
        """The parts that may hold knobs, outermost loop first."""
        return (self.peft, self.training_args, self.model_kwargs, self.additional, self.last)

    def leaf(self, combination: Sequence[Any]) -> dict[str, Any]:
        """Return the config of the run that one value of each part makes."""
        peft, arguments, model_kwargs, additional, last = combination
        table = TRAINER_CONFIGS[self.trainer]
        leaf = {
            "trainer_type": self.trainer,
            **self.fixed,
            "peft_params": peft,
            "training_args": {name: value for name, value in arguments.items() if not table.is_former(name)},
            "compat": {name: value for name, value in arguments.items() if table.is_former(name)} or None,
            "model_kwargs": model_kwargs or None,
            "additional_kwargs": additional or None,
        }
        if self.trainer == "DPO" and self.reference:
            leaf["ref_model_config"] = {**self.reference, **({"model_kwargs": last} if last else {})}
        if self.trainer == "GRPO":
            leaf["reward_funcs"] = last
        return copy.deepcopy({key: value for key, value in leaf.items() if value is not None})


def fit_template(config: Mapping[str, Any], trainer: Trainer, path: str) -> FitTemplate:
    """Check a config.

    Args:
        config: The config, no `$list` of configs.
        trainer: What trains it.
        path: Where it stands.

    Raises:
        ConfigError: If it cannot be run.
    """
    for key in config:
        if key not in PARTS:
            raise ConfigError(f"{path}.{key}", f"unknown field of a config{did_you_mean(str(key), PARTS)}")
    given = {key: value for key, value in config.items() if value is not None}
    _check_trainer(given, trainer, path)
    parts = {key: PARTS[key](value, f"{path}.{key}") for key, value in given.items()}
    refuse_secrets(given, path)
    training_args = check_fields(parts.get("training_args", {}), TRAINER_CONFIGS[trainer], f"{path}.training_args")
    return FitTemplate(
        trainer=trainer,
        fixed={key: parts[key] for key in FIXED_KEYS if key in parts},
        reference={name: parts[key] for key, name in REFERENCE_KEYS.items() if key in parts and name != "model_kwargs"},
        peft=parts.get("peft_config"),
        training_args=training_args,
        model_kwargs=parts.get("model_kwargs", {}),
        additional={key: parts[key] for key in ADDITIONAL if key in parts},
        last=parts.get("reward_funcs" if trainer == "GRPO" else "ref_model_kwargs", {}),
    )


def restore_fit(leaf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaf with its types put right.

    Raises:
        ConfigError: If it names an argument that the installed libraries do not have.
    """
    restored = dict(leaf)
    table = TRAINER_CONFIGS[str(leaf.get("trainer_type", "SFT"))]
    for key, known in (("training_args", table), ("compat", table), ("peft_params", LORA_CONFIG)):
        if leaf.get(key) is not None:
            restored[key] = check_fields(leaf[key], known, f"spec.config.{key}")
    additional = leaf.get("additional_kwargs") or {}
    if "generation_config" in additional:
        path = "spec.config.additional_kwargs.generation_config"
        typed = generation(additional["generation_config"], path)
        restored["additional_kwargs"] = {**additional, "generation_config": typed}
    return restored


def _check_trainer(given: Mapping[str, Any], trainer: Trainer, path: str) -> None:
    """Check that what one trainer alone takes is there if it must be, and nowhere else."""
    for key, owner in ONLY_FOR.items():
        if key in given and trainer != owner:
            raise ConfigError(f"{path}.{key}", f"goes with {owner} only, and the trainer is {trainer}; leave it out")
    for key in ("ref_model_type", "ref_model_kwargs"):
        if key in given and "ref_model_name" not in given:
            raise ConfigError(f"{path}.{key}", "says something about a model that is not named; add ref_model_name")
    if trainer == "GRPO" and "reward_funcs" not in given:
        raise ConfigError(f"{path}.reward_funcs", "GRPO needs at least one reward function; add it")
    if "generation_config" in given and "compute_metrics" not in given:
        raise ConfigError(
            f"{path}.generation_config", "is for compute_metrics, which gets what is generated; add compute_metrics"
        )
    if trainer == "GRPO" and "compute_metrics" in given and "generation_config" not in given:
        raise ConfigError(f"{path}.compute_metrics", "needs generation_config with GRPO; add it")
