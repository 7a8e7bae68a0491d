"""Searches: how knobs become runs, and what else may be given as a config group."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

from pydantic import ValidationError

from rapidfireai.api.experiment import MAX_RUNS, MOST_RUNS, ConfigGroup, Mode, Strategy, Trainer
from rapidfireai.arguments import did_you_mean
from rapidfireai.automl.configs import RFModelConfig, TrainerConfig
from rapidfireai.automl.knobs import List
from rapidfireai.automl.pipelines import EvalsConfig, section_of
from rapidfireai.automl.wire import Lift, to_wire
from rapidfireai.calls import whole
from rapidfireai.credentials import lift_secrets
from rapidfireai.errors import ConfigError
from rapidfireai.evals_fields import OTHER_NAMES, PIPELINE, SECTIONS
from rapidfireai.expand import ADDITIONAL, DEFAULT_SEED, LIST, REF, REFERENCE_KEYS, expand, is_evaluation

Leaf = dict[str, Any]
_EVALUATION = "evaluations"


class AutoMLAlgorithm:
    """Base of the searches.

    Args:
        configs: One `RFModelConfig` or config mapping, or a list of them. For an evaluation: one mapping with
            `vllm_config` or `openai_config`, `batch_size` and the batch functions, or a list of them.
        trainer_type: The trainer, such as "SFT"; may be left out where `training_args` says it. An evaluation has none.

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
        kinds = sorted({group.trainer or _EVALUATION for group in groups})
        if len(kinds) > 1:
            raise ConfigError(path, f"has configs for {' and '.join(kinds)}; make one RFRandomSearch for each")
        configs = [group.config for group in groups]
        config = configs[0] if len(configs) == 1 else {LIST: configs}
        more = {"num_runs": self.num_runs, "seed": self.seed}
        return [_validated(path, strategy=self.strategy, trainer=groups[0].trainer, config=config, **more)]


def groups_of(config_group: Any, lift: Lift, mode: Mode = "fit") -> list[ConfigGroup]:
    """Return the groups of the resource for whatever a user gave as a config group.

    Keys that were written into the configs are still in them: `lift_secrets` takes them out before anything is sent.

    Args:
        config_group: A search, a config object, a mapping, or a list of these, nested at will.
        lift: What to do with objects that JSON cannot hold.
        mode: What the runs are to do.

    Raises:
        TypeError: If it is something else.
        ConfigError: If a config cannot be run, or does something else than the mode says.
    """
    groups = _groups(config_group, lift)
    for index, group in enumerate(groups):
        if mode == "fit" and group.trainer is None:
            message = 'is the config of an evaluation; call run_evals of an Experiment with mode="evals"'
            raise ConfigError(f"configs[{index}]", message)
        if mode == "evals" and group.trainer is not None:
            message = f'fine-tunes with {group.trainer}; call run_fit of an Experiment with mode="fit"'
            raise ConfigError(f"configs[{index}]", message)
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

    groups = _groups(config_group, lift)
    evaluations = [group.trainer is None for group in groups]
    if any(evaluations) and not all(evaluations):
        raise ConfigError("config_group", "has configs that fine-tune and configs that evaluate; make a group of each")
    hidden = [group.model_copy(update={"config": lift_secrets(group.config)[0]}) for group in groups]
    checked = checked_runs(hidden if any(evaluations) else groups, MOST_RUNS)
    return [_with_objects(leaf, objects) for leaf in checked]


def checked_runs(groups: list[ConfigGroup], limit: int = MAX_RUNS) -> list[Leaf]:
    """Expand the groups as the operator will.

    Args:
        groups: The groups of the resource; groups without a trainer are those of an evaluation.
        limit: How many runs they may make.

    Raises:
        ConfigError: As `expand`, with the path as it reads in Python: `configs[0].training_args.learning_rate`.
    """
    try:
        return expand(groups, limit, "evals" if all(group.trainer is None for group in groups) else "fit")
    except ConfigError as error:
        path = re.sub(r"^spec\.configs(\[\d+\])?(\.config\b)?", r"configs\1", error.path)
        path = path.replace("].numRuns", "].num_runs")
        raise ConfigError(path, error.message) from None


