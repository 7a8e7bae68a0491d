"""The worker's threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rapidfireai.api.run import Prepared
from rapidfireai_worker.crew import Crew
from rapidfireai_worker.engine import ChunkControl, ChunkOutcome, Holdings, RunFailure, RunJob

HELD = Holdings({"u": 1})


class NoEngine:
    """An engine that holds nothing."""

    def prepare(self, job: RunJob) -> Prepared:
        raise NotImplementedError

    def run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        raise NotImplementedError

    def evict(self, run_uid: str) -> None: ...

    def holdings(self) -> Holdings:
        return HELD


async def test_work_that_waits_for_the_engine_finds_it() -> None:
    """Even if the event loop is busy in between: the threads go on without it."""
    may_hire, worked = threading.Event(), threading.Event()

    def hire() -> NoEngine:
        may_hire.wait(10)
        return NoEngine()

    crew = Crew(hire)
    starting = asyncio.create_task(crew.start())
    waiting = asyncio.create_task(crew.compute(lambda engine: worked.set()))
    await asyncio.sleep(0)
    may_hire.set()
    assert worked.wait(10)
    await starting
    assert await waiting == (None, HELD)


async def test_what_making_the_engine_raises_is_raised() -> None:
    def hire() -> NoEngine:
        raise ImportError("no torch")

    with pytest.raises(ImportError, match="no torch"):
        await Crew(hire).start()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit("x"), KeyboardInterrupt()])
async def test_whatever_user_code_raises_is_the_runs_failure(error: BaseException) -> None:
    def fail(engine: object) -> None:
        raise error

    crew = Crew(NoEngine)
    await crew.start()
    with pytest.raises(RunFailure) as failure:
        await crew.compute(fail)
    assert failure.value.reason == "UnexpectedError"
    assert type(error).__name__ in failure.value.message
