"""Who steered what, where clones come from, and in what runs differ: as people read it."""

from __future__ import annotations

import json

from tests.cli.builders import NOW, clone, condition, experiment, icop, run

from rapidfireai.api import ICOp
from rapidfireai.progress.lines import lines_between
from rapidfireai.progress.picture import picture_of
from rapidfireai.show.differences import differences_table
from rapidfireai.show.lineage import lineage
from rapidfireai.show.operations import audit, icops_table, is_about
from rapidfireai.show.tables import runs_table


def test_clones_stand_below_their_parents_with_what_they_change() -> None:
    first, second = run(1, 1e-3, "Succeeded", 48), run(2, 1e-3, "Running", 12)
    third = clone(3, first, warm=True, learning_rate=1e-4)
    fourth = clone(4, third, state="Stopped", num_train_epochs=2)
    fifth = clone(5, first)
    assert lineage([first, second, third, fourth, fifth]) == [
        "sft-r1  Succeeded",
        "├─ sft-r3  Running  warm at step 12  training_args.learning_rate: 0.001 -> 0.0001",
        "│  └─ sft-r4  Stopped  cold  training_args.num_train_epochs: 1 -> 2",
        "└─ sft-r5  Running  cold",
    ]
    assert lineage([first, second]) == []


def test_a_clone_of_a_run_that_is_gone_is_drawn_all_the_same() -> None:
    lost = clone(3, run(1, 1e-3, "Failed"), learning_rate=1e-4)
    assert lineage([lost]) == ["sft-r1  gone", "└─ sft-r3  Running  cold"]


def test_operations_say_who_asked_for_what_and_what_became_of_it() -> None:
    stopped = icop("Stop", "sft-r1", "sft-r3", reason="worse than the median")
    assert list(audit([stopped], NOW)) == [
        "60m ago  Stop  sft-r1, sft-r3  by rapidfire-user  1 stopped, 1 refused",
        "  because worse than the median",
        "  sft-r3 was refused: it has ended",
    ]
    table = icops_table([stopped], NOW)
    assert table.rows[0][2:7] == ("Stop", "sft-r1, sft-r3", "Boundary", "rapidfire-user", "1 stopped, 1 refused")
    record = json.loads(json.dumps(table.records))[0]
    assert record["by"] == "system:serviceaccount:team-a:rapidfire-user"
    assert record["runs"] == ["sft-r1", "sft-r3"]


def test_an_operation_with_a_selector_is_about_the_runs_that_it_found() -> None:
    status = {
        "results": [{"run": "sft-r2", "outcome": "Applied", "created": "sft-r9"}],
        "conditions": [condition("Complete", "True", "Applied")],
        "summary": "1 cloned",
    }
    spec = {"experimentRef": "sft", "op": "CloneModify", "selector": {"states": ["Running"]}, "clone": {}}
    found = ICOp.from_body({"metadata": {"name": "op"}, "spec": spec, "status": status})
    assert [is_about(found, name) for name in ("sft-r2", "sft-r9", "sft-r1")] == [True, True, False]
    assert "all Running" in next(audit([found], NOW))
    queued = ICOp.from_body({"metadata": {"name": "op"}, "spec": {**spec, "selector": {}}})
    assert "all runs" in next(audit([queued], NOW))
    assert next(audit([queued], NOW)).endswith("queued")


def test_two_runs_are_compared_knob_by_knob() -> None:
    first = run(1, 1e-3, "Running")
    table = differences_table(first, clone(3, first, learning_rate=1e-4, seed=7))
    assert table.lines() == [
        "KNOB                         SFT-R1  SFT-R3",
        "training_args.learning_rate  0.001   0.0001",
        "training_args.seed                   7",
    ]
    assert json.loads(json.dumps(table.records))[1] == {
        "path": "training_args.seed",
        "before": None,
        "after": 7,
        "kind": "added",
    }


def test_tables_and_logs_say_where_a_clone_comes_from_and_who_stopped_a_run() -> None:
    overall, first = experiment(state="Running"), run(1, 1e-3, "Running", 12)
    second = clone(2, first, warm=True, learning_rate=1e-4)
    stopped = first.model_copy(deep=True)
    stopped.status.state, stopped.spec.requested_by = "Stopped", "policy:stopWhenWorse"
    before, now = picture_of(overall, [first]), picture_of(overall, [stopped, second])
    assert lines_between(before, now) == [
        "sft-r1  Stopped by policy:stopWhenWorse  chunk 1/4  step 12/48  loss 1.934  objective 1.951",
        "sft-r2  Running  warm clone of sft-r1 at step 12, learning_rate=0.0001",
    ]
    table = runs_table(overall, [stopped, second], NOW)
    assert table.rows[0][1] == "Stopped by policy:stopWhenWorse"
    assert (table.records[1]["parent"], table.records[1]["warmStart"]) == ("sft-r1", True)
