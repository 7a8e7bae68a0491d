"""Configs with knobs -> the runs' configs. Pure, and the same function in the SDK and in the operator.

A knob is written `{"$list": [...]}`; a grid makes a run of every combination, a random search draws some, and there
`{"$range": ...}` is a knob too. The order of the runs follows from the config's content alone, not from the order in
which its keys were written, because the API server does not keep that: groups in order, then their configs, then the
parts of a config in the order that `rapidfireai.expansion.fit` and `.evals` document; within a mapping, keys in
alphabetical order, the last one fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapidfireai.api.experiment import MAX_RUNS, MOST_RUNS, ConfigGroup, Mode, Trainer
from rapidfireai.config_fields import LIST, NONE, RANGE, REF, check_fields, mapping, marker_of, members
from rapidfireai.errors import ConfigError
from rapidfireai.expansion.evals import evals_template, is_evaluation
from rapidfireai.expansion.fit import ADDITIONAL, REFERENCE_KEYS, fit_template, restore_fit
from rapidfireai.expansion.knobs import ranges, values
from rapidfireai.expansion.searches import Draws, Grid, Template

DEFAULT_SEED = 42
"""The seed of a random search that names none."""

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
    "is_evaluation",
    "restore",
]


def expand(configs: Sequence[ConfigGroup], limit: int = MAX_RUNS, mode: Mode = "fit") -> list[dict[str, Any]]:
    """Return the config of every run, in the order of the runs.

    Args:
        configs: The groups of `Experiment.spec.configs`.
        limit: How many runs they may make: `Experiment.spec.maxRuns`.
        mode: What the runs do: `Experiment.spec.mode`.

    Raises:
        ConfigError: If a config cannot be run; `.path` names the field and the message the fix.
    """
    searches = [_search(group, index, mode) for index, group in enumerate(configs)]
    count = sum(search.count() for search in searches)
    if count > limit:
        raise ConfigError(
            "spec.configs",
            f"the knobs make {count} runs, and spec.maxRuns allows {limit}; list fewer values, draw some of them "
            "(strategy random with numRuns; RFRandomSearch in Python), split the configs over "
            f"{-(-count // limit)} experiments, or allow more: spec.maxRuns (max_runs of run_{mode}), up to "
            f"{MOST_RUNS}",
        )
    return [leaf for search in searches for leaf in search.leaves()]


def decided(config: Mapping[str, Any], trainer: Trainer | None, path: str) -> dict[str, Any]:
    """Return the leaf of a config that has no knobs.

    Args:
        config: A config as users write it, its values decided.
        trainer: What trains it; None for an evaluation.
        path: Where it stands.

    Raises:
        ConfigError: If it cannot be run; `.path` names the field and the message the fix.
    """
    template = _template(dict(config), trainer, path)
    leaf = template.leaf([next(values(part)) for part in template.parts])
    if leaf is None:
        raise ConfigError(path, template.why_none)
    return leaf


def restore(leaf: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config as `expand` made it, after a journey through the API server, where 1.0 became 1.

    Args:
        leaf: `Run.spec.config`.

    Raises:
        ConfigError: If it names an argument that the installed libraries do not have.
    """
    return decided(leaf, None, "spec.config") if is_evaluation(leaf) else restore_fit(leaf)


def _search(group: ConfigGroup, index: int, mode: Mode) -> Grid | Draws:
    path = f"spec.configs[{index}]"
    if mode == "fit" and group.trainer is None:
        raise ConfigError(f"{path}.trainer", "is missing; write SFT, DPO or GRPO")
    if mode == "evals" and group.trainer is not None:
        raise ConfigError(f"{path}.trainer", "mode evals trains nothing; leave it out, or write mode: fit")
    templates = tuple(_templates(group.config, group.trainer, f"{path}.config"))
    if group.strategy == "random":
        if group.num_runs is None:
            raise ConfigError(f"{path}.numRuns", "strategy random needs it: how many runs to draw")
        return Draws(path, templates, group.num_runs, DEFAULT_SEED if group.seed is None else group.seed, index)
    for name, value in (("numRuns", group.num_runs), ("seed", group.seed)):
        if value is not None:
            raise ConfigError(
                f"{path}.{name}", "belongs to strategy random; a grid takes every combination: leave it out"
            )
    for drawn in (each for template in templates for part in template.parts for each in ranges(part)):
        raise ConfigError(
            drawn.path,
            f'a range has no list of values to combine in a grid; write {{"{LIST}": [...]}} with the values to try '
            "(List([...]) in Python), or draw from it (strategy random; RFRandomSearch in Python)",
        )
    return Grid(path, templates)


def _templates(config: Any, trainer: Trainer | None, path: str) -> Iterator[Template]:
    if marker_of(config, path) == LIST:
        for index, member in enumerate(members(config, path)):
            yield from _templates(member, trainer, f"{path}[{index}]")
    else:
        yield _template(mapping(config, path), trainer, path)


def _template(config: dict[str, Any], trainer: Trainer | None, path: str) -> Template:
    return evals_template(config, path) if trainer is None else fit_template(config, trainer, path)
