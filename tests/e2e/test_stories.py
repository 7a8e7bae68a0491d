"""The stories of users, each on the whole system: nothing here knows how it works inside."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e import preferences
from tests.e2e.conftest import Cluster
from tests.e2e.notebook import ARGUMENTS, CHUNKS, LORAS, RATES, SEED
from tests.fit.reference import digest, train
from tests.support.lab import steady

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
Plain = dict[int, dict[str, Any]]
RUNS = len(LORAS) * len(RATES)
OPERATOR, WORKER = "rapidfireai_operator", "rapidfireai_worker"


def manifest(name: str, rows: Path, **spec: Any) -> str:
    """An experiment as a YAML user writes it, equal to the notebook's."""
    body = {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "seed": SEED,
            "chunks": CHUNKS,
            "configs": [
                {
                    "trainer": "SFT",
                    "config": {
                        "model_name": "pvc://rapidfire-data/stories/tiny",
                        "peft_config": {
                            "$list": [
                                {**lora, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
                                for lora in LORAS
                            ]
                        },
                        "training_args": {**ARGUMENTS, "learning_rate": {"$list": list(RATES)}},
                    },
                }
            ],
            "data": {name: {"uri": f"pvc://rapidfire-data/stories/{name}.jsonl"} for name in ("train", "eval")},
            "workers": {"replicas": 2},
            **spec,
        },
    }
    file = rows / f"{name}.yaml"
    file.write_text(yaml.safe_dump(body))
    return str(file)


def compare_models(folders: dict[int, Path], plain: Plain, label: str) -> None:
    """Compare weights bit for bit, and show the digests."""
    digests = {index: digest(folder) for index, folder in folders.items()}
    for index, found in digests.items():
        print(f"run {index}: plain {plain[index]['digest'][:12]}  {label} {found[:12]}")
    assert digests == {index: plain[index]["digest"] for index in folders}


def exported(cluster: Cluster, experiment: str, folder: Path) -> dict[int, Path]:
    """Return where each run's model lies on the volume."""
    runs = {run["spec"]["index"]: run for run in cluster.list("rfrun", experiment)}
    paths = {index: run["status"]["progress"]["checkpoint"]["path"] for index, run in runs.items()}
    return {index: folder / path / "model" for index, path in paths.items()}


def compare_curves(results: Path, plain: Plain) -> None:
    """Compare every value that the plain programs logged with what `get_results` says."""
    with results.open() as file:
        found = {(int(row["run_id"]), int(float(row["step"]))): row for row in csv.DictReader(file)}
    for index, reference in plain.items():
        for line in steady(reference["history"]):
            row = found[index, line["step"]]
            for name in line.keys() - {"step"}:
                assert float(row[name]) == line[name], (index, line["step"], name)


def summary(cluster: Cluster, kind: str, experiment: str) -> dict[str, str]:
    return {each["metadata"]["name"]: each["status"]["state"] for each in cluster.list(kind, experiment)}


def test_a_notebook_gets_the_plain_programs_weights_and_curves(
    cluster: Cluster, model: Path, plain: Plain, tmp_path: Path
) -> None:
    with cluster.notebook("Story One", str(model), str(tmp_path)) as notebook:
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    compare_models({index: tmp_path / str(index) for index in plain}, plain, "chunked")
    compare_curves(tmp_path / "results.csv", plain)
    experiment = cluster.get("rfexp", "story-one")["status"]
    assert (experiment["state"], experiment["chunks"]["summary"]) == ("Succeeded", "24/24")
    cluster.wait("workers leave", lambda: not cluster.list("pods", "story-one"))


def test_kills_of_workers_and_of_the_operator_leave_no_trace(
    cluster: Cluster, model: Path, plain: Plain, tmp_path: Path
) -> None:
    with cluster.notebook("killed", str(model), str(tmp_path), "--slow", "0.3") as notebook:
        for chunk in (1, 3):
            pod = cluster.wait(f"a worker computes chunk {chunk}", lambda chunk=chunk: _busy(cluster, "killed", chunk))
            cluster.processes(WORKER)[pod].kill()
            cluster.wait("the next process is there", lambda pod=pod: pod in cluster.processes(WORKER))
        (operator,) = cluster.processes(OPERATOR).values()
        operator.kill()
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    compare_models({index: tmp_path / str(index) for index in plain}, plain, "killed")
    compare_curves(tmp_path / "results.csv", plain)
    crashes = [
        run["status"]["failures"]["crashes"] for run in cluster.list("rfrun", "killed") if "failures" in run["status"]
    ]
    assert sum(crashes) == 2


def _busy(cluster: Cluster, experiment: str, chunk: int) -> str | None:
    """Return the pod of a worker that is past the first step of a run's chunk."""
    for run in cluster.list("rfrun", experiment):
        status = run.get("status", {})
        assignment, progress = status.get("assignment"), status.get("progress", {})
        under_way = assignment and progress.get("attempt") == assignment["attempt"] and not progress.get("final")
        if under_way and assignment["chunk"] >= chunk and progress["step"] > status["progress"]["checkpoint"]["step"]:
            return str(assignment["pod"])
    return None


def test_a_worker_that_was_frozen_cannot_commit_what_others_did_meanwhile(
    cluster: Cluster, model: Path, plain: Plain, tmp_path: Path
) -> None:
    with cluster.notebook("frozen", str(model), str(tmp_path), "--slow", "0.3") as notebook:
        pod = cluster.wait("a worker computes", lambda: _busy(cluster, "frozen", 1))
        process = cluster.processes(WORKER)[pod]
        held = {
            run["metadata"]["name"]: run["status"]["attempt"]
            for run in cluster.list("rfrun", "frozen")
            if run["status"].get("assignment", {}).get("pod") == pod
        }
        process.send_signal(signal.SIGSTOP)
        for name, attempt in held.items():
            cluster.wait(
                f"{name} is given to the other worker",
                lambda name=name, attempt=attempt: cluster.get("rfrun", name)["status"]["attempt"] > attempt,
            )
        process.send_signal(signal.SIGCONT)
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    compare_models({index: tmp_path / str(index) for index in plain}, plain, "frozen")
    compare_curves(tmp_path / "results.csv", plain)


