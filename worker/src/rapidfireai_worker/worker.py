"""The worker: does what its slot decides, and tells the bus what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import partial

import structlog
from structlog.contextvars import bound_contextvars

from rapidfireai.api import Experiment, Run
from rapidfireai.api.run import Checkpoint, Prepared
from rapidfireai_worker import slot as slots
from rapidfireai_worker import wire
from rapidfireai_worker.attempt import Attempt
from rapidfireai_worker.bus import Bus
from rapidfireai_worker.crew import Crew
from rapidfireai_worker.engine import ChunkOutcome, Discarded, Engine, Holdings, RunFailure
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.metrics import WorkerMetrics
from rapidfireai_worker.slot import Grant, Slot
from rapidfireai_worker.watchdog import Watchdog

IDLE_LOOK_SECONDS = 30.0
"""How often a resident run without an assignment is read, to see whether it was stopped meanwhile."""
Result = Prepared | ChunkOutcome | RunFailure | Discarded
_log = structlog.get_logger(__name__)


class Worker:
    """One process of a worker slot.

    Args:
        experiment: What it works for.
        process: Its Lease's holder.
        bus: Where assignments come from and progress goes.
        crew: Who computes and persists.
        volume: The shared volume.
        metrics: What Prometheus sees.
        watchdog: Ends the process if what it computes hangs.
    """

    def __init__(
        self,
        experiment: Experiment,
        process: str,
        bus: Bus,
        crew: Crew,
        volume: Volume,
        metrics: WorkerMetrics,
        watchdog: Watchdog,
    ) -> None:
        self._experiment = experiment
        self._bus = bus
        self._crew = crew
        self._volume = volume
        self._metrics = metrics
        self._watchdog = watchdog
        self._slot = Slot(process)
        self._runs: Mapping[str, Run] = {}
        self._names: dict[str, str] = {}
        self._attempts: dict[Grant, Attempt] = {}
        self._looked_at: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    def see(self, runs: Mapping[str, Run]) -> None:
        """Take notice of which runs are assigned to this pod now."""
        self._runs = runs
        for uid, run in runs.items():
            self._names[uid] = run.metadata.name
            self._bus.seen(run)
        for grant, attempt in self._attempts.items():
            if grant.uid in runs:
                attempt.pinned = wire.pinned_of(runs[grant.uid])
        self._metrics.assignments.set(sum(slots.grant_of(run, self._slot.process) is not None for run in runs.values()))
        self._changed.set()

    def leave(self) -> None:
        """Begin nothing new; a chunk that is under way ends after its optimizer step and is committed."""
        self._slot = replace(self._slot, leaving=True)
        for attempt in self._attempts.values():
            attempt.control.park.set()
        self._changed.set()

    async def work(self) -> None:
        """Work until told to leave and everything that was computed is committed."""
        async with self._tasks:
            self._spawn(self._look_again_at_idle_runs())
            while not self._is_through():
                self._changed.clear()
                decision = slots.decide(self._runs, self._slot)
                for grant in decision.withdrawn:
                    self._attempts[grant].control.discard.set()
                for grant in decision.parked:
                    self._park(grant)
                for uid in decision.idle - self._looked_at:
                    self._spawn(self._look_at(uid))
                self._looked_at = decision.idle
                if decision.start is not None:
                    self._begin(decision.start)
                else:
                    await self._changed.wait()
            for task in self._running:
                task.cancel()

    def _park(self, grant: Grant) -> None:
        control = self._attempts[grant].control
        if not control.park.is_set():
            _log.info("told to end after its optimizer step", run=grant.name, chunk=grant.chunk, attempt=grant.attempt)
            control.park.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _is_through(self) -> bool:
        """Return whether this process may go: it was told to, and nothing would be lost."""
        return self._slot.leaving and not any(self._attempts[grant].has_something_to_lose for grant in self._slot.busy)

    def _begin(self, grant: Grant) -> None:
        run = self._runs[grant.uid]
        checkpoint = wire.checkpoint_of(run)
        log = self._volume.run(self._experiment.volume_uid, run.volume_uid).metrics
        self._attempts[grant] = Attempt(grant, checkpoint.step if checkpoint else 0, log, self._metrics)
        self._attempts[grant].pinned = wire.pinned_of(run)
        self._slot = replace(self._slot, computing=grant)
        self._spawn(self._undertake(run, self._attempts[grant]))

    async def _undertake(self, run: Run, attempt: Attempt) -> None:
        """Compute an assignment, then make it durable and commit it while the next one computes."""
        grant = attempt.grant
        with bound_contextvars(run=grant.name, chunk=grant.chunk, attempt=grant.attempt):
            begun = asyncio.Event()
            reporting = asyncio.create_task(self._bus.report(attempt, begun))
            try:
                result = await self._compute(run, attempt, begun)
            finally:
                reporting.cancel()
            self._slot = replace(self._slot, computing=None, concluding=self._slot.concluding | {grant})
            self._changed.set()
            outcome = await self._conclude(attempt, result)
            self._metrics.attempts.labels(outcome).inc()
            _log.info("ended", outcome=outcome, task=grant.task, step=attempt.latest[0], seconds=attempt.seconds)
            untouched = outcome == "discarded" and not attempt.begun
            if outcome != "committed" and not untouched:  # the session is ahead of the committed state, or broken
                self._spawn(self._evict(grant.uid))
        self._slot = (slots.drop if untouched else slots.finish)(self._slot, grant)
        del self._attempts[grant]
        self._changed.set()

    async def _compute(self, run: Run, attempt: Attempt, begun: asyncio.Event) -> Result:
        job = wire.job_of(run, self._experiment, attempt.grant, await self._adapter_of(run))
        loop = asyncio.get_running_loop()

        def work(engine: Engine) -> Prepared | ChunkOutcome:
            with self._watchdog.over(attempt.grant) as pulse:
                attempt.begin(pulse)
                loop.call_soon_threadsafe(begun.set)
                _log.info("begun", task=attempt.grant.task, step=attempt.latest[0])
                match attempt.grant.task:
                    case "prepare":
                        return engine.prepare(job)
                    case "index":
                        return engine.build_index(job, attempt.control)
                    case "chunk":
                        return engine.run_chunk(job, attempt.grant.chunk, attempt.control)

        try:
            result, holdings = await self._crew.compute(work)
        except (RunFailure, Discarded) as end:
            return end
        self._metrics.chunk_seconds.labels(attempt.grant.task).observe(attempt.seconds)
        self._now_held(holdings)
        return result

    async def _adapter_of(self, run: Run) -> Checkpoint | None:
        """Return the last commit of the run whose adapter this one evaluates, if it evaluates one."""
        name = wire.adapter_of(run)
        other = await self._bus.read(name) if name is not None else None
        return wire.checkpoint_of(other) if other is not None else None

    async def _conclude(self, attempt: Attempt, result: Result) -> str:
        """Commit what an attempt came to, a failure too; return how it ended."""
        try:
            return await self._commit(attempt, result)
        except (RunFailure, Discarded) as end:
            return await self._commit(attempt, end)
        finally:
            attempt.log.close()

    async def _commit(self, attempt: Attempt, result: Result) -> str:
        """Send the final patch of an attempt.

        Returns:
            How it ended: committed, failed, discarded or refused.

        Raises:
            RunFailure: If the checkpoint or the log did not become durable.
            Discarded: If the run was taken away meanwhile.
        """
        grant, seconds = attempt.grant, attempt.seconds
        match result:
            case _ if isinstance(result, Discarded) or attempt.control.discard.is_set():
                return "discarded"
            case RunFailure():
                _log.warning("failed", reason=result.reason, blame=result.blame, error=result.message)
                patch = wire.failure_commit(grant, result, attempt.latest[0], seconds)
                return "failed" if await self._bus.commit(grant, patch) == "committed" else "refused"
            case Prepared():
                return await self._bus.commit(grant, wire.prepare_commit(grant, result, seconds))
            case _:
                checkpoint = await self._make_durable(attempt, result)
                if attempt.control.discard.is_set():
                    return "discarded"
                known = self._bus.known(grant)
                patch = wire.chunk_commit(
                    grant, checkpoint, result.loss, result.metrics, seconds, known, result.estimates
                )
                return await self._bus.commit(grant, patch)

    async def _make_durable(self, attempt: Attempt, outcome: ChunkOutcome) -> Checkpoint:
        """Persist while the next chunk computes; if that leaves too little memory, with nothing else in it."""
        persist = partial(self._persist, attempt, outcome)
        try:
            return await self._crew.persist(persist)
        except RunFailure as failure:
            if failure.reason != "OutOfMemory":
                raise
            _log.warning("no memory left to write the checkpoint, trying once more with no run beside it")

        def alone(engine: Engine) -> Checkpoint:
            for uid in engine.holdings().residents:
                engine.evict(uid)
            return persist()

        checkpoint, holdings = await self._crew.compute(alone)
        self._now_held(holdings)
        return checkpoint

    def _persist(self, attempt: Attempt, outcome: ChunkOutcome) -> Checkpoint:
        """Make the state and the log durable; called in the persisting thread."""
        with self._metrics.checkpoint_seconds.time():
            checkpoint = outcome.persist()
            attempt.log.sync()
        files = (self._volume.root / checkpoint.path).rglob("*")
        self._metrics.checkpoint_bytes.inc(sum(file.stat().st_size for file in files if file.is_file()))
        return checkpoint

    async def _look_at(self, uid: str) -> None:
        """Read a resident run that nothing is assigned for; evict it if it is gone, stopped or has ended."""
        run = await self._bus.read(self._names[uid])
        if slots.must_leave(run if run is not None and run.metadata.uid == uid else None):
            await self._evict(uid)

    async def _look_again_at_idle_runs(self) -> None:
        while True:
            await asyncio.sleep(IDLE_LOOK_SECONDS)
            self._looked_at = frozenset()
            self._changed.set()

    async def _evict(self, uid: str) -> None:
        _, holdings = await self._crew.compute(lambda engine: engine.evict(uid))
        self._metrics.forget(self._names[uid])
        self._now_held(holdings)
        _log.info("evicted", run=self._names[uid])

    def _now_held(self, holdings: Holdings) -> None:
        self._slot = replace(self._slot, residents=frozenset(holdings.residents))
        self._metrics.show_holdings(holdings)
        self._changed.set()
