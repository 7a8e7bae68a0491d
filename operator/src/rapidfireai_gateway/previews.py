"""What a clone would be, before it is made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rapidfireai.clone import Change, changes, cloned, warm_start_obstacle
from rapidfireai.errors import ConfigError
from rapidfireai_gateway.errors import GatewayError


@dataclass(frozen=True, slots=True)
class Preview:
    """A clone that is not made yet.

    Attributes:
        config: Its config.
        changes: How that differs from its parent's.
        obstacle: Why it cannot begin with its parent's weights, naming the knob; None if it can, or shall not.
    """

    config: dict[str, Any]
    changes: tuple[Change, ...]
    obstacle: str | None


def preview(parent: Mapping[str, Any], patch: Mapping[str, Any], warm_start: bool) -> Preview:
    """Return what a clone with this patch would be.

    Args:
        parent: The parent's `spec.config`.
        patch: A merge patch on it.
        warm_start: Whether it shall begin with the parent's weights.

    Raises:
        GatewayError: With status 422, if the patch makes a config that cannot be run; the knob is named.
    """
    try:
        config = cloned(parent, patch)
    except ConfigError as error:
        raise GatewayError(422, str(error)) from error
    obstacle = warm_start_obstacle(parent, config) if warm_start else None
    return Preview(config, tuple(changes(parent, config)), obstacle)
