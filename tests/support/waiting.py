"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: str, look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `look` returns something true and return it.

    Args:
        what: What is waited for, for the message.
        look: Asked every few milliseconds.
        seconds: How long to wait at most.
    """
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)
    return seen
