"""Our resources in the original system's words."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai.clone import cloned
from rapidfireai_gateway.dispatcher import rows

LEAF = {
    "trainer_type": "SFT",
    "model_name": "m",
    "peft_params": {"r": 8, "task_type": "CAUSAL_LM"},
    "model_kwargs": {"torch_dtype": "bfloat16"},
    "training_args": {"learning_rate": 0.001, "num_train_epochs": 2.0},
    "additional_kwargs": {"formatting_func": {"$ref": {"bundle": "0" * 64, "key": "f", "label": "to_chat"}}},
}
EXPERIMENT = {
    "metadata": {"name": "e", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"displayName": "My sweep", "chunks": 2, "configs": [{"trainer": "SFT", "config": {}}]},
}


def run(state: str = "Running", step: int = 8, requested_by: str = "", **more: Any) -> dict[str, Any]:
    spec = {"index": 3, "config": LEAF, **more}
    return {
        "metadata": {"name": "e-r3"},
        "spec": {**spec, **({"requestedBy": requested_by} if requested_by else {})},
        "status": {
            "state": state,
            "mlflowRunID": "abc",
            "prepared": {"totalSteps": 16, "boundaries": [4, 8, 12, 16]},
            "progress": {"step": step + 1, "checkpoint": {"step": step}},
            "conditions": [{"type": "Succeeded", "status": "False", "reason": "Out", "message": "no memory"}],
        },
    }


def test_a_run_shows_how_far_it_is() -> None:
    row = rows.run_row(run(), EXPERIMENT)
    assert (row["run_id"], row["status"], row["metric_run_id"]) == (3, "Ongoing", "abc")
    assert (row["completed_steps"], row["total_steps"]) == (9, 16)
    assert (row["num_epochs_completed"], row["num_chunks_visited"]) == (1, 2)
    assert (row["source"], row["ended_by"], row["error"]) == ("Initial", None, None)
    assert row["config"] == LEAF
    assert row["flattened_config"]["training_args.learning_rate"] == 0.001
    assert row["flattened_config"]["additional_kwargs.formatting_func"] == "to_chat"


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("Pending", "New"),
        ("Stopped", "Stopped"),
        ("Deleted", "Deleted"),
        ("Succeeded", "Completed"),
        ("Failed", "Failed"),
    ],
)
def test_states_have_their_old_names(state: str, word: str) -> None:
    assert rows.run_row(run(state), EXPERIMENT)["status"] == word


def test_a_run_that_nobody_has_looked_at_is_new() -> None:
    bare = {"metadata": {"name": "e-r1"}, "spec": {"index": 1, "config": {}}}
    row = rows.run_row(bare, EXPERIMENT)
    assert (row["status"], row["completed_steps"], row["total_steps"]) == ("New", 0, 0)


def test_who_ended_a_run_and_why_it_failed_is_said() -> None:
    assert rows.run_row(run("Stopped"), EXPERIMENT)["ended_by"] == "Interactive Control"
    assert rows.run_row(run("Succeeded"), EXPERIMENT)["ended_by"] == "Epoch Completed"
    assert rows.run_row(run("Failed"), EXPERIMENT)["error"] == "no memory"
    halved = rows.run_row(run("Stopped", requested_by="policy:successiveHalving"), EXPERIMENT)
    assert halved["ended_by"] == "Successive Halving Algorithm"
    assert rows.run_row(run(parentRef={"name": "e-r1"}), EXPERIMENT)["source"] == "Interactive Control"


def test_the_current_experiment_is_the_newest_that_can_go_on() -> None:
    def made(name: str, day: int, finished: bool) -> dict[str, Any]:
        conditions = [{"type": "Finished", "status": "True"}] if finished else []
        meta = {"name": name, "creationTimestamp": f"2026-01-{day:02}T00:00:00Z"}
        return {"metadata": meta, "spec": {}, "status": {"conditions": conditions}}

    old, middle, new = made("old", 1, False), made("middle", 2, False), made("new", 3, True)
    assert rows.current([middle, new, old]) is middle
    assert rows.current([new]) is new
    assert rows.current([]) is None


def test_a_whole_config_becomes_the_patch() -> None:
    changed = {**LEAF, "training_args": {"learning_rate": 0.002, "warmup_steps": 5}}
    patch = rows.clone_patch(LEAF, changed)
    made = cloned(LEAF, patch)
    assert made["training_args"] == {"learning_rate": 0.002, "warmup_steps": 5}
    assert made["additional_kwargs"] == LEAF["additional_kwargs"]
    assert rows.clone_patch(LEAF, LEAF) == rows.clone_patch(LEAF, {}) == {}


def test_what_old_clients_lose_on_the_way_is_inherited() -> None:
    lost = {
        "trainer_type": "SFT",
        "model_name": "m",
        "peft_params": {"r": 8},
        "model_kwargs": {"use_cache": False},
        "training_args": LEAF["training_args"],
    }
    made = cloned(LEAF, rows.clone_patch(LEAF, lost))
    assert made["peft_params"] == LEAF["peft_params"]
    assert made["model_kwargs"] == {"torch_dtype": "bfloat16", "use_cache": False}
    assert made["additional_kwargs"] == LEAF["additional_kwargs"]


def test_an_operation_is_pending_until_it_is_done_or_refused() -> None:
    def icop(**complete: str) -> dict[str, Any]:
        results = [{"run": "e-r3", "outcome": "Refused", "message": "it has failed"}]
        conditions = (
            [{"type": "Complete", "lastTransitionTime": "2026-01-02T00:00:00Z", **complete}] if complete else []
        )
        return {
            "metadata": {"name": "e-stop-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"op": "Stop", "runs": ["e-r3"], "requestedBy": "alice"},
            "status": {"conditions": conditions, "results": results, "summary": "1 stopped"},
        }

    assert rows.operation_row(icop())["status"] == "pending"
    assert rows.operation_row(icop(status="False", reason="Cloning"))["status"] == "processing"
    done = rows.operation_row(icop(status="True", reason="Applied"))
    assert (done["status"], done["pipeline_id"], done["operation"]) == ("completed", 3, "stop")
    refused = rows.operation_row(icop(status="True", reason="Refused"))
    assert (refused["status"], refused["error"]) == ("failed", "e-r3: it has failed")
    line = rows.operation_line(icop(status="True", reason="Refused"), "My sweep")
    assert " | My sweep | interactive-control | WARNING | " in line
    assert "by alice: e-r3: it has failed" in line
