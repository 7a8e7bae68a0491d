"""The story of runs that are steered while they train: by kubectl alone, and from Python and the terminal."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.conftest import Cluster
from tests.e2e.notebook import ARGUMENTS, LORAS, SEED

from rapidfireai import Experiment
from rapidfireai.errors import ConfigError, ExperimentError
from rapidfireai.records import RunSource, RunStatus

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
PROGRAM = Path(sys.executable).with_name("rapidfireai")
SLOW = """
import time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

def make(config):
    model = AutoModelForCausalLM.from_pretrained(config["model_name"], dtype=torch.float32)
    model.register_forward_pre_hook(lambda *_: time.sleep(0.2))
    return model, AutoTokenizer.from_pretrained(config["model_name"])
"""


def written(folder: Path, name: str, body: dict[str, Any]) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "rapidfire.ai/v1alpha1", "metadata": {"name": name}, **body}))
    return str(file)


def experiment(name: str, rows: Path) -> str:
    """Return the file of an experiment of two runs, slow enough to be steered."""
    adapter = {**LORAS[1], "target_modules": ["q_proj", "v_proj"]}
    config = {
        "model_name": "pvc://rapidfire-data/stories/tiny",
        "peft_config": adapter,
        "training_args": {
            **ARGUMENTS,
            "num_train_epochs": 5,
            "eval_strategy": "no",
            "learning_rate": {"$list": [1e-2, 1e-3]},
        },
    }
    spec = {
        "seed": SEED,
        "chunks": 1,
        "configs": [{"trainer": "SFT", "config": config}],
        "data": {each: {"uri": f"pvc://rapidfire-data/stories/{each}.jsonl"} for each in ("train", "eval")},
        "code": {"source": SLOW, "createModel": "make"},
        "workers": {"replicas": 2},
    }
    return written(rows, name, {"kind": "Experiment", "spec": spec})


def icop(folder: Path, name: str, experiment: str, op: str, *runs: str, **more: Any) -> str:
    about = {"runs": list(runs)} if runs else {"selector": {}}
    return written(folder, name, {"kind": "ICOp", "spec": {"experimentRef": experiment, "op": op, **about, **more}})


def state(cluster: Cluster, run: str) -> str:
    return str(cluster.get("rfrun", run).get("status", {}).get("state", ""))


def test_kubectl_alone_stops_clones_deletes_and_resumes(cluster: Cluster, rows: Path) -> None:
    cluster.kubectl("apply", "-f", experiment("steer", rows))
    cluster.wait("the runs are there", lambda: len(cluster.list("rfrun", "steer")) == 2)
    cluster.wait("the first run has committed", lambda: cluster.committed("steer-r1") > 0)

    stop = '{"spec":{"desiredState":"Stopped","when":"Immediate"}}'
    cluster.kubectl("patch", "rfrun", "steer-r1", "--type=merge", "-p", stop)
    cluster.wait("the first run rests", lambda: state(cluster, "steer-r1") == "Stopped", 60)
    rested = cluster.committed("steer-r1")
    assert cluster.get("rfrun", "steer-r1")["spec"]["requestedBy"]

    patch = {"training_args.learning_rate": 1e-4, "peft_config": {"lora_dropout": 0.25}}
    clone = icop(rows, "try", "steer", "CloneModify", "steer-r1", clone={"patch": patch, "warmStart": True})
    cluster.kubectl("create", "-f", clone)
    cluster.kubectl("wait", "--for=condition=Complete", "icop/try", "--timeout=60s")
    (result,) = cluster.get("icop", "try")["status"]["results"]
    assert (result["outcome"], result["created"]) == ("Applied", "steer-r3"), result
    made = cluster.get("rfrun", "steer-r3")["spec"]
    assert made["parentRef"]["checkpoint"]["step"] == rested
    assert made["config"]["training_args"]["learning_rate"] == 1e-4
    assert made["config"]["peft_params"] == {**LORAS[1], "lora_dropout": 0.25, "target_modules": ["q_proj", "v_proj"]}

    wrong = icop(rows, "wrong", "steer", "CloneModify", "steer-r1", clone={"patch": {"training_args.lr": 1}})
    cluster.kubectl("create", "-f", wrong)
    cluster.kubectl("wait", "--for=condition=Complete", "icop/wrong", "--timeout=60s")
    (result,) = cluster.get("icop", "wrong")["status"]["results"]
    assert result["outcome"] == "Refused"
    assert "training_args.lr" in result["message"]

    cluster.kubectl("delete", "rfrun", "steer-r2", "--timeout=30s")
    cluster.kubectl("patch", "rfrun", "steer-r1", "--type=merge", "-p", '{"spec":{"desiredState":"Running"}}')
    cluster.wait("the first run goes on", lambda: cluster.committed("steer-r1") > rested)
    cluster.wait("the clone has committed", lambda: cluster.committed("steer-r3") > 0)
    cluster.kubectl("create", "-f", icop(rows, "all", "steer", "Delete", when="Immediate"))
    cluster.kubectl("wait", "--for=condition=Complete", "icop/all", "--timeout=60s")
    cluster.wait("they are deleted", lambda: {state(cluster, f"steer-r{n}") for n in (1, 3)} == {"Deleted"}, 60)
    cluster.wait("it is finished", lambda: cluster.condition("rfexp", "steer", "Finished")["status"] == "True", 60)
    late = icop(rows, "late", "steer", "Stop", "steer-r3")
    cluster.kubectl("create", "-f", late)
    cluster.kubectl("wait", "--for=condition=Complete", "icop/late", "--timeout=60s")
    assert cluster.get("icop", "late")["status"]["results"][0]["outcome"] == "Refused"


def program(cluster: Cluster, *words: str) -> str:
    """Run `rapidfireai` as a person at the terminal does."""
    answer = subprocess.run(
        [str(PROGRAM), *words],
        env={**cluster.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_python_and_the_terminal_steer_while_run_fit_blocks(
    cluster: Cluster, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster.notebook("steered", str(model), str(tmp_path), "--slow", "0.1", "--epochs", "200") as notebook:
        # Who does not read what it prints stops it.
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(notebook.stdout or ()))
        reader.start()
        cluster.wait("the runs are there", lambda: len(cluster.list("rfrun", "steered")) == 4)
        cluster.wait("the first run has committed", lambda: cluster.committed("steered-r1") > 0)
        with Experiment.attach(
            "steered", experiments_path=tmp_path / "other", kubeconfig=cluster.local.kubeconfig
        ) as back:
            steer(cluster, back)
        said = capsys.readouterr().out
        assert "steered-r2 stops after the current step." in said
        assert "steered-r5 is a clone of steered-r1, and begins with its weights at step " in said
        assert "training_args.learning_rate: 0.001 -> 0.0001" in said
        notebook.wait(600)
        reader.join(30)
    output = "".join(lines)
    assert notebook.returncode == 0, output
    joined = next(line for line in lines if line.startswith("steered-r5"))
    assert "warm clone of steered-r1 at step " in joined
    assert "steered-r2  Stopped by " in output
    assert "steered-r4  Deleted by " in output
    assert "run 4: RunStatus.DELETED" in output
    for run in (1, 2, 3, 5):
        assert f"run {run}: RunStatus.STOPPED" in output


def steer(cluster: Cluster, back: Experiment) -> None:
    """Do from here, in Python and at the terminal, what the notebook that trains does not know of."""
    back.stop(2, when="immediate")
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        back.clone(1, {"training_args": {"learning_rte": 1e-4}})
    with pytest.raises(ExperimentError, match=r"peft_config.r: changes from 4 to 8"):
        back.clone(1, {"peft_config": {"r": 8}}, warm_start=True)
    assert back.clone(1, {"training_args": {"learning_rate": 1e-4}}, warm_start=True) == 5
    row = back.get_runs_info().set_index("run_id").loc[5]
    assert (row["source"], row["cloned_from"], row["warm_started_from"]) == (RunSource.INTERACTIVE_CONTROL, 1, 1)
    program(cluster, "stop", "steered", "3", "--immediate")
    program(cluster, "delete", "steered", "4", "--immediate")
    cluster.wait("the run is deleted", lambda: state(cluster, "steered-r4") == "Deleted", 60)
    assert 4 not in set(back.get_results()["run_id"])
    assert back.get_runs_info().set_index("run_id").loc[4, "status"] is RunStatus.DELETED
    cluster.wait("the runs rest", lambda: {state(cluster, f"steered-r{n}") for n in (2, 3)} == {"Stopped"}, 60)
    program(cluster, "resume", "steered", "3")
    back.resume(2)
    cluster.wait("the runs go on", lambda: "Stopped" not in {state(cluster, f"steered-r{n}") for n in (2, 3)}, 60)
    audit = program(cluster, "get", "icops", "steered")
    assert [line.split()[2] for line in audit.splitlines()[1:]] == [
        "Stop",
        "CloneModify",
        "Stop",
        "Delete",
        "Resume",
        "Resume",
    ], audit
    described = program(cluster, "describe", "steered")
    assert "└─ steered-r5" in described
    assert "training_args.learning_rate: 0.001 -> 0.0001" in described
    assert "CloneModify  steered-r1" in described
    compared = program(cluster, "diff", "steered", "1", "5")
    assert compared.splitlines()[1].split() == ["training_args.learning_rate", "0.001", "0.0001"]
    program(cluster, "stop", "steered", "1", "2", "3", "5", "--immediate")
