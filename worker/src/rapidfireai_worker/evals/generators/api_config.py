"""What an `api_config` comes to: the limits, what each request says, the client. Every refusal names its field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import openai

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.api_errors import secrets_of, without_keys
from rapidfireai_worker.volume.budgets import Limits

COMPLETION_TOKENS = 150
"""What an answer takes at most if nobody says."""
TIMEOUT_SECONDS = 120.0
"""How long one request may take if `client_config.timeout` does not say."""

ON_SENT: ContextVar[Callable[[], None] | None] = ContextVar("on_sent", default=None)
"""Called when the request that this task makes is on its way."""


def budget_key(base_url: str, model: str) -> str:
    """Return the name of the budget of a model at an address: readable, and another one for every pair."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{urlsplit(base_url).hostname or 'api'}-{model}".lower()).strip("-.")
    digest = hashlib.sha256(f"{base_url.rstrip('/')}\n{model}".encode()).hexdigest()[:12]
    return f"{words[:100].strip('-.')}-{digest}"


def limits_of(config: Mapping[str, Any]) -> Limits:
    """Return the limits of a minute; what is not set is not limited."""
    limits = Limits(config.get("rpm_limit"), config.get("tpm_limit"))
    problem = limits.problem()
    if problem is not None:
        raise RunFailure("InvalidConfig", f"api_config.{problem}")
    return limits


def request_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every request says."""
    request = dict(config.get("model_config") or {})
    if not request.get("model"):
        raise RunFailure("InvalidConfig", "api_config.model_config.model: name the model that the API is asked for")
    for name in ("messages", "stream"):
        if request.pop(name, None):
            raise RunFailure("InvalidConfig", f"api_config.model_config.{name}: leave it out, it is set for each row")
    if "max_tokens" not in request:
        tokens = config.get("max_completion_tokens") or request.get("max_completion_tokens") or COMPLETION_TOKENS
        request["max_completion_tokens"] = tokens
    return request


def completion_tokens_of(request: Mapping[str, Any]) -> int:
    """Return how many tokens the answers to a request may take."""
    tokens = request.get("max_completion_tokens") or request.get("max_tokens") or COMPLETION_TOKENS
    return int(tokens) * int(request.get("n") or 1)


async def _follow(request: Any) -> None:
    """Have it said when a request is on its way, to whom waits for it in the same task."""
    sent = ON_SENT.get()

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if sent is not None and event.endswith("send_request_body.complete"):
            sent()

    request.extensions["trace"] = trace


def client_of(client_config: Mapping[str, Any]) -> openai.AsyncOpenAI:
    """Return a client that never tries again by itself: each try has to be within the limits."""
    told = {"timeout": TIMEOUT_SECONDS, **client_config}
    http_client = openai.DefaultAsyncHttpxClient(event_hooks={"request": [_follow]})
    try:
        return openai.AsyncOpenAI(**{"http_client": http_client, **told}, max_retries=0)
    except openai.OpenAIError:
        raise RunFailure(
            "InvalidConfig",
            "api_config.client_config.api_key: give the key, or OPENAI_API_KEY in the workers' environment; for a "
            "server that asks for none, any word will do",
        ) from None
    except (TypeError, ValueError) as error:
        words = without_keys(str(error), secrets_of(client_config, str(client_config.get("api_key") or "")))
        raise RunFailure("InvalidConfig", f"api_config.client_config: {words}") from None


def address_of(base_url: str) -> str:
    """Return an address without a user's name, password or query."""
    parts = urlsplit(base_url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}".rstrip("/")
