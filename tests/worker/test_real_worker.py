"""Worker processes that train, on a real API server: a reclaimed node, a hang, a secret in a user's error."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fit.reference import digest
from tests.support.lab import Lab, chat_rows, write_rows
from tests.support.tiny import write_tiny_model

from rapidfireai.bundle import make_bundle
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.layout import Volume

if TYPE_CHECKING:
    from conftest import Process, Workspace

pytestmark = [pytest.mark.integration, pytest.mark.ml]
STEPS, BATCH = 250, 4


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def config(model: Path, **more: Any) -> dict[str, Any]:
    arguments = {"learning_rate": 1e-2, "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "logging_steps": 1}
    adapter = {"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
    return {
        "trainer_type": "SFT",
        "model_name": str(model),
        "peft_params": adapter,
        "training_args": arguments,
        **more,
    }


def start(workspace: Workspace, **environment: str) -> Process:
    claims = json.dumps({"data": str(workspace.directory)})
    return workspace.real_worker(RAPIDFIRE_CLAIMS=claims, HF_HUB_OFFLINE="1", **environment)


def describe_anew(workspace: Workspace, **functions: Any) -> dict[str, Any]:
    """Replace the experiment by one of a single chunk with these functions; return the references to them."""
    write_rows(workspace.directory / "train.jsonl", chat_rows(STEPS * BATCH))
    spec = {**workspace.experiment["spec"], "chunks": 1}
    if functions:
        bundle = make_bundle(functions)
        path = Volume(workspace.volume).bundle(bundle.digest)
        path.parent.mkdir(parents=True)
        path.write_bytes(bundle.data)
        spec["code"] = {"bundle": bundle.digest, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    assert workspace.admin.delete(workspace.path("experiments", "e")).is_success
    workspace.wait("deletion", lambda: workspace.admin.get(workspace.path("experiments", "e")).status_code == 404)
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "metadata": {"name": "e"}, "spec": spec}
    workspace.experiment = workspace.post(workspace.path("experiments"), body)
    return {key: {"$ref": {"bundle": bundle.digest, "key": key, "label": key}} for key in functions}


def blocks(row: dict[str, Any]) -> dict[str, Any]:
    threading.Event().wait()
    return row


def quotes_a_token(row: dict[str, Any]) -> dict[str, Any]:
    raise PermissionError(f"401 for {os.environ['HF_TOKEN']}")


def test_a_reclaimed_node_costs_at_most_the_step_under_way_and_changes_nothing(
    workspace: Workspace, tiny_model: Path
) -> None:
    describe_anew(workspace)
    run = workspace.create_run(**config(tiny_model))
    reclaimed = start(workspace)
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait(
        "steps", lambda: workspace.log_path(run).exists() and len(workspace.metrics_log(run)) >= 5, seconds=120
    )
    assert reclaimed.terminate() == 0, reclaimed.words[-3000:]
    commit = workspace.progress(run)
    assert (commit["final"], commit["attempt"]) == (True, attempt)
    reached = commit["checkpoint"]["step"]
    assert 5 <= reached < STEPS
    assert workspace.metrics_log(run)[-1]["step"] == reached

    start(workspace, POD_NAME="e-w-0-aaaaa")
    done = workspace.committed(run, workspace.assign(run, workspace.holder()), seconds=120)
    assert done["checkpoint"]["step"] == STEPS
    logged = [line["sequence"] for line in workspace.metrics_log(run) if line["kind"] == "log"]
    assert logged == list(range(len(logged)))

    lab = Lab(workspace.directory, chunks=1, evals=False)
    lab.finish(FitEngine(lab.volume, lab.claims, threads=1), "plain", config(tiny_model))
    assert digest(workspace.volume / done["checkpoint"]["path"] / "model") == digest(lab.model("plain"))


def test_a_run_that_is_stopped_at_once_commits_its_step_and_a_clone_goes_on_from_there(
    workspace: Workspace, tiny_model: Path
) -> None:
    describe_anew(workspace)
    run = workspace.create_run(**config(tiny_model))
    start(workspace)
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait(
        "steps", lambda: workspace.log_path(run).exists() and len(workspace.metrics_log(run)) >= 5, seconds=120
    )
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    stopped = workspace.committed(run, attempt)["checkpoint"]
    assert 5 <= stopped["step"] < STEPS
    assert workspace.metrics_log(run)[-1]["step"] == stopped["step"]
    workspace.write(run, {"state": "Stopped", "assignment": None, "pinned": [stopped]})
    uid = workspace.run(run)["metadata"]["uid"]
    parent = {"name": run, "uid": uid, "index": 1, "warmStart": True, "checkpoint": stopped}

    given = config(tiny_model)
    wider = {**given, "peft_params": {**given["peft_params"], "r": 8}}
    shapes = workspace.create_clone(parent, **wider)
    error = workspace.committed(shapes, workspace.assign(shapes, workspace.holder(), chunk=-1), seconds=60)["error"]
    assert (error["reason"], error["retry"]) == ("ShapesDiffer", False)
    assert error["message"].startswith("peft_config.r: ")
    short = {**given, "training_args": {**given["training_args"], "max_steps": 3}}
    clone = workspace.create_clone(parent, **short)
    made = workspace.committed(clone, workspace.assign(clone, workspace.holder()), seconds=60)["checkpoint"]
    manifest = json.loads((workspace.volume / made["path"] / "manifest.json").read_text())
    assert manifest["position"] == {"row": (stopped["step"] + 3) * BATCH, "epoch": STEPS * BATCH}
    record = json.loads((workspace.log_path(clone).parents[1] / "run.json").read_text())
    assert record["parentRef"] == parent


def test_a_chunk_that_hangs_ends_its_worker_with_all_stacks_in_the_log(workspace: Workspace, tiny_model: Path) -> None:
    functions = describe_anew(workspace, formatting_func=blocks)
    run = workspace.create_run(**config(tiny_model, additional_kwargs=functions))
    worker = start(workspace, RAPIDFIRE_HANG_SECONDS="8")
    workspace.assign(run, workspace.holder())
    assert worker.end(120) == 124, worker.words[-3000:]
    assert '"event": "hung: nothing came of the chunk for too long' in worker.words
    assert " in blocks" in worker.words
    assert not workspace.progress(run)["final"]


def test_a_token_in_a_users_error_reaches_neither_the_resource_nor_the_log(
    workspace: Workspace, tiny_model: Path
) -> None:
    functions = describe_anew(workspace, formatting_func=quotes_a_token)
    run = workspace.create_run(**config(tiny_model, additional_kwargs=functions))
    worker = start(workspace, HF_TOKEN="a-token-of-a-hub")
    error = workspace.committed(run, workspace.assign(run, workspace.holder()), seconds=120)["error"]
    assert error["reason"] == "UserCodeError"
    assert "401 for [HF_TOKEN]" in error["message"]
    assert "a-token-of-a-hub" not in worker.words
    assert "401 for [HF_TOKEN]" in worker.words
