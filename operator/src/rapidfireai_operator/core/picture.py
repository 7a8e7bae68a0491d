"""The operator's picture of the cluster: every object that concerns it, folded from watches and lists.

Plain data that is changed in place; what is decided is decided from a frozen `World`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from rapidfireai.api import ExperimentStatus, ICOp, Run
from rapidfireai.api.base import EXPERIMENT_LABEL, WORKER_LABEL
from rapidfireai_operator.core.snapshot import (
    JobView,
    LeaseView,
    PodView,
    Slot,
    Subject,
    World,
    owner_uid,
)
from rapidfireai_operator.core.standing import Standing, standing

Kind = Literal["experiments", "runs", "icops", "jobs", "pods", "leases"]
KINDS: tuple[Kind, ...] = ("experiments", "runs", "icops", "jobs", "pods", "leases")
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An experiment, by namespace and name."""

    namespace: str
    name: str


@dataclass(slots=True)
class _Beat:
    """When the operator saw a Lease change last, by its own clock."""

    mark: tuple[str, str]
    seen: float


@dataclass(slots=True)
class _Entry:
    body: Body
    version: int
    parsed: Any


@dataclass(slots=True)
class _Roster:
    """The runs of an experiment by index: of thousands, only those that changed are worked out anew."""

    uid: str
    runs: list[Run]
    others: frozenset[str]
    standings: list[Standing] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    indices: frozenset[int] = frozenset()
    changed: set[int] = field(default_factory=set)
    complete: bool = True

    @classmethod
    def of(cls, subject: Subject, entries: Mapping[str, _Entry], before: _Roster | None) -> _Roster:
        """Return the roster of a subject; runs that were in the one before keep their standing."""
        mine = [
            each.parsed
            for each in entries.values()
            if isinstance(each.parsed, Run) and owner_uid(each.body["metadata"]) == subject.uid
        ]
        runs = sorted(mine, key=lambda run: run.spec.index)
        places = {run.metadata.name: place for place, run in enumerate(runs)}
        others = frozenset(name for name in entries if name not in places)
        indices = frozenset(run.spec.index for run in runs)
        standings = [before.known(run) if before is not None else standing(run) for run in runs]
        return cls(subject.uid, runs, others, standings, places, indices)

    def known(self, run: Run) -> Standing:
        place = self.places.get(run.metadata.name)
        same = place is not None and place not in self.changed and self.runs[place] is run
        return self.standings[place] if place is not None and same else standing(run)

    def take(self, parsed: object) -> None:
        """Put a newer version of a run in its place; if it has none, the roster is to be made anew."""
        place = self.places.get(parsed.metadata.name) if isinstance(parsed, Run) else None
        if place is None or not isinstance(parsed, Run) or self.runs[place].metadata.uid != parsed.metadata.uid:
            self.complete = False
            return
        self.runs[place] = parsed
        self.changed.add(place)

    def stand(self) -> tuple[Standing, ...]:
        """Return the runs' standings."""
        for place in self.changed:
            self.standings[place] = standing(self.runs[place])
        self.changed.clear()
        return tuple(self.standings)


@dataclass(slots=True)
class _Belongings:
    """The objects of one experiment, by kind and name; the roster of its runs."""

    objects: dict[Kind, dict[str, _Entry]] = field(default_factory=lambda: defaultdict(dict))
    roster: _Roster | None = None


