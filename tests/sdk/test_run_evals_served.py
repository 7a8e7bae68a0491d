"""`run_evals` against a real API server and a real volume service; operator and workers are acted."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest
import yaml
from kubernetes import client
from tests.support.waiting import wait_for

from rapidfireai import Experiment
from rapidfireai.api import Experiment as ExperimentResource
from rapidfireai.errors import ExperimentError
from rapidfireai.records import RunEndedBy, RunStatus

from .acting import Act, log_of, search
from .conftest import Workspace, condition, token_of
from .evals_acting import (
    KEY,
    VARIABLE,
    answered,
    behind_an_api,
    commit_shard,
    evaluate,
    experiment,
    failed,
    pipelines,
    play,
    questions,
)

pytestmark = pytest.mark.integration


def test_an_evaluation_is_followed_and_returns_answers_and_metrics(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment(served)
    assert made.mode == "evals"
    act(play(served, "my-evals", fail="-r2"))
    results = evaluate(made, objective="maximize:Accuracy", seed=7)
    seen = capsys.readouterr().out
    assert "sent dataset (5 rows)" in seen
    assert "my-evals-r1  Running  shard 1/2  row 3/5  2.5 rows/s  Accuracy 50.0% [25.0%, 75.0%]" in seen

    assert list(results) == [1], "the run that failed is not there"
    rows, metrics = results[1]
    assert rows == {
        "question": ["4?", "0?", "2?", "1?", "3?"],
        "generated_text": ["said 4", "said 0", "said 2", "said 1", "said 3"],
        "error": [None] * 5,
    }
    assert metrics["run_id"] == {"value": 1}
    assert metrics["sampling_params"] == {"value": {"temperature": 0}}
    assert (metrics["Accuracy"]["lower_bound"], metrics["Accuracy"]["ci_method"]) == (0.25, "wilson")

    found = served.experiment("my-evals")
    assert found is not None
    assert (found.spec.mode, found.spec.shards, found.spec.seed, found.spec.workers.replicas) == ("evals", 2, 7, 2)
    info = made.get_runs_info().to_dict("records")
    assert [each["status"] for each in info] == [RunStatus.COMPLETED, RunStatus.FAILED]
    assert (info[0]["num_shards_visited"], info[0]["num_shards"], info[0]["completed_steps"]) == (2, 2, 5)
    assert info[0]["ended_by"] is RunEndedBy.EPOCH_COMPLETED
    curve = made.get_results()
    assert curve[["run_id", "step"]].to_numpy().tolist() == [[1, 3], [1, 5]]
    assert list(curve["Accuracy_upper_bound"]) == [0.75, 0.75]

    again = Experiment.attach("My Evals", namespace=served.namespace, kubeconfig=served.kubeconfig)
    assert again.mode == "evals"
    assert again.get_evaluations()[1][0] == rows
    with pytest.raises(ExperimentError, match=r"my-evals-r1 is an evaluation and has no model"):
        again.export(1, "model")
    with pytest.raises(ExperimentError, match="an evaluation has no weights to begin with; leave it out"):
        again.clone(1, {"batch_size": 4}, warm_start=True)


def test_ctrl_c_parks_the_workers_and_the_same_call_goes_on(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        found = wait_for("experiment", lambda: served.experiment("my-evals"))
        runs = served.create_runs(found)
        served.judge("my-evals", "Running", condition("Accepted", "True"), workers={"ready": 0})
        commit_shard(served, found, runs[0], 0, [*answered(4, 0), failed(2)])
        wait_for("line about the first shard", lambda: "shard 1/2" in log_of(found))
        os.kill(os.getpid(), signal.SIGINT)

    made = experiment(served)
    act(interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(made)
    assert "To go on: call run_evals again with the same arguments" in capsys.readouterr().out
    parked = served.experiment("my-evals")
    assert parked is not None
    assert parked.spec.workers.replicas == 0
    rows, _ = made.get_evaluations()[1]
    assert rows["generated_text"] == ["said 4", "said 0", None]

    def finish() -> None:
        wait_for("workers", lambda: _replicas(served) == 2)
        served.end_run("my-evals-r1", "Stopped")
        served.end_run("my-evals-r2", "Stopped")
        served.judge("my-evals", "Stopped", condition("Accepted", "True"), condition("Finished", "True"))

    act(finish)
    results = evaluate(experiment(served))
    assert "Going on with my-evals." in capsys.readouterr().out
    assert list(results) == [1], "the one that was stopped after a shard; the other has none"


def _replicas(workspace: Workspace) -> int:
    found = workspace.experiment("my-evals")
    return found.spec.workers.replicas if found else 0


def test_each_mode_has_its_own_call_and_name(workspace: Workspace) -> None:
    evals = experiment(workspace)
    with pytest.raises(
        ExperimentError, match=r"run_fit needs .* mode 'fit', and this one has mode 'evals'; call run_e"
    ):
        evals.run_fit(search(), None, "hf://x/y", num_chunks=2)
    with pytest.raises(ExperimentError, match="call run_evals first"):
        evals.stop(1)
    fit = Experiment("My Evals", namespace=workspace.namespace, kubeconfig=workspace.kubeconfig)
    with pytest.raises(ExperimentError, match=r"run_evals needs an experiment of mode 'evals'"):
        fit.run_evals(pipelines(), questions())
    with pytest.raises(ValueError, match=r"mode must be 'fit' \(run_fit\) or 'evals' \(run_evals\), not 'train'"):
        Experiment("x", "train", namespace=workspace.namespace, kubeconfig=workspace.kubeconfig)
    workspace.create_experiment("my-evals")
    assert experiment(workspace).experiment_name == "My Evals_1", "the one that trains is not taken up"


def test_keys_lie_in_a_secret_of_the_experiment_alone(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment(served)
    act(play(served, "my-evals"))
    evaluate(made, config_group=behind_an_api())
    found = served.experiment("my-evals")
    assert found is not None
    secret = client.CoreV1Api(served.api).read_namespaced_secret("my-evals-keys", served.namespace)
    assert {name: base64.b64decode(value).decode() for name, value in secret.data.items()} == {VARIABLE: KEY}
    (owner,) = secret.metadata.owner_references
    assert (owner.kind, owner.uid) == ("Experiment", found.metadata.uid)
    (variable,) = found.spec.workers.template.spec.containers[0].env
    assert variable.value_from == {"secretKeyRef": {"name": "my-evals-keys", "key": VARIABLE}}

    evaluations = made.get_evaluations()
    runs = [served.run(f"my-evals-r{index}") for index in (1, 2)]
    told = [*capsys.readouterr(), made.get_log_file_path().read_text(), made.get_runs_info().to_string()]
    assert not any(KEY in text for text in (*told, str(evaluations), str(runs), found.model_dump_json()))
    assert not any(KEY.encode() in path.read_bytes() for path in served.volume.rglob("*") if path.is_file())


def test_an_experiment_whose_keys_cannot_be_kept_is_taken_back(served: Workspace) -> None:
    core = client.CoreV1Api(served.api)
    account = {"metadata": {"name": "nobody"}}
    core.create_namespaced_service_account(served.namespace, account)
    rules = [
        {"apiGroups": ["rapidfire.ai"], "resources": ["experiments"], "verbs": ["get", "list", "create", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]
    rbac = client.RbacAuthorizationV1Api(served.api)
    rbac.create_namespaced_role(served.namespace, {"metadata": {"name": "nobody"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "nobody", "namespace": served.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "nobody"}
    binding = {"metadata": {"name": "nobody"}, "subjects": [subject], "roleRef": reference}
    rbac.create_namespaced_role_binding(served.namespace, binding)
    kubeconfig = _kubeconfig(served, token_of(served, "nobody"))
    made = Experiment("My Evals", "evals", namespace=served.namespace, kubeconfig=kubeconfig)
    with pytest.raises(ExperimentError, match="Secret my-evals-keys was refused: you may not create Secrets") as caught:
        made.run_evals(behind_an_api(), questions(), num_shards=2, num_actors=1)
    assert KEY not in str(caught.value)
    assert served.experiments() == []


def _kubeconfig(workspace: Workspace, token: str) -> Path:
    config = yaml.safe_load(workspace.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = Path("nobody.kubeconfig")
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_manifest_of_an_evaluation_says_how_to_make_its_secret(served: Workspace) -> None:
    made = experiment(served)
    manifest = made.to_yaml(behind_an_api(), questions(), num_shards=2, objective="maximize:Accuracy")
    assert f"create secret generic my-evals-keys --from-literal={VARIABLE}=KEY" in manifest
    assert KEY not in manifest
    spec = yaml.safe_load(manifest)["spec"]
    assert (spec["mode"], spec["shards"], spec["objective"]["metric"]) == ("evals", 2, "Accuracy")
    assert "chunks" not in spec
    body = {**yaml.safe_load(manifest)}
    applied = served.objects.create_namespaced_custom_object(
        "rapidfire.ai", "v1alpha1", served.namespace, "experiments", body
    )
    assert ExperimentResource.from_body(applied).spec.shards == 2
    with pytest.raises(TypeError, match="run_evals: dataset is given twice"):
        made.to_yaml(pipelines(), questions(), dataset=questions())
    with pytest.raises(TypeError, match="run_evals takes at most 8 arguments, not 9"):
        made.to_yaml(*range(9))
