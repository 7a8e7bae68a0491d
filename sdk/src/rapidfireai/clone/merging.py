"""A clone's config: its parent's with a patch merged in, checked before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidfireai.api.experiment import Trainer
from rapidfireai.arguments import LORA_CONFIG, TRAINER_CONFIGS, did_you_mean
from rapidfireai.clone.evaluations import as_fields, check_fields_of, parent_of
from rapidfireai.clone.spelling import as_written, is_plain, spread, written
from rapidfireai.config_fields import CLASS, KWARGS, LIST, PARTS, RANGE
from rapidfireai.errors import ConfigError
from rapidfireai.expand import decided, is_evaluation


def cloned(parent_config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a clone.

    Args:
        parent_config: `Run.spec.config` of the parent, in whatever shape the API server has it.
        patch: A merge patch (RFC 7386) on it: null takes a key away, a mapping is merged, anything else replaces.
            Its keys are the names that users write (`peft_config`) or those of the leaf (`peft_params`), or dotted
            paths (`training_args.learning_rate`); `{"$none": true}` is the value None. Functions are inherited. Of an
            evaluation, what belongs to `vllm_config` or `api_config` may stand at the top (`rag.search_kwargs.k`).

    Raises:
        ConfigError: If the clone could not be run; `.path` is the knob's, such as `training_args.learning_rte`.
    """
    if not isinstance(patch, Mapping):
        raise ConfigError("patch", f"must be a mapping of what changes, not {patch!r}")
    if is_evaluation(parent_config):
        return _evaluation(parent_config, patch)
    trainer = _trainer(parent_config)
    _check_trainer(patch, trainer)
    wanted = as_written(spread(patch))
    _check_names(wanted, trainer)
    _refuse_knobs(wanted, "")
    return _decided(_merge(_without_renamed(written(parent_config), wanted, trainer), wanted), trainer)


def _evaluation(parent_config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    wanted = as_fields(spread(patch), parent_config)
    check_fields_of(wanted)
    _refuse_knobs(wanted, "")
    return _decided(_merge(parent_of(parent_config, wanted), wanted), None)


def _decided(merged: Mapping[str, Any], trainer: Trainer | None) -> dict[str, Any]:
    try:
        return decided(merged, trainer, "config")
    except ConfigError as error:
        raise ConfigError(error.path.removeprefix("config").removeprefix("."), error.message) from error


def _trainer(config: Mapping[str, Any]) -> Trainer:
    name = config.get("trainer_type", "SFT")
    if name not in TRAINER_CONFIGS:
        raise ConfigError("trainer_type", f"the parent's is {name!r}, which is none of {', '.join(TRAINER_CONFIGS)}")
    trainer: Trainer = name
    return trainer


def _check_trainer(patch: Mapping[str, Any], trainer: Trainer) -> None:
    if patch.get("trainer_type", trainer) != trainer:
        raise ConfigError(
            "trainer_type", f"a clone keeps the trainer of its parent, {trainer}; make a new experiment for another one"
        )


def _check_names(patch: Mapping[str, Any], trainer: Trainer) -> None:
    """Check every name, also of what is taken away: a name that does not exist is a mistake there as well."""
    for key, value in patch.items():
        if key not in PARTS:
            raise ConfigError(key, f"unknown field of a config{did_you_mean(key, PARTS)}")
        table = {"training_args": TRAINER_CONFIGS[trainer], "peft_config": LORA_CONFIG}.get(key)
        if table is not None and is_plain(value):
            for name in value:
                table.argument(name, f"{key}.{name}")


def _refuse_knobs(value: Any, path: str) -> None:
    """Refuse what stands for several values: a clone is one run."""
    if path == "peft_config" and isinstance(value, list):
        raise ConfigError(
            path, "lists alternatives, and a clone is one run; write one mapping, and clone once for each"
        )
    if isinstance(value, Mapping):
        for marker in (LIST, RANGE):
            if marker in value:
                raise ConfigError(
                    path, f"{marker} stands for several values, and a clone is one run; write one, and clone for each"
                )
        for key, each in value.items():
            _refuse_knobs(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _refuse_knobs(each, f"{path}[{index}]")


def _without_renamed(config: dict[str, Any], patch: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return the parent's config without the arguments that the patch names as earlier versions did."""
    given, table = patch.get("training_args") or {}, TRAINER_CONFIGS[trainer]
    if not is_plain(given):
        return config
    replaced = {table.current(name) for name in given if table.current(name) != name}
    kept = {name: value for name, value in (config.get("training_args") or {}).items() if name not in replaced}
    return {**config, "training_args": kept}


def _merge(target: Any, patch: Any) -> Any:
    """Merge as RFC 7386 says; markers such as `$ref` are values, not mappings.

    Only the arguments of an instance that the parent's manifest names are merged, by a patch that says them alone.
    """
    if not is_plain(patch):
        return patch
    if isinstance(target, Mapping) and CLASS in target and set(patch) == {KWARGS}:
        return {CLASS: target[CLASS], KWARGS: _merge(target.get(KWARGS) or {}, patch[KWARGS])}
    merged = dict(target) if is_plain(target) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged
