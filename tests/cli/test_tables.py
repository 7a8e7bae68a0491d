"""What `get` and `describe` say, for every state that a run can be in."""

from __future__ import annotations

import dataclasses
import json

import pytest
from syrupy.assertion import SnapshotAssertion
from tests.cli.builders import NOW, condition, event, experiment, icop, midway, pod, run

from rapidfireai.show.describe import Surroundings, describe_experiment, describe_run
from rapidfireai.show.lookup import few, unknown
from rapidfireai.show.tables import aligned, experiments_table, only, runs_table

AROUND = Surroundings(
    now=NOW,
    events=[event("ChunkCommitted", "chunk 2 of 4 is committed", count=2)],
    icops=[icop("Stop", "sft-r1", "sft-r3")],
    pods=[pod("sft-w-0-abcde", "Running", restarts=1), pod("sft-w-1-fghij", "Pending")],
    volume="/rapidfire",
    mlflow_url="http://127.0.0.1:8852",
    kubectl="kubectl --namespace team-a",
    options=" -n team-a",
)


def test_experiments_stand_in_columns(snapshot: SnapshotAssertion) -> None:
    assert "\n".join(experiments_table([midway()[0], experiment("dpo")], NOW).lines()) == snapshot


@pytest.mark.parametrize("wide", [False, True])
def test_runs_stand_in_columns_with_the_knobs_in_which_they_differ(wide: bool, snapshot: SnapshotAssertion) -> None:
    assert "\n".join(runs_table(*midway(), NOW, wide=wide).lines()) == snapshot


def test_records_are_plain_data_with_numbers_as_numbers() -> None:
    table = runs_table(*midway(), NOW)
    first = json.loads(json.dumps(table.records))[0]
    assert (first["name"], first["chunksDone"], first["chunksTotal"], first["step"]) == ("sft-r1", 2, 4, 30)
    assert [record["state"] for record in table.records] == ["Running", "Failed", "Succeeded", "Pending"]
    assert json.loads(json.dumps(experiments_table([midway()[0]], NOW).records))[0]["runs"] == 4


def test_one_run_keeps_the_knobs_that_tell_it_from_the_others() -> None:
    table = only(runs_table(*midway(), NOW), "sft-r2")
    assert [row[0] for row in table.rows] == ["sft-r2"]
    assert table.records[0]["knobs"] == "r=16 learning_rate=0.001"


def test_an_experiment_is_described_whole(snapshot: SnapshotAssertion) -> None:
    assert describe_experiment(*midway(), AROUND) == snapshot


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_run_is_described_whole(index: int, snapshot: SnapshotAssertion) -> None:
    overall, runs = midway()
    assert describe_run(runs[index], overall, runs, AROUND) == snapshot


def test_logs_are_not_offered_once_the_workers_have_left() -> None:
    overall, runs = midway()
    text = describe_run(runs[1], overall, runs, dataclasses.replace(AROUND, pods=()))
    assert "what its worker wrote" not in text
    assert "stop it" not in text


def test_a_traceback_keeps_its_lines() -> None:
    overall, _ = midway()
    why = 'it raised\n  File "train.ipynb", line 3, in formatting\n    return row["text"]\nKeyError: \'text\''
    failed = run(2, 1e-3, "Failed", 12, conditions=[condition("Succeeded", "False", "UserCodeError", why)])
    text = describe_run(failed, overall, [failed], AROUND)
    assert '\n    File "train.ipynb", line 3, in formatting\n      return row["text"]\n  KeyError: ' in text


def test_a_refused_experiment_says_why_and_what_to_do() -> None:
    refused = experiment(
        state="Refused", conditions=[condition("Accepted", "False", "InvalidConfig", "learning_rte: unknown field")]
    )
    text = describe_experiment(refused, [], AROUND)
    assert "learning_rte: unknown field" in text
    assert "kubectl --namespace team-a delete rfexp sft" in text


def test_what_a_parked_experiment_waits_for_is_said() -> None:
    parked = experiment(spec={"workers": {"replicas": 0}}, state="Running")
    assert "scale rfexp sft --replicas=1" in describe_experiment(parked, [], AROUND)


def test_names_that_are_near_are_offered() -> None:
    assert unknown("sft-smol", ["sft-smollm2", "dpo"], "team-a").endswith("; did you mean sft-smollm2?")
    assert unknown("x", ["sft", "dpo"], "team-a").endswith("; there are sft, dpo")
    assert unknown("x", [], "team-a").endswith("it has none; name another namespace")
    assert few(f"r{i}" for i in range(8)) == "r0, r1, r2, r3, r4 and 3 more"


def test_lines_have_no_blanks_at_their_ends() -> None:
    assert aligned([["A", "B"], ["long", ""]]) == ["A     B", "long"]
