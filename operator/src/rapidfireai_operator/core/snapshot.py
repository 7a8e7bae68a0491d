"""What the operator may know when it decides: one experiment and all that belongs to it, frozen at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rapidfireai.api import ExperimentStatus, ICOp, Run

if TYPE_CHECKING:  # it is worked out from what is here
    from rapidfireai_operator.core.standing import Standing

TEMPLATE_ANNOTATION = "rapidfire.ai/template"
"""On a worker Job: the digest of the manifest that it was made from."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""On a worker Job: the LocalQueue from which Kueue admits it."""


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any] | None) -> Termination | None:
        """Read `state.terminated` of a container's status."""
        if not body:
            return None
        finished = body.get("finishedAt")
        return cls(
            exit_code=int(body.get("exitCode", 0)),
            reason=str(body.get("reason") or ""),
            message=str(body.get("message") or ""),
            finished_at=datetime.fromisoformat(finished) if finished else None,
        )

    def __str__(self) -> str:
        words = f"exit code {self.exit_code}"
        return f"{words} ({self.reason})" if self.reason and self.reason != "Error" else words


@dataclass(frozen=True, slots=True)
class PodView:
    """A worker pod, as far as it tells whether its process lives and why not.

    Attributes:
        image: What its container is made from.
        asks: The resources that its container asks for, by name, as Kubernetes writes quantities.
    """

    name: str
    uid: str
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    leaving: bool = False
    disrupted: bool = False
    unscheduled: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    restarts: int = 0
    terminated: Termination | None = None
    last_terminated: Termination | None = None
    image: str = ""
    asks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> PodView:
        """Read a Pod of the API server."""
        metadata, status = body["metadata"], body.get("status") or {}
        conditions = {each.get("type"): each for each in status.get("conditions") or ()}
        scheduled = conditions.get("PodScheduled") or {}
        container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
        worker: Mapping[str, Any] = next(iter((body.get("spec") or {}).get("containers") or ()), {})
        resources = worker.get("resources") or {}
        asks = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            phase=status.get("phase") or "Pending",
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            leaving=bool(metadata.get("deletionTimestamp")),
            disrupted=(conditions.get("DisruptionTarget") or {}).get("status") == "True",
            unscheduled=str(scheduled.get("message") or "") if scheduled.get("status") == "False" else "",
            waiting_reason=waiting.get("reason") or "",
            waiting_message=waiting.get("message") or "",
            restarts=int(container.get("restartCount") or 0),
            terminated=Termination.read(state.get("terminated")),
            last_terminated=Termination.read((container.get("lastState") or {}).get("terminated")),
            image=worker.get("image") or "",
            asks={str(name): str(amount) for name, amount in asks.items()},
        )


@dataclass(frozen=True, slots=True)
class JobView:
    """The Job of a worker slot.

    Attributes:
        created_at: When it was made, in seconds since the epoch; 0 if that is not known.
        suspended: Whether it may have no pods now: Kueue has not admitted it, or took its place away.
        queue: The LocalQueue of Kueue that it waits in; empty if Kueue has nothing to do with it.
    """

    name: str
    uid: str
    owner_uid: str
    template: str = ""
    leaving_since: float | None = None
    ended: str = ""
    message: str = ""
    suspended: bool = False
    queue: str = ""
    created_at: float = 0.0

    @property
    def leaving(self) -> bool:
        """Whether it was deleted and its pods are still there."""
        return self.leaving_since is not None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> JobView:
        """Read a Job of the API server."""
        metadata = body["metadata"]
        conditions = (body.get("status") or {}).get("conditions") or ()
        deleted, made = metadata.get("deletionTimestamp"), metadata.get("creationTimestamp")
        ended: Mapping[str, Any] = next(
            (c for c in conditions if c["type"] in {"Failed", "Complete"} and c["status"] == "True"), {}
        )
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            owner_uid=owner_uid(metadata),
            template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
            leaving_since=datetime.fromisoformat(deleted).timestamp() if deleted else None,
            ended=ended.get("type", ""),
            message=ended.get("message", ""),
            suspended=bool((body.get("spec") or {}).get("suspend")),
            queue=(metadata.get("labels") or {}).get(QUEUE_LABEL, ""),
            created_at=datetime.fromisoformat(made).timestamp() if made else 0.0,
        )


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A worker's heartbeat.

    Attributes:
        renewed_at: When the worker renewed it, by the worker's own clock.
        age: Seconds since the operator saw it change, by the operator's clock: clocks of machines differ.
    """

    holder: str
    renewed_at: datetime | None
    age: float

    @property
    def pod(self) -> str:
        """The pod that the holder runs in."""
        return self.holder.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Slot:
    """A worker slot: its Job, its pods by UID, its Lease; any of them may be missing."""

    name: str
    job: JobView | None = None
    pods: Mapping[str, PodView] = field(default_factory=dict)
    lease: LeaseView | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The experiment itself; `body` is as the API server has it, valid or not."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    leaving: bool
    body: Mapping[str, Any]
    status: ExperimentStatus


@dataclass(frozen=True, slots=True)
class World:
    """One experiment and all that belongs to it.

    Attributes:
        runs: Its runs by index.
        standings: What each of them means for the experiment, in the same order.
        made: Indices of the runs that are there, or that this operator made and somebody deleted since.
        taken: Names of Runs that are there but not this experiment's: what an earlier one of the same name left.
        slots: Worker slots by name.
        refusals: Why the API server refused to make a run or a slot's Job, by name.
        now: Seconds since the epoch.
    """

    experiment: Subject
    runs: tuple[Run, ...]
    standings: tuple[Standing, ...]
    made: frozenset[int]
    taken: frozenset[str]
    slots: Mapping[str, Slot]
    icops: tuple[ICOp, ...]
    refusals: Mapping[str, str]
    now: float


def owner_uid(metadata: Mapping[str, Any]) -> str:
    """Return the UID of an object's controlling owner, or an empty string."""
    owners = metadata.get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")
