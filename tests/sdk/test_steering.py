"""Stopping, resuming, cloning and deleting runs from Python, on a real API server; the operator's part is acted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rapidfireai import Experiment
from rapidfireai.api import GROUP, VERSION
from rapidfireai.automl import RFLoraConfig, RFModelConfig, RFSFTConfig
from rapidfireai.clone.wire import patch_to_wire
from rapidfireai.connection import Connection
from rapidfireai.errors import ConfigError, ExperimentError
from rapidfireai.records import RunEndedBy, RunSource, RunStatus
from rapidfireai.steering import Steering, names_of, when_of

from .acting import Act
from .conftest import Workspace

integration = pytest.mark.integration


def shout(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": str(row).upper()}


@pytest.fixture
def sweep(served: Workspace) -> Experiment:
    """Attach to an experiment of two runs; each has committed its first chunk."""
    made = served.create_experiment("sweep", learning_rate={"$list": [0.5, 0.25]})
    for run in served.create_runs(made):
        served.commit(made, run, 0)
    served.judge("sweep", "Running")
    return Experiment.attach("sweep", namespace=served.namespace, kubeconfig=served.kubeconfig)


def answering(workspace: Workspace, seen: list[Any], **refused: str) -> Callable[[], None]:
    """Return the part of an operator that carries out one operation."""

    def part() -> None:
        icop = workspace.next_icop()
        seen.append(icop["spec"])
        reasons = {f"sweep-{run}": why for run, why in refused.items()}
        workspace.complete(icop, reasons)

    return part


@integration
def test_each_operation_is_recorded_and_said(
    served: Workspace, sweep: Experiment, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    r1, r2 = "sweep-r1", "sweep-r2"
    cases: list[tuple[Callable[[], None], str, list[str], str, str]] = [
        (lambda: sweep.stop(1), "Stop", [r1], "Boundary", "sweep-r1 stops at the next chunk boundary."),
        (
            lambda: sweep.stop(["2", r1], when="immediate"),
            "Stop",
            [r2, r1],
            "Immediate",
            "sweep-r2, sweep-r1 stop after the current step.",
        ),
        (lambda: sweep.resume(np.int64(2)), "Resume", [r2], "Boundary", "sweep-r2 goes on."),
        (
            lambda: sweep.delete(r2),
            "Delete",
            [r2],
            "Boundary",
            "sweep-r2 is deleted; its checkpoints stay.",
        ),
    ]
    for ask, op, runs, when, said in cases:
        seen: list[Any] = []
        act(answering(served, seen))
        ask()
        assert [seen[0][key] for key in ("experimentRef", "op", "runs", "when")] == ["sweep", op, runs, when]
        assert capsys.readouterr().out == f"{said}\n"


@integration
def test_a_refusal_is_an_error_that_says_what_was_done_all_the_same(
    served: Workspace, sweep: Experiment, act: Act
) -> None:
    act(answering(served, [], r2="it has reached its last step; clone it"))
    with pytest.raises(ExperimentError) as caught:
        sweep.stop([1, 2])
    assert str(caught.value) == "sweep-r2 was not stopped: it has reached its last step; clone it; sweep-r1 was stopped"


@integration
def test_without_an_operator_the_operation_stays_queued_and_it_is_said(served: Workspace, sweep: Experiment) -> None:
    steering = Steering(Connection(served.namespace, served.kubeconfig), sweep.name, print, seconds=0.1)
    with pytest.raises(
        ExperimentError, match=r"(?s)sweep-stop-\w+ is queued: the operator has not .*delete icop sweep"
    ):
        steering.ask("Stop", ["sweep-r1"])
    listed = served.objects.list_namespaced_custom_object(GROUP, VERSION, served.namespace, "icops")["items"]
    assert [each["spec"]["runs"] for each in listed] == [["sweep-r1"]]


@integration
def test_a_clone_with_functions_brings_them_along_and_shows_where_it_comes_from(
    served: Workspace, sweep: Experiment, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    def part() -> None:
        icop = served.next_icop()
        served.create_clone(icop, "sweep-r1", "sweep-r3")
        served.complete(icop, r1="sweep-r3")

    act(part)
    patch = {"training_args": {"learning_rate": 1}, "peft_config": RFLoraConfig(r=4), "formatting_func": shout}
    assert sweep.clone(1, patch) == 3
    said = capsys.readouterr().out
    assert "sweep-r3 is a clone of sweep-r1: formatting_func: - -> shout; peft_config: - -> r=4" in said
    assert "training_args.learning_rate: 0.5 -> 1" in said
    leaf = served.run("sweep-r3")["spec"]["config"]
    digest = leaf["additional_kwargs"]["formatting_func"]["$ref"]["bundle"]
    assert list(served.volume.rglob(f"{digest}*"))
    row = sweep.get_runs_info().set_index("run_id").loc[3]
    assert (row["source"], row["cloned_from"]) == (RunSource.INTERACTIVE_CONTROL, 1)
    assert row["warm_started_from"] is None or np.isnan(row["warm_started_from"])


@integration
def test_a_warm_clone_says_at_which_step_it_begins(
    served: Workspace, sweep: Experiment, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    def part() -> None:
        icop = served.next_icop()
        served.create_clone(icop, "sweep-r1", "sweep-r3")
        served.complete(icop, r1="sweep-r3")

    act(part)
    assert sweep.clone([1], {"training_args.learning_rate": 1e-4}, warm_start=True) == [3]
    expected = "sweep-r3 is a clone of sweep-r1, and begins with its weights at step 2: "
    assert expected + "training_args.learning_rate: 0.5 -> 0.0001" in capsys.readouterr().out
    row = sweep.get_runs_info().set_index("run_id").loc[3]
    assert (row["warm_started_from"], row["cloned_from"], row["chunk_offset"]) == (1, 1, 1)


@integration
def test_what_cannot_be_cloned_is_said_before_anything_is_sent(served: Workspace, sweep: Experiment) -> None:
    with pytest.raises(ConfigError, match=r"^training_args.learning_rte: unknown .* did you mean learning_rate\?"):
        sweep.clone(1, {"training_args": {"learning_rte": 1}, "formatting_func": shout})
    with pytest.raises(ExperimentError, match=r"sweep-r1 cannot be cloned warm: peft_config: .*clone it cold"):
        sweep.clone(1, {"peft_config": {"r": 4}}, warm_start=True)
    with pytest.raises(ExperimentError, match="there is no run sweep-r9"):
        sweep.clone(9)
    assert served.objects.list_namespaced_custom_object(GROUP, VERSION, served.namespace, "icops")["items"] == []
    assert not (served.volume / "bundles").exists() or not list((served.volume / "bundles").iterdir())


@integration
def test_what_a_deleted_run_has_logged_vanishes_and_the_run_is_shown_as_deleted(
    served: Workspace, sweep: Experiment
) -> None:
    assert set(sweep.get_results()["run_id"]) == {1, 2}
    patch = {"spec": {"desiredState": "Deleted"}}
    served.objects.patch_namespaced_custom_object(GROUP, VERSION, served.namespace, "runs", "sweep-r2", patch)
    served.end_run("sweep-r2", "Deleted")
    assert set(sweep.get_results()["run_id"]) == {1}
    row = sweep.get_runs_info().set_index("run_id").loc[2]
    assert (row["status"], row["ended_by"]) == (RunStatus.DELETED, RunEndedBy.INTERACTIVE_CONTROL)
    assert row["config"]["training_args"]["learning_rate"] == 0.25


def test_runs_go_by_numbers_and_names_and_each_counts_once() -> None:
    assert names_of("sweep", 3) == ["sweep-r3"]
    assert names_of("sweep", (1, "1", "sweep-r2", "2")) == ["sweep-r1", "sweep-r2"]
    for wrong in ([], [True], [None], [1.5], [""]):
        with pytest.raises(TypeError, match="number or its name"):
            names_of("sweep", wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'boundary' or 'immediate', not 'now'"):
        when_of("now")


def test_none_takes_away_in_a_mapping_and_is_a_value_in_a_config_object() -> None:
    objects: dict[str, object] = {}

    def lift(value: object, path: str) -> dict[str, Any]:
        objects[path] = value
        return {"$ref": path}

    wire = patch_to_wire(
        {
            "training_args": RFSFTConfig(max_length=None, learning_rate=1e-4),
            "model_kwargs": {"torch_dtype": None},
            "formatting_func": shout,
        },
        lift,
    )
    assert wire == {
        "training_args": {"max_length": {"$none": True}, "learning_rate": 1e-4},
        "model_kwargs": {"torch_dtype": None},
        "formatting_func": {"$ref": "formatting_func"},
    }
    assert objects == {"formatting_func": shout}
    assert patch_to_wire(RFModelConfig("m", compute_metrics=shout), lift)["model_name"] == "m"
    assert json.dumps(patch_to_wire(None, lift)) == "{}"
    with pytest.raises(ConfigError, match=r"^formatting_func: must be a function"):
        patch_to_wire({"formatting_func": object()}, lift)
    with pytest.raises(ConfigError, match=r"^patch: must be a mapping"):
        patch_to_wire([1], lift)
