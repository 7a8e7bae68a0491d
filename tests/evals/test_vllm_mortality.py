"""Processes that end with the one that started them; no vLLM is needed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

from tests.support.waiting import wait_for

from rapidfireai_worker.evals.generators.vllm_mortality import end_with_parent


def _child(pipe: Connection) -> None:
    end_with_parent()
    pipe.send(os.getpid())
    time.sleep(600)


def _worker(pipe: Connection) -> None:
    multiprocessing.get_context("spawn").Process(target=_child, args=(pipe,)).start()
    time.sleep(600)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Whoever takes in orphans may not have reaped this one yet.
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - it vanishes under our hands
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_child_ends_when_its_parent_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_worker, args=(theirs,))
    worker.start()
    assert ours.poll(60)
    child = ours.recv()
    assert _runs(child)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    wait_for("end of the child", lambda: not _runs(child), 10)
