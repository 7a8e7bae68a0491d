"""What the node knows of the pods it runs; kept in its ledger, shown in their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

Json = Mapping[str, Any]
"""An object of the Kubernetes API as it is on the wire."""


def containers_of(pod: Json) -> tuple[Json, ...]:
    """Return a pod's containers, those that initialise it first."""
    return (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"])


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one with the same pid by its creation time (seconds since the epoch)."""

    pid: int
    created: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container without a process: it has not started yet, or waits for its next start."""

    reason: str = "ContainerCreating"
    message: str = ""
    kind: Literal["waiting"] = "waiting"


@dataclass(frozen=True, slots=True)
class Running:
    """A container with a process."""

    started: datetime
    process: ProcessId
    kind: Literal["running"] = "running"


@dataclass(frozen=True, slots=True)
class Terminated:
    """A container whose process ended.

    Attributes:
        exit_code: As a shell reports it: 128 + n after signal n.
        reason: `Completed`, `Error`, `StartError` or `ContainerStatusUnknown`.
    """

    exit_code: int
    reason: str
    message: str
    started: datetime
    finished: datetime
    kind: Literal["terminated"] = "terminated"


State = Annotated[Waiting | Running | Terminated, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container: what it does now, how it ended before, how often it was started again.

    Attributes:
        ready: The readiness probe's word; True from the start without one.
        started: Whether the startup probe has passed.
        starts: How often a process was started; names the log.
        last: How the process before the present state ended.
    """

    state: State = Waiting()
    last: Terminated | None = None
    starts: int = 0
    ready: bool = False
    started: bool = False

    @property
    def restarts(self) -> int:
        """How often the container was started again."""
        return max(self.starts - 1, 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the node itself calls a pod failed, whatever its containers did."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod.

    Attributes:
        temporary: The pod's own short-named directory for temporary files, removed with it.
        devices: The identifiers of the GPUs that each container was given.
    """

    uid: str
    namespace: str
    name: str
    ip: str
    temporary: str
    accepted: datetime
    containers: dict[str, ContainerFacts] = field(default_factory=dict)
    init: dict[str, ContainerFacts] = field(default_factory=dict)
    devices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failure: Failure | None = None
