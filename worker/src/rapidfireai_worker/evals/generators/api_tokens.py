"""How many tokens a prompt may take, before the API has said it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from rapidfireai_worker.evals.parts import Conversation

_REMEMBERED = 64
_MARGIN = 1.1
_MESSAGE = 8
"""Tokens around each message that its text does not show: its role, its ends."""
_CONVERSATION = 32
"""Tokens that a chat template adds to a conversation; some begin with a system message of their own."""
_IMAGE_TOKENS = 765


class Estimator:
    """Estimates from above, and from what answers say ever less so.

    Every token of a text covers a byte of it at least, so a prompt never has more tokens than bytes. Once answers
    have said how many tokens their prompts had, the largest part of the bound that was seen lately counts, and a
    tenth more.
    """

    def __init__(self) -> None:
        self._parts: deque[float] = deque(maxlen=_REMEMBERED)

    def estimate(self, conversation: Conversation) -> int:
        """Return how many tokens a prompt has at most, as far as is known."""
        part = min(1.0, max(self._parts) * _MARGIN) if self._parts else 1.0
        return max(1, round(bound(conversation) * part))

    def learn(self, conversation: Conversation, tokens: int) -> None:
        """Take note of how many tokens a prompt really had."""
        if tokens > 0:
            self._parts.append(tokens / bound(conversation))


def bound(conversation: Conversation) -> int:
    """Return how many tokens a prompt can have at most: its bytes, and what a template adds."""
    return _CONVERSATION + sum(_MESSAGE + _size(message.get("content")) for message in conversation)


def _size(content: Any) -> int:
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, Mapping):
        return _IMAGE_TOKENS if "image_url" in content else _size(content.get("text"))
    if isinstance(content, list | tuple):
        return sum(_size(part) for part in content)
    return 0
