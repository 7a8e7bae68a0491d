"""Experiments that go on with what a lost cluster has left on the volume: which runs they have, how those begin.

Nothing here looks at the volume. `rapidfireai adopt` has read it, with its user's rights, and wrote into the Experiment
what it found; a worker that goes on from a commit verifies it as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapidfireai.api import ExperimentSpec, Run, RunStatus, run_name
from rapidfireai.api.adoption import AdoptedRun
from rapidfireai.api.run import Adopted, Failures
from rapidfireai_operator.core.snapshot import Subject

Leaf = Mapping[str, Any]


def configs_of(spec: ExperimentSpec, leaves: Sequence[Leaf]) -> tuple[Leaf | None, ...]:
    """Return the configs of all runs that an experiment makes, in the order of their indices.

    An index that is used up and whose run is not made again has None.

    Args:
        spec: The experiment's spec.
        leaves: What its configs expand into.
    """
    if spec.adopted is None:
        return tuple(leaves)
    before = {each.index: each for each in spec.adopted.runs}
    last = max([spec.adopted.next_index - 1, len(leaves), *before])
    return tuple(_config(index, before, leaves, spec.adopted.next_index) for index in range(1, last + 1))


def _config(index: int, before: Mapping[int, AdoptedRun], leaves: Sequence[Leaf], next_index: int) -> Leaf | None:
    entry = before.get(index)
    if entry is not None and entry.config is not None:
        return entry.config
    unused = index >= next_index or entry is not None
    return leaves[index - 1] if unused and index <= len(leaves) else None


def entry_of(spec: ExperimentSpec, index: int) -> AdoptedRun | None:
    """Return what an experiment brings along for a run, if anything."""
    runs = spec.adopted.runs if spec.adopted is not None else ()
    return next((each for each in runs if each.index == index), None)


def wanted_of(experiment: Subject, entry: AdoptedRun | None) -> dict[str, Any]:
    """Return what the spec of a run says beside its index and config.

    Args:
        experiment: Its experiment, whose name may be another one than before.
        entry: What is brought along for the run; None for one that is new.
    """
    if entry is None:
        return {"desiredState": "Running", **home_of_new(experiment)}
    spec: dict[str, Any] = {"desiredState": entry.desired_state, "adopted": entry.adopted.to_wire()}
    if entry.when != "Boundary":
        spec["when"] = entry.when
    if entry.priority:
        spec["priority"] = entry.priority
    if entry.parent_ref is not None:
        name = run_name(experiment.name, entry.parent_ref.index)
        spec["parentRef"] = entry.parent_ref.model_copy(update={"name": name}).to_wire()
    return spec


def home_of_new(experiment: Subject) -> dict[str, Any]:
    """Return what the spec of a new run says so that its files lie in the directory of its experiment."""
    uid = _adopts(experiment)
    return {"adopted": {"experimentUID": uid}} if uid else {}


def beginning(run: Run) -> RunStatus:
    """Return the status of a run; one that was adopted begins with what it had done before."""
    before, status = run.spec.adopted, run.status
    if before is None or status.state is not None:
        return status
    return status.model_copy(
        update={
            "state": before.state or ("Succeeded" if _is_through(before) else None),
            "attempt": max(status.attempt, before.attempt),
            "adopted": before.checkpoint,
            "prepared": before.prepared,
            "objective": list(before.objective),
            "objective_metric": before.objective_metric,
            "pinned": list(before.pinned),
            "head_start": before.head_start,
            "failures": before.failures or Failures(),
            "stopped_by": list(before.stopped_by),
        }
    )


def _is_through(before: Adopted) -> bool:
    """Return whether a run had committed its last step, which its operator may not have seen any more."""
    step = before.checkpoint.step if before.checkpoint is not None else 0
    return before.prepared is not None and step >= before.prepared.total_steps


def rival(subject: Subject, others: Iterable[Subject]) -> str | None:
    """Return the name of the experiment that has the directory which another one wants to adopt, if there is one.

    It is the experiment that the directory was made for, or whoever adopted it first.

    Args:
        subject: Who wants to adopt.
        others: All experiments of its namespace; it may be among them.
    """
    wanted = _adopts(subject)
    if not wanted:
        return None
    for other in others:
        if other.uid == subject.uid:
            continue
        if other.uid == wanted or (_adopts(other) == wanted and _age(other) < _age(subject)):
            return other.name
    return None


def _adopts(subject: Subject) -> str:
    spec = subject.body.get("spec")
    adopted = spec.get("adopted") if isinstance(spec, Mapping) else None
    return str(adopted.get("uid", "")) if isinstance(adopted, Mapping) else ""


def _age(subject: Subject) -> tuple[str, str]:
    return str(subject.body["metadata"].get("creationTimestamp", "")), subject.uid
