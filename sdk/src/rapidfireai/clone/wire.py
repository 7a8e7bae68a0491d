"""A patch as a notebook writes it -> the JSON of the ICOp: config objects as mappings, functions lifted out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidfireai.automl.configs import FUNCTIONS
from rapidfireai.automl.pipelines import section_of
from rapidfireai.automl.wire import Arguments, Lift, to_wire
from rapidfireai.errors import ConfigError
from rapidfireai.evals_fields import PIPELINE


def patch_to_wire(patch: object, lift: Lift) -> dict[str, Any]:
    """Return a patch as JSON.

    In a mapping None takes a key away, as null does in a merge patch; in a config object such as `RFSFTConfig` it is
    the value None, as it is in a config.

    Args:
        patch: A mapping, or a config object whose arguments are all taken, such as `RFModelConfig`.
        lift: Called for functions and other Python objects.

    Raises:
        ConfigError: If a value is none that a config may have.
    """

    def lift_function(value: object, path: str) -> dict[str, Any]:
        if path.rpartition(".")[2].partition("[")[0] in FUNCTIONS and not callable(value):
            raise ConfigError(path, f"must be a function, not {value!r}")
        return lift(value, path)

    if patch is None:
        return {}
    section = section_of(patch)
    if section is not None:
        patch = {section: patch}
    given = patch.given() if isinstance(patch, Arguments) else patch
    if not isinstance(given, Mapping):
        raise ConfigError("patch", f"must be a mapping of what changes, not {patch!r}")
    named = {(key == PIPELINE and section_of(value)) or str(key): value for key, value in given.items()}
    return {str(key): _wire(value, str(key), lift_function) for key, value in named.items()}


def _wire(value: object, path: str, lift: Lift) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(key): _wire(each, f"{path}.{key}", lift) for key, each in value.items()}
    return to_wire(value, path, lift)
