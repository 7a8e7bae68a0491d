"""Answering a shard: batches asked ahead, concluded in their order, reported while they are under way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import chain

import structlog

from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.evals.batches import Asked, BatchResult
from rapidfireai_worker.evals.commits import Answers
from rapidfireai_worker.evals.functions import Columns, Functions
from rapidfireai_worker.evals.parts import Generator
from rapidfireai_worker.evals.results import Standing
from rapidfireai_worker.evals.shards import batches

LOOK_SECONDS = 0.2
"""How often it looks whether it is told to end, while nothing comes."""
REPORT_SECONDS = 1.0
_AHEAD = 4
"""So many times as many batches as are under way may wait for one that takes longer."""
_SHARE = 10
"""Estimates that take a second are made every ten at most, while the shard is under way."""
_log = structlog.get_logger(__name__)


class Answering:
    """One attempt at the rest of a shard.

    Args:
        answers: What the run has answered and committed.
        generator: Who generates.
        functions: The user's functions.
        prompts: Returns the rows at some places, with prompts.
        standing: Returns where the run stands after some answers.
        control: How it is steered, and how it reports.
    """

    def __init__(
        self,
        answers: Answers,
        generator: Generator,
        functions: Functions,
        prompts: Callable[[tuple[int, ...]], Columns],
        standing: Callable[[Answers], Standing],
        control: ChunkControl,
    ) -> None:
        self._committed = answers
        self._generator = generator
        self._functions = functions
        self._prompts = prompts
        self._standing = standing
        self._control = control
        self._window: deque[Asked] = deque()
        self._done: list[BatchResult] = []
        self._rows = answers.rows
        self._begun = time.monotonic()
        self._reported = self._begun
        self._estimated, self._took = 0.0, 0.0
        self._values: dict[str, float] = {}
        self._counted = -1

    def run(self, places: Sequence[int], size: int) -> tuple[Answers, list[BatchResult]]:
        """Answer rows, after those that failed before; end early, after what is under way, once told to park.

        Args:
            places: The places of the rows that are not done yet, in their order.
            size: Rows a batch.

        Returns:
            All that is answered then, and the batches that are not committed yet.

        Raises:
            RunFailure: If no row can be answered, or a function of the user's failed.
            Discarded: If `control.discard` was set.
        """
        again = set(self._committed.failed)
        plan = chain(batches(self._committed.failed, size), batches(places, size))
        try:
            while (more := self._ask(plan)) or self._window:
                if not more:
                    self._wait()
                self._conclude(again)
                self._report()
        finally:
            for asked in self._window:
                asked.future.cancel()
        return self._answers(), self._done

    def _answers(self) -> Answers:
        return self._committed.with_batches(self._rows, self._done, time.monotonic() - self._begun)

    def _ask(self, plan: Iterator[tuple[int, ...]]) -> bool:
        """Ask for one more batch, unless enough are under way, or one is done or under way and it was told to park."""
        if self._is_full() or (self._control.park.is_set() and (self._window or self._done)):
            return False
        places = next(plan, None)
        if places is None:
            return False
        self._check()
        self._window.append(Asked.ask(places, self._prompts(places), self._generator))
        return True

    def _is_full(self) -> bool:
        under_way = sum(not asked.future.done() for asked in self._window)
        wanted = max(1, self._generator.in_flight)
        return under_way >= wanted or len(self._window) >= _AHEAD * wanted

    def _wait(self) -> None:
        """Wait until one more batch is done, or for as long as nobody needs to hear anything."""
        open_ones = [asked.future for asked in self._window if not asked.future.done()]
        wait(open_ones, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
        self._check()
        if (answered := self._generator.answered) != self._counted:
            self._counted = answered
            self._control.alive()

    def _check(self) -> None:
        if self._control.discard.is_set():
            raise Discarded

    def _conclude(self, again: set[int]) -> None:
        """Conclude what is done, in the order in which it was asked for."""
        while self._window and self._window[0].future.done():
            batch = self._window.popleft().concluded(self._functions)
            self._done.append(batch)
            if not again.issuperset(batch.places):
                self._rows += len(batch.places)
            self._control.answered(batch.account)
            self._check()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS:
            return
        if self._done and now - self._estimated >= _SHARE * self._took:
            try:
                standing = self._standing(self._answers())
            except RunFailure as failure:  # after a part of the rows it may be of no consequence; at the end it counts
                _log.debug("no estimate yet", error=failure.message)
            else:
                self._control.estimate(standing.estimates())
                self._values = standing.values()
            self._estimated = time.monotonic()
            self._took = self._estimated - now
        self._control.report(self._rows, self._values)
        self._reported = time.monotonic()
