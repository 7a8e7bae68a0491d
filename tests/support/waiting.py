"""Waiting for a condition with a deadline, and doing something again and again meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def again_and_again(act: Callable[[], object], every: float) -> Iterator[None]:
    """Call `act` in a thread every so many seconds, until the context ends or it returns something true."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(every) and not act():
            pass

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
