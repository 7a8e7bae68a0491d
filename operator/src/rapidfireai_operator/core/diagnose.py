"""Why workers are not there yet, in one sentence for a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rapidfireai_operator.core.conditions import Verdict
from rapidfireai_operator.core.snapshot import JobView, PodView, Slot

_NODES = re.compile(r"^(\d+/\d+) nodes are available: (.*)$", re.DOTALL)
_INSUFFICIENT = re.compile(r"Insufficient ([a-zA-Z0-9./_-]+[a-zA-Z0-9])")
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


def workers_ready(
    wanted: int, ready: Sequence[str], slots: Mapping[str, Slot], names: Sequence[str], refusals: Mapping[str, str]
) -> Verdict:
    """Judge whether all workers are there.

    Args:
        wanted: How many workers there should be.
        ready: The slots whose worker takes chunks.
        slots: All slots.
        names: The slots that should have a worker.
        refusals: Why the API server refused a slot's Job.
    """
    missing = [name for name in names if name not in ready]
    if not missing and len(ready) >= wanted:
        return Verdict("WorkersReady", "True", "AllReady", f"{wanted} of {wanted} workers are ready.")
    causes = Counter(_cause(slots.get(name, Slot(name)), refusals.get(name, "")) for name in missing)
    (reason, sentence), _ = causes.most_common(1)[0] if causes else (("Starting", "They are being made."), 0)
    return Verdict("WorkersReady", "False", reason, f"Waiting for {len(missing)} of {wanted} workers: {sentence}")


def _cause(slot: Slot, refusal: str) -> tuple[str, str]:
    """Return reason and sentence for one slot that has no ready worker."""
    if refusal:
        return "JobRefused", f"the API server refuses the Job; correct spec.workers.template: {refusal}"
    if slot.job is None:
        return "Starting", "the Job is being made."
    if slot.job.ended == "Failed":
        return "WorkerFailed", f"the Job failed and is made again: {slot.job.message}"
    if slot.job.suspended:
        return _suspended(slot.job)
    pods = sorted(slot.pods.values(), key=lambda pod: (pod.leaving, pod.name))
    if not pods:
        return "Starting", "the pod is being made."
    return pod_cause(pods[0])


def _suspended(job: JobView) -> tuple[str, str]:
    """Return why a Job may have no pod."""
    if job.queue:
        return "Queued", f"Kueue has not admitted Job {job.name} from queue {job.queue} yet."
    return "JobSuspended", f"somebody suspended Job {job.name}; set its spec.suspend to false."


def pod_cause(pod: PodView) -> tuple[str, str]:
    """Return why a pod has no working process, as a reason and a sentence."""
    if pod.leaving:
        return "Leaving", f"pod {pod.name} is still leaving."
    if pod.unscheduled:
        return _unscheduled(pod.unscheduled)
    if pod.terminated is not None or pod.waiting_reason:
        return _container_cause(pod)
    if pod.phase in {"Failed", "Succeeded"}:
        return pod.reason or "PodEnded", pod.message or f"pod {pod.name} ended."
    verb = "is starting" if pod.phase == "Pending" else "runs and has not reported yet"
    return "Starting", f"pod {pod.name} {verb}."


def _container_cause(pod: PodView) -> tuple[str, str]:
    if pod.waiting_reason in _IMAGE:
        return "ImagePull", f"the image cannot be pulled: {pod.waiting_message or pod.waiting_reason}"
    if pod.terminated is not None or pod.waiting_reason == "CrashLoopBackOff":
        ended = pod.terminated or pod.last_terminated
        how = f" with {ended}" if ended is not None else ""
        return "WorkerFailed", f"the worker ended{how}; see `kubectl logs {pod.name} --previous`."
    if pod.waiting_reason in _STARTING and not pod.waiting_message:
        return "Starting", f"pod {pod.name} is starting."
    return pod.waiting_reason, pod.waiting_message or pod.waiting_reason


def _unscheduled(message: str) -> tuple[str, str]:
    """Return the scheduler's complaint in plain words where it is about a resource."""
    found = _NODES.match(message)
    lacking = sorted(set(_INSUFFICIENT.findall(message)))
    if found is None or not lacking:
        return "Unschedulable", message
    zero = re.sub(r"^\d+/", "0/", found.group(1))
    return "Unschedulable", f"{zero} nodes have a free {' and '.join(lacking)}."
