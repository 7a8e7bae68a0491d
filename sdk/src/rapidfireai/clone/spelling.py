"""The names that users write in a config, those of the leaf, and dotted paths: one spelling for all three. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfireai.arguments import did_you_mean
from rapidfireai.errors import ConfigError
from rapidfireai.expand import ADDITIONAL, REFERENCE_KEYS, is_evaluation

_REFERENCE_NAMES = {leaf: written for written, leaf in REFERENCE_KEYS.items()}
_RENAMED = {"peft_params": "peft_config", "compat": "training_args"}
"""Keys of a leaf that users write under another name."""
_NESTED: Mapping[str, Mapping[str, str]] = {
    "additional_kwargs": {name: name for name in ADDITIONAL},
    "ref_model_config": _REFERENCE_NAMES,
}
"""Keys of a leaf whose members users write next to `model_name`, and the names of these there."""
_KEYED_BY_MODULE = frozenset({"rank_pattern", "alpha_pattern"})
"""LoRA arguments whose keys are names of modules, which have dots in them."""


def written(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config as users write one: `peft_config`, functions next to `model_name`, no `trainer_type`.

    That of an evaluation is written as the leaf has it.
    """
    copied = {key: {**value} if is_plain(value) else value for key, value in config.items()}
    return copied if is_evaluation(config) else as_written(copied)


def as_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, or a patch on one, with the names that users write in place of the leaf's."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if key == "trainer_type":
            continue
        if key in _NESTED:
            for name, each in _members(key, value).items():
                put(made, name, each, name)
        elif key == "compat" and value is None:
            continue  # what it would take away has names, and these belong into training_args
        else:
            put(made, _RENAMED.get(key, key), value, _RENAMED.get(key, key))
    return made


def spread(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch with mappings in place of dotted keys.

    Raises:
        ConfigError: If it says something twice.
    """
    spread: dict[str, Any] = {}
    for key, value in patch.items():
        first, *rest = _steps(str(key))
        nested: Any = value
        for step in reversed(rest):
            nested = {step: nested}
        put(spread, first, nested, first)
    return spread


def _steps(key: str) -> Sequence[str]:
    section, _, rest = key.partition(".")
    argument, dot, module = rest.partition(".")
    if dot and argument in _KEYED_BY_MODULE:
        return section, argument, module
    return key.split(".")


def put(target: dict[str, Any], key: str, value: Any, path: str) -> None:
    """Add a value, below what is there already.

    Raises:
        ConfigError: If the same is there already.
    """
    if key not in target:
        target[key] = dict(value) if is_plain(value) else value
    elif is_plain(target[key]) and is_plain(value):
        for name, each in value.items():
            put(target[key], name, each, f"{path}.{name}")
    else:
        raise ConfigError(path, "is given twice; leave one of them out")


def _members(key: str, value: Any) -> dict[str, Any]:
    names = _NESTED[key]
    if value is None:
        return dict.fromkeys(names.values())
    if not is_plain(value):
        raise ConfigError(key, f"must be a mapping, not {value!r}")
    for name in value:
        if name not in names:
            raise ConfigError(f"{key}.{name}", f"unknown field{did_you_mean(str(name), names)}")
    return {names[name]: each for name, each in value.items()}


def is_plain(value: Any) -> bool:
    """Return whether a value is a mapping and no marker."""
    return isinstance(value, Mapping) and not any(str(key).startswith("$") for key in value)
