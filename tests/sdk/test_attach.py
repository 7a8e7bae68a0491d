"""Going back to experiments: from other machines, after their end, to watch them or to stop them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from tests.support.waiting import wait_for

from rapidfireai import Experiment
from rapidfireai.api import GROUP, VERSION
from rapidfireai.errors import ExperimentError
from rapidfireai.records import RunEndedBy, RunStatus

from .acting import Act, experiment, fit, play
from .conftest import Workspace, condition

pytestmark = pytest.mark.integration


def attach(workspace: Workspace, name: str, **more: Any) -> Experiment:
    return Experiment.attach(name, namespace=workspace.namespace, kubeconfig=workspace.kubeconfig, **more)


def submitted(workspace: Workspace, act: Act) -> None:
    """Leave an experiment behind that goes on without the process that made it."""

    def part() -> None:
        workspace.create_runs(wait_for("experiment", lambda: workspace.experiment("my-sweep")))
        workspace.judge("my-sweep", "Running", condition("Accepted", "True"))
        os.kill(os.getpid(), signal.SIGINT)
        wait_for("parking", lambda: workspace.experiments()[0].spec.workers.replicas == 0)
        workspace.scale("my-sweep", 2)

    act(part)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment(workspace))


def obey(workspace: Workspace) -> None:
    """Stop the runs as the operator does once they are told to and no worker has them."""
    for run in ("my-sweep-r1", "my-sweep-r2"):
        wait_for(f"stop of {run}", lambda run=run: workspace.run(run)["spec"]["desiredState"] == "Stopped")
    wait_for("parking", lambda: workspace.experiments()[0].spec.workers.replicas == 0)
    for run in ("my-sweep-r1", "my-sweep-r2"):
        workspace.end_run(run, "Stopped")
    workspace.judge("my-sweep", "Stopped", condition("Finished", "True"))


def test_a_finished_experiment_is_there_on_every_machine(
    served: Workspace, act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment(served)
    act(play(served, "my-sweep"))
    fit(made)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("My Sweep", "my-sweep", "my-sweep-r1"):
        with attach(served, name, experiment_path=tmp_path / "logs") as back:
            assert (back.name, back.experiment_name) == ("my-sweep", "My Sweep")
            back.wait()
            assert back.get_runs_info().equals(made.get_runs_info())
            assert back.get_results().equals(made.get_results())
            assert len(back.get_results()) == 4
            assert (back.export(2, tmp_path / name) / "adapter_model.safetensors").is_file()
    assert "my-sweep-r1  Succeeded" in (tmp_path / "logs" / "my-sweep" / "rapidfire.log").read_text()


def test_a_live_experiment_is_followed_to_its_end_and_ctrl_c_only_ends_the_watching(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(served, act)
    back = attach(served, "My Sweep")
    capsys.readouterr()

    def interrupt() -> None:
        wait_for("a look at it", lambda: Path("rapidfire_experiments/my-sweep/rapidfire.log").read_text().count("r2"))
        os.kill(os.getpid(), signal.SIGINT)

    Path("rapidfire_experiments/my-sweep/rapidfire.log").write_text("")
    act(interrupt)
    with pytest.raises(KeyboardInterrupt):
        back.wait()
    assert "my-sweep goes on without you" in capsys.readouterr().out
    assert served.experiments()[0].spec.workers.replicas == 2

    def finish() -> None:
        for run in ("my-sweep-r1", "my-sweep-r2"):
            served.commit(served.experiments()[0], run, 1)
            served.end_run(run)
        served.judge("my-sweep", "Succeeded", condition("Finished", "True"))

    act(finish)
    back.wait()
    assert "my-sweep-r2  Succeeded" in capsys.readouterr().out


def test_a_name_that_nobody_has_gets_the_names_that_are_near(workspace: Workspace) -> None:
    with pytest.raises(ExperimentError, match=r"no experiment or run my-sweep in namespace t-.*, it has none"):
        attach(workspace, "my-sweep")
    workspace.create_experiment("my-sweep", display_name="My Sweep")
    for name in ("my-swep", "My Swep", "my-sweep-1"):
        with pytest.raises(ExperimentError, match=rf"no experiment or run {name} in .*; did you mean my-sweep\?"):
            attach(workspace, name)
    workspace.create_experiment("by-hand")
    assert attach(workspace, "by-hand").experiment_name == "by-hand"


@pytest.mark.parametrize("method", ["cancel", "cancel_current", "end"])
def test_runs_that_are_cancelled_stop_keep_what_they_committed_and_give_the_name_away(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    submitted(served, act)
    served.commit(served.experiments()[0], "my-sweep-r1", 0)
    capsys.readouterr()
    back = attach(served, "My Sweep")
    act(lambda: obey(served))
    getattr(back, method)()
    said = capsys.readouterr().out
    assert "my-sweep: stopped 2 runs; what they committed stays" in said
    assert "scale rfexp my-sweep --replicas=2" in said
    info = back.get_runs_info()
    assert list(info["status"]) == [RunStatus.STOPPED] * 2
    assert list(info["ended_by"]) == [RunEndedBy.INTERACTIVE_CONTROL] * 2
    assert list(info["completed_steps"]) == [2, 0]
    assert len(back.get_results()) == 1
    assert experiment(served).experiment_name == "My Sweep_1"


def test_cancelling_where_nothing_runs_says_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    made = experiment(workspace)
    made.cancel()
    assert capsys.readouterr().out == "No experiment is running.\n"
    with pytest.raises(ExperimentError, match="call run_fit first"):
        made.wait()


def test_run_fit_called_again_makes_the_next_experiment(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment(served)
    act(play(served, "my-sweep"))
    fit(made)
    act(play(served, "my-sweep-1"))
    fit(made)
    assert "my-sweep is finished; this one is my-sweep-1." in capsys.readouterr().out
    assert (made.experiment_name, made.name) == ("My Sweep_1", "my-sweep-1")
    assert len(made.get_results()) == 4
    assert attach(served, "My Sweep").name == "my-sweep"


def test_a_run_that_was_deleted_is_missing_and_the_others_stay(served: Workspace, act: Act) -> None:
    made = experiment(served)
    act(play(served, "my-sweep"))
    fit(made)
    served.objects.delete_namespaced_custom_object(GROUP, VERSION, served.namespace, "runs", "my-sweep-r1")
    assert list(made.get_runs_info()["run_id"]) == [2]
    assert list(made.get_results()["run_id"]) == [2, 2]
    served.objects.delete_namespaced_custom_object(GROUP, VERSION, served.namespace, "experiments", "my-sweep")
    for method in (made.get_runs_info, made.get_results, made.wait, made.cancel):
        with pytest.raises(ExperimentError, match=f"(no experiment my-sweep in namespace {served.namespace}|deleted)"):
            method()


def test_results_of_many_runs_come_in_order_and_only_what_is_new_is_fetched(served: Workspace) -> None:
    found = served.create_experiment("many", learning_rate={"$list": [index / 1000 for index in range(1, 41)]})
    runs = served.create_runs(found)
    back = attach(served, "many")
    assert back.get_results().empty
    for run in runs:
        served.commit(found, run, 0)
    first = back.get_results()
    assert list(first["run_id"]) == list(range(1, 41))
    assert list(first.columns) == ["run_id", "step", "loss", "boundary/eval_loss"]

    for log in served.volume.glob("experiments/*/runs/*/logs/metrics.jsonl"):
        log.write_bytes(b" " * (log.stat().st_size - 1) + b"\n")  # what was fetched is not read again
    served.commit(found, runs[6], 1)
    second = back.get_results()
    assert len(second) == 41
    assert second[second["run_id"] == 7]["loss"].to_list() == [3.0, 2.0]


def test_a_user_without_a_name_for_a_log_is_told_the_names(workspace: Workspace) -> None:
    made = experiment(workspace)
    for log_type in (None, "main", "Experiment", "MAIN"):
        assert made.get_log_file_path(log_type) == Path("rapidfire_experiments/my-sweep/rapidfire.log")
    assert made.get_log_file_path("Training") == Path("rapidfire_experiments/my-sweep/training.log")
    with pytest.raises(ValueError, match="log_type must be 'main', 'experiment' or 'training', not 'worker'"):
        made.get_log_file_path("worker")


def test_the_workers_of_a_cluster_that_runs_none_have_no_log(workspace: Workspace) -> None:
    workspace.create_experiment("e")
    core = client.CoreV1Api(workspace.api)
    core.create_namespaced_service_account(workspace.namespace, {"metadata": {"name": "pods"}})
    labels = {"rapidfire.ai/experiment": "e", "app.kubernetes.io/component": "worker"}
    spec = {"serviceAccountName": "pods", "containers": [{"name": "worker", "image": "x"}]}
    core.create_namespaced_pod(workspace.namespace, {"metadata": {"name": "e-w-0-a", "labels": labels}, "spec": spec})
    path = attach(workspace, "e").get_log_file_path("training")
    assert not path.exists(), path.read_text()
