"""The examples as people run them, on a model that trains in milliseconds: as script, as notebook and as manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
TRAINERS = ("sft", "dpo", "grpo")
RUNS = {"sft": 4, "dpo": 4, "grpo": 2}
CHUNKS = {"sft": 4, "dpo": 3, "grpo": 4}
MEASURED = {"sft": "boundary/eval_loss", "dpo": "boundary/eval_rewards/accuracies", "grpo": "boundary/eval_reward"}
trainers = pytest.mark.parametrize("trainer", TRAINERS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny import SERVED, write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("small"), **SERVED)


@pytest.fixture
def environment(cluster: Cluster, small: Path, tmp_path: Path) -> dict[str, str]:
    """What a person has set who wants to see the examples work within seconds."""
    chosen = {"RAPIDFIREAI_DEMO_MODEL": str(small), "PYTHONPATH": str(EXAMPLES), "IPYTHONDIR": str(tmp_path)}
    return cluster.environment | chosen


def check(cluster: Cluster, trainer: str, experiment: str) -> None:
    """Look at what came of an example: every run is through, and was measured."""
    cluster.wait(f"{experiment} ends", lambda: ended(cluster, experiment))
    runs = cluster.list("rfrun", experiment)
    states = [(run["status"]["state"], run["status"]["display"]["chunks"]) for run in runs]
    assert states == [("Succeeded", f"{CHUNKS[trainer]}/{CHUNKS[trainer]}")] * RUNS[trainer]
    for run in runs:
        assert isinstance(run["status"]["progress"]["metrics"][MEASURED[trainer]], float | int)


def ended(cluster: Cluster, experiment: str) -> bool:
    seen = cluster.condition("rfexp", experiment, "Finished")
    return seen is not None and seen["status"] == "True"


def newest(cluster: Cluster, trainer: str) -> str:
    """Return the experiment that was made last of those that an example names."""
    listed: list[dict[str, Any]] = json.loads(cluster.kubectl("get", "rfexp", "-o", "json"))["items"]
    named = [each["metadata"] for each in listed if each["metadata"]["name"].startswith(f"{trainer}-smollm2")]
    return str(max(named, key=lambda each: each["creationTimestamp"])["name"])


@pytest.mark.parametrize("trainer", ["dpo", "grpo"])  # test_quickstart.py runs the one of SFT
def test_the_script_trains_and_compares(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path, trainer: str
) -> None:
    words = [sys.executable, str(EXAMPLES / f"{trainer}_smollm2.py")]
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    check(cluster, trainer, newest(cluster, trainer))
    assert "run_id" in answer.stdout, answer.stdout


@trainers
def test_the_notebook_runs_from_top_to_bottom(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path, trainer: str
) -> None:
    notebook = nbformat.read(EXAMPLES / f"{trainer}_smollm2.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    check(cluster, trainer, newest(cluster, trainer))


def test_the_notebook_that_steers_stops_the_loser_and_clones_the_winner(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    notebook = nbformat.read(EXAMPLES / "steering_smollm2.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    experiment = newest(cluster, "steering")
    states = {run["spec"]["index"]: run["status"]["state"] for run in cluster.list("rfrun", experiment)}
    assert states == {1: "Stopped", 2: "Succeeded", 3: "Succeeded"}
    clone = cluster.get("rfrun", f"{experiment}-r3")
    assert clone["spec"]["config"]["training_args"]["learning_rate"] == 3e-4
    assert clone["spec"]["parentRef"]["index"] == 2
    assert clone["spec"]["parentRef"]["checkpoint"]["step"] > 0
    assert clone["status"]["display"]["chunks"] == "8/8"
    token = (cluster.local.home / "token").read_text().strip()
    assert token not in nbformat.writes(client.nb)


@pytest.mark.parametrize(("evaluation", "metric", "runs"), [("rag", "MRR", 8), ("prompts", "Accuracy", 4)])
def test_the_script_evaluates_and_compares(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path, evaluation: str, metric: str, runs: int
) -> None:
    words = [sys.executable, str(EXAMPLES / f"{evaluation}_smollm2.py")]
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    check_evaluation(cluster, newest(cluster, evaluation), metric, runs)
    assert f"run {runs}: " in answer.stdout


def test_the_manifest_of_an_evaluation_needs_nothing_but_kubectl(cluster: Cluster, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "prepare_smollm2.py")], env=environment, check=True)
    cluster.kubectl("apply", "-f", str(EXAMPLES / "rag-smollm2.yaml"))
    check_evaluation(cluster, "rag-smollm2-yaml", "MRR", 4)


def check_evaluation(cluster: Cluster, experiment: str, metric: str, runs: int) -> None:
    """Look at what came of an evaluation: every run is through, and says how sure it is."""
    cluster.wait(f"{experiment} ends", lambda: ended(cluster, experiment), timeout=600)
    found = cluster.list("rfrun", experiment)
    assert [run["status"]["state"] for run in found] == ["Succeeded"] * runs
    for run in found:
        estimate = run["status"]["progress"]["estimates"][metric]
        assert 0 <= estimate["lower"] <= estimate["value"] <= estimate["upper"] <= 1
        first = run["status"]["objective"][0]
        assert first["lower"] < first["upper"], "after a part of the rows it is not certain"


@trainers
def test_the_manifest_needs_nothing_but_kubectl(cluster: Cluster, environment: dict[str, str], trainer: str) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "prepare_smollm2.py")], env=environment, check=True)
    cluster.kubectl("apply", "-f", str(EXAMPLES / f"{trainer}-smollm2.yaml"))
    check(cluster, trainer, f"{trainer}-smollm2-yaml")