def test_kubectl_alone_runs_stops_and_resumes(cluster: Cluster, rows: Path, plain: Plain) -> None:
    cluster.kubectl("apply", "-f", manifest("plain-yaml", rows))
    first, *others = [f"plain-yaml-r{index}" for index in range(1, RUNS + 1)]
    cluster.wait("the runs are there", lambda: len(cluster.list("rfrun", "plain-yaml")) == RUNS)
    stop = '{"spec":{"desiredState":"Stopped"}}'
    cluster.kubectl("patch", "rfrun", first, "--type=merge", "-p", stop)
    cluster.wait("the others finish", lambda: all(_ended(cluster, name) for name in others))
    seen = cluster.get("rfrun", first)["status"]
    assert seen["state"] == "Stopped"
    assert seen.get("display", {}).get("chunks", "0/6") != "6/6"
    cluster.wait("the experiment says so", lambda: cluster.get("rfexp", "plain-yaml")["status"]["state"] == "Stopped")
    cluster.kubectl("patch", "rfrun", first, "--type=merge", "-p", stop.replace("Stopped", "Running"))
    cluster.wait("all succeed", lambda: cluster.get("rfexp", "plain-yaml")["status"]["state"] == "Succeeded")
    assert set(summary(cluster, "rfrun", "plain-yaml").values()) == {"Succeeded"}
    compare_models(exported(cluster, "plain-yaml", cluster.local.volume), plain, "stopped and resumed")


def _ended(cluster: Cluster, run: str) -> bool:
    seen = cluster.condition("rfrun", run, "Finished")
    return seen is not None and seen["status"] == "True"


def test_a_broken_function_fails_its_runs_alone_with_the_users_own_line(
    cluster: Cluster, model: Path, tmp_path: Path
) -> None:
    with cluster.notebook("broken", str(model), str(tmp_path), "--broken") as notebook:
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    states = summary(cluster, "rfrun", "broken")
    assert sorted(states.values()) == ["Failed"] * RUNS + ["Succeeded"] * RUNS, output
    failed = next(run for run in cluster.list("rfrun", "broken") if run["status"]["state"] == "Failed")
    message = failed["status"]["progress"]["error"]["message"]
    assert 'row["reply"]' in message and "KeyError" in message


def test_deleting_a_run_and_the_experiment_frees_the_workers(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    with cluster.notebook("deleted", str(model), str(tmp_path), "--slow", "0.3") as notebook:
        cluster.wait("a worker computes", lambda: _busy(cluster, "deleted", 1))
        cluster.kubectl("delete", "rfrun", "deleted-r1", "--timeout=20s")
        cluster.wait("three runs are left", lambda: len(cluster.list("rfrun", "deleted")) == RUNS - 1)
        cluster.kubectl("delete", "rfexp", "deleted", "--timeout=20s")
        cluster.wait("the workers are gone", lambda: not cluster.list("pods", "deleted"), 90)
        output, _ = notebook.communicate(timeout=60)
    assert "Traceback" not in output or "deleted" in output, output
    assert not cluster.list("rfrun", "deleted")


def test_ctrl_c_leaves_the_cluster_clean_and_the_same_script_goes_on(
    cluster: Cluster, model: Path, plain: Plain, tmp_path: Path
) -> None:
    words = ("interrupted", str(model), str(tmp_path), "--slow", "0.3")
    with cluster.notebook(*words) as notebook:
        cluster.wait("a worker computes", lambda: _busy(cluster, "interrupted", 1))
        notebook.send_signal(signal.SIGINT)
        output, _ = notebook.communicate(timeout=60)
    assert notebook.returncode != 0
    assert "kubectl scale" in output
    cluster.wait("the workers are gone", lambda: not cluster.list("pods", "interrupted"), 60)
    steps = [run["status"]["progress"]["step"] for run in cluster.list("rfrun", "interrupted")]
    assert sum(steps) > 0
    with cluster.notebook(*words) as notebook:
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    compare_models({index: tmp_path / str(index) for index in plain}, plain, "interrupted")


def test_dpo_and_grpo_share_workers_and_equal_the_plain_programs(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    words = ("preferences", str(model), str(tmp_path))
    with cluster.notebook(*words, script=Path(preferences.__file__)) as notebook:
        output, _ = notebook.communicate(timeout=600)
    assert notebook.returncode == 0, output
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences.rows(24)))
    leaves = [{"trainer_type": "DPO", "training_args": {**preferences.DPO, "beta": beta}} for beta in preferences.BETAS]
    leaves.append({"trainer_type": "GRPO", "training_args": preferences.GRPO})
    for index, leaf in enumerate(leaves, start=1):
        spec = {
            "config": {**leaf, "model_name": str(model), "peft_params": preferences.LORA},
            "seed": preferences.SEED,
            "output_dir": str(tmp_path / f"plain-{index}"),
            "train": str(tmp_path / "train.jsonl"),
            "eval": None,
        }
        weights, _ = train(spec, reward_funcs=[preferences.variety] if leaf["trainer_type"] == "GRPO" else None)
        compare_models({index: tmp_path / str(index)}, {index: {"digest": weights}}, str(leaf["trainer_type"]))
