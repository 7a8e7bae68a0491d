"""The worker's two threads: one calls the engine, the other makes checkpoints durable behind it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from rapidfireai_worker.engine import Discarded, Engine, Holdings, RunFailure
from rapidfireai_worker.failures import ends_the_process, failure_of

T = TypeVar("T")
BROKEN_EXIT_CODE = 3
"""The process's exit code after an error that leaves nothing to trust."""
_log = structlog.get_logger(__name__)


class Crew:
    """Runs blocking work off the event loop; every error of it comes back as a `RunFailure` or `Discarded`.

    Args:
        hire: Makes the engine; called once, in the thread that computes, so that its imports stop nobody else.
    """

    def __init__(self, hire: Callable[[], Engine]) -> None:
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._persist = ThreadPoolExecutor(1, thread_name_prefix="persist")
        self._hire = hire
        self._engine: Engine | None = None

    async def start(self) -> None:
        """Make the engine.

        Raises:
            Exception: Whatever its making raises; the worker is of no use then.
        """
        began = time.monotonic()
        await _in(self._compute, self._make_engine)
        _log.info("engine ready", seconds=round(time.monotonic() - began, 1))

    async def compute(self, work: Callable[[Engine], T]) -> tuple[T, Holdings]:
        """Call the engine once what it does now is done.

        Returns:
            What `work` returned, and what the engine holds in memory after it.

        Raises:
            RunFailure: If it failed, for whatever reason.
            Discarded: If it was told to.
        """
        return await _in(self._compute, lambda: _guarded(lambda: self._with_holdings(work)))

    async def persist(self, work: Callable[[], T]) -> T:
        """Write something durably while the engine goes on. Raises as `compute`."""
        return await _in(self._persist, lambda: _guarded(work))

    def _make_engine(self) -> None:
        # Set here and not by the event loop: work that waits in this thread's queue begins right after.
        self._engine = self._hire()

    def _with_holdings(self, work: Callable[[Engine], T]) -> tuple[T, Holdings]:
        if self._engine is None:
            raise RunFailure("WorkerNotReady", "the engine was never started", blame="Infrastructure")
        return work(self._engine), self._engine.holdings()


async def _in(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in `pool` with this task's context, so that its log lines say what they are about."""
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, work)


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except (RunFailure, Discarded):
        raise
    except BaseException as error:  # user code may raise anything, SystemExit too; none of it may end the worker
        if ends_the_process(error):
            _log.critical("this process cannot go on", exc_info=error)
            os._exit(BROKEN_EXIT_CODE)
        _log.exception("the attempt failed")
        raise failure_of(error) from error
