"""Searches: how knobs become runs, and what else may be given as a config group."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

from pydantic import ValidationError

from rapidfireai.api.experiment import MAX_RUNS, MOST_RUNS, ConfigGroup, Strategy, Trainer
from rapidfireai.arguments import did_you_mean
from rapidfireai.automl.configs import RFModelConfig, TrainerConfig
from rapidfireai.automl.knobs import List
from rapidfireai.automl.wire import Lift, to_wire
from rapidfireai.calls import whole
from rapidfireai.errors import ConfigError
from rapidfireai.expand import ADDITIONAL, DEFAULT_SEED, LIST, REF, REFERENCE_KEYS, expand

Leaf = dict[str, Any]


class AutoMLAlgorithm:
    """Base of the searches.

    Args:
        configs: One `RFModelConfig` or config mapping, or a list of them.
        trainer_type: The trainer, such as "SFT"; may be left out where `training_args` says it.

    Raises:
        TypeError: If an argument does not exist or a config is none.
        ConfigError: If the configs cannot be run; the path names the knob.
    """

    strategy: ClassVar[Strategy]
    _own: ClassVar[tuple[str, ...]] = ()

    def __init__(self, configs: Any, trainer_type: str | None = None, **unknown: object) -> None:
        for name in unknown:
            near = did_you_mean(name, ("configs", "trainer_type", *self._own))
            raise TypeError(f"{type(self).__name__} has no argument {name}{near}")
        self.configs = _flat(configs)
        self.trainer_type = None if trainer_type is None else _trainer_named(trainer_type)
        self.get_runs()

    def groups(self, lift: Lift, first: int = 0) -> list[ConfigGroup]:
        """Return the groups of the resource.

        Args:
            lift: What to do with objects that JSON cannot hold.
            first: The index of the first group, for paths.
        """
        return [
            _group(config, self.trainer_type, lift, f"configs[{first + index}]")
            for index, config in enumerate(self.configs)
        ]

    def get_runs(self, seed: int = 42) -> list[Leaf]:
        """Return the config of every run, in order, with the functions themselves in it.

        Args:
            seed: Nobody needs it: a grid draws nothing, and a random search has its own.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, not {seed!r}")
        return get_runs(self)


class RFGridSearch(AutoMLAlgorithm):
    """Every combination of the knobs' values becomes a run."""

    strategy = "grid"


class RFRandomSearch(AutoMLAlgorithm):
    """Draws some combinations of the knobs' values; each becomes a run, and no two are the same.

    Args:
        configs: As for every search; of several, each draw takes one first.
        trainer_type: As for every search.
        num_runs: How many runs to draw.
        seed: What to draw with: the same seed gives the same runs.

    Raises:
        TypeError: As for every search, or if num_runs is missing.
        ConfigError: As for every search, or if the knobs do not have that many combinations.
    """

    strategy = "random"
    _own = ("num_runs", "seed")

    def __init__(
        self,
        configs: Any,
        trainer_type: str | None = None,
        num_runs: int | None = None,
        seed: int = DEFAULT_SEED,
        **unknown: object,
    ) -> None:
        self.num_runs = whole("RFRandomSearch", "num_runs", num_runs, 1)
        if self.num_runs > MOST_RUNS:
            raise ConfigError("num_runs", f"one experiment can have at most {MOST_RUNS} runs, not {num_runs}")
        self.seed = whole("RFRandomSearch", "seed", seed, 0)
        super().__init__(configs, trainer_type, **unknown)

    def groups(self, lift: Lift, first: int = 0) -> list[ConfigGroup]:
        """Return the one group that draws from all of the configs.

        Raises:
            ConfigError: If the configs have different trainers.
        """
        path = f"configs[{first}]"
        groups = super().groups(lift, first)
        if not groups:
            return []
        trainers = sorted({group.trainer for group in groups if group.trainer})
        if len(trainers) > 1:
            raise ConfigError(path, f"has configs for {' and '.join(trainers)}; make one RFRandomSearch for each")
        configs = [group.config for group in groups]
        config = configs[0] if len(configs) == 1 else {LIST: configs}
        more = {"num_runs": self.num_runs, "seed": self.seed}
        return [_validated(path, strategy=self.strategy, trainer=trainers[0], config=config, **more)]


def groups_of(config_group: Any, lift: Lift) -> list[ConfigGroup]:
    """Return the groups of the resource for whatever a user gave as a config group.

    Args:
        config_group: A search, an `RFModelConfig`, a mapping, or a list of these, nested at will.
        lift: What to do with objects that JSON cannot hold.

    Raises:
        TypeError: If it is something else.
        ConfigError: If a config cannot be run.
    """
    groups: list[ConfigGroup] = []
    for member in _flat(config_group):
        if isinstance(member, AutoMLAlgorithm):
            groups += member.groups(lift, len(groups))
        else:
            groups.append(_group(member, None, lift, f"configs[{len(groups)}]"))
    if not groups:
        raise ConfigError("config_group", "has no config; give an RFModelConfig or RFGridSearch(...)")
    return groups


