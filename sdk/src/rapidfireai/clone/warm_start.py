"""Whether a clone can begin with its parent's weights: what is trained must have the same names and shapes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rapidfireai.clone.difference import changes, spelled
from rapidfireai.expand import is_evaluation

_NOT_SHAPES = frozenset(
    {"lora_alpha", "lora_dropout", "use_rslora", "alpha_pattern", "runtime_config", "base_model_name_or_path"}
)
"""LoRA arguments that change no name and no shape; every other one may, also one that a later peft adds."""
_LORA_DEFAULTS: Mapping[str, Any] = {
    "r": 8,
    "task_type": "CAUSAL_LM",
    "init_lora_weights": True,
    "bias": "none",
    "qalora_group_size": 16,
}
"""What an adapter's arguments are if nobody gives them; the others are off."""
_SETS = frozenset({"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "target_parameters"})
"""LoRA arguments whose lists mean the same in any order."""
_LEAVE_THE_BASE = (True, False, "gaussian")
"""Ways to initialise an adapter that leave the base as it is, so that they make no difference to a warm start."""
_LOADING = frozenset(
    {
        "attn_implementation",
        "cache_dir",
        "device_map",
        "dtype",
        "local_files_only",
        "low_cpu_mem_usage",
        "torch_dtype",
        "trust_remote_code",
        "use_cache",
        "use_safetensors",
    }
)
"""Arguments of `from_pretrained` that change how weights are loaded and not which."""
_QUANTISING = frozenset({"load_in_4bit", "load_in_8bit", "quantization_config"})
"""Arguments of `from_pretrained` that change the base's weights and no adapter's."""
_NAMING = frozenset({"chat_template_path", "model_adapter_name"})
"""Training arguments that add tokens to the model, or name what is trained."""


def warm_start_obstacle(parent_config: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return why a clone cannot begin with its parent's weights, or None if it can.

    Args:
        parent_config: The parent's config.
        config: The clone's config.

    Returns:
        A sentence that names the first knob in the way, and the fix.
    """
    if is_evaluation(parent_config):
        return "an evaluation trains nothing, so there are no weights to begin with; clone it cold (warm_start false)"
    adapters = "peft_params" in parent_config, "peft_params" in config
    if adapters[0] != adapters[1]:
        return _sentence("peft_config", *(("an adapter" if each else "none") for each in adapters))
    for change in changes(parent_config, config):
        section, _, name = change.path.partition(".")
        argument = name.partition(".")[0]
        judge = _JUDGES.get(section)
        if judge is not None and judge(argument, parent_config, config):
            before = "its default" if change.kind == "added" else spelled(change.before)
            after = "its default" if change.kind == "removed" else spelled(change.after)
            return _sentence(change.path, before, after)
    return None


def _sentence(path: str, before: str, after: str) -> str:
    return (
        f"{path}: changes from {before} to {after}, and so do the shapes of what is trained; clone it cold "
        f"(warm_start false), or leave {path} as the parent has it"
    )


def _adapter_differs(argument: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if argument in _NOT_SHAPES:
        return False
    old, new = (_shape(argument, each["peft_params"].get(argument)) for each in (before, after))
    if argument == "init_lora_weights" and old in _LEAVE_THE_BASE and new in _LEAVE_THE_BASE:
        return False
    return bool(old != new)


def _shape(argument: str, value: Any) -> Any:
    """Return a value so that those with the same effect are equal: defaults, and lists whose order says nothing."""
    if value is None:
        value = _LORA_DEFAULTS.get(argument)
    if argument == "layers_to_transform" and isinstance(value, int):
        value = [value]
    if argument in _SETS and isinstance(value, list):
        return frozenset(map(str, value)) or None
    return value if argument in _LORA_DEFAULTS else value or None


def _model_differs(argument: str, before: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
    return argument not in _LOADING and not (argument in _QUANTISING and "peft_params" in before)


_JUDGES: Mapping[str, Callable[[str, Mapping[str, Any], Mapping[str, Any]], bool]] = {
    "model_name": lambda *_: True,
    "model_type": lambda _, before, after: _type(before) != _type(after),
    "model_kwargs": _model_differs,
    "peft_config": _adapter_differs,
    "training_args": lambda argument, *_: argument in _NAMING,
}


def _type(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type") or "causal_lm")
