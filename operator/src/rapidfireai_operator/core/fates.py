"""Whether the process that holds an assignment still lives, and who pays if it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rapidfireai.api.run import Assignment
from rapidfireai_operator.core.snapshot import LeaseView, PodView, Slot, Termination

LEFT_IN_ORDER = frozenset({0, 75, 143})
"""Exit codes of a worker that was told to leave (0, 128+SIGTERM) or that lost the API server (EX_TEMPFAIL)."""
_LESS_MEMORY = (
    "raise resources.limits.memory in spec.workers.template, or lower per_device_train_batch_size or max_length"
)
_MEANINGS = {
    3: "the device is broken for this process; the log of the worker has the error",
    124: "it hung: nothing came of its chunk for far longer than ever before; the log of the worker has all stacks",
    137: f"it was killed, most likely because the machine ran out of memory: {_LESS_MEMORY}",
    139: "a segmentation fault in native code",
}
"""What the exit codes of a worker tell that crashed."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a process.

    Attributes:
        crashed: Whether the process took itself down; then the run that was active pays.
        message: What happened, as the end of a sentence.
    """

    crashed: bool
    message: str


def living_process(slot: Slot, lease_seconds: float) -> tuple[str, PodView] | None:
    """Return the process that holds the slot now and its pod, or None if nobody is there."""
    lease = slot.lease
    if lease is None or not lease.holder or lease.age > lease_seconds:
        return None
    pod = next((pod for pod in slot.pods.values() if pod.name == lease.pod), None)
    if pod is None or _has_ended(pod, slot):
        return None
    return lease.holder, pod


def takes_work(slot: Slot, lease_seconds: float) -> str | None:
    """Return the slot's process if it may be given new work: it lives and nobody told it to leave."""
    living = living_process(slot, lease_seconds)
    if living is None or living[1].leaving or slot.job is None or slot.job.leaving:
        return None
    return living[0]


def fate(assignment: Assignment, slots: Mapping[str, Slot], lease_seconds: float) -> Fate | None:
    """Return what became of the process that holds an assignment, or None while it lives."""
    slot = slots.get(assignment.worker, Slot(assignment.worker))
    living = living_process(slot, lease_seconds)
    if living is not None and living[0] == assignment.process:
        return None
    pod = slot.pods.get(assignment.pod_uid)
    if pod is None:
        return Fate(False, f"pod {assignment.pod} is gone")
    if pod.leaving or pod.disrupted or (pod.phase in {"Failed", "Succeeded"} and pod.reason):
        return Fate(False, f"pod {pod.name} was taken away{_because(pod)}")
    if _has_ended(pod, slot) and (ended := pod.terminated or pod.last_terminated) is not None:
        return _by_exit(pod, ended)
    return _by_lease(assignment, pod, slot.lease, lease_seconds)


def _by_lease(assignment: Assignment, pod: PodView, lease: LeaseView | None, lease_seconds: float) -> Fate:
    """Judge by the Lease, where the pod does not tell."""
    if lease is None or not lease.holder:
        return Fate(False, f"worker {assignment.worker} left")
    if lease.holder == assignment.process:
        return Fate(False, f"worker {assignment.worker} did not renew its Lease for {lease_seconds:.0f} s")
    if lease.pod == pod.name:
        return _by_exit(pod, pod.last_terminated)
    return Fate(False, f"pod {lease.pod} took over")


def _has_ended(pod: PodView, slot: Slot) -> bool:
    """Return whether the process that last renewed the Lease is certainly over."""
    if pod.phase in {"Failed", "Succeeded"} or pod.terminated is not None:
        return True
    if pod.waiting_reason and pod.restarts > 0:
        return True
    last, lease = pod.last_terminated, slot.lease
    if last is None or last.finished_at is None or lease is None or lease.renewed_at is None:
        return False
    # Both are times of the same node's clock; the first is cut to whole seconds, so this never claims too much.
    return lease.pod == pod.name and last.finished_at >= lease.renewed_at


def _by_exit(pod: PodView, ended: Termination | None) -> Fate:
    if ended is None:
        return Fate(True, f"the process in pod {pod.name} was replaced")
    message = f"the process in pod {pod.name} ended with {ended}"
    if ended.exit_code in LEFT_IN_ORDER:
        return Fate(False, message)
    meaning = _MEANINGS.get(ended.exit_code)
    if ended.reason == "OOMKilled":
        meaning = f"it used more memory than its limit: {_LESS_MEMORY}"
    return Fate(True, message if meaning is None else f"{message}: {meaning}")


def _because(pod: PodView) -> str:
    return f" ({pod.reason})" if pod.reason else ""
