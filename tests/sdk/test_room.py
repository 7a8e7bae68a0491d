"""How many workers find room, over the client's own nodes and pods."""

from __future__ import annotations

from kubernetes import client

from rapidfireai.room import free_slots

GPU = "nvidia.com/gpu"
SLOT = "rapidfire.ai/slot"


def node(name: str, *, ready: str = "True", cordoned: bool | None = None, **allocatable: str) -> client.V1Node:
    resources = {{"gpu": GPU, "slot": SLOT}[key]: value for key, value in allocatable.items()}
    return client.V1Node(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1NodeSpec(unschedulable=cordoned),
        status=client.V1NodeStatus(
            allocatable=resources or None, conditions=[client.V1NodeCondition(type="Ready", status=ready)]
        ),
    )


def pod(on: str | None, *, phase: str = "Running", **limits: str) -> client.V1Pod:
    wanted = {{"gpu": GPU, "slot": SLOT}[key]: value for key, value in limits.items()}
    container = client.V1Container(name="worker", resources=client.V1ResourceRequirements(limits=wanted or None))
    beside = client.V1Container(name="beside")
    return client.V1Pod(
        spec=client.V1PodSpec(node_name=on, containers=[container, beside]), status=client.V1PodStatus(phase=phase)
    )


def test_what_is_free_is_what_the_nodes_have_without_what_pods_occupy() -> None:
    nodes = [node("a", gpu="4"), node("b", gpu="2")]
    assert free_slots(nodes, []) == 6
    assert free_slots(nodes, [pod("a", gpu="1"), pod("b", gpu="2"), pod("b")]) == 3


def test_pods_that_ended_or_are_nowhere_yet_occupy_nothing() -> None:
    pods = [pod("a", gpu="1", phase="Succeeded"), pod("a", gpu="1", phase="Failed"), pod(None, gpu="1")]
    assert free_slots([node("a", gpu="2")], pods) == 2


def test_nodes_that_are_not_ready_or_cordoned_have_no_room_and_their_pods_take_none_elsewhere() -> None:
    nodes = [node("a", gpu="2"), node("gone", ready="Unknown", gpu="8"), node("cordoned", cordoned=True, gpu="8")]
    assert free_slots(nodes, [pod("gone", gpu="8"), pod("cordoned", gpu="1")]) == 2


def test_slots_count_where_no_node_has_a_gpu() -> None:
    assert free_slots([node("a", slot="3")], [pod("a", slot="1")]) == 2
    assert free_slots([node("a", slot="3"), node("b", gpu="1")], [pod("a", slot="1")]) == 1


def test_a_full_cluster_is_not_one_that_does_not_say() -> None:
    assert free_slots([node("a", slot="1")], [pod("a", slot="1")]) == 0
    assert free_slots([node("a", slot="1")], [pod("a", slot="2")]) == 0
    assert free_slots([node("a", gpu="0"), node("b")], []) is None
    assert free_slots([], []) is None
