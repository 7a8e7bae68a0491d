"""A config of an evaluation, checked, and the leaf that it becomes. Pure.

The loops nest in this order: what answers the rows (`vllm_config`, `api_config`, the alternatives of either), then the
other fields in alphabetical order, the last one fastest.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.arguments import did_you_mean
from rapidfireai.config_fields import LIST, NONE, mapping, marker_of, members
from rapidfireai.credentials import refuse_secrets
from rapidfireai.errors import ConfigError
from rapidfireai.evals_checks import fields
from rapidfireai.evals_fields import OTHER_NAMES, PIPELINE, RUN, SECTIONS
from rapidfireai.expansion.pipelines import LEAVES, reranks_more_than_it_finds

DEFAULT_BATCH = 8
"""How many rows a batch has if nobody says."""
_WRITABLE = (*SECTIONS, *OTHER_NAMES, PIPELINE)


def is_evaluation(config: Mapping[str, Any]) -> bool:
    """Return whether a config, as users write it or a leaf, is one of an evaluation."""
    return any(name in config for name in _WRITABLE)


@dataclass(frozen=True, slots=True)
class EvalsTemplate:
    """One checked config; `pipeline` is a section's name and fields, or a knob of such pairs."""

    path: str
    pipeline: dict[str, Any]
    rest: dict[str, Any]
    why_none = (
        "no run is left: the reranker's top_n is greater than the search's k in all of them; write a smaller top_n, or "
        "a greater k"
    )

    @property
    def parts(self) -> tuple[Any, ...]:
        """The parts that may hold knobs, outermost loop first."""
        return (self.pipeline, self.rest)

    def leaf(self, combination: Sequence[Any]) -> dict[str, Any] | None:
        """Return the config of one run, or None if its reranker would keep more documents than its search finds.

        Raises:
            ConfigError: If these values do not go together.
        """
        pipeline, rest = combination
        ((name, given),) = pipeline.items()
        section = LEAVES[name](given, f"{self.path}.{name}")
        if reranks_more_than_it_finds(section):
            return None
        online = rest.get("online_strategy_kwargs")
        said = {"batch_size": DEFAULT_BATCH, **rest} | ({"online_strategy_kwargs": online or None})
        leaf = {name: section, **{key: value for key, value in said.items() if value is not None}}
        leaf.setdefault("batch_size", DEFAULT_BATCH)
        return copy.deepcopy(leaf)


def evals_template(config: Mapping[str, Any], path: str) -> EvalsTemplate:
    """Check a config.

    Args:
        config: The config, no `$list` of configs.
        path: Where it stands.

    Raises:
        ConfigError: If it cannot be run.
    """
    known = (*_WRITABLE, *RUN)
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{path}.{key}", f"unknown field of an evaluation's config{did_you_mean(str(key), known)}"
            )
    given = {key: value for key, value in config.items() if value is not None}
    named = [key for key in _WRITABLE if key in given]
    if len(named) != 1:
        wanted = "write one of vllm_config and api_config"
        if not named:
            raise ConfigError(path, f"says nothing that answers the rows; {wanted}")
        raise ConfigError(f"{path}.{named[1]}", f"stands beside {named[0]}; {wanted}, or alternatives as {PIPELINE}")
    refuse_secrets(given, path)
    rest = {key: RUN[key](given[key], f"{path}.{key}") for key in sorted(RUN) if key in given}
    return EvalsTemplate(path, _pipeline(named[0], given[named[0]], f"{path}.{named[0]}"), rest)


def _pipeline(name: str, value: Any, path: str) -> dict[str, Any]:
    """Return what answers the rows: a section's name and its checked fields, or a knob of such pairs."""
    if isinstance(value, list):  # a plain list lists alternatives too
        value = {LIST: value}
    marker = marker_of(value, path)
    if marker == LIST:
        each = [_pipeline(name, member, f"{path}[{index}]") for index, member in enumerate(members(value, path))]
        return {LIST: each}
    if value is None or marker == NONE:
        raise ConfigError(path, "is empty; write what answers the rows")
    if name != PIPELINE:
        section = OTHER_NAMES.get(name, name)
        return {section: fields(section, SECTIONS[section])(value, path)}
    inner = mapping(value, path)
    if len(inner) != 1 or next(iter(inner)) not in {*SECTIONS, *OTHER_NAMES}:
        raise ConfigError(path, "must say which kind it is: {vllm_config: {...}} or {api_config: {...}}")
    ((kind, said),) = inner.items()
    return _pipeline(kind, said, f"{path}.{kind}")
