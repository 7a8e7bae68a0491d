"""The engine of fine-tuning: sessions over shared bases, chunk by chunk."""

from __future__ import annotations

import functools
import gc
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import datasets
import structlog
import torch
import transformers

from rapidfireai.api.run import Checkpoint, Prepared
from rapidfireai_worker.causes import NoMemory, training_failure
from rapidfireai_worker.engine import ChunkControl, ChunkOutcome, Discarded, Holdings, RunFailure, RunJob
from rapidfireai_worker.failures import MESSAGE_LIMIT
from rapidfireai_worker.fit.checkpoint import Snapshot, environment, write_checkpoint
from rapidfireai_worker.fit.memory import Meter, measure
from rapidfireai_worker.fit.models import Base
from rapidfireai_worker.fit.program import Builder
from rapidfireai_worker.fit.session import Session
from rapidfireai_worker.fit.warm import WarmSessions
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.measures import SWAP_SECONDS

_WRITING_SECONDS = 120.0
"""How long a run that found no memory waits for a checkpoint that is being written, which holds a copy of a run."""
T = TypeVar("T")
_log = structlog.get_logger(__name__)


class FitEngine:
    """Computes chunks of fine-tuning runs; implements `rapidfireai_worker.engine.Engine`.

    Args:
        volume: The shared volume.
        claims: Where each claim that `pvc://` may name is mounted.
        threads: How many threads torch computes with.
        meter: Measures the memory that sessions share; the machine's if None.
    """

    def __init__(self, volume: Volume, claims: Mapping[str, Path], threads: int, meter: Meter | None = None) -> None:
        torch.set_num_threads(threads)
        _freeze_imports()
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        self._volume = volume
        self._facts = environment(threads)
        self._builder = Builder(volume, claims, self._facts)
        self._warm = WarmSessions(self._builder, meter or measure())
        self._writing = threading.Lock()

    def prepare(self, job: RunJob) -> Prepared:
        """Load, tokenise and measure the run; keep it resident.

        Raises:
            RunFailure: If the run cannot be built, naming the field and the fix.
        """
        return self._in_memory(job, lambda: self._prepare(job))

    def build_index(self, job: RunJob, control: ChunkControl) -> Prepared:
        """Refuse: what is trained searches no index.

        Raises:
            RunFailure: Always.
        """
        raise RunFailure("NoIndex", f"{job.run} trains, and has no index to build")

    def run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        """Run the rest of chunk `chunk`, from the resident session or else from `job.checkpoint`.

        Raises:
            RunFailure: If the run's own code or data failed, or its state could not be read.
            Discarded: If `control.discard` was set.
        """
        return self._in_memory(job, lambda: self._run_chunk(job, chunk, control))

    def evict(self, run_uid: str) -> None:
        """Drop the run's session and free its memory; unknown runs are ignored."""
        self._warm.evict(run_uid)

    def holdings(self) -> Holdings:
        """Return what is held in memory now."""
        return self._warm.holdings()

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The warm sessions, by the run's UID."""
        return self._warm.sessions

    def _prepare(self, job: RunJob) -> Prepared:
        session = self._session(job)
        schedule = session.trainer.schedule
        boundaries = schedule.boundaries(job.chunks)
        return Prepared(total_steps=schedule.total_steps, boundaries=boundaries, bytes=session.bytes())

    def _run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        session = self._session(job)
        boundary = session.trainer.schedule.boundaries(job.chunks)[chunk]
        if session.step >= boundary:
            done = f"chunk {chunk} ends at step {boundary}, and step {session.step} is committed already"
            raise RunFailure("ChunkIsDone", done)
        begin = time.monotonic()
        snapshot = self._train(job, session, chunk, boundary, control)
        if not session.base.intact(thorough=False):
            self._quarantine(session.base)

        def persist() -> Checkpoint:
            with self._writing:
                checkpoint = write_checkpoint(self._volume, job, snapshot, self._facts, control.pinned())
            session.committed = checkpoint
            return checkpoint

        return ChunkOutcome(
            step=snapshot.step,
            metrics=session.metrics(complete=snapshot.step == boundary),
            loss=session.latest.get("loss"),
            seconds=time.monotonic() - begin,
            persist=persist,
        )

    def _train(self, job: RunJob, session: Session, chunk: int, boundary: int, control: ChunkControl) -> Snapshot:
        evaluate = job.evaluate_at_boundaries and job.eval is not None
        try:
            with self._warm.computing(job.run_uid):
                return session.run_to(chunk, boundary, control, evaluate=evaluate)
        except BaseException as error:
            step = session.step
            self.evict(job.run_uid)  # what it holds is past the last commit
            if isinstance(error, Exception) and not isinstance(error, RunFailure | Discarded):
                raise training_failure(error, f"taking the state of step {step}") from error
            raise

    def _session(self, job: RunJob) -> Session:
        """Return the run's session at its last commit: the resident one if it stands there, else a restored one."""
        begun = time.monotonic()
        session = self._warm.get(job.run_uid)
        if session is not None and session.committed == job.checkpoint and session.stands:
            self._warm.make_room(job)
            SWAP_SECONDS.labels("warm").observe(time.monotonic() - begun)
            return session
        self.evict(job.run_uid)
        self._warm.make_room(job)
        with self._warm.building(job.run_uid):
            try:
                session, spoiled = self._builder.build(job)
            except Exception as error:
                raise training_failure(error, "building the run") from error
            if spoiled is not None:
                self._quarantine(spoiled)
            self._warm.put(job.run_uid, session)
        SWAP_SECONDS.labels("build" if job.checkpoint is None else "restore").observe(time.monotonic() - begun)
        return session

    def _in_memory(self, job: RunJob, work: Callable[[], T]) -> T:
        """Do `work`; if memory runs out, once more with nothing else in it.

        Raises:
            RunFailure: Whatever `work` raises; with the figures, if memory ran out again.
        """
        try:
            return work()
        except NoMemory as failure:
            _log.warning("no memory left, trying once more with no other run beside it", error=failure.message)
        # Outside of the handler: the error held everything that was being computed.
        self._clear(job)
        try:
            return work()
        except NoMemory as failure:
            hopeless = _explained(failure, self._warm.peak(), self._warm.budget())
        self._clear(job)
        raise hopeless

    def _clear(self, job: RunJob) -> None:
        self._warm.evict_all(job.run_uid)
        if self._writing.acquire(timeout=_WRITING_SECONDS):  # a checkpoint that is being written holds a copy
            self._writing.release()
        gc.collect()

    def _quarantine(self, base: Base) -> None:
        """Drop every session that shares a base which another one changed; each goes on from its last commit."""
        self._builder.forget(base)
        for uid in self._warm.users_of(base):
            self.evict(uid)


def _explained(failure: NoMemory, peak: int, budget: int) -> RunFailure:
    """Return the failure of a run for which all the memory is too little."""
    asked = failure.asked or 0
    needs = f"{_size(peak + asked)} ({_size(peak)} were held and {_size(asked)} more asked for)"
    message = (
        f"memory ran out while {failure.doing}, with no other run in the worker: it needs at least {needs}, and the "
        f"budget is {_size(budget)}. Lower per_device_train_batch_size or max_length, set gradient_checkpointing to "
        f"true, or give the workers more memory. {failure.message}"
    )
    return RunFailure(failure.reason, message[:MESSAGE_LIMIT])


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"


@functools.cache
def _freeze_imports() -> None:
    """Take what the imports made, which stays for ever, out of the collector's sight: it runs at every eviction."""
    gc.collect()
    gc.freeze()
