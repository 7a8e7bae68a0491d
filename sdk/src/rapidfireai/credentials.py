"""Secrets have no place in a config: whoever may list runs can read it, and it goes to MLflow as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rapidfireai.errors import ConfigError

_NAMES = re.compile(
    r"^(use_auth_)?token$|(^|_)(auth|access|api|hf|hub|bearer)_?token$"
    r"|api_?key|secret|passw(or)?d|passphrase|access_?key|private_?key|credential",
    re.IGNORECASE,
)
"""Names of secrets. `pad_token`, `eos_token_id`, `max_new_tokens` and their like are none."""
_IN_URL = re.compile(r"://[^/@\s:]+:[^/@\s]+@")


def refuse_secrets(value: Any, path: str) -> None:
    """Refuse a config that has a secret in it.

    Args:
        value: A config in its JSON form.
        path: Where it stands.

    Raises:
        ConfigError: If it has one; the message has the path and the fix, and never the secret.
    """
    for where in _secrets(value, path, ""):
        raise ConfigError(
            where,
            "looks like a secret, which everybody who may list runs could read; keep it in a Secret and give it to the "
            "workers as an environment variable such as HF_TOKEN (spec.workers.template.spec.containers[0].env with "
            "valueFrom.secretKeyRef)",
        )


def _secrets(value: Any, path: str, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            knob = str(key).startswith("$")
            yield from _secrets(each, path if knob else f"{path}.{key}", name if knob else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _secrets(each, f"{path}[{index}]", name)
    elif isinstance(value, str) and value and (_NAMES.search(name) or _IN_URL.search(value)):
        yield path