class Picture:
    """All objects of the workspaces that concern the operator."""

    def __init__(self) -> None:
        self._experiments: dict[Key, _Belongings] = defaultdict(_Belongings)
        self._where: dict[tuple[Kind, str, str], tuple[Key, str]] = {}
        self._gone: dict[str, None] = {}
        self._beats: dict[str, _Beat] = {}
        self.unreadable: deque[tuple[Kind, Key, str, str]] = deque(maxlen=100)
        """Objects that could not be read, for the log: kind, experiment, name, why."""

    def fold(self, kind: Kind, body: Body, monotonic: float) -> Key | None:
        """Take up an object's newest state.

        Returns:
            The experiment that it concerns, or None if nothing changed that a decision could depend on.
        """
        metadata = body["metadata"]
        key, uid, name = experiment_of(kind, body), str(metadata["uid"]), str(metadata["name"])
        version = int(metadata["resourceVersion"])
        if key is None or uid in self._gone:
            return None
        own = self._experiments[key]
        shelf = own.objects[kind]
        known = shelf.get(name)
        if known is not None and known.version >= version and known.body["metadata"]["uid"] == uid:
            return None
        # Who wrote which field concerns nobody here, and is half of a run.
        body = {**body, "metadata": {name: each for name, each in metadata.items() if name != "managedFields"}}
        parsed, problem = _parse(kind, body)
        shelf[name] = _Entry(body, version, parsed)
        if kind == "runs" and own.roster is not None:
            own.roster.take(parsed)
        if problem:
            self.unreadable.append((kind, key, name, problem))
        self._where[kind, key.namespace, name] = (key, uid)
        if kind == "leases":
            return self._beat(uid, body, monotonic, key)
        return key

    def forget(self, kind: Kind, body: Body) -> Key | None:
        """Take up that an object is gone; what was read of it earlier and comes late is ignored.

        Returns:
            The experiment that it concerned, or None if nothing was known of it.
        """
        metadata = body["metadata"]
        return self._drop(kind, str(metadata.get("namespace", "")), str(metadata["name"]), str(metadata["uid"]))

    def forget_name(self, kind: Kind, namespace: str, name: str) -> Key | None:
        """Take up that the API server knows no object of this name.

        Returns:
            The experiment that it concerned, or None if nothing was known of it.
        """
        known = self._where.get((kind, namespace, name))
        return None if known is None else self._drop(kind, namespace, name, known[1])

    def knows(self, key: Key) -> bool:
        """Return whether anything is known of an experiment, be it only what it left behind."""
        return key in self._experiments and any(self._experiments[key].objects.values())

    def replace(self, kind: Kind, namespace: str, bodies: Iterable[Body], version: int, monotonic: float) -> set[Key]:
        """Take up a complete list: what it lacks is gone, unless it is newer than the list.

        Returns:
            The experiments that something changed for.
        """
        listed = {str(body["metadata"]["uid"]): body for body in bodies}
        touched = {self.fold(kind, body, monotonic) for body in listed.values()}
        for (of, space, name), (key, uid) in list(self._where.items()):
            if of == kind and space == namespace and uid not in listed:
                entry = self._experiments[key].objects[kind].get(name)
                if entry is not None and entry.version <= version:
                    touched.add(self._drop(kind, space, name, uid))
        return {key for key in touched if key is not None}

    def known(self) -> list[Key]:
        """Return the experiments that anything is known of."""
        return sorted(key for key, own in self._experiments.items() if any(own.objects.values()))

    def subject(self, key: Key) -> Subject | None:
        """Return an experiment itself, or None if it is not there."""
        entry = self._experiments[key].objects["experiments"].get(key.name) if key in self._experiments else None
        if entry is None:
            return None
        metadata = entry.body["metadata"]
        return Subject(
            namespace=key.namespace,
            name=key.name,
            uid=metadata["uid"],
            generation=int(metadata.get("generation") or 0),
            resource_version=metadata["resourceVersion"],
            leaving=bool(metadata.get("deletionTimestamp")),
            body=entry.body,
            status=entry.parsed,
        )

    def subjects(self, namespace: str) -> list[Subject]:
        """Return all experiments of a namespace."""
        found = (self.subject(key) for key in self.known() if key.namespace == namespace)
        return [each for each in found if each is not None]

    def icops(self, key: Key) -> tuple[ICOp, ...]:
        """Return the IC Ops that name an experiment, whether it is there or not."""
        return self._parsed(key, "icops", ICOp)

    def runs(self, subject: Subject) -> tuple[Run, ...]:
        """Return the runs that belong to an experiment, by index."""
        return tuple(self._roster(subject).runs)

    def world(
        self,
        subject: Subject,
        now: float,
        monotonic: float,
        made: Iterable[int] = (),
        refusals: Mapping[str, str] | None = None,
    ) -> World:
        """Return all that belongs to an experiment, frozen.

        Args:
            subject: The experiment.
            now: Seconds since the epoch.
            monotonic: The same moment on the clock that Leases are judged by.
            made: Indices of runs that this operator made.
            refusals: Why the API server refused to make objects, by name.
        """
        key, roster = Key(subject.namespace, subject.name), self._roster(subject)
        return World(
            experiment=subject,
            runs=tuple(roster.runs),
            standings=roster.stand(),
            made=roster.indices.union(made),
            taken=roster.others,
            slots=self._slots(key, monotonic),
            icops=self.icops(key),
            refusals=dict(refusals or {}),
            now=now,
        )

    def _roster(self, subject: Subject) -> _Roster:
        own = self._experiments[Key(subject.namespace, subject.name)]
        if own.roster is None or own.roster.uid != subject.uid or not own.roster.complete:
            own.roster = _Roster.of(subject, own.objects["runs"], own.roster)
        return own.roster

    def _slots(self, key: Key, monotonic: float) -> dict[str, Slot]:
        objects = self._experiments[key].objects
        pods: dict[str, dict[str, PodView]] = defaultdict(dict)
        for entry in objects["pods"].values():
            if isinstance(entry.parsed, PodView):
                pods[_slot(entry.body)][entry.parsed.uid] = entry.parsed
        leases = {name: self._lease(entry.body, monotonic) for name, entry in objects["leases"].items()}
        jobs = {n: entry.parsed for n, entry in objects["jobs"].items() if isinstance(entry.parsed, JobView)}
        names = sorted({*pods, *leases, *jobs})
        return {name: Slot(name, jobs.get(name), pods.get(name, {}), leases.get(name)) for name in names}

    def _lease(self, body: Body, monotonic: float) -> LeaseView:
        spec = body.get("spec") or {}
        renewed = spec.get("renewTime")
        return LeaseView(
            holder=spec.get("holderIdentity") or "",
            renewed_at=datetime.fromisoformat(renewed) if renewed else None,
            age=monotonic - self._beats[body["metadata"]["uid"]].seen,
        )

    def _beat(self, uid: str, body: Body, monotonic: float, key: Key) -> Key | None:
        """Remember when a Lease changed; only another holder, or one that was late, is news."""
        spec = body.get("spec") or {}
        mark = (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
        beat = self._beats.get(uid)
        if beat is not None and beat.mark == mark:
            return None
        late = beat is None or monotonic - beat.seen > float(spec.get("leaseDurationSeconds") or 0)
        news = beat is None or beat.mark[0] != mark[0] or late
        self._beats[uid] = _Beat(mark, monotonic)
        return key if news else None

    def _drop(self, kind: Kind, namespace: str, name: str, uid: str) -> Key | None:
        known = self._where.get((kind, namespace, name))
        self._gone[uid] = None
        while len(self._gone) > 10_000:
            self._gone.pop(next(iter(self._gone)))
        self._beats.pop(uid, None)
        if known is None or known[1] != uid:
            return None
        del self._where[kind, namespace, name]
        own = self._experiments[known[0]]
        own.objects[kind].pop(name, None)
        if kind == "runs" and own.roster is not None:
            own.roster.complete = False
        if not any(own.objects.values()):
            del self._experiments[known[0]]
        return known[0]

    def _parsed(self, key: Key, kind: Kind, type_: type[Any]) -> tuple[Any, ...]:
        if key not in self._experiments:
            return ()
        entries = self._experiments[key].objects[kind].values()
        return tuple(entry.parsed for entry in entries if isinstance(entry.parsed, type_))


def experiment_of(kind: Kind, body: Body) -> Key | None:
    """Return the experiment that an object belongs to, or None if it belongs to none."""
    metadata = body["metadata"]
    namespace = str(metadata.get("namespace", ""))
    if kind == "experiments":
        return Key(namespace, str(metadata["name"]))
    if kind in {"runs", "icops"}:
        return Key(namespace, str((body.get("spec") or {}).get("experimentRef", "")))
    name = (metadata.get("labels") or {}).get(EXPERIMENT_LABEL)
    return Key(namespace, str(name)) if name and _slot(body) else None


def _slot(body: Body) -> str:
    return str((body["metadata"].get("labels") or {}).get(WORKER_LABEL, ""))


_READERS: Mapping[Kind, Callable[[Body], Any]] = {
    "experiments": lambda body: ExperimentStatus.model_validate(body.get("status") or {}),
    "runs": lambda body: Run.from_body(dict(body)),
    "icops": lambda body: ICOp.from_body(dict(body)),
    "jobs": JobView.read,
    "pods": PodView.read,
    "leases": lambda body: body,
}


def _parse(kind: Kind, body: Body) -> tuple[Any, str]:
    """Return the object in the form that decisions read, or why it cannot be read."""
    try:
        return _READERS[kind](body), ""
    except (ValidationError, ValueError, TypeError, LookupError) as error:
        return (ExperimentStatus() if kind == "experiments" else None), str(error)
