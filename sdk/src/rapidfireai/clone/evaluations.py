"""A patch on the config of an evaluation, in the leaf's names, and what of the parent it leaves standing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidfireai.arguments import did_you_mean
from rapidfireai.clone.spelling import is_plain, put
from rapidfireai.errors import ConfigError
from rapidfireai.evals_fields import ONLINE, OTHER_NAMES, PIPELINE, PROMPT_MANAGER, RAG, RUN, SEARCH_KWARGS, SECTIONS
from rapidfireai.expansion.pipelines import DEFAULT_SEARCH, OF_ONE_SEARCH, in_the_leafs_names

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "rag": RAG,
    "prompt_manager": PROMPT_MANAGER,
    "search_kwargs": SEARCH_KWARGS,
    "online_strategy_kwargs": ONLINE,
}
"""Mappings whose names are all known, by the name under which they stand."""


def as_fields(patch: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch with every field where the leaf has it, in the leaf's names.

    Args:
        patch: The patch, dotted keys spread.
        parent: The parent's config.

    Raises:
        ConfigError: If a field does not exist, is said twice, or would make another kind of pipeline of it.
    """
    section = next(name for name in SECTIONS if name in parent)
    inside: dict[str, Any] = {}
    made: dict[str, Any] = {}
    for key, value in patch.items():
        name = OTHER_NAMES.get(key, key)
        if name == PIPELINE:
            name, value = _of_pipeline(value, section)  # noqa: PLW2901 - the same under its section's name
        if name in SECTIONS:
            for field, each in _section(name, value, section).items():
                put(inside, field, each, f"{name}.{field}")
        elif name in SECTIONS[section]:
            put(inside, name, value, name)
        elif name in RUN:
            made[name] = value
        else:
            known = (*RUN, *SECTIONS[section], section)
            raise ConfigError(str(key), f"unknown field of an evaluation's config{did_you_mean(str(key), known)}")
    if not inside:
        return made
    for name in ("rag", "prompt_manager"):
        if is_plain(inside.get(name)):
            inside[name] = in_the_leafs_names(inside[name], f"{section}.{name}")
    return {section: inside, **made}


def check_fields_of(patch: Mapping[str, Any], path: str = "") -> None:
    """Check the names of a patch, also of what it takes away: a name that does not exist is a mistake there as well.

    Raises:
        ConfigError: If a field does not exist.
    """
    for key, value in patch.items():
        known = {**SECTIONS, **_FIELDS}.get(key)
        if known is None or not is_plain(value):
            continue
        here = f"{path}{key}"
        for name in value:
            if name not in known:
                raise ConfigError(f"{here}.{name}", f"unknown field of {key}{did_you_mean(str(name), known)}")
        check_fields_of(value, f"{here}.")


def parent_of(parent: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the patch is merged into: the parent's config, without the arguments of a search that it replaces.

    Args:
        parent: The parent's config.
        patch: The patch, as `as_fields` returns it.
    """
    section = next(name for name in SECTIONS if name in parent)
    rag, wanted = parent[section].get("rag") or {}, ((patch.get(section) or {}).get("rag") or {})
    if "search_type" not in wanted:
        return dict(parent)
    if rag.get("search_type", DEFAULT_SEARCH) == (wanted["search_type"] or DEFAULT_SEARCH):
        return dict(parent)
    search = rag.get("search_kwargs") or {}
    kept = {name: value for name, value in search.items() if name not in OF_ONE_SEARCH}
    return {**parent, section: {**parent[section], "rag": {**rag, "search_kwargs": kept}}}


def _of_pipeline(value: Any, section: str) -> tuple[str, Any]:
    if is_plain(value) and len(value) == 1 and next(iter(value)) in {*SECTIONS, *OTHER_NAMES}:
        ((name, inner),) = value.items()
        return OTHER_NAMES.get(name, name), inner
    raise ConfigError(PIPELINE, f"must say which kind it is; write {section}")


def _section(name: str, value: Any, section: str) -> dict[str, Any]:
    if name != section:
        message = f"a clone keeps what answers its parent's rows, {section}; make a new experiment for {name}"
        raise ConfigError(name, message)
    if not is_plain(value):
        raise ConfigError(name, f"must be a mapping of what changes, not {type(value).__name__}")
    return dict(value)
