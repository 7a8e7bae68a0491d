"""Asking the API server until there is an answer that means something."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from rapidfireai_worker.kubeapi import Forbidden, Unavailable

FORBIDDEN_SECONDS = 30.0
"""An API server that has just started forbids everything for some seconds; after so many it is meant."""
_PATIENCE = wait_random_exponential(multiplier=0.5, max=8)
"""The pause between two tries, in seconds."""
T = TypeVar("T")
_log = structlog.get_logger(__name__)


async def insist(ask: Callable[[], Awaitable[T]], missed: Callable[[], None] = lambda: None) -> T:
    """Ask the API server until there is an answer.

    Args:
        ask: One try.
        missed: Called after each try that was not answered.

    Raises:
        Refused: If the answer is no; `Forbidden` only if it stays so.
    """
    forbidden_since: float | None = None

    def goes_on(state: RetryCallState) -> bool:
        nonlocal forbidden_since
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, Forbidden):
            forbidden_since = None
            return isinstance(error, Unavailable)
        now = time.monotonic()
        forbidden_since = forbidden_since or now
        return now - forbidden_since < FORBIDDEN_SECONDS

    def note(state: RetryCallState) -> None:
        missed()
        error = state.outcome.exception() if state.outcome else None
        _log.warning("the API server does not answer, trying again", error=str(error))

    async for trial in AsyncRetrying(retry=goes_on, wait=_PATIENCE, before_sleep=note, reraise=True):
        with trial:
            answer = await ask()
    return answer
