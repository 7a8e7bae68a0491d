"""Who answers: the kinds of generators, each made when the first run needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.parts import Generators, Site

KINDS = ("vllm_config", "api_config")
"""The keys of a leaf that name its kind."""


def kind_of(config: Mapping[str, Any]) -> str:
    """Return which key of a leaf says who answers.

    Raises:
        RunFailure: If it has none of them, or more than one.
    """
    named = [kind for kind in KINDS if config.get(kind) is not None]
    if len(named) != 1:
        found = " and ".join(named) or f"neither, but {', '.join(sorted(config)) or 'nothing'}"
        raise RunFailure("InvalidConfig", f"config: one of {' and '.join(KINDS)} says who answers; it has {found}")
    return named[0]


def make(kind: str, site: Site) -> Generators:
    """Return the generators of one kind; importing them may take a minute.

    Args:
        kind: The key of the leaf.
        site: The worker that they are made in.
    """
    if kind == "vllm_config":
        from rapidfireai_worker.evals.generators.vllm import VllmEngines  # noqa: PLC0415 - imports torch

        return VllmEngines(site)
    from rapidfireai_worker.evals.generators.api import ApiClients  # noqa: PLC0415 - only where it is needed

    return ApiClients(site)
