"""What a pass decides to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rapidfireai_operator.core import jobs
from rapidfireai_operator.core.conditions import Event


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator was told by its settings, and found in the cluster as a whole.

    Attributes:
        outdated: What to say of definitions that are older than the operator; empty if they are not.
    """

    defaults: jobs.WorkerDefaults
    lease_seconds: float
    idle_seconds: float
    allow_file_uris: bool
    outdated: str = ""


@dataclass(frozen=True, slots=True)
class StatusPatch:
    """A merge patch of an object's status, good only for the version that it was made from."""

    name: str
    resource_version: str
    status: Mapping[str, Any]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A merge patch of an object itself, good only for the version that it was made from.

    Attributes:
        cause: Under which key it is remembered that the API server refuses it: the IC Op's name, `/`, the run's.
    """

    name: str
    resource_version: str
    body: Mapping[str, Any]
    cause: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write, in this order; whatever fails is decided anew from what is then there.

    Attributes:
        pins: Checkpoints of runs that warm clones will begin with.
        asks: What IC Ops ask of runs.
        icops: Records of IC Ops, written once all of that was.
        adopt: IC Ops that the experiment comes to own.
        remove_icops: UIDs of IC Ops by name, whose records were kept long enough.
        runs: Statuses of runs. The one that pays for a crash comes last: as long as its assignment is there, an
            operator that dies half way finds it the active one again.
        remove_jobs: Slots whose Job goes.
        make_jobs: Manifests to apply.
        create: Runs to make.
        make_icops: ICOps to make, such as a policy's; their names follow from what they are about, so that one that is
            there already is the same one.
        experiment: The experiment's status; None if nothing changed.
        expire: Whether the experiment itself goes now, because it is finished for as long as it says.
        look_again: When to look again if nothing happens, in seconds since the epoch.
    """

    pins: tuple[StatusPatch, ...] = ()
    asks: tuple[Change, ...] = ()
    adopt: tuple[Change, ...] = ()
    remove_icops: Mapping[str, str] = field(default_factory=dict)
    icops: tuple[StatusPatch, ...] = ()
    runs: tuple[StatusPatch, ...] = ()
    remove_jobs: tuple[str, ...] = ()
    make_jobs: tuple[Mapping[str, Any], ...] = ()
    create: tuple[Mapping[str, Any], ...] = ()
    make_icops: tuple[Mapping[str, Any], ...] = ()
    experiment: StatusPatch | None = None
    expire: bool = False
    look_again: float | None = None
