"""Secrets have no place in a config: whoever may list runs can read it, and it goes to MLflow as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from rapidfireai.config_fields import ENV, FUNCTION, NONE, RANGE, REF
from rapidfireai.errors import ConfigError

KEY_VARIABLE = "RAPIDFIRE_KEY_"
"""How the variables begin that stand for keys which were written into a config."""
HIDDEN = "***"
"""What is shown of a secret."""
_NAMES = re.compile(
    r"^(use_auth_)?token$|(^|_)(auth|access|api|hf|hub|bearer)_?token$"
    r"|api[-_]?key|secret|passw(or)?d|passphrase|access_?key|private_?key|credential|^(proxy-)?authorization$",
    re.IGNORECASE,
)
"""Names of secrets. `pad_token`, `eos_token_id`, `max_new_tokens` and their like are none."""
_IN_URL = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
_SAY_NOTHING = (REF, FUNCTION, ENV, NONE, RANGE)
"""Markers that hold no value of the user's."""


def is_secret(name: str, value: object) -> bool:
    """Return whether nobody else should read a value: a text with a secret's name, or a URL with a password.

    Args:
        name: What it is called.
        value: Anything.
    """
    return isinstance(value, str) and bool(value) and bool(_NAMES.search(name) or _IN_URL.search(value))


def refuse_secrets(value: Any, path: str) -> None:
    """Refuse a config that has a secret in it.

    Args:
        value: A config in its JSON form.
        path: Where it stands.

    Raises:
        ConfigError: If it has one; the message has the path and the fix, and never the secret.
    """

    def refuse(_: str, where: str) -> Any:
        raise ConfigError(
            where,
            "looks like a secret, which everybody who may list runs could read; keep it in a Secret, give it to the "
            "workers as an environment variable such as HF_TOKEN (spec.workers.template.spec.containers[0].env with "
            f'valueFrom.secretKeyRef), and where the library does not read that itself write {{"{ENV}": "HF_TOKEN"}}',
        )

    _replaced(value, path, "", refuse)


def lift_secrets(config: Any) -> tuple[Any, dict[str, str]]:
    """Return a config without the secrets in it, and what they are.

    Each is replaced by the `$env` marker of a variable that is called after its digest, so that the same key has the
    same name wherever and whenever it is written. Whoever submits the config gives the workers these variables.

    Args:
        config: A config in its JSON form.

    Returns:
        The config, and the values by the names of their variables.
    """
    lifted: dict[str, str] = {}

    def lift(secret: str, _: str) -> Any:
        name = KEY_VARIABLE + hashlib.sha256(secret.encode()).hexdigest()[:8]
        lifted[name] = secret
        return {ENV: name}

    return _replaced(config, "", "", lift), lifted


def without_secrets(value: Any) -> Any:
    """Return a value of a config in which each secret is hidden, to be shown."""
    return _replaced(value, "", "", lambda *_: HIDDEN)


def _replaced(value: Any, path: str, name: str, replace: Callable[[str, str], Any]) -> Any:
    """Return the value with each secret replaced by what `replace(secret, path)` returns."""
    if isinstance(value, Mapping):
        if any(marker in value for marker in _SAY_NOTHING):
            return value
        made = {}
        for key, each in value.items():
            knob = str(key).startswith("$")
            made[key] = _replaced(each, path if knob else f"{path}.{key}", name if knob else str(key), replace)
        return made
    if isinstance(value, list | tuple):
        return [_replaced(each, f"{path}[{index}]", name, replace) for index, each in enumerate(value)]
    return replace(value, path) if is_secret(name, value) else value
