"""How many tokens a prompt may take, before the API has said it."""

from __future__ import annotations

import math
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
_LONGEST_TOKEN = 8
"""Bytes that a token of ordinary text hardly ever exceeds."""


class Estimator:
    """Estimates from above, and from what answers say ever less so.

    Every token of a text covers a byte of it at least, so a prompt never has more tokens than bytes, but for what the
    template adds. Once answers have said how many tokens their prompts had, the most tokens a byte that were seen
    lately count, and a tenth more.
    """

    def __init__(self) -> None:
        self._densities: deque[float] = deque(maxlen=_REMEMBERED)

    def estimate(self, conversation: Conversation) -> int:
        """Return how many tokens a prompt has at most, as far as is known."""
        density = min(1.0, max(self._densities) * _MARGIN) if self._densities else 1.0
        return _template(conversation) + math.ceil(_text(conversation) * density)

    def learn(self, conversation: Conversation, tokens: int) -> None:
        """Take note of how many tokens a prompt really had."""
        size = _text(conversation)
        if tokens > 0 and size:
            self._densities.append(tokens / size)


def surely(conversation: Conversation) -> int:
    """Return how many tokens a prompt has at least."""
    return _text(conversation) // _LONGEST_TOKEN


def _template(conversation: Conversation) -> int:
    return _CONVERSATION + _MESSAGE * len(conversation)


def _text(conversation: Conversation) -> int:
    return sum(_size(message.get("content")) for message in conversation)


def _size(content: Any) -> int:
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, Mapping):
        return _IMAGE_TOKENS if "image_url" in content else _size(content.get("text"))
    if isinstance(content, list | tuple):
        return sum(_size(part) for part in content)
    return 0
