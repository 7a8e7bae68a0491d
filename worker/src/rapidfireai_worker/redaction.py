"""Secrets that this process holds, taken out of what it tells: errors in resources, lines of its log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

LISTED = "RAPIDFIRE_SECRET_VARIABLES"
"""The variable that names, comma-separated, those whose values came from Secrets."""
_SHORTEST = 8
"""Characters; what is shorter is no secret that holds, and taking it out would garble ordinary words."""
_NAMES = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|(API|ACCESS|PRIVATE|SECRET|ENCRYPTION)_KEY)$", re.IGNORECASE
)
"""Names of variables that hold secrets, wherever they came from."""
_SHAPES = (
    re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"),
    re.compile(r"\bsk-[\w-]{16,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
"""What is secret by its shape: tokens of service accounts, of hubs and of model APIs; a user and password in a URL."""


def redact(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` without the secrets in it; in place of one it names the variable that holds it.

    Args:
        text: What is to be told, plain or as JSON.
        environ: The process's environment.
    """
    for value, name in sorted(_secrets(environ), key=lambda secret: -len(secret[0])):
        text = text.replace(value, f"[{name}]")
    for shape in _SHAPES:
        text = shape.sub("[redacted]", text)
    return text


def _secrets(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each secret value, also as JSON writes it, and the name of its variable."""
    named = {name.strip() for name in environ.get(LISTED, "").split(",")}
    for name, value in environ.items():
        if len(value) >= _SHORTEST and (name in named or _NAMES.search(name)):
            yield from ((form, name) for form in {value, json.dumps(value)[1:-1]})
