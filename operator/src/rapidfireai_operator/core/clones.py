"""Clones: how their names are claimed, so that whoever dies in between makes no doubles and loses none.

In this order, each step written before the next: the checkpoint that a warm clone begins with is pinned in the parent;
the names go into the ICOp's results; `nextIndex` moves past them; the Runs are made; the ICOp is complete. A Run
carries the UID of its ICOp, and the API server makes each name once: if two operators ever claim one name, it is whose
Run is there, and the other claims anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.api import API_VERSION, ICOp, Run, run_name
from rapidfireai.api.base import GROUP, RUN_INDEX_LABEL
from rapidfireai.api.icop import ICOpResult
from rapidfireai.api.run import Checkpoint, ParentRef
from rapidfireai.clone import changes, cloned, warm_start_obstacle
from rapidfireai.errors import ConfigError
from rapidfireai.expand import is_evaluation
from rapidfireai_operator.core import jobs
from rapidfireai_operator.core.acceptance import Accepted, Refused, clone_obstacle
from rapidfireai_operator.core.adoption import home_of_new
from rapidfireai_operator.core.conditions import find, shortened
from rapidfireai_operator.core.snapshot import World

ICOP_LABEL = f"{GROUP}/icop"
"""On a clone: the UID of the ICOp that asked for it."""
MOST_PINS = 64
"""How many checkpoints of one run may be kept for warm clones."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A run of which one more checkpoint is kept; good only for the version of it that was read."""

    run: Run
    pinned: tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that an accepted ICOp has for a clone of one of its runs."""

    icop: ICOp
    result: ICOpResult
    index: int


def open_claims(icops: Collection[ICOp]) -> Iterator[Claim]:
    """Yield the names that ICOps have claimed and that may still have to be made."""
    for icop in icops:
        if is_accepted(icop):
            for result in icop.status.results:
                if result.created is not None:
                    yield Claim(icop, result, index_of(result.created))


def is_accepted(icop: ICOp) -> bool:
    """Return whether names for clones were claimed, and the clones are still being made."""
    condition = find(icop.status.conditions, "Complete")
    return condition is not None and condition.status == "False"


def index_of(name: str) -> int:
    """Return the index in a run's name; 0 if it is none."""
    digits = name.rpartition("-r")[2]
    return int(digits) if digits.isdecimal() else 0


def manifest(world: World, claim: Claim) -> Mapping[str, Any] | None:
    """Return the Run of a claim, or None if its parent is gone."""
    subject, icop, wish = world.experiment, claim.icop, claim.icop.spec.clone
    parent = next((run for run in world.runs if run.metadata.name == claim.result.run), None)
    if parent is None or wish is None:
        return None
    reference = ParentRef(
        name=parent.metadata.name,
        uid=parent.metadata.uid,
        index=parent.spec.index,
        warm_start=wish.warm_start,
        checkpoint=claim.result.checkpoint,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "Run",
        "metadata": {
            "name": run_name(subject.name, claim.index),
            "namespace": subject.namespace,
            "labels": {
                **jobs.labels(subject.name, "run"),
                RUN_INDEX_LABEL: str(claim.index),
                ICOP_LABEL: icop.metadata.uid,
            },
            "ownerReferences": [jobs.owner(subject)],
        },
        "spec": {
            "experimentRef": subject.name,
            "index": claim.index,
            "config": cloned(parent.spec.config, wish.patch),
            "desiredState": "Running",
            "parentRef": reference.to_wire(),
        }
        | home_of_new(subject)
        | ({"priority": parent.spec.priority} if parent.spec.priority else {})
        | ({"requestedBy": icop.spec.requested_by} if icop.spec.requested_by else {}),
    }


