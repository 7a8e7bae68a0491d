"""`Experiment` against a real API server and a real volume service; operator and workers are acted."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from kubernetes import client
from tests.support.waiting import wait_for
from typer.testing import CliRunner

from rapidfireai import Experiment
from rapidfireai.automl import List, RFModelConfig, RFSFTConfig
from rapidfireai.automl.search import groups_of
from rapidfireai.cli.main import app
from rapidfireai.cluster.home import default_home, kubeconfig_of
from rapidfireai.connection import Connection
from rapidfireai.errors import (
    ClusterNotFoundError,
    DataError,
    ExperimentError,
    VolumeError,
)
from rapidfireai.expand import restore
from rapidfireai.records import RunEndedBy, RunSource, RunStatus

from .acting import Act, create_model, experiment, fit, play, rows, search
from .conftest import Workspace, condition, token_of

pytestmark = pytest.mark.integration


def test_a_fit_sends_code_and_data_once_creates_the_experiment_and_follows_it(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment(served)
    act(play(served, "my-sweep"))
    fit(made, create_model_fn=create_model, eval_dataset=rows(2), seed=7)
    seen = capsys.readouterr().out
    assert "sent train_dataset (4 rows)" in seen
    assert re.search(r"my-sweep-r1  Running  chunk 1/2  step 2/4  loss 3.000  objective 2.500", seen)
    assert "my-sweep-r2  Succeeded  chunk 2/2  step 4/4" in seen
    assert made.get_log_file_path().read_text().count("Succeeded") == 3
    assert made.get_log_file_path("main") == Path("rapidfire_experiments/my-sweep/rapidfire.log")

    found = served.experiment("my-sweep")
    assert found is not None
    spec = found.spec
    assert (spec.display_name, spec.seed, spec.chunks, spec.workers.replicas) == ("My Sweep", 7, 2, 2)
    assert spec.code is not None
    assert spec.code.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (served.volume / "bundles" / spec.code.bundle / "bundle.pkl").is_file()
    assert spec.data.eval is not None
    stored = served.volume / "datasets" / spec.data.eval.uri.removeprefix("blob://sha256/") / "data.parquet"
    assert pq.read_table(stored).to_pylist() == list(rows(2))

    again = experiment(served)
    assert again.experiment_name == "My Sweep_1"
    act(play(served, "my-sweep-1"))
    fit(again, create_model_fn=create_model, eval_dataset=rows(2), seed=7)
    assert "sent" not in capsys.readouterr().out


def test_runs_and_results_come_in_the_documented_columns(served: Workspace, act: Act) -> None:
    made = experiment(served)
    assert list(made.get_runs_info().columns) == ["run_id"]
    assert list(made.get_results().columns) == ["run_id", "step"]
    act(play(served, "my-sweep", fail="-r2"))
    fit(made)

    info = made.get_runs_info()
    first, second = info.to_dict("records")
    documented = {
        "run_id": 1,
        "status": RunStatus.COMPLETED,
        "metric_run_id": "mlflow-my-sweep-r1",
        "completed_steps": 4,
        "total_steps": 4,
        "num_chunks_visited_curr_epoch": 0,
        "num_epochs_completed": 1,
        "chunk_offset": 0,
        "error": "",
        "source": RunSource.INITIAL,
        "ended_by": RunEndedBy.EPOCH_COMPLETED,
        "warm_started_from": None,
        "cloned_from": None,
        "estimated_runtime": 3.0,
        "required_workers": 1,
        "config": {
            "trainer_type": "SFT",
            "model_name": "m",
            "model_type": "causal_lm",
            "peft_params": {"r": 8},
            "training_args": {"learning_rate": 1.0},
        },
    }
    assert (first, list(first)) == (documented, list(documented))
    assert isinstance(first["config"]["training_args"]["learning_rate"], float)
    assert (second["status"], second["error"]) == (RunStatus.FAILED, "UserCodeError: it raised")

    results = made.get_results()
    assert list(results.columns) == ["run_id", "step", "loss", "boundary/eval_loss"]
    assert results.to_dict("records") == [
        {"run_id": 1, "step": 2, "loss": 3.0, "boundary/eval_loss": 2.5},
        {"run_id": 1, "step": 4, "loss": 2.0, "boundary/eval_loss": 1.5},
    ]


def test_none_survives_the_api_server(workspace: Workspace) -> None:
    config = RFModelConfig(
        training_args=RFSFTConfig(max_length=None, learning_rate=List([1.0])), model_kwargs={"a": [None], "b": None}
    )
    (group,) = groups_of(config, lambda value, path: {})
    spec = {"configs": [group.to_wire()], "data": {"train": {"uri": "hf://x/y"}}}
    connection = Connection(workspace.namespace, workspace.kubeconfig)
    workspace.create_runs(connection.create_experiment("nothing", spec))
    (run,) = connection.runs("nothing")
    leaf = restore(run.spec.config)
    assert leaf["training_args"] == {"max_length": None, "learning_rate": 1.0}
    assert isinstance(leaf["training_args"]["learning_rate"], float)
    assert leaf["model_kwargs"] == {"a": [None], "b": None}


def test_export_brings_the_last_committed_model(served: Workspace, act: Act, tmp_path: Path) -> None:
    made = experiment(served)
    with pytest.raises(ExperimentError, match="call run_fit first"):
        made.export(1, tmp_path / "early")
    act(play(served, "my-sweep", fail="-r2"))
    fit(made)
    directory = made.export(1, tmp_path / "adapter")
    assert (directory / "adapter_model.safetensors").read_text() == "my-sweep-r1 at 4"
    with pytest.raises(ExperimentError, match="my-sweep-r2 has committed no chunk yet"):
        made.export(2, tmp_path / "failed")
    with pytest.raises(ExperimentError, match=r"there is no .*run my-sweep-r9"):
        made.export(9, tmp_path / "missing")

    words = ["--namespace", served.namespace, "--kubeconfig", str(served.kubeconfig)]
    answer = CliRunner().invoke(app, ["export", "my-sweep-r1", str(tmp_path / "by-hand"), *words])
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "by-hand" / "adapter_model.safetensors").is_file()


def test_a_refused_experiment_raises_its_sentence_and_leaves_nothing(workspace: Workspace, act: Act) -> None:
    def refuse() -> None:
        wait_for("experiment", lambda: workspace.experiment("my-sweep"))
        workspace.judge("my-sweep", "Refused", condition("Accepted", "False", "NoSuchClaim", "make the claim first"))

    made = experiment(workspace)
    act(refuse)
    with pytest.raises(ExperimentError, match="make the claim first"):
        fit(made, train_dataset="pvc://missing/train.jsonl")
    assert workspace.experiments() == []


def test_ctrl_c_parks_the_workers_and_the_same_call_goes_on(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        found = wait_for("experiment", lambda: served.experiment("my-sweep"))
        runs = served.create_runs(found)
        served.judge("my-sweep", "Running", condition("Accepted", "True"), workers={"ready": 2})
        served.commit(found, runs[0], 0)
        os.kill(os.getpid(), signal.SIGINT)

        def parked() -> bool:
            now = served.experiment("my-sweep")
            return now is not None and now.spec.workers.replicas == 0

        wait_for("parking", parked)
        served.judge("my-sweep", "Running", condition("Accepted", "True"), workers={"ready": 0})

    act(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment(served))
    seen = capsys.readouterr().out
    assert "each worker commits at its next step and leaves" in seen
    assert f"kubectl --namespace {served.namespace} scale rfexp my-sweep --replicas=2" in seen

    def resumed() -> None:
        def scaled() -> Any:
            now = served.experiment("my-sweep")
            return now if now and now.spec.workers.replicas == 1 else None

        found = wait_for("scaling", scaled)
        for run in ("my-sweep-r1", "my-sweep-r2"):
            served.commit(found, run, 1)
            served.end_run(run)
        served.judge("my-sweep", "Succeeded", condition("Finished", "True"))

    act(resumed)
    fit(experiment(served), num_workers=1)
    assert "Going on with my-sweep." in capsys.readouterr().out
    assert [each.metadata.name for each in served.experiments()] == ["my-sweep"]


def test_a_second_ctrl_c_leaves_at_once(served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        found = wait_for("experiment", lambda: served.experiment("my-sweep"))
        served.create_runs(found)
        served.judge("my-sweep", "Running", condition("Accepted", "True"), workers={"ready": 2})
        os.kill(os.getpid(), signal.SIGINT)
        wait_for("parking", lambda: served.experiments()[0].spec.workers.replicas == 0)
        os.kill(os.getpid(), signal.SIGINT)

    act(twice)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment(served))
    assert "Left; the workers stop by themselves." in capsys.readouterr().out


def test_an_unfinished_experiment_that_asks_for_something_else_keeps_its_name(served: Workspace, act: Act) -> None:
    def part() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def first() -> None:
        wait_for("experiment", lambda: served.experiment("my-sweep"))
        served.judge("my-sweep", "Running", condition("Accepted", "True"))
        part()

    act(first)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment(served))
    other = experiment(served)
    act(play(served, "my-sweep-1"))
    fit(other, num_chunks=1)
    assert other.experiment_name == "My Sweep_1"
    assert served.experiment("my-sweep") is not None


def test_end_lets_the_workers_leave(served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]) -> None:
    made = experiment(served)
    made.end()
    assert "No experiment is running" in capsys.readouterr().out
    act(play(served, "my-sweep"))
    fit(made)
    made.end()
    found = served.experiment("my-sweep")
    assert found is not None
    assert found.spec.workers.replicas == 0
    assert len(made.get_runs_info()) == 2


def test_a_user_with_nothing_but_the_workspaces_role_can_do_all_of_it(
    served: Workspace, act: Act, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(served.kubeconfig.read_text())
    token = token_of(served, "rapidfire-user")
    config["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "user.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    made = Experiment("My Sweep", namespace=served.namespace, kubeconfig=kubeconfig)
    act(play(served, "my-sweep"))
    fit(made, num_workers=None)
    assert "taking 1" in capsys.readouterr().out
    assert len(made.get_results()) == 4
    assert made.export(1, tmp_path / "adapter").is_dir()


def test_wrong_arguments_are_named_before_anything_is_created(workspace: Workspace) -> None:
    made = experiment(workspace)
    with pytest.raises(DataError, match="eval_dataset: must be"):
        fit(made, create_model_fn=create_model, eval_dataset=3)
    with pytest.raises(DataError, match="eval_dataset: must be"):
        made.to_yaml(search(), create_model, rows(), 3, num_chunks=1)
    assert workspace.experiments() == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"mode": "train"}, ValueError, "mode must be 'fit'"),
        ({"experiment_nam": "x"}, TypeError, "did you mean experiment_name?"),
        ({"experiments_path": "a", "experiment_path": "b"}, TypeError, "another name of experiments_path"),
        ({"experiment_name": 3}, TypeError, "experiment_name must be a string"),
    ],
)
def test_wrong_constructor_arguments_are_named(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        Experiment(**{"experiment_name": "x", **arguments})
    assert words in str(caught.value)


def test_the_default_number_of_workers_is_the_room_on_the_nodes(workspace: Workspace) -> None:
    core = client.CoreV1Api(workspace.api)
    connection = Connection(workspace.namespace, workspace.kubeconfig)
    # No pod lands here, and whatever nodes other tests have can only add room.
    taint = {"key": "rapidfire.ai/test", "effect": "NoSchedule"}
    core.create_node({"metadata": {"name": workspace.namespace}, "spec": {"taints": [taint]}})
    try:
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "3"}}
        core.patch_node_status(workspace.namespace, {"status": ready})
        assert (connection.free_slots() or 0) >= 3
    finally:
        core.delete_node(workspace.namespace)


def test_without_a_cluster_the_user_is_told_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("RAPIDFIREAI_HOME", str(tmp_path / "home"))
    with pytest.raises(ClusterNotFoundError, match="run `rapidfireai start`"):
        Experiment("x")
    with pytest.raises(ClusterNotFoundError, match="there is no file"):
        Experiment("x", kubeconfig=tmp_path / "missing")


def test_a_cluster_that_is_down_is_named(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPIDFIREAI_HOME", str(tmp_path / "home"))
    local = kubeconfig_of(default_home())
    local.parent.mkdir(parents=True)
    local.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", workspace.kubeconfig.read_text()))
    with pytest.raises(ClusterNotFoundError, match=r"127\.0\.0\.1:1 does not answer; run `rapidfireai start`"):
        Experiment("x")


def test_a_namespace_that_is_no_workspace_is_named(workspace: Workspace) -> None:
    with pytest.raises(ClusterNotFoundError, match="namespace 'kube-system' is no workspace"):
        Experiment("x", namespace="kube-system", kubeconfig=workspace.kubeconfig)


def test_a_volume_service_that_is_down_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    account = {"metadata": {"name": "rapidfire-user"}}
    client.CoreV1Api(workspace.api).create_namespaced_service_account(workspace.namespace, account)
    monkeypatch.setenv("RAPIDFIRE_VOLUME_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("rapidfireai.volume._RETRY_SECONDS", 0.1)
    with pytest.raises(VolumeError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        fit(experiment(workspace), create_model_fn=create_model)


def test_a_token_that_is_no_good_gets_the_services_own_sentence(served: Workspace) -> None:
    from rapidfireai.volume import VolumeClient

    url = Connection(served.namespace, served.kubeconfig).workspace().volume_url
    with pytest.raises(VolumeError, match="volume service: it does not know your token"):
        VolumeClient(url, lambda: "nonsense").has("bundles", "0" * 64)
