"""Configs with knobs -> the runs' configs. Pure, and the same function in the SDK and in the operator.

A knob is written `{"$list": [...]}`; a grid makes a run of every combination, a random search draws some, and there
`{"$range": ...}` is a knob too. The order of the runs follows from the config's content alone, not from the order in
which its keys were written, because the API server does not keep that: groups in order, then their configs, the members
of `peft_config`, their knobs, `training_args`, `model_kwargs`, the functions, and `ref_model_kwargs` or `reward_funcs`;
within a mapping, keys in alphabetical order, the last one fastest.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api.experiment import MAX_RUNS, MOST_RUNS, ConfigGroup, Trainer
from rapidfireai.arguments import LORA_CONFIG, TRAINER_CONFIGS, did_you_mean
from rapidfireai.config_fields import (
    LIST,
    NONE,
    PARTS,
    RANGE,
    REF,
    Drawn,
    check_fields,
    generation,
    mapping,
    marker_of,
    members,
)
from rapidfireai.credentials import refuse_secrets
from rapidfireai.errors import ConfigError
from rapidfireai.ranges import below

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
DEFAULT_SEED = 42
"""The seed of a random search that names none."""
ATTEMPTS_PER_RUN = 10
"""How often a random search draws for each run before it gives up finding different ones."""

__all__ = [
    "ADDITIONAL",
    "LIST",
    "NONE",
    "RANGE",
    "REF",
    "REFERENCE_KEYS",
    "ConfigError",
    "check_fields",
    "decided",
    "expand",
    "restore",
]


def expand(configs: Sequence[ConfigGroup], limit: int = MAX_RUNS) -> list[dict[str, Any]]:
    """Return the config of every run, in the order of the runs.

    Args:
        configs: The groups of `Experiment.spec.configs`.
        limit: How many runs they may make: `Experiment.spec.maxRuns`.

    Raises:
        ConfigError: If a config cannot be run; `.path` names the field and the message the fix.
    """
    searches = [_search(group, index) for index, group in enumerate(configs)]
    count = sum(search.count() for search in searches)
    if count > limit:
        raise ConfigError(
            "spec.configs",
            f"the knobs make {count} runs, and spec.maxRuns allows {limit}; list fewer values, draw some of them "
            "(strategy random with numRuns; RFRandomSearch in Python), split the configs over "
            f"{-(-count // limit)} experiments, or allow more: spec.maxRuns (max_runs of run_fit), up to {MOST_RUNS}",
        )
    return [leaf for search in searches for leaf in search.leaves()]


def decided(config: Mapping[str, Any], trainer: Trainer, path: str) -> dict[str, Any]:
    """Return the leaf of a config that has no knobs.

    Args:
        config: A config as users write it, its values decided.
        trainer: What trains it.
        path: Where it stands.

    Raises:
        ConfigError: If it cannot be run; `.path` names the field and the message the fix.
    """
    template = _template(dict(config), trainer, path)
    return template.leaf([next(_values(part)) for part in template.parts])


def restore(leaf: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config as `expand` made it, after a journey through the API server, where 1.0 became 1.

    Args:
        leaf: `Run.spec.config`.

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


@dataclass(frozen=True, slots=True)
class _Template:
    """One checked config; the parts that may hold knobs, outermost loop first."""

    trainer: Trainer
    fixed: dict[str, Any]
    reference: dict[str, Any]
    peft: Any
    training_args: dict[str, Any]
    model_kwargs: dict[str, Any]
    additional: dict[str, Any]
    last: Any

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.peft, self.training_args, self.model_kwargs, self.additional, self.last)

    def leaf(self, combination: Sequence[Any]) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class _Grid:
    """Every combination becomes a run."""

    path: str
    templates: tuple[_Template, ...]

    def count(self) -> int:
        return sum(math.prod(map(_count, template.parts)) for template in self.templates)

    def leaves(self) -> Iterator[dict[str, Any]]:
        leaves = [
            template.leaf(combination)
            for template in self.templates
            for combination in itertools.product(*(list(_values(part)) for part in template.parts))
        ]
        if len(leaves) > 1 and all(_canonical(leaf) == _canonical(leaves[0]) for leaf in leaves[1:]):
            raise ConfigError(self.path, f"its knobs make {len(leaves)} runs that are all the same; list other values")
        yield from leaves


@dataclass(frozen=True, slots=True)
class _Draws:
    """Some combinations become runs: decision 011 has the procedure."""

    path: str
    templates: tuple[_Template, ...]
    runs: int
    seed: int
    index: int

    def count(self) -> int:
        return self.runs

    def leaves(self) -> Iterator[dict[str, Any]]:
        self._check_enough()
        units = _units(self.seed, self.index)
        found: dict[str, dict[str, Any]] = {}
        attempts = ATTEMPTS_PER_RUN * self.runs
        for _ in range(attempts):
            template = _one_of(self.templates, units)
            leaf = template.leaf([_drawn(part, units) for part in template.parts])
            found.setdefault(_canonical(leaf), leaf)
            if len(found) == self.runs:
                yield from found.values()
                return
        raise ConfigError(
            f"{self.path}.numRuns",
            f"{attempts} draws gave {len(found)} different runs, not {self.runs}; ask for at most {len(found)} runs, "
            "or give the knobs more values",
        )

    def _check_enough(self) -> None:
        parts = [template.parts for template in self.templates]
        if any(True for each in parts for part in each for _ in _ranges(part)):
            return
        there = sum(math.prod(map(_count, each)) for each in parts)
        if there < self.runs:
            raise ConfigError(
                f"{self.path}.numRuns",
                f"the knobs have {there} combinations, and {self.runs} different runs are asked for; ask for at most "
                f"{there}, or give the knobs more values",
            )


def _search(group: ConfigGroup, index: int) -> _Grid | _Draws:
    path = f"spec.configs[{index}]"
    if group.trainer is None:
        raise ConfigError(f"{path}.trainer", "is missing; write SFT, DPO or GRPO")
    templates = tuple(_templates(group.config, group.trainer, f"{path}.config"))
    if group.strategy == "random":
        if group.num_runs is None:
            raise ConfigError(f"{path}.numRuns", "strategy random needs it: how many runs to draw")
        return _Draws(path, templates, group.num_runs, DEFAULT_SEED if group.seed is None else group.seed, index)
    for name, value in (("numRuns", group.num_runs), ("seed", group.seed)):
        if value is not None:
            raise ConfigError(
                f"{path}.{name}", "belongs to strategy random; a grid takes every combination: leave it out"
            )
    for drawn in (each for template in templates for part in template.parts for each in _ranges(part)):
        raise ConfigError(
            drawn.path,
            f'a range has no list of values to combine in a grid; write {{"{LIST}": [...]}} with the values to try '
            "(List([...]) in Python), or draw from it (strategy random; RFRandomSearch in Python)",
        )
    return _Grid(path, templates)


def _templates(config: Any, trainer: Trainer, path: str) -> Iterator[_Template]:
    if marker_of(config, path) == LIST:
        for index, member in enumerate(members(config, path)):
            yield from _templates(member, trainer, f"{path}[{index}]")
    else:
        yield _template(mapping(config, path), trainer, path)


def _template(config: dict[str, Any], trainer: Trainer, path: str) -> _Template:
    for key in config:
        if key not in PARTS:
            raise ConfigError(f"{path}.{key}", f"unknown field of a config{did_you_mean(str(key), PARTS)}")
    given = {key: value for key, value in config.items() if value is not None}
    _check_trainer(given, trainer, path)
    parts = {key: PARTS[key](value, f"{path}.{key}") for key, value in given.items()}
    refuse_secrets(given, path)
    training_args = check_fields(parts.get("training_args", {}), TRAINER_CONFIGS[trainer], f"{path}.training_args")
    return _Template(
        trainer=trainer,
        fixed={key: parts[key] for key in FIXED_KEYS if key in parts},
        reference={name: parts[key] for key, name in REFERENCE_KEYS.items() if key in parts and name != "model_kwargs"},
        peft=parts.get("peft_config"),
        training_args=training_args,
        model_kwargs=parts.get("model_kwargs", {}),
        additional={key: parts[key] for key in ADDITIONAL if key in parts},
        last=parts.get("reward_funcs" if trainer == "GRPO" else "ref_model_kwargs", {}),
    )


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


def _count(value: Any) -> int:
    if isinstance(value, dict):
        if LIST in value:
            return sum(_count(member) for member in value[LIST])
        return math.prod(_count(each) for key, each in value.items() if key != REF)
    return 1


def _values(value: Any) -> Iterator[Any]:
    """Yield every combination of a checked value's knobs, the alphabetically last key fastest."""
    if not isinstance(value, dict) or REF in value:
        yield value
    elif LIST in value:
        for member in value[LIST]:
            yield from _values(member)
    else:
        keys = sorted(value)
        for combination in itertools.product(*(list(_values(value[key])) for key in keys)):
            yield dict(zip(keys, combination, strict=True))


