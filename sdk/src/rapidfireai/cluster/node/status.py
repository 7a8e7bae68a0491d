"""From what the node knows of a pod to the status that it reports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rapidfireai.cluster.node.facts import ContainerFacts, Json, PodFacts, Running, Terminated, Waiting

FIRST_BACK_OFF = timedelta(seconds=10)
LONGEST_BACK_OFF = timedelta(seconds=300)
FORGIVEN_AFTER = timedelta(minutes=10)
"""A process that ran this long starts the back-off anew."""
_MOMENTS = frozenset({"lastTransitionTime", "lastProbeTime"})


def restart_wanted(policy: str, end: Terminated) -> bool:
    """Say whether a container that ended is started again under the pod's restart policy."""
    return policy == "Always" or (policy == "OnFailure" and end.exit_code != 0)


def next_back_off(current: timedelta, end: Terminated) -> timedelta:
    """Return how long to wait before the next start: at once the first time, then 10 s, doubling up to 300 s.

    Args:
        current: What the last start waited; negative before the first one.
        end: How the process ended.
    """
    if end.finished - end.started >= FORGIVEN_AFTER or current < timedelta(0):
        return timedelta(0)
    return min(max(current * 2, FIRST_BACK_OFF), LONGEST_BACK_OFF)


def phase(policy: str, facts: PodFacts, *, ending: bool) -> str:
    """Return the pod's phase.

    Args:
        policy: The pod's restart policy.
        facts: What the node knows.
        ending: The pod is being deleted: nothing starts again.
    """
    if any(isinstance(each.state, Running) for each in facts.containers.values()):
        return "Running"
    if facts.failure is not None:
        return "Failed"
    ends = [_end(each) for each in facts.containers.values()]
    succeeded = all(end is not None and end.exit_code == 0 for end in ends)
    if not ending:
        if init_phase := _init_phase(policy, facts):
            return init_phase
        if not all(ends):
            return "Pending"
        if _goes_on(policy, facts, succeeded):
            return "Running"
    return "Succeeded" if succeeded else "Failed"


def _goes_on(policy: str, facts: PodFacts, succeeded: bool) -> bool:
    """Say whether a pod without a process will have one again."""
    # Whatever waits starts again, however it ended before: its node or a failed probe may have ended it.
    waits = any(isinstance(each.state, Waiting) for each in facts.containers.values())
    return waits or policy == "Always" or (policy == "OnFailure" and not succeeded)


def _init_phase(policy: str, facts: PodFacts) -> str | None:
    """Return the phase while init containers decide it, else None."""
    for each in facts.init.values():
        if not isinstance(each.state, Terminated):
            return "Pending"
        if each.state.exit_code != 0:
            return "Failed" if policy == "Never" else "Pending"
    return None


def _end(facts: ContainerFacts) -> Terminated | None:
    """Return how the container's latest process ended, if it has none now."""
    if isinstance(facts.state, Terminated):
        return facts.state
    return facts.last if isinstance(facts.state, Waiting) else None


def pod_status(pod: Json, facts: PodFacts, previous: Json, now: datetime) -> dict[str, Any]:
    """Return what to write to the pod's status.

    Args:
        pod: The pod as the API has it.
        facts: What the node knows of it.
        previous: The status that the API has; conditions that stay as they are keep their times.
        now: Becomes the time of the conditions that change.
    """
    spec, metadata = pod["spec"], pod["metadata"]
    ending = "deletionTimestamp" in metadata
    current = phase(spec.get("restartPolicy", "Always"), facts, ending=ending)
    status: dict[str, Any] = {
        "phase": current,
        "observedGeneration": metadata.get("generation", 0),
        "conditions": _conditions(pod, facts, current, previous, now),
        "startTime": timestamp(facts.accepted),
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": facts.ip,
        "podIPs": [{"ip": facts.ip}],
        "containerStatuses": [_container(each, facts.containers[each["name"]], facts) for each in spec["containers"]],
    }
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [
            _container(each, facts.init[each["name"]], facts) for each in spec["initContainers"]
        ]
    if facts.failure is not None:
        status |= {"reason": facts.failure.reason, "message": facts.failure.message}
    return status


