"""Ends a process whose chunk hangs: it would keep its Lease and its run for ever, and nobody would know why."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from rapidfireai_worker.slot import Grant

HUNG_EXIT_CODE = 124
"""The process's exit code, as that of `timeout`; the operator tells it as a hang."""
GENEROSITY = 10
"""So many times the longest wait that a run ever needed between two steps is still no hang."""
_LOOKS = 20
"""How often it looks within the shortest time that can be a hang."""
_log = structlog.get_logger(__name__)


def patience(longest: float, floor: float) -> float:
    """Return the seconds without a sign of life after which a run hangs.

    Args:
        longest: The longest that it needed so far between two signs of life, in seconds; 0 if that is not known.
        floor: The least; loading a model, compiling and the first evaluation have to fit into it.
    """
    return max(floor, GENEROSITY * longest)


class Pulse:
    """The signs of life of one attempt; may be given and read by different threads.

    Args:
        longest: The longest wait of the run's earlier attempts, in seconds.
        clock: Seconds that only go forward.
    """

    def __init__(self, longest: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._stepped = False
        self._longest = longest

    def beat(self) -> None:
        """Give a sign of life. What came before the first one was loading and is no measure for what follows."""
        with self._lock:
            now = self._clock()
            if self._stepped:
                self._longest = max(self._longest, now - self._last)
            self._last, self._stepped = now, True

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        with self._lock:
            return self._clock() - self._last

    @property
    def longest(self) -> float:
        """The longest wait between two signs of life, in seconds."""
        with self._lock:
            return self._longest


class Watchdog:
    """Watches what the engine computes.

    Args:
        floor: The shortest silence that can be a hang, in seconds; with 0 nothing is watched.
    """

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._lock = threading.Lock()
        self._watched: tuple[Grant, Pulse] | None = None
        self._longest: dict[str, float] = {}
        if floor > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def over(self, grant: Grant) -> Iterator[Pulse]:
        """Watch what is computed inside; it gives signs of life by the pulse."""
        pulse = Pulse(self._longest.get(grant.uid, 0.0))
        with self._lock:
            self._watched = (grant, pulse)
        try:
            yield pulse
        finally:
            with self._lock:
                self._watched = None
            pulse.beat()  # the end: evaluating at the boundary came before it
            self._longest[grant.uid] = pulse.longest

    def _watch(self) -> None:
        while True:
            # Native code that never lets go of the interpreter would stop this thread too: the C side then ends all.
            faulthandler.dump_traceback_later(2 * self._floor + 60, exit=True)
            time.sleep(self._floor / _LOOKS)
            with self._lock:
                watched = self._watched
            if watched is not None:
                grant, pulse = watched
                if pulse.silence > patience(pulse.longest, self._floor):
                    self._end(grant, pulse)

    def _end(self, grant: Grant, pulse: Pulse) -> None:
        faulthandler.dump_traceback(all_threads=True)
        _log.critical(
            "hung: nothing came of the chunk for too long, the stacks of all threads are above; set "
            "RAPIDFIRE_HANG_SECONDS higher if that was no hang",
            run=grant.name,
            chunk=grant.chunk,
            attempt=grant.attempt,
            silence_seconds=round(pulse.silence, 1),
            longest_before_seconds=round(pulse.longest, 1),
        )
        sys.stderr.flush()
        os._exit(HUNG_EXIT_CODE)