def _ranges(value: Any) -> Iterator[Drawn]:
    """Yield the ranges of a checked value."""
    if isinstance(value, Drawn):
        yield value
    elif isinstance(value, dict) and REF not in value:
        for each in value[LIST] if LIST in value else (value[key] for key in sorted(value)):
            yield from _ranges(each)


def _units(seed: int, index: int) -> Iterator[float]:
    """Yield numbers of [0, 1): Python promises that the same seed gives the same ones in every version."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = random.Random(int.from_bytes(digest))  # noqa: S311 - nothing secret is drawn
    while True:
        yield generator.random()


def _one_of(alternatives: Sequence[Any], units: Iterator[float]) -> Any:
    return alternatives[below(len(alternatives), next(units))]


def _drawn(value: Any, units: Iterator[float]) -> Any:
    """Draw a value for each knob of a checked value, in the order in which a grid loops over them."""
    if isinstance(value, Drawn):
        return value.at(next(units))
    if not isinstance(value, dict) or REF in value:
        return value
    if LIST in value:
        return _drawn(_one_of(value[LIST], units), units)
    return {key: _drawn(value[key], units) for key in sorted(value)}


def _canonical(leaf: Mapping[str, Any]) -> str:
    """Return text that is equal for equal configs, also after the API server has made 1 of 1.0."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(whole(dict(leaf)), sort_keys=True)