def get_runs(config_group: Any) -> list[Leaf]:
    """Return the config of every run of a config group, in order, with the functions themselves in it.

    Raises:
        TypeError, ConfigError: As `groups_of`.
    """
    objects: dict[str, object] = {}

    def lift(value: object, path: str) -> dict[str, Any]:
        # One key an object, as in a bundle: a random search must see that two knobs' values are the same.
        key = next((key for key, known in objects.items() if known is value), path)
        objects[key] = value
        return {REF: {"key": key}}

    return [_with_objects(leaf, objects) for leaf in checked_runs(groups_of(config_group, lift), MOST_RUNS)]


def checked_runs(groups: list[ConfigGroup], limit: int = MAX_RUNS) -> list[Leaf]:
    """Expand the groups as the operator will.

    Args:
        groups: The groups of the resource.
        limit: How many runs they may make.

    Raises:
        ConfigError: As `expand`, with the path as it reads in Python: `configs[0].training_args.learning_rate`.
    """
    try:
        return expand(groups, limit)
    except ConfigError as error:
        path = re.sub(r"^spec\.configs(\[\d+\])?(\.config\b)?", r"configs\1", error.path)
        path = path.replace("].numRuns", "].num_runs")
        raise ConfigError(path, error.message) from None


def _flat(value: Any) -> list[Any]:
    """Return the members of a group, however deeply lists are nested."""
    if isinstance(value, List):
        return _flat(value.values)
    if isinstance(value, list | tuple):
        return [each for member in value for each in _flat(member)]
    if isinstance(value, AutoMLAlgorithm | RFModelConfig | Mapping):
        return [value]
    raise TypeError(
        f"config_group must be RFGridSearch(...), an RFModelConfig, a mapping, or a list of these, not {value!r}"
    )


def _group(config: Any, trainer: Trainer | None, lift: Lift, path: str) -> ConfigGroup:
    """Return the grid of one config."""
    if isinstance(config, AutoMLAlgorithm):
        raise TypeError(f"{path}: a search within a search; give the searches as one list to run_fit")
    given = dict(config) if isinstance(config, Mapping) else dict(config.given())
    _unfold_leaf(given)
    named = given.pop("trainer_type", None)
    arguments = given.get("training_args")
    said = _trainer_named(named) if named else None
    trainer = trainer or said or _trainer_of(arguments, path)
    if said not in {None, trainer}:
        raise ConfigError(f"{path}.trainer_type", f"is {said}, and the search's is {trainer}; write one of them")
    if isinstance(arguments, TrainerConfig) and arguments.trainer != trainer:
        raise ConfigError(
            f"{path}.training_args",
            f"is a {type(arguments).__name__}, and the trainer is {trainer}; write RF{trainer}Config",
        )
    written = {key: value for key, value in given.items() if value is not None}
    return _validated(path, trainer=trainer, config=to_wire(written, path, lift))


def _validated(path: str, **fields: Any) -> ConfigGroup:
    try:
        return ConfigGroup(**fields)
    except ValidationError as error:
        raise ConfigError(path, str(error)) from error


def _unfold_leaf(given: dict[str, Any]) -> None:
    """Accept the config of a single run, as get_runs_info() shows it, next to configs with knobs."""
    if "peft_params" in given:
        given.setdefault("peft_config", given.pop("peft_params"))
    if "compat" in given:
        given["training_args"] = {**(given.get("training_args") or {}), **given.pop("compat")}
    reference = given.pop("ref_model_config", None) or {}
    given |= {key: reference[name] for key, name in REFERENCE_KEYS.items() if name in reference}
    additional = given.pop("additional_kwargs", None) or {}
    given |= {key: additional[key] for key in ADDITIONAL if key in additional}


def _trainer_of(training_args: Any, path: str) -> Trainer:
    if isinstance(training_args, TrainerConfig):
        return training_args.trainer
    raise ConfigError(path, 'says no trainer; write RFGridSearch(config, "SFT"), or training_args=RFSFTConfig(...)')


def _trainer_named(name: str) -> Trainer:
    known = get_args(Trainer)
    if isinstance(name, str) and name.upper() in known:
        return cast("Trainer", name.upper())
    raise ConfigError("trainer_type", f"must be one of {', '.join(known)}, not {name!r}")


def _with_objects(value: Any, objects: Mapping[str, object]) -> Any:
    if isinstance(value, dict):
        if REF in value:
            return objects[value[REF]["key"]]
        return {key: _with_objects(each, objects) for key, each in value.items()}
    return [_with_objects(each, objects) for each in value] if isinstance(value, list) else copy.copy(value)
