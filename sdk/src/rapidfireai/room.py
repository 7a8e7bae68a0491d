"""How many workers find room on the nodes of a cluster. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kubernetes.client import V1Node, V1Pod
from kubernetes.utils.quantity import parse_quantity

SLOT_RESOURCES = ("nvidia.com/gpu", "rapidfire.ai/slot")
"""What a worker occupies; the first one that the cluster has counts."""
_ENDED = frozenset({"Succeeded", "Failed"})


def free_slots(nodes: Sequence[V1Node], pods: Iterable[V1Pod]) -> int | None:
    """Return how many workers find room now, by GPUs or else by slots; None if no node that is ready has either.

    Args:
        nodes: The nodes of the cluster.
        pods: The pods of all namespaces.
    """
    ready = [node for node in nodes if _takes_pods(node)]
    placed = [pod for pod in pods if pod.spec.node_name and (pod.status is None or pod.status.phase not in _ENDED)]
    for resource in SLOT_RESOURCES:
        there = {node.metadata.name: _whole(node.status.allocatable, resource) for node in ready}
        if any(there.values()):
            taken: Counter[str] = Counter()
            for pod in placed:
                taken[pod.spec.node_name] += _limit(pod, resource)
            return sum(max(0, slots - taken[name]) for name, slots in there.items())
    return None


def _takes_pods(node: V1Node) -> bool:
    if node.spec is not None and node.spec.unschedulable:
        return False
    return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions or ())


def _limit(pod: V1Pod, resource: str) -> int:
    containers = [each.resources for each in pod.spec.containers if each.resources is not None]
    return sum(_whole(resources.limits, resource) for resources in containers)


def _whole(quantities: Mapping[str, str] | None, resource: str) -> int:
    return int(parse_quantity((quantities or {}).get(resource, 0)))
