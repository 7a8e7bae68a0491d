"""What the node knows of a pod when it sees it for the first time. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime

from rapidfireai.cluster.node.facts import ContainerFacts, Failure, Json, PodFacts, Terminated, Waiting
from rapidfireai.cluster.node.ledger import unknown_end

HOST_ADDRESS = "127.0.0.1"


def accept(pod: Json, temporary: str, taken: Collection[str], moment: datetime) -> PodFacts:
    """Return the facts of a pod that is not in the ledger.

    Usually nothing of it ever ran. If the ledger was lost, its status in the API says what did, so that nothing that
    has ended runs again and no restart count goes back.

    Args:
        pod: The pod.
        temporary: Its directory for temporary files.
        taken: The addresses of the other pods.
        moment: Now.
    """
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    init, containers = spec.get("initContainers") or (), spec["containers"]
    first = Waiting("PodInitializing") if init else Waiting()
    said = {
        each["name"]: each for key in ("containerStatuses", "initContainerStatuses") for each in status.get(key) or ()
    }
    failure = Failure(status["reason"], status.get("message", "")) if status.get("reason") else None
    return PodFacts(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        ip=HOST_ADDRESS if spec.get("hostNetwork") else choose_address(metadata["uid"], taken),
        temporary=temporary,
        accepted=moment,
        containers={each["name"]: recollect(said.get(each["name"]), first, moment) for each in containers},
        init={each["name"]: recollect(said.get(each["name"]), Waiting(), moment) for each in init},
        failure=failure if status.get("phase") == "Failed" else None,
    )


def recollect(status: Json | None, first: Waiting, moment: datetime) -> ContainerFacts:
    """Return what the API says of a container that the ledger does not know."""
    if not status:
        return ContainerFacts(state=first)
    state, last = status.get("state") or {}, status.get("lastState") or {}
    ended = _terminated(last.get("terminated"))
    ran = "running" in state or "terminated" in state
    starts = int(status.get("restartCount", 0)) + (1 if ran or ended else 0)
    if "terminated" in state:
        return ContainerFacts(_terminated(state["terminated"]) or first, ended, starts)
    if "running" in state:
        started = datetime.fromisoformat(state["running"]["startedAt"])
        return ContainerFacts(unknown_end(started, moment), ended, starts)
    return ContainerFacts(first, ended, starts)


def _terminated(state: Json | None) -> Terminated | None:
    if state is None:
        return None
    started, finished = (datetime.fromisoformat(state[key]) for key in ("startedAt", "finishedAt"))
    return Terminated(int(state["exitCode"]), state.get("reason", ""), state.get("message", ""), started, finished)


def choose_address(uid: str, taken: Collection[str]) -> str:
    """Return a loopback address for a pod: the same one each time, unless another pod has it.

    Raises:
        RuntimeError: If every address is taken.
    """
    start = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:3])
    for step in range(2**24):
        number = (start + step) % 2**24
        second, third, last = number >> 16, number >> 8 & 255, number & 255
        address = f"127.{second}.{third}.{last}"
        if second > 0 and 0 < last < 255 and address not in taken:
            return address
    raise RuntimeError("every loopback address is taken")
