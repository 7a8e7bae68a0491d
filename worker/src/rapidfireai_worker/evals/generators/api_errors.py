"""What an API's refusal means: try again, give the row up, or give the run up. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import openai

from rapidfireai_worker.redaction import redact

_TOO_LONG = re.compile(
    r"context.?length|maximum context|max_model_len|too many tokens|reduce the length", re.IGNORECASE
)
_MASKED = re.compile(r"\S*\*{3,}\S*")
"""A key as APIs show it: its middle is stars, and both its ends are there."""
_TIMED = {408, 409, 425, 429}
_SAID = 500
"""Characters of an API's own words that are shown."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request that was not answered as hoped.

    Attributes:
        outcome: `again` tries it again, `row` gives up its row, `run` the whole run.
        message: What happened, as a sentence with the fix.
        after: In how many seconds the API said to come again.
        reached: Whether a model may have worked on it, so that its tokens count.
        reason: Of a run's failure, one word.
    """

    outcome: Literal["again", "row", "run"]
    message: str
    after: float | None = None
    reached: bool = False
    reason: str = "ApiRefused"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked, for messages.

    Attributes:
        url: Where.
        model: Which model.
        fields: The fields of `model_config`.
        secrets: What must not be told.
    """

    url: str
    model: str
    fields: Collection[str] = ()
    secrets: Collection[str] = ()

    def clean(self, words: str) -> str:
        """Return an API's words without keys or parts of them, and not too long."""
        return without_keys(words, self.secrets)[:_SAID]


def verdict(error: openai.OpenAIError, endpoint: Endpoint, now: datetime | None = None) -> Verdict:
    """Return what an error of the client means."""
    if isinstance(error, openai.APITimeoutError):
        return Verdict(
            "again", f"{endpoint.url} gave no answer in time; client_config.timeout says how long", reached=True
        )
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, endpoint, now or datetime.now(UTC))
    if isinstance(error, openai.APIConnectionError):
        cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
        words = endpoint.clean(f"the connection to {endpoint.url} broke off or was refused{cause}")
        return Verdict("again", words, reached=True)
    return Verdict("row", endpoint.clean(f"{endpoint.url} answered what is not understood: {error}"), reached=True)


def _of_status(error: openai.APIStatusError, endpoint: Endpoint, now: datetime) -> Verdict:  # noqa: PLR0911 - a table
    status, words = error.status_code, endpoint.clean(_words(error))
    if status in (401, 403):
        # The API's own words may show parts of the key.
        return Verdict(
            "run",
            f"{endpoint.url} refuses the key ({status}): set api_config.client_config.api_key, or OPENAI_API_KEY in "
            f"the environment of the workers, to one that may use {endpoint.model}",
            reason="ApiKeyRefused",
        )
    if status == 404:
        message = f"{endpoint.url} has no model {endpoint.model} (404: {words}); set api_config.model_config.model"
        return Verdict("run", message, reason="ModelNotFound")
    if status == 429 and error.code == "insufficient_quota":
        return Verdict(
            "run", f"the account at {endpoint.url} has no quota left (429: {words})", reason="QuotaExhausted"
        )
    if status in _TIMED or status >= 500:
        message = f"{endpoint.url} answered {status}: {words}"
        return Verdict("again", message, retry_after(error.response.headers, now), reached=status >= 500)
    if status == 400 and (error.code == "context_length_exceeded" or _TOO_LONG.search(words)):
        return Verdict("row", f"the prompt and its answer are longer than {endpoint.model} takes: {words}")
    if error.param in endpoint.fields and error.param != "messages":
        message = f"api_config.model_config.{error.param}: {endpoint.url} refuses it ({status}): {words}"
        return Verdict("run", message, reason="InvalidConfig")
    return Verdict("row", f"{endpoint.url} refuses the request ({status}): {words}")


def _words(error: openai.APIStatusError) -> str:
    """Return the API's own sentence."""
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])
    return error.message


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return in how many seconds the API said to come again; None if it did not."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None  # it is not what the standard says: wait as without it


def without_keys(text: str, secrets: Collection[str], environ: Mapping[str, str] | None = None) -> str:
    """Return `text` without keys, whole, masked or in part."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "[redacted]")
    text = redact(_MASKED.sub("[redacted]", text), os.environ if environ is None else environ)
    return " ".join("[redacted]" if _shows(word, secrets) else word for word in text.split(" "))


def _shows(word: str, secrets: Collection[str]) -> bool:
    """Return whether a word has a part of a secret that is long enough to be one."""
    return any(
        secret[start : start + 8] in word for secret in secrets if len(secret) >= 8 for start in range(len(secret) - 7)
    )


def secrets_of(client_config: Mapping[str, Any], api_key: str) -> tuple[str, ...]:
    """Return what of a client's config must not be told: the key, and what headers carry."""
    headers = client_config.get("default_headers") or {}
    values = (word for value in headers.values() for word in str(value).split())
    found = {api_key, *(value for value in values if len(value) >= 8)}
    return tuple(sorted(value for value in found if value))