@dataclass
class Nursery:
    """Clones of one experiment while they are accepted and made."""

    world: World
    verdict: Accepted | Refused
    mounted: Collection[str]
    pins: dict[str, Pin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._runs = {run.metadata.name: run for run in self.world.runs}
        self._makers = {run.spec.index: run.metadata.labels.get(ICOP_LABEL, "") for run in self.world.runs}
        self._claimed: set[int] = set()
        made, claims = self.world.made, open_claims(self.world.icops)
        highest = max([*made, *(claim.index for claim in claims)], default=0)
        self._next = max(self.world.experiment.status.next_index, highest + 1)

    def accept(self, icop: ICOp, parent: Run) -> ICOpResult:
        """Claim a name for a clone of a run, or say why there can be none."""
        name, wish = parent.metadata.name, icop.spec.clone
        if wish is None or isinstance(self.verdict, Refused):  # the schema asks for the first
            return _refused(name, self._closed() or "it says nothing of the clone: write spec.clone")
        if self.world.experiment.status.next_index <= len(self.verdict.leaves):
            return _refused(name, "some runs of the experiment cannot be made; its Expanded condition says why")
        try:
            config = cloned(parent.spec.config, wish.patch)
            differs = bool(changes(parent.spec.config, config))
        except ConfigError as error:
            return _refused(name, f"clone.patch.{error.path}: {error.message}")
        obstacle = clone_obstacle(self.verdict, self.mounted, wish.patch, config)
        if obstacle is not None:
            return _refused(name, obstacle)
        message = "" if differs else "the patch changes nothing: the clone has its parent's config"
        if not wish.warm_start:
            return self._claim(name, message, None)
        return self._accept_warm(parent, config, message)

    def _closed(self) -> str | None:
        """Return why the experiment gets no new runs, or None if it may."""
        if isinstance(self.verdict, Refused):
            return f"the experiment is refused and gets no new runs: {self.verdict.message}"
        return None

    def _accept_warm(self, parent: Run, config: Mapping[str, Any], message: str) -> ICOpResult:
        name, checkpoint = parent.metadata.name, parent.status.committed
        if is_evaluation(parent.spec.config):
            return _refused(name, "an evaluation has no weights to go on from; set clone.warmStart: false")
        if checkpoint is None or checkpoint.step == 0:
            return _refused(name, "it has committed no weights yet; wait for its first chunk, or clone it cold")
        obstacle = warm_start_obstacle(parent.spec.config, config)
        if obstacle is not None:
            return _refused(name, obstacle)
        pinned = self.pins[name].pinned if name in self.pins else tuple(parent.status.pinned)
        if checkpoint not in pinned:
            if len(pinned) >= MOST_PINS:
                return _refused(name, f"{MOST_PINS} of its commits are kept for clones already; clone it cold")
            self.pins[name] = Pin(parent, (*pinned, checkpoint))
        return self._claim(name, message, checkpoint)

    def _claim(self, parent: str, message: str, checkpoint: Checkpoint | None) -> ICOpResult:
        name = self._free_name()
        return ICOpResult(run=parent, outcome="Applied", message=message, created=name, checkpoint=checkpoint)

    def _free_name(self) -> str:
        while (name := run_name(self.world.experiment.name, self._next)) in self.world.taken:
            self._next += 1
        self._claimed.add(self._next)
        self._next += 1
        return name

    def follow_up(self, icop: ICOp) -> list[ICOpResult] | None:
        """Return the results of an accepted ICOp as they stand now, or None if they stand as before."""
        results = [self._settled(icop, result) for result in icop.status.results]
        return None if self.is_open(icop, results) and results == icop.status.results else results

    def is_open(self, icop: ICOp, results: Sequence[ICOpResult]) -> bool:
        """Return whether some clone of an ICOp is still to be made."""
        return any(result.created is not None and not self._is_made(icop, result.created) for result in results)

    def _is_made(self, icop: ICOp, name: str) -> bool:
        """Return whether the ICOp's Run is there, or was: somebody may have deleted it at once."""
        index = index_of(name)
        return index in self.world.made and self._makers.get(index, icop.metadata.uid) == icop.metadata.uid

    def _settled(self, icop: ICOp, result: ICOpResult) -> ICOpResult:
        """Return what became of one claim."""
        name = result.created
        if name is None or self._is_made(icop, name):
            return result
        refusal = self._refusal(icop, result)
        if refusal is not None:
            return _refused(result.run, refusal)
        index = index_of(name)
        if index in self._makers or index in self._claimed or name in self.world.taken:
            return result.model_copy(update={"created": self._free_name()})
        self._claimed.add(index)
        return result

    def _refusal(self, icop: ICOp, result: ICOpResult) -> str | None:
        """Return why a clone that was accepted cannot be made after all, or None if it can."""
        refusal, parent = self.world.refusals.get(result.created or ""), self._runs.get(result.run)
        if refusal is not None:
            return f"the API server refuses the clone: {refusal}"
        if (closed := self._closed()) is not None:
            return closed
        if parent is None or icop.spec.clone is None:
            return "it was removed before the clone was made; clone another run"
        try:
            cloned(parent.spec.config, icop.spec.clone.patch)
        except ConfigError as error:  # a newer version knows better than the one that accepted it
            return f"clone.patch.{error.path}: {error.message}"
        return None


def _refused(run: str, message: str) -> ICOpResult:
    return ICOpResult(run=run, outcome="Refused", message=shortened(message))
