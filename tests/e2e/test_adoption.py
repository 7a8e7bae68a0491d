"""The story of a lost cluster: the API server's data is gone, the volume is there, and people go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e import notebook
from tests.e2e.conftest import Cluster, plain_programs, put_model, put_rows
from tests.fit.reference import digest
from tests.support.lab import steady

from rapidfireai.cluster.local import LocalCluster
from rapidfireai.connection import Connection
from rapidfireai.volume import VolumeClient

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
PROGRAM = str(Path(sys.executable).with_name("rapidfireai"))
SLOW = """
import time
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
import torch

def pause(*_):
    if Path("{brake}").exists():
        time.sleep(1)

def load(config):
    model = AutoModelForCausalLM.from_pretrained(config["model_name"], dtype=torch.float32)
    model.register_forward_pre_hook(pause)
    return model, AutoTokenizer.from_pretrained(config["model_name"])
"""
ONCE = {"num_train_epochs": 1}
STOPPED, UNDER_WAY = "lost-r1", "lost-r2"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    local = LocalCluster(tmp_path / "home")
    local.start(print)
    try:
        yield Cluster(local)
    finally:
        local.purge()


def rapidfireai(cluster: Cluster, *words: str) -> str:
    answer = subprocess.run(
        [PROGRAM, *words], env=cluster.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, f"{' '.join(words)}: {answer.stdout}{answer.stderr}"
    return answer.stdout + answer.stderr


def manifest(folder: Path, brake: Path) -> Path:
    """Write an experiment of two runs, which are slow as long as a file is there."""
    config = {
        "model_name": "pvc://rapidfire-data/stories/tiny",
        "peft_config": {**notebook.LORAS[0], "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"},
        "training_args": {**notebook.ARGUMENTS, **ONCE, "learning_rate": {"$list": list(notebook.RATES)}},
    }
    environment = {"name": "TEAM_KEY", "valueFrom": {"secretKeyRef": {"name": "team", "key": "key", "optional": True}}}
    spec = {
        "seed": notebook.SEED,
        "chunks": notebook.CHUNKS,
        "configs": [{"trainer": "SFT", "config": config}],
        "code": {"source": SLOW.replace("{brake}", str(brake)), "createModel": "load"},
        "data": {name: {"uri": f"pvc://rapidfire-data/stories/{name}.jsonl"} for name in ("train", "eval")},
        "workers": {"replicas": 1, "template": {"spec": {"containers": [{"name": "worker", "env": [environment]}]}}},
    }
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "metadata": {"name": "lost"}, "spec": spec}
    file = folder / "lost.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


def want(cluster: Cluster, run: str, state: str) -> None:
    cluster.kubectl("patch", "rfrun", run, "--type=merge", "-p", json.dumps({"spec": {"desiredState": state}}))


def compare_logs(cluster: Cluster, plain: dict[int, dict[str, Any]]) -> None:
    """Compare every value that the plain programs logged with what the runs did, over both of their lives."""
    connection = Connection(kubeconfig=cluster.local.kubeconfig)
    volume = VolumeClient(connection.workspace().volume_url, connection.volume_token)
    experiment = connection.experiment("lost")
    for run in connection.runs("lost"):
        lines = volume.metrics(experiment.volume_uid, run.volume_uid)
        logged = [{**line.values, "step": line.step} for line in lines if line.kind == "log"]
        wanted = steady(plain[run.spec.index]["history"])
        assert len(logged) == len(wanted), run.metadata.name
        for found, line in zip(steady(logged), wanted, strict=True):
            assert {name: found.get(name) for name in line} == line, (run.metadata.name, line["step"])


def test_a_lost_cluster_is_adopted_from_its_volume(cluster: Cluster, tmp_path: Path) -> None:
    stories = cluster.local.volume / "stories"
    model, rows = put_model(stories), put_rows(stories)
    brake = stories / "brake"
    brake.touch()
    cluster.kubectl("apply", "-f", str(manifest(tmp_path, brake)))
    cluster.wait("the first run has committed", lambda: cluster.committed(STOPPED))
    want(cluster, STOPPED, "Stopped")
    cluster.wait("it is stopped", lambda: cluster.get("rfrun", STOPPED)["status"]["state"] == "Stopped")
    cluster.wait("the second run has committed", lambda: cluster.committed(UNDER_WAY))
    before = {name: cluster.get("rfrun", name) for name in (STOPPED, UNDER_WAY)}
    cluster.wait("what is known of the first is on the volume", lambda: is_recorded(cluster, before[STOPPED]))

    cluster.local.stop(print)
    shutil.rmtree(cluster.local.plane_home / "etcd")
    brake.unlink()
    cluster.local.start(print)
    assert json.loads(cluster.kubectl("get", "rfexp,rfrun", "-o", "json"))["items"] == []
    shown = rapidfireai(cluster, "adopt", "--dry-run")
    print(shown)
    assert "stays stopped" in shown and "goes on from step" in shown
    assert "Secret team, key key" in shown
    print(rapidfireai(cluster, "adopt", "--experiment", "lost", "--yes"))

    cluster.wait("the runs are there again", lambda: len(cluster.list("rfrun", "lost")) == 2)
    cluster.wait("the first rests", lambda: cluster.get("rfrun", STOPPED).get("status", {}).get("state") == "Stopped")
    again = cluster.get("rfrun", STOPPED)
    assert again["metadata"]["uid"] != before[STOPPED]["metadata"]["uid"]
    assert again["spec"]["config"] == before[STOPPED]["spec"]["config"]
    for key in ("display", "objective", "prepared"):
        assert again["status"][key] == before[STOPPED]["status"][key]
    assert again["status"]["adopted"] == before[STOPPED]["status"]["progress"]["checkpoint"]
    cluster.wait(
        "the second is where it was", lambda: adopted_in(cluster, UNDER_WAY) >= committed_in(before[UNDER_WAY])
    )
    refuse_to_share(cluster)

    want(cluster, STOPPED, "Running")
    cluster.wait("all succeed", lambda: cluster.get("rfexp", "lost")["status"]["state"] == "Succeeded")
    began = time.monotonic()
    leaves = notebook.leaves(str(model))[: len(notebook.RATES)]
    plain = plain_programs(
        [{**leaf, "training_args": {**leaf["training_args"], **ONCE}} for leaf in leaves], rows, tmp_path
    )
    print(f"the plain programs took {time.monotonic() - began:.0f} s")
    for run in cluster.list("rfrun", "lost"):
        folder = cluster.local.volume / run["status"]["progress"]["checkpoint"]["path"] / "model"
        assert digest(folder) == plain[run["spec"]["index"]]["digest"]
    compare_logs(cluster, plain)
    assert "is in the cluster" in rapidfireai(cluster, "adopt", "--yes")


def is_recorded(cluster: Cluster, run: dict[str, Any]) -> bool:
    experiment = run["metadata"]["ownerReferences"][0]["uid"]
    directory = cluster.local.volume / "experiments" / experiment / "runs" / run["metadata"]["uid"]
    status = json.loads((directory / "resource.json").read_text())["status"]
    return all(status.get(key) == run["status"].get(key) for key in ("objective", "prepared", "state"))


def adopted_in(cluster: Cluster, run: str) -> int:
    return int(cluster.get("rfrun", run).get("status", {}).get("adopted", {}).get("step", 0))


def committed_in(run: dict[str, Any]) -> int:
    return int(run["status"]["progress"]["checkpoint"]["step"])


def refuse_to_share(cluster: Cluster) -> None:
    """Two experiments never write into one directory."""
    spec = cluster.get("rfexp", "lost")["spec"]
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "metadata": {"name": "twice"}, "spec": spec}
    file = cluster.local.volume / "twice.json"
    file.write_text(json.dumps(body))
    time.sleep(1.1)  # so that it is younger: creation times are whole seconds
    cluster.kubectl("create", "-f", str(file))
    accepted = cluster.wait("it is judged", lambda: cluster.condition("rfexp", "twice", "Accepted"))
    assert (accepted["status"], accepted["reason"]) == ("False", "AlreadyAdopted"), accepted
    cluster.kubectl("delete", "rfexp", "twice")
