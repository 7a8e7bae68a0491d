"""The chart on a real node, as an administrator installs it and a team uses it.

The tests share one installation and run in this order: it is installed first and removed last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.node import supplies
from tests.node.realnode import RealNode
from tests.node.team import SYSTEM, TEAM, Team, Terminal, install, manifest, uninstall

pytestmark = [
    pytest.mark.node,
    pytest.mark.images,
    pytest.mark.ml,
    pytest.mark.xdist_group("node"),
    pytest.mark.timeout(1800),
]
RESTRICTED = {"runAsNonRoot", "seccompProfile"}


@pytest.fixture(scope="session")
def team(node: RealNode) -> Iterator[Team]:
    """A team on a node on which the chart is installed."""
    supplies.furnish(node)
    install(Terminal(node))
    yield Team(node)


@pytest.fixture
def cleared(team: Team) -> Iterator[Callable[[dict[str, Any]], str]]:
    """Apply experiments that the test's end deletes; give their names."""
    names = []

    def apply(body: dict[str, Any]) -> str:
        team.apply(body)
        names.append(str(body["metadata"]["name"]))
        return names[-1]

    yield apply
    for name in names:
        team.kubectl("delete", "rfexp", name, "--timeout=180s")


def finished(team: Team, experiment: str) -> dict[str, Any]:
    """Wait for the end of an experiment and return its status."""
    team.wait(f"{experiment} is finished", lambda: team.condition(experiment, "Finished").get("status") == "True", 600)
    return dict(team.get("rfexp", experiment)["status"])


def test_restricted_namespaces_take_every_pod_of_the_chart(team: Team) -> None:
    for namespace in (SYSTEM, TEAM):
        pods = json.loads(team.node.kubectl("get", "pods", "--namespace", namespace, "--output", "json"))["items"]
        assert pods
        for pod in pods:
            assert set(pod["spec"]["securityContext"]) >= RESTRICTED
            ready = {each["type"]: each["status"] for each in pod["status"]["conditions"]}["Ready"]
            assert ready == "True", pod["metadata"]["name"]


def test_an_experiment_trains_and_is_looked_at_with_kubectl(team: Team) -> None:
    team.apply(manifest("fit"))
    (pod,) = team.wait("a worker", lambda: team.workers("sums"))
    assert team.kubectl("exec", pod, "--", "id", "-u") == "10001\n"
    status = finished(team, "sums")
    assert (status["state"], status["chunks"]["summary"]) == ("Succeeded", "6/6")
    assert status["best"]["metric"] == "eval_loss"
    runs = team.of("rfrun", "sums")
    assert [run["status"]["state"] for run in runs] == ["Succeeded", "Succeeded"]
    volume = team.node.layout.volume("data")
    for run in runs:
        folder = volume / run["status"]["progress"]["checkpoint"]["path"]
        assert (folder / "manifest.json").exists()
        assert run["status"]["mlflowRunID"]


def broken(name: str, container: dict[str, Any]) -> dict[str, Any]:
    """The first experiment under another name, with a worker container that cannot start."""
    body = manifest("fit")
    body["metadata"]["name"] = name
    body["spec"]["workers"]["template"] = {"spec": {"containers": [{"name": "worker", **container}]}}
    return body


@pytest.mark.parametrize(
    ("name", "container", "reason", "words"),
    [
        (
            "unpullable",
            {"image": "192.0.2.99:5000/nobody/has-this:1"},
            "ImagePull",
            ["the image cannot be pulled", "192.0.2.99:5000/nobody/has-this:1"],
        ),
        (
            "greedy",
            {"resources": {"limits": {"nvidia.com/gpu": 64}}},
            "Unschedulable",
            ["0/1 nodes have a free nvidia.com/gpu"],
        ),
    ],
)
def test_why_a_worker_does_not_start_is_said(
    team: Team,
    cleared: Callable[[dict[str, Any]], str],
    show: Callable[[str], None],
    name: str,
    container: dict[str, Any],
    reason: str,
    words: list[str],
) -> None:
    cleared(broken(name, container))
    condition = team.wait(
        f"reason {reason}",
        lambda: (found := team.condition(name, "WorkersReady")).get("reason") == reason and found,
        180,
    )
    show(f"{name}: {condition['message']}")
    assert all(each in condition["message"] for each in words), condition


def test_uninstalling_leaves_what_belongs_to_the_users(team: Team) -> None:
    volume = team.node.layout.volume("data")
    commits = sorted(volume.glob("experiments/*/runs/*/checkpoints/*/manifest.json"))
    assert commits
    uninstall(Terminal(team.node))
    words = ("get", "pods", "--namespace", SYSTEM, "--output", "name")
    team.wait("end of the chart's pods", lambda: not team.node.kubectl(*words))
    claims = team.kubectl("get", "pvc", "--output", "jsonpath={.items[*].status.phase}")
    assert claims == "Bound"
    assert team.get("rfexp", "sums")["status"]["state"] == "Succeeded"
    assert sorted(volume.glob("experiments/*/runs/*/checkpoints/*/manifest.json")) == commits