def _groups(config_group: Any, lift: Lift) -> list[ConfigGroup]:
    groups: list[ConfigGroup] = []
    for member in _flat(config_group):
        if isinstance(member, AutoMLAlgorithm):
            groups += member.groups(lift, len(groups))
        else:
            groups.append(_group(member, None, lift, f"configs[{len(groups)}]"))
    if not groups:
        raise ConfigError("config_group", "has no config; give a config, or RFGridSearch(...) of one")
    return groups


def _flat(value: Any) -> list[Any]:
    """Return the members of a group, however deeply lists are nested."""
    if isinstance(value, List):
        return _flat(value.values)
    if isinstance(value, list | tuple):
        return [each for member in value for each in _flat(member)]
    if isinstance(value, AutoMLAlgorithm | RFModelConfig | EvalsConfig | Mapping):
        return [value]
    raise TypeError(
        f"config_group must be RFGridSearch(...), an RFModelConfig, a mapping, or a list of these, not {value!r}"
    )


def _group(config: Any, trainer: Trainer | None, lift: Lift, path: str) -> ConfigGroup:
    """Return the grid of one config."""
    if isinstance(config, AutoMLAlgorithm):
        raise TypeError(f"{path}: a search within a search; give the searches as one list to run_fit")
    section = section_of(config)
    if section is not None:
        config = {section: config}
    if isinstance(config, EvalsConfig):
        raise TypeError(
            f"{path}: {type(config).__name__} is a part of a config; it goes into vllm_config or api_config"
        )
    if isinstance(config, Mapping) and is_evaluation(config):
        if trainer is not None:
            raise ConfigError(
                f"{path}.{next(iter(config))}", "evaluates, and trainer_type trains; leave trainer_type out"
            )
        written = {str(key): value for key, value in config.items() if value is not None}
        return _validated(path, trainer=None, config=to_wire(_sections(written, path), path, lift))
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


def _sections(given: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an evaluation's config with each config object under the name of what it is.

    Raises:
        ConfigError: If an object stands under the name of another kind.
    """
    made: dict[str, Any] = {}
    for key, value in given.items():
        section = OTHER_NAMES.get(key, key)
        alternatives = _alternatives(value) if section in {*SECTIONS, PIPELINE} else []
        kinds = {section_of(each) for each in alternatives} - {None}
        if section != PIPELINE and kinds - {section}:
            wrong = next(each for each in alternatives if section_of(each) not in {None, section})
            message = (
                f"is a {type(wrong).__name__}; write it as {section_of(wrong)}, or alternatives of both as {PIPELINE}"
            )
            raise ConfigError(f"{path}.{key}", message)
        if section == PIPELINE and kinds:
            section, value = _pipeline(value, kinds)  # noqa: PLW2901 - the same said in another way
        made[section if section not in made else key] = value
    return made


def _alternatives(value: Any) -> list[Any]:
    """Return the alternatives of a knob, however deeply nested; anything else is one."""
    if isinstance(value, List | list | tuple):
        return [
            each for member in (value.values if isinstance(value, List) else value) for each in _alternatives(member)
        ]
    return [value]


def _pipeline(value: Any, kinds: set[str | None]) -> tuple[str, Any]:
    """Return where config objects given as `pipeline` stand: under their section's name if all are of one kind."""
    only = next(iter(kinds)) if len(kinds) == 1 else None
    each = _alternatives(value)
    if only is not None and all(section_of(one) for one in each):
        return only, value
    named = [{section: one} if (section := section_of(one)) else one for one in each]
    return PIPELINE, List(named) if len(named) > 1 else named[0]


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
