"""The chart on a real node, as an administrator installs it and a team uses it.

The tests share one installation and run in this order: it is installed first and removed last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.node import supplies
from tests.node.realnode import RealNode
from tests.node.team import SYSTEM, TEAM, Team, Terminal, install, install_release, manifest, uninstall, upgrade

pytestmark = [
    pytest.mark.node,
    pytest.mark.images,
    pytest.mark.ml,
    pytest.mark.xdist_group("node"),
    pytest.mark.timeout(1800),
]
RESTRICTED = {"runAsNonRoot", "seccompProfile"}


@pytest.fixture(scope="session")
def team(archives: Path, node: RealNode) -> Iterator[Team]:
    """A team on a node on which the chart is installed."""
    supplies.furnish(node, archives)
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


def succeeded(team: Team, experiment: str) -> dict[str, Any]:
    """Wait for the end of an experiment, all of whose runs must succeed, and return its status."""
    team.wait(f"{experiment} is finished", lambda: team.condition(experiment, "Finished").get("status") == "True", 600)
    errors = [run["status"].get("progress", {}).get("error") for run in team.of("rfrun", experiment)]
    status = dict(team.get("rfexp", experiment)["status"])
    assert (status["state"], any(errors)) == ("Succeeded", False), errors
    return status


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
    status = succeeded(team, "sums")
    assert status["chunks"]["summary"] == "6/6"
    assert status["best"]["metric"] == "boundary/eval_loss"
    runs = team.of("rfrun", "sums")
    assert [run["status"]["state"] for run in runs] == ["Succeeded", "Succeeded"]
    volume = team.node.layout.volume("data")
    for run in runs:
        folder = volume / run["status"]["progress"]["checkpoint"]["path"]
        assert (folder / "manifest.json").exists()
        assert run["status"]["mlflowRunID"]


def test_a_running_experiment_is_steered_scaled_killed_and_upgraded(team: Team) -> None:
    brake = team.node.layout.volume("data") / "brake"
    brake.touch()
    try:
        steer(team)
        scale_and_kill(team)
        change_the_chart(team)
    finally:
        brake.unlink()
    status = succeeded(team, "steered")
    assert status["runs"]["succeeded"] == 3
    for run in team.of("rfrun", "steered"):
        assert run["status"].get("failures", {}).get("crashes", 0) == 0, "what the cluster does costs nobody anything"


def steer(team: Team) -> None:
    """Stop one run, clone the other one, resume the first: with kubectl alone."""
    team.apply(manifest("steered"))
    team.wait("both have committed", lambda: team.step("steered-r1") and team.step("steered-r2"))
    team.patch("rfrun", "steered-r2", {"desiredState": "Stopped"})
    team.wait("the second rests", lambda: team.run("steered-r2")["state"] == "Stopped")
    rested = team.step("steered-r2")
    (pod,) = team.workers("steered")
    assert "begun" in team.kubectl("logs", pod)
    team.apply(manifest("clone"))
    team.kubectl("wait", "--for=condition=Complete", "icop/warmer", "--timeout=120s")
    (result,) = team.get("icop", "warmer")["status"]["results"]
    assert (result["outcome"], result["created"]) == ("Applied", "steered-r3")
    team.wait("the clone goes on", lambda: team.step("steered-r3"))
    assert team.step("steered-r2") == rested
    team.patch("rfrun", "steered-r2", {"desiredState": "Running"})
    team.wait("the second goes on", lambda: team.step("steered-r2") > rested)


def scale_and_kill(team: Team) -> None:
    """Add a worker, kill the first one, and take one away again."""
    team.kubectl("scale", "rfexp", "steered", "--replicas=2")
    team.wait("two workers", lambda: ready(team) == 2)
    victim = min(team.workers("steered"))
    team.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    team.wait("another pod", lambda: victim not in team.workers("steered") and ready(team) == 2)
    team.kubectl("scale", "rfexp", "steered", "--replicas=1")
    team.wait("one worker", lambda: len(team.workers("steered")) == 1 and ready(team) == 1)


def ready(team: Team) -> int:
    return int(team.get("rfexp", "steered")["status"]["workers"]["ready"])


def change_the_chart(team: Team) -> None:
    """Upgrade with other resources of the workers: the ones that run are replaced, and their runs go on."""
    before = {run["metadata"]["name"]: team.step(run["metadata"]["name"]) for run in team.of("rfrun", "steered")}
    upgrade(Terminal(team.node), "worker.resources.limits.memory=5Gi")

    def is_replaced() -> bool:
        limits = [
            pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in team.workers("steered").values()
        ]
        return limits == ["5Gi"] and ready(team) == 1

    team.wait("a worker with other resources", is_replaced)
    after = {name: team.step(name) for name in before}
    assert all(after[name] >= step for name, step in before.items()), (before, after)
    team.wait("they go on", lambda: any(team.step(name) > step for name, step in after.items()))


def test_pipelines_are_evaluated(team: Team) -> None:
    team.apply(manifest("evals"))
    status = succeeded(team, "found")
    assert status["chunks"]["summary"] == "4/4"
    scores = {run["metadata"]["name"]: run["status"]["progress"]["metrics"]["MRR"] for run in team.of("rfrun", "found")}
    assert all(0.5 < float(score) <= 1 for score in scores.values()), scores


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
        (
            "keyless",
            {"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "hf"}}}]},
            "CreateContainerConfigError",
            ["tokens"],
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


def test_a_secret_key_that_is_added_later_is_enough(team: Team, cleared: Callable[[dict[str, Any]], str]) -> None:
    """The Secret is there, the key is not; once it is, the experiment runs without anything else being done."""
    team.kubectl("create", "secret", "generic", "late", "--from-literal=other=1")
    reference = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "late", "key": "hf"}}}
    cleared(broken("late", {"env": [reference]}))
    team.wait(
        "the missing key is named",
        lambda: (
            "couldn't find key hf in Secret team-a/late" in team.condition("late", "WorkersReady").get("message", "")
        ),
        180,
    )
    team.kubectl("patch", "secret", "late", "--patch", json.dumps({"stringData": {"hf": "x"}}))
    succeeded(team, "late")


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
    install_release(Terminal(team.node))
    assert team.get("rfexp", "sums")["status"]["state"] == "Succeeded"
