"""Statuses, phases and back-off: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai.cluster.node.acceptance import accept, choose_address
from rapidfireai.cluster.node.facts import (
    ContainerFacts,
    Failure,
    PodFacts,
    ProcessId,
    Running,
    State,
    Terminated,
    Waiting,
)
from rapidfireai.cluster.node.status import differs, next_back_off, phase, pod_status

T0 = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = Running(T0, ProcessId(7, 1.0))
WAITING = Waiting()


def ended(code: int, seconds: float = 1) -> Terminated:
    reason = "Error" if code else "Completed"
    return Terminated(code, reason, "", T0, T0 + timedelta(seconds=seconds))


def container(state: State, **more: Any) -> ContainerFacts:
    return ContainerFacts(state=state, **more)


def facts(
    *containers: ContainerFacts, init: tuple[ContainerFacts, ...] = (), failure: Failure | None = None
) -> PodFacts:
    return PodFacts(
        uid="u",
        namespace="default",
        name="p",
        ip="127.1.1.1",
        temporary="/tmp/t",
        accepted=T0,
        containers={f"c{index}": each for index, each in enumerate(containers)},
        init={f"i{index}": each for index, each in enumerate(init)},
        failure=failure,
    )


def pod(known: PodFacts, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 3, **metadata},
        "spec": {
            "containers": [{"name": name, "image": "i"} for name in known.containers],
            "initContainers": [{"name": name, "image": "i"} for name in known.init],
        },
    }


@pytest.mark.parametrize(
    ("policy", "containers", "expected"),
    [
        ("Always", [WAITING], "Pending"),
        ("Always", [RUNNING, WAITING], "Running"),
        ("Always", [ended(0)], "Running"),
        ("Always", [ended(1)], "Running"),
        ("OnFailure", [ended(0)], "Succeeded"),
        ("OnFailure", [ended(1)], "Running"),
        ("OnFailure", [ended(0), RUNNING], "Running"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
        ("Never", [ended(1), RUNNING], "Running"),
    ],
)
def test_the_phase_is_kubelets(policy: str, containers: list[State], expected: str) -> None:
    assert phase(policy, facts(*map(container, containers)), ending=False) == expected


@pytest.mark.parametrize(
    ("policy", "init", "expected"),
    [
        ("Always", [ended(0), RUNNING], "Pending"),
        ("OnFailure", [ended(1)], "Pending"),
        ("Never", [ended(1), WAITING], "Failed"),
        ("Never", [ended(0)], "Pending"),
    ],
)
def test_init_containers_decide_the_phase_until_they_are_done(policy: str, init: list[State], expected: str) -> None:
    known = facts(container(WAITING), init=tuple(map(container, init)))
    assert phase(policy, known, ending=False) == expected


def test_a_container_that_its_node_ended_well_is_not_done() -> None:
    known = facts(container(Waiting("NodeShutdown"), last=ended(0), starts=1))
    assert phase("OnFailure", known, ending=False) == "Running"


@pytest.mark.parametrize(
    ("state", "last", "expected"),
    [
        (ended(0), None, "Succeeded"),
        (WAITING, ended(2), "Failed"),
        (WAITING, None, "Failed"),
        (RUNNING, None, "Running"),
    ],
)
def test_a_pod_that_is_deleted_ends_in_a_final_phase(state: State, last: Terminated | None, expected: str) -> None:
    assert phase("Always", facts(container(state, last=last)), ending=True) == expected


def test_what_the_node_calls_failed_is_failed_once_nothing_runs() -> None:
    late = Failure("DeadlineExceeded", "too long")
    assert phase("Always", facts(container(RUNNING), failure=late), ending=False) == "Running"
    known = facts(container(ended(0)), failure=late)
    assert phase("Always", known, ending=False) == "Failed"
    assert pod_status(pod(known), known, {}, T0)["reason"] == "DeadlineExceeded"


def test_the_back_off_doubles_up_to_five_minutes_and_is_forgiven() -> None:
    waits = [timedelta(seconds=-1)]
    for _ in range(8):
        waits.append(next_back_off(waits[-1], ended(1)))
    assert [each.total_seconds() for each in waits[1:]] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert next_back_off(waits[-1], ended(1, seconds=600)) == timedelta(0)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status["conditions"]}


def test_conditions_say_what_is_not_ready() -> None:
    ready = container(RUNNING, ready=True, started=True)
    known = facts(ready, container(RUNNING, ready=False, started=True))
    status = pod_status(pod(known), known, {}, T0)
    assert conditions(status) == {
        "PodScheduled": "True",
        "Initialized": "True",
        "ContainersReady": "False",
        "Ready": "False",
    }
    assert status["conditions"][3]["message"] == "containers with unready status: [c1]"
    known = facts(ready)
    assert set(conditions(pod_status(pod(known), known, {}, T0)).values()) == {"True"}


def test_a_readiness_gate_holds_ready_back() -> None:
    known = facts(container(RUNNING, ready=True, started=True))
    gated = pod(known)
    gated["spec"]["readinessGates"] = [{"conditionType": "example.com/warm"}]
    status = pod_status(gated, known, {}, T0)
    assert (conditions(status)["ContainersReady"], conditions(status)["Ready"]) == ("True", "False")
    opened = {"conditions": [{"type": "example.com/warm", "status": "True"}]}
    assert conditions(pod_status(gated, known, opened, T0))["Ready"] == "True"


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    known = facts(container(RUNNING, ready=True, started=True))
    first = pod_status(pod(known), known, {}, T0)
    later = T0 + timedelta(hours=1)
    assert pod_status(pod(known), known, first, later) == first
    unready = facts(container(RUNNING, ready=False, started=True))
    times = {
        each["type"]: each["lastTransitionTime"] for each in pod_status(pod(known), unready, first, later)["conditions"]
    }
    assert times["Ready"] == "2026-01-01T01:00:00Z"
    assert times["Initialized"] == "2026-01-01T00:00:00Z"


def test_what_others_write_into_the_status_does_not_count() -> None:
    known = facts(container(RUNNING, ready=True, started=True))
    status = pod_status(pod(known), known, {}, T0)
    stored = {**status, "qosClass": "BestEffort", "conditions": [{"type": "Other"}, *reversed(status["conditions"])]}
    assert not differs(status, stored)
    marked = {**stored, "conditions": [{"type": "Ready", "status": "False"}, *status["conditions"][:3]]}
    assert differs(status, marked)
    assert differs(status, {})


def test_a_signal_is_reported_beside_the_exit_code() -> None:
    known = facts(container(ended(137), last=ended(137), starts=2))
    written = pod_status(pod(known), known, {}, T0)["containerStatuses"][0]
    assert written["state"]["terminated"]["signal"] == 9
    assert written["restartCount"] == 1


states = st.one_of(
    st.just(WAITING), st.just(RUNNING), st.integers(0, 255).map(ended), st.just(Waiting("CrashLoopBackOff", "soon"))
)
containers = st.builds(
    ContainerFacts,
    state=states,
    last=st.none() | st.integers(0, 255).map(ended),
    starts=st.integers(1, 5),
    ready=st.booleans(),
    started=st.booleans(),
)


@given(st.lists(containers, min_size=1, max_size=3), st.sampled_from(["Always", "OnFailure", "Never"]), st.booleans())
def test_a_final_phase_means_that_nothing_will_run(known: list[ContainerFacts], policy: str, ending: bool) -> None:
    seen = phase(policy, facts(*known), ending=ending)
    running = any(isinstance(each.state, Running) for each in known)
    assert (seen == "Running") or not running
    if seen in {"Succeeded", "Failed"} and not ending:
        assert all(isinstance(each.state, Terminated) for each in known)
        assert policy != "Always"


@given(st.lists(containers, min_size=1, max_size=3), st.sampled_from(["OnFailure", "Never"]))
def test_what_is_read_back_from_the_api_neither_runs_again_nor_counts_back(
    known: list[ContainerFacts], policy: str
) -> None:
    before = facts(*known)
    written = pod(before)
    written["status"] = pod_status(written, before, {}, T0)
    after = accept(written, "/tmp/t", (), T0)
    for name, each in before.containers.items():
        assert after.containers[name].starts >= min(each.starts, each.restarts)
        if isinstance(each.state, Terminated):
            assert after.containers[name].state == each.state
    assert not any(isinstance(each.state, Running) for each in after.containers.values())
    final = phase(policy, before, ending=False)
    if final in {"Succeeded", "Failed"}:
        assert phase(policy, after, ending=False) == final


def test_addresses_are_stable_and_never_shared() -> None:
    first = choose_address("uid", ())
    assert choose_address("uid", ()) == first
    assert choose_address("uid", {first}) != first
    assert first.startswith("127.") and not first.startswith("127.0.")


def test_a_pod_of_the_hosts_network_has_the_hosts_address() -> None:
    known = facts(container(WAITING))
    spec = pod(known)
    spec["spec"]["hostNetwork"] = True
    assert accept(spec, "/tmp/t", (), T0).ip == "127.0.0.1"
    assert replace(known, ip="127.0.0.1").containers == accept(spec, "/tmp/t", (), T0).containers
