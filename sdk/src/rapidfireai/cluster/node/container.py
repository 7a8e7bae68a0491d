"""One container's life: start, probe, wait for the end, start again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from rapidfireai.cluster.node.api import now, wait_or
from rapidfireai.cluster.node.environment import ConfigurationError
from rapidfireai.cluster.node.facts import ContainerFacts, Json, Running, Terminated, Waiting
from rapidfireai.cluster.node.logs import LogFile
from rapidfireai.cluster.node.probes import Target, check, run_probe
from rapidfireai.cluster.node.process import ContainerProcess, StartError
from rapidfireai.cluster.node.status import next_back_off, restart_wanted

log = structlog.get_logger()

_START_ERROR = 128
_WITH_NODE = Waiting("NodeShutdown", "The process node is stopped; this container starts again with it.")
_AFTER_PROBE = Waiting("CrashLoopBackOff", "The container was ended because a probe failed; it starts again.")
_RETRY_SECONDS = 3.0
_LAST_OUTPUT_SECONDS = 2.0
_LEAST_GRACE_AFTER_HOOK = 2.0


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a container's program, and what its probes are aimed at."""

    command: Sequence[str]
    directory: Path
    target: Target


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a container's runner asks of its pod.

    Attributes:
        launch: Reads Secrets and ConfigMaps anew; raises `ConfigurationError` while something is missing.
        keep: Takes the new facts, for the ledger and the status.
        emit: Takes an event: reason, message, whether it is a warning.
    """

    launch: Callable[[], Awaitable[Launch]]
    keep: Callable[[ContainerFacts], None]
    emit: Callable[[str, str, bool], None]


class ContainerRunner:
    """Runs one container until its restart policy says that it has ended, or it is stopped.

    Args:
        spec: The container.
        policy: `Always`, `OnFailure` or `Never`.
        grace: Seconds that it has to end after a failed probe.
        facts: What is known of it already.
        logs: The directory of its logs.
        hooks: The way back to its pod.
    """

    def __init__(self, spec: Json, policy: str, grace: float, facts: ContainerFacts, logs: Path, hooks: Hooks) -> None:
        self._spec = spec
        self._policy = policy
        self._grace = grace
        self._facts = facts
        self._logs = logs
        self._hooks = hooks
        self._stopping = asyncio.Event()
        self._with_node = False
        self._asked = False
        self._failed_probe = False
        self._process: ContainerProcess | None = None
        self._exited = asyncio.Event()
        self._target: Target | None = None
        self._log: LogFile | None = None
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def facts(self) -> ContainerFacts:
        """What is known of the container now."""
        return self._facts

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self._spec["name"])

    def set_waiting(self, waiting: Waiting) -> None:
        """Say why the container does not start, unless it has ended for good."""
        state = self._facts.state
        if isinstance(state, Terminated):
            if not restart_wanted(self._policy, state):
                return
            self._facts = replace(self._facts, last=state)
        self._change(replace(self._facts, state=waiting))

    def log(self, *, previous: bool) -> LogFile | None:
        """Return the log of the latest run, or of the one before; None if there was none."""
        number = self._facts.starts - (1 if previous else 0)
        if number < 1:
            return None
        if not previous and self._log is not None:
            return self._log
        return LogFile(self._log_path(number))

    async def run(self) -> None:
        """Start the container again and again until it is over."""
        back_off = timedelta(seconds=-1)
        end = self._facts.state if isinstance(self._facts.state, Terminated) else None
        while not self._stopping.is_set():
            if end is not None:
                if self._facts.state == end and not restart_wanted(self._policy, end):
                    return
                back_off = next_back_off(back_off, end)
                await self._back_off(back_off, end)
            if not self._stopping.is_set():
                end = await self._run_once()

    async def stop(self, grace: float, *, with_node: bool = False) -> None:
        """End the container and return when it has ended; a second call with less grace hurries it.

        Args:
            grace: Seconds between SIGTERM and SIGKILL, `preStop` included; 0 kills at once.
            with_node: The node itself stops: the container goes on when the node is back.
        """
        self._with_node = self._with_node or with_node
        self._stopping.set()
        await self._end(grace)

    async def _end(self, grace: float) -> None:
        process, exited = self._process, self._exited
        if process is None:
            return
        deadline = time.monotonic() + grace
        if grace > 0 and not self._asked:  # many programs take a second SIGTERM for an order to end at once
            self._asked = True
            if await self._pre_stop(grace):
                deadline = max(deadline, time.monotonic() + _LEAST_GRACE_AFTER_HOOK)
            process.terminate()
        if await wait_or(exited, deadline - time.monotonic()):
            return
        await asyncio.to_thread(process.kill)
        await exited.wait()

    async def _pre_stop(self, grace: float) -> bool:
        hook = (self._spec.get("lifecycle") or {}).get("preStop")
        if not hook or self._target is None:
            return False
        failure = await check(hook, self._target, grace)
        if failure is not None:
            self._hooks.emit("FailedPreStopHook", f"PreStopHook failed: {failure}", True)
        return True

    def _change(self, facts: ContainerFacts) -> None:
        self._facts = facts
        self._hooks.keep(facts)

    async def _back_off(self, wait: timedelta, end: Terminated) -> None:
        if not wait:
            return
        seconds = int(wait.total_seconds())
        message = f"back-off {seconds}s restarting failed container={self._spec['name']}"
        self._change(replace(self._facts, state=Waiting("CrashLoopBackOff", message), last=end))
        self._hooks.emit("BackOff", f"Back-off restarting failed container {self._spec['name']}", True)
        await wait_or(self._stopping, seconds)

    async def _launch(self) -> Launch | None:
        """Return how to start, once everything that it needs is there; None if stopped before."""
        while not self._stopping.is_set():
            try:
                return await self._hooks.launch()
            except ConfigurationError as error:
                waiting = Waiting("CreateContainerConfigError", str(error))
                if self._facts.state != waiting:
                    last = self._facts.state if isinstance(self._facts.state, Terminated) else self._facts.last
                    self._change(replace(self._facts, state=waiting, last=last))
                    self._hooks.emit("Failed", f"Error: {error}", True)
            await wait_or(self._stopping, _RETRY_SECONDS)
        return None

    async def _run_once(self) -> Terminated | None:
        launch = await self._launch()
        if launch is None:
            return None
        started = now()
        try:
            process = await ContainerProcess.start(launch.command, launch.target.env, launch.directory)
        except StartError as error:
            self._hooks.emit("Failed", f"Error: {error}", True)
            self._begin(None)
            end = Terminated(_START_ERROR, "StartError", str(error), started, now())
            self._change(self._after(end))
            return end
        self._begin(process)
        self._target = launch.target
        self._change(
            replace(
                self._facts,
                state=Running(started, process.id),
                ready="readinessProbe" not in self._spec,
                started="startupProbe" not in self._spec,
            )
        )
        self._hooks.emit("Started", f"Started container {self._spec['name']}", False)
        if self._stopping.is_set():
            await asyncio.to_thread(process.kill)
        end = await self._attend(process, started)
        self._change(self._after(end))
        self._process = None
        self._exited.set()
        return end

    def _begin(self, process: ContainerProcess | None) -> None:
        """Count a start, and open its log."""
        last = self._facts.state if isinstance(self._facts.state, Terminated) else self._facts.last
        self._facts = replace(self._facts, last=last, starts=self._facts.starts + 1)
        self._process, self._exited, self._asked, self._failed_probe = process, asyncio.Event(), False, False
        self._log = LogFile(self._log_path(self._facts.starts))
        for outdated in (self._log_path(self._facts.starts - 2), self._log_path(self._facts.starts - 2, ".1")):
            outdated.unlink(missing_ok=True)

    def _log_path(self, number: int, suffix: str = "") -> Path:
        return self._logs / f"{number}.log{suffix}"

    async def _attend(self, process: ContainerProcess, started: datetime) -> Terminated:
        """Write the process's output and probe it until it ends."""
        if self._log is None or self._target is None:
            raise RuntimeError("a container is attended only after it began")
        filling = asyncio.create_task(self._log.fill(process.output))
        probing = asyncio.create_task(self._probe(self._target))
        try:
            code = await process.wait()
            await asyncio.wait({filling}, timeout=_LAST_OUTPUT_SECONDS)
        finally:
            for task in (probing, filling):
                task.cancel()
            for result in await asyncio.gather(probing, filling, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("a task of a container failed", container=self.name, exc_info=result)
        message = ""
        if code and self._spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self._log.last_words()
        return Terminated(code, "Error" if code else "Completed", message, started, now())

    def _after(self, end: Terminated) -> ContainerFacts:
        """Return the facts after an end. One that is not the program's own, even a good one, is followed by a start."""
        facts = replace(self._facts, state=end, ready=False, started=False)
        if self._policy == "Never" or not (self._with_node or self._failed_probe):
            return facts
        return replace(facts, state=_WITH_NODE if self._with_node else _AFTER_PROBE, last=end)

    async def _probe(self, target: Target) -> None:
        """Run the startup probe, then readiness and liveness side by side."""
        if startup := self._spec.get("startupProbe"):
            await run_probe(startup, target, self._startup_verdict, self._complaint("Startup"))
            if not self._facts.started:
                return
        verdicts = {"readinessProbe": self._readiness_verdict, "livenessProbe": self._liveness_verdict}
        async with asyncio.TaskGroup() as group:
            for name, verdict in verdicts.items():
                if probe := self._spec.get(name):
                    complaint = self._complaint(name.removesuffix("Probe").capitalize())
                    group.create_task(run_probe(probe, target, verdict, complaint))

    def _complaint(self, kind: str) -> Callable[[str], None]:
        return lambda reason: self._hooks.emit("Unhealthy", f"{kind} probe failed: {reason}", True)

    def _startup_verdict(self, success: bool, reason: str) -> bool:
        if success:
            self._change(replace(self._facts, started=True))
        else:
            self._give_up("startup", self._spec["startupProbe"])
        return False

    def _readiness_verdict(self, success: bool, reason: str) -> bool:
        if success != self._facts.ready:
            self._change(replace(self._facts, ready=success))
        return True

    def _liveness_verdict(self, success: bool, reason: str) -> bool:
        if not success:
            self._give_up("liveness", self._spec["livenessProbe"])
        return success

    def _give_up(self, kind: str, probe: Json) -> None:
        if self._stopping.is_set():
            return
        name = self._spec["name"]
        self._hooks.emit("Killing", f"Container {name} failed {kind} probe, will be restarted", False)
        self._failed_probe = True
        ending = asyncio.create_task(self._end(probe.get("terminationGracePeriodSeconds", self._grace)))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
