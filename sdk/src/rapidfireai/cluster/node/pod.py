"""One pod's life: wait for what it needs, run its containers, end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import CONNECTION_ERRORS, Api, now, reason_of, wait_or
from rapidfireai.cluster.node.container import ContainerRunner, Hooks
from rapidfireai.cluster.node.devices import Devices, NoDeviceError, gpus_wanted
from rapidfireai.cluster.node.environment import ConfigurationError, Place, refuse_unsupported
from rapidfireai.cluster.node.events import Events
from rapidfireai.cluster.node.facts import ContainerFacts, Failure, Json, PodFacts, Running, Waiting
from rapidfireai.cluster.node.ledger import Ledger
from rapidfireai.cluster.node.logs import LogFile
from rapidfireai.cluster.node.reporter import Reporter
from rapidfireai.cluster.node.status import completed, phase
from rapidfireai.cluster.node.volumes import MountError
from rapidfireai.cluster.node.workplace import Workplace

_RETRY_SECONDS = 2.0
_QUICK_RETRY_SECONDS = 0.1
_QUICK_TRIES = 5
_VANISHED_GRACE = 1.0
_LAST_WORD_SECONDS = 3.0
_OVER = frozenset({"Succeeded", "Failed"})
_LATE = "Pod was active on the node longer than the specified deadline"
_STOPPED = "The process node was stopped, and with it this pod, which does not start again."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Node:
    """What pods need of their node.

    Attributes:
        environment: The node's own.
        allocatable: What the node offers, as quantities.
    """

    name: str
    api: Api
    ledger: Ledger
    events: Events
    devices: Devices
    environment: Mapping[str, str]
    allocatable: Mapping[str, str]


class PodRunner:
    """Runs a pod that is bound to this node.

    Args:
        pod: The pod as the API has it.
        facts: What the node knows of it; of a new pod, only its address and directory.
        node: What it runs on.
    """

    def __init__(self, pod: Json, facts: PodFacts, node: Node) -> None:
        spec = pod["spec"]
        self.facts = facts
        self._node = node
        self._policy: str = spec.get("restartPolicy", "Always")
        self._grace = float(spec.get("terminationGracePeriodSeconds", 30))
        self._reporter = Reporter(node.api, pod, facts)
        directory, place = node.ledger.directory(facts.uid), Place(node.name, facts.ip, node.allocatable)
        self._workplace = Workplace(node.api, pod, directory, Path(facts.temporary), place, node.environment)
        self._init = [self._runner(each, directory, init=True) for each in spec.get("initContainers") or ()]
        self._containers = [self._runner(each, directory, init=False) for each in spec["containers"]]
        # Now, before a new pod takes what this one had.
        self._has_devices = bool(facts.devices) and not self._over and node.devices.keep(facts.uid, facts.devices)
        self._grace_given = math.inf
        self._stopping = asyncio.Event()
        self._deleting = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._finished)
        self.update(pod)

    def update(self, pod: Json) -> None:
        """Take a newer version of the object."""
        self._reporter.take(pod)
        if "deletionTimestamp" not in pod["metadata"]:
            return
        if not self._deleting.is_set():
            for each in (*self._init, *self._containers):
                if isinstance(each.facts.state, Running):
                    self._emit(each.name, "Killing", f"Stopping container {each.name}")
        self._deleting.set()
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        if grace < self._grace_given:
            self._grace_given = grace
            self._stop(grace)

    def vanish(self) -> None:
        """The object is gone from the API: stop what runs, nearly at once."""
        self._reporter.gone()
        self._deleting.set()
        self._stop(_VANISHED_GRACE)

    async def shutdown(self) -> None:
        """Stop the pod's processes because the node stops; return when they have ended and the API knows."""
        running = any(isinstance(each.facts.state, Running) for each in (*self._init, *self._containers))
        if running and self._policy == "Never":
            self._change(failure=Failure("NodeShutdown", _STOPPED))
        await asyncio.gather(*self._stop(self._grace, with_node=True))
        with suppress(TimeoutError):  # the API server may have been stopped before
            await asyncio.wait_for(self._reporter.flush(), _LAST_WORD_SECONDS)
        self._task.cancel()
        await asyncio.wait({self._task})

    async def ended(self) -> bool:
        """Return when nothing of the pod runs here; say whether the API has it no more."""
        await asyncio.wait({self._task})
        return self._reporter.is_gone

    def find_log(self, container: str, *, previous: bool) -> LogFile | None:
        """Return a container's log; None if that run never was.

        Raises:
            KeyError: If the pod has no such container.
        """
        for each in (*self._init, *self._containers):
            if each.name == container:
                return each.log(previous=previous)
        raise KeyError(f"container {container}")

    @property
    def _over(self) -> bool:
        return phase(self._policy, self.facts, ending=False) in _OVER

    async def _live(self) -> None:
        self._spawn(self._reporter.run())
        try:
            if not self._over and await self._prepare():
                await self._run()
            self._node.devices.release(self.facts.uid)
            await self._deleting.wait()
            await self._reporter.flush()
            await self._reporter.delete()
        finally:
            for task in self._background:
                task.cancel()

    async def _prepare(self) -> bool:
        """Get everything that the containers need; say whether they may start."""
        for attempt in count():
            if self._stopping.is_set():
                break
            try:
                await self._get_ready()
                return not self._stopping.is_set()
            except MountError as error:
                self._wait_because("ContainerCreating", "FailedMount", str(error))
            except ConfigurationError as error:
                self._wait_because("CreateContainerConfigError", "Failed", str(error))
            except NoDeviceError as error:
                self._wait_because("ContainerCreating", "FailedDevices", str(error))
            except ApiException as error:
                # Forbidden right after binding: the authorizer has not seen yet that this pod is ours.
                if error.status != 403 or attempt >= _QUICK_TRIES:
                    self._wait_because("ContainerCreating", "FailedMount", reason_of(error))
            except CONNECTION_ERRORS as error:
                log.warning("pod cannot be prepared yet", pod=self.facts.name, error=reason_of(error))
            await wait_or(self._stopping, _RETRY_SECONDS if attempt >= _QUICK_TRIES else _QUICK_RETRY_SECONDS)
        return False

    async def _get_ready(self) -> None:
        refuse_unsupported(self._reporter.pod)
        self._take_devices()
        for volume in await self._workplace.prepare():
            self._spawn(volume.keep_fresh())
        # A container may ask the API for its address: it has to be there first.
        await self._reporter.flush()

    def _take_devices(self) -> None:
        wanted = {each["name"]: gpus_wanted(each) for each in self._reporter.pod["spec"]["containers"]}
        if any(wanted.values()) and not self._has_devices:
            self._change(devices=self._node.devices.take(self.facts.uid, wanted))
            self._has_devices = True

    def _wait_because(self, reason: str, event: str, message: str) -> None:
        waiting = Waiting(reason, message)
        states = [each.facts.state for each in self._containers]
        if any(isinstance(state, Waiting) and state != waiting for state in states):
            self._emit("", event, message, warning=True)
            for each in self._containers:
                each.set_waiting(waiting)

    async def _run(self) -> None:
        """Run the init containers one after the other, then the others side by side, until all are over."""
        if deadline := self._reporter.pod["spec"].get("activeDeadlineSeconds"):
            self._spawn(self._enforce_deadline(float(deadline)))
        for each in self._init:
            await each.run()
            if self._stopping.is_set() or not completed(each.facts):
                return
        async with asyncio.TaskGroup() as group:
            for each in self._containers:
                group.create_task(each.run())

    async def _enforce_deadline(self, seconds: float) -> None:
        await asyncio.sleep(seconds - (now() - self.facts.accepted).total_seconds())
        if not self._over:
            self._change(failure=Failure("DeadlineExceeded", _LATE))
            self._stop(self._grace)

    def _stop(self, grace: float, *, with_node: bool = False) -> list[asyncio.Task[None]]:
        self._stopping.set()
        return [self._spawn(each.stop(grace, with_node=with_node)) for each in (*self._init, *self._containers)]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of a pod failed", pod=self.facts.name, exc_info=task.exception())

    def _runner(self, spec: Json, directory: Path, *, init: bool) -> ContainerRunner:
        name = spec["name"]
        hooks = Hooks(
            launch=lambda: self._workplace.launch(spec, self.facts),
            keep=partial(self._keep, init, name),
            emit=lambda reason, message, warning: self._emit(name, reason, message, warning=warning),
        )
        facts = (self.facts.init if init else self.facts.containers)[name]
        policy = "OnFailure" if init and self._policy == "Always" else self._policy
        return ContainerRunner(spec, policy, self._grace, facts, directory / "logs" / name, hooks)

    def _keep(self, init: bool, name: str, facts: ContainerFacts) -> None:
        if init:
            self._change(init={**self.facts.init, name: facts})
        else:
            self._change(containers={**self.facts.containers, name: facts})

    def _change(self, **changes: Any) -> None:
        self.facts = replace(self.facts, **changes)
        try:
            self._node.ledger.write(self.facts)
        except OSError as error:  # a full disk must not end pods; the API has the state too
            log.warning("record not written", pod=self.facts.name, error=str(error))
        self._reporter.tell(self.facts)

    def _emit(self, container: str, reason: str, message: str, *, warning: bool = False) -> None:
        self._node.events.emit(self._reporter.pod, reason, message, container=container, warning=warning)