def _conditions(pod: Json, facts: PodFacts, current: str, previous: Json, now: datetime) -> list[dict[str, Any]]:
    old = {each["type"]: each for each in previous.get("conditions") or ()}
    late = [name for name, each in facts.init.items() if not completed(each)]
    unready = [name for name, each in facts.containers.items() if not _ready(each)]
    gates = [each["conditionType"] for each in pod["spec"].get("readinessGates") or ()]
    closed = [gate for gate in gates if old.get(gate, {}).get("status") != "True"]
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(current)
    judged = {
        "PodScheduled": ("", ""),
        "Initialized": ("", "")
        if over or not late
        else ("ContainersNotInitialized", f"containers with incomplete status: {_list(late)}"),
        "ContainersReady": _unready(over, unready),
        "Ready": _unready(over, unready)
        if over or unready or not closed
        else ("ReadinessGatesNotReady", f"readiness gates not met: {_list(closed)}"),
    }
    generation = pod["metadata"].get("generation", 0)
    return [_condition(name, *judged[name], old.get(name, {}), generation, now) for name in judged]


def _unready(over: str | None, unready: Iterable[str]) -> tuple[str, str]:
    if over:
        return over, ""
    return ("ContainersNotReady", f"containers with unready status: {_list(unready)}") if unready else ("", "")


def _list(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"


def _condition(name: str, reason: str, message: str, old: Json, generation: int, now: datetime) -> dict[str, Any]:
    """Return a condition that is True without a reason; `null` removes what an earlier report said."""
    status = "False" if reason else "True"
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return {
        "type": name,
        "status": status,
        "reason": reason or None,
        "message": message or None,
        "observedGeneration": generation,
        "lastProbeTime": None,
        "lastTransitionTime": since or timestamp(now),
    }


def completed(facts: ContainerFacts) -> bool:
    """Say whether a container has ended well."""
    return isinstance(facts.state, Terminated) and facts.state.exit_code == 0


def _ready(facts: ContainerFacts) -> bool:
    return isinstance(facts.state, Running) and facts.started and facts.ready


def _container(spec: Json, facts: ContainerFacts, pod: PodFacts) -> dict[str, Any]:
    is_init = spec["name"] in pod.init
    return {
        "name": spec["name"],
        "image": spec.get("image", ""),
        "imageID": "",
        "containerID": _container_id(facts),
        "ready": completed(facts) if is_init else _ready(facts),
        "started": isinstance(facts.state, Running) and facts.started,
        "restartCount": facts.restarts,
        "state": _state(facts.state),
        "lastState": _state(facts.last),
    }


def _container_id(facts: ContainerFacts) -> str:
    if isinstance(facts.state, Running):
        return f"process://{facts.state.process.pid}"
    return ""


def _state(state: Waiting | Running | Terminated | None) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started):
            return {"running": {"startedAt": timestamp(started)}}
        case Terminated():
            times = {"startedAt": timestamp(state.started), "finishedAt": timestamp(state.finished)}
            ended: dict[str, Any] = {"exitCode": state.exit_code, "reason": state.reason, **times}
            if state.exit_code > 128 and state.reason == "Error":
                ended["signal"] = state.exit_code - 128
            return {"terminated": ended | ({"message": state.message} if state.message else {})}
        case None:
            return {}


def timestamp(moment: datetime) -> str:
    """Return a time as the API spells it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def differs(wanted: object, actual: object) -> bool:
    """Say whether the API's status lacks something of the wanted one; what others wrote besides does not count."""
    if isinstance(wanted, Mapping):
        kept = actual if isinstance(actual, Mapping) else {}
        return any(differs(value, kept.get(key)) for key, value in wanted.items() if key not in _MOMENTS)
    if isinstance(wanted, list):
        kept_list = actual if isinstance(actual, list) else []
        if wanted and "type" in wanted[0]:
            by_type = {each["type"]: each for each in kept_list}
            return any(differs(each, by_type.get(each["type"])) for each in wanted)
        return len(wanted) != len(kept_list) or any(map(differs, wanted, kept_list))
    return (wanted or None) != (actual or None)
