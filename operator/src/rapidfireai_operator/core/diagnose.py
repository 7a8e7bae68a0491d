"""Why workers are not there yet, in one sentence for a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rapidfireai_operator.core.conditions import Verdict
from rapidfireai_operator.core.snapshot import JobView, PodView, Slot

NO_POD_SECONDS = 20.0
"""A Job without a pod for so long is not merely slow."""
_NODES = re.compile(r"^(\d+/\d+) nodes are available: (.*)$", re.DOTALL)
_INSUFFICIENT = re.compile(r"Insufficient ([a-zA-Z0-9./_-]+[a-zA-Z0-9])")
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_NO_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_NO_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)")
_NO_SOURCE = re.compile(r'(secret|configmap) "([^"]+)" not found')
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_BETWEEN_TRIES = re.compile(r'^Back-off pulling image "[^"]*"(?:: (?:ErrImagePull: )?)?')
_TRANSPORT = re.compile(r"rpc error: code = \w+ desc = ")


def workers_ready(
    wanted: int,
    ready: Sequence[str],
    slots: Mapping[str, Slot],
    names: Sequence[str],
    refusals: Mapping[str, str],
    now: float = 0.0,
) -> Verdict:
    """Judge whether all workers are there.

    Args:
        wanted: How many workers there should be.
        ready: The slots whose worker takes chunks.
        slots: All slots.
        names: The slots that should have a worker.
        refusals: Why the API server refused a slot's Job.
        now: Seconds since the epoch.
    """
    missing = [name for name in names if name not in ready]
    if not missing and len(ready) >= wanted:
        return Verdict("WorkersReady", "True", "AllReady", f"{wanted} of {wanted} workers are ready.")
    causes = Counter(_cause(slots.get(name, Slot(name)), refusals.get(name, ""), now) for name in missing)
    (reason, sentence), _ = causes.most_common(1)[0] if causes else (("Starting", "They are being made."), 0)
    return Verdict("WorkersReady", "False", reason, f"Waiting for {len(missing)} of {wanted} workers: {sentence}")


def _cause(slot: Slot, refusal: str, now: float) -> tuple[str, str]:
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
    return pod_cause(pods[0]) if pods else _no_pod(slot.job, now)


def _no_pod(job: JobView, now: float) -> tuple[str, str]:
    """Return why a Job has no pod; its own events name it, and reading events is a right that nothing else needs."""
    if not job.created_at or now - job.created_at <= NO_POD_SECONDS:
        return "Starting", "the pod is being made."
    hint = f"A quota, Pod Security or a webhook refuses them: `kubectl describe job {job.name}` says which."
    return "PodsRefused", f"Job {job.name} has no pod after {NO_POD_SECONDS:.0f} s. {hint}"


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
        return _unscheduled(pod)
    if pod.terminated is not None or pod.waiting_reason:
        return _container_cause(pod)
    if pod.phase in {"Failed", "Succeeded"}:
        return pod.reason or "PodEnded", pod.message or f"pod {pod.name} ended."
    verb = "is starting" if pod.phase == "Pending" else "runs and has not reported yet"
    return "Starting", f"pod {pod.name} {verb}."


def _container_cause(pod: PodView) -> tuple[str, str]:
    if pod.waiting_reason in _IMAGE:
        return "ImagePull", _image(pod)
    if pod.terminated is not None or pod.waiting_reason == "CrashLoopBackOff":
        ended = pod.terminated or pod.last_terminated
        how = f" with {ended}" if ended is not None else ""
        return "WorkerFailed", f"the worker ended{how}; see `kubectl logs {pod.name} --previous`."
    if pod.waiting_reason in _STARTING and not pod.waiting_message:
        return "Starting", f"pod {pod.name} is starting."
    if pod.waiting_reason == "CreateContainerConfigError":
        return pod.waiting_reason, _configuration(pod.waiting_message)
    return pod.waiting_reason, pod.waiting_message or pod.waiting_reason


def _image(pod: PodView) -> str:
    """Return why an image cannot be pulled, in the same words during a try and between two of them."""
    said = _TRANSPORT.sub("", _BETWEEN_TRIES.sub("", pod.waiting_message)).strip().rstrip(".")
    why = " ".join(said.split()) or f"`kubectl describe pod {pod.name}` has the registry's answer"
    return (
        f"the image cannot be pulled: {pod.image}: {why}. Correct the image, or name the registry's Secret in "
        "imagePullSecrets of spec.workers.template.spec."
    )


def _configuration(said: str) -> str:
    """Return which Secret or ConfigMap lacks what, and what to do."""
    where = "spec.workers.template.spec.containers[0].env"
    if found := _NO_KEY.search(said):
        key, kind, name = found.groups()
        return f"{said.rstrip('.')}. Add the key {key} to the {kind} {name.rsplit('/', 1)[-1]}, or correct {where}."
    if found := _NO_SOURCE.search(said):
        kind, name = found.groups()
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[kind]
        return f"{said.rstrip('.')}. Make the {kind} {name} in this namespace, or correct {where}."
    return said or "the container's environment is wrong"


def _unscheduled(pod: PodView) -> tuple[str, str]:
    """Return the scheduler's complaint in plain words, and what to do, where it is about resources or claims."""
    message = pod.unscheduled
    if found := _NO_CLAIM.search(message):
        fix = "Make it, or correct spec.storage.claimName or the pvc:// address that names it."
        return "ClaimMissing", f"there is no PersistentVolumeClaim {found.group(1)} in this namespace. {fix}"
    if "unbound immediate PersistentVolumeClaims" in message:
        return "ClaimPending", f"{message.rstrip('.')}. `kubectl describe pvc` says what the claim waits for."
    nodes = _NODES.match(message)
    lacking = sorted(set(_INSUFFICIENT.findall(message)))
    if nodes is None or not lacking:
        return "Unschedulable", message
    zero = re.sub(r"^\d+/", "0/", nodes.group(1))
    asks = [f"{pod.asks[name]} {name}" for name in lacking if name in pod.asks]
    fix = "Add nodes, lower spec.workers.replicas, or ask for less in spec.workers.template."
    each = f" Each worker asks for {' and '.join(asks)}. {fix}" if asks else ""
    return "Unschedulable", f"{zero} nodes have a free {' and '.join(lacking)}.{each}"
