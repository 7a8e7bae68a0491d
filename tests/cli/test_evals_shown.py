"""What `get`, `describe`, `diff`, `plot` and the live view say of evaluations."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from syrupy.assertion import SnapshotAssertion
from tests.cli.builders import (
    NOW,
    evals_experiment,
    evals_midway,
    evals_run,
    shard_series,
)

from rapidfireai.api.run import Estimate
from rapidfireai.progress import picture_of
from rapidfireai.progress.estimates import in_words
from rapidfireai.progress.lines import lines_between
from rapidfireai.progress.views import html_of, table_of
from rapidfireai.show.curves import Figure, figure_of
from rapidfireai.show.describe import Surroundings, describe_experiment, describe_run
from rapidfireai.show.differences import differences_table
from rapidfireai.show.draw import in_characters, save
from rapidfireai.show.tables import experiments_table, runs_table

AROUND = Surroundings(now=NOW, volume="/rapidfire", kubectl="kubectl", options="")


def test_the_terminal_table(snapshot: SnapshotAssertion) -> None:
    file = io.StringIO()
    Console(file=file, width=180, color_system=None, force_terminal=True).print(table_of(picture_of(*evals_midway())))
    assert "\n".join(line.rstrip() for line in file.getvalue().splitlines()) == snapshot


def test_the_notebook_table() -> None:
    page = html_of(picture_of(*evals_midway()))
    assert "<th>rows/s</th><th>Length</th><th>Model Calls</th><th>NDCG@5</th>" in page
    assert "<td>52.3% [42.3%, 62.3%]</td>" in page
    assert '<progress max="4" value="2"></progress> 2/4' in page
    assert "<td>Running, index 340/1400 documents</td>" in page


def test_the_lines_of_a_log(snapshot: SnapshotAssertion) -> None:
    overall, runs = evals_midway()
    building, built = runs[2], evals_run(3, 10, "Running", 50, 0.4)
    further = building.model_copy(deep=True)
    assert further.status.progress is not None
    further.status.progress.metrics["Documents Indexed"] = 350  # the same tenth
    nearly = building.model_copy(deep=True)
    assert nearly.status.progress is not None
    nearly.status.progress.metrics["Documents Indexed"] = 1399
    pictures = [picture_of(overall, [each]) for each in (building, further, nearly, built)]
    assert [lines_between(*pair) for pair in zip([None, *pictures], pictures, strict=False)] == snapshot


@pytest.mark.parametrize("wide", [False, True])
def test_runs_stand_in_columns_with_their_estimates(wide: bool, snapshot: SnapshotAssertion) -> None:
    assert "\n".join(runs_table(*evals_midway(), NOW, wide=wide).lines()) == snapshot


def test_records_have_shards_rows_and_estimates() -> None:
    table = runs_table(*evals_midway(), NOW)
    first = json.loads(json.dumps(table.records))[0]
    assert (first["shardsDone"], first["shardsTotal"], first["rows"], first["totalRows"]) == (2, 4, 120, 200)
    assert first["failedRows"] == 3
    ndcg = {"value": 0.523, "lower": 0.423, "upper": 0.623, "level": 0.95, "method": "wilson"}
    assert first["estimates"]["NDCG@5"] == {**ndcg, "lower": pytest.approx(0.423), "upper": pytest.approx(0.623)}
    assert first["estimates"]["Model Calls"] == {"value": 2}
    assert not {"chunksDone", "loss", "warmStart"} & set(first)
    assert [each["index"] for each in table.records][2:4] == ["index 340/1400 documents", "waits for its index"]
    assert json.loads(json.dumps(experiments_table([evals_experiment()], NOW).records))[0]["mode"] == "evals"


def test_an_experiment_is_described_whole(snapshot: SnapshotAssertion) -> None:
    assert describe_experiment(*evals_midway(), AROUND) == snapshot


@pytest.mark.parametrize("index", [0, 2])
def test_a_run_is_described_whole(index: int, snapshot: SnapshotAssertion) -> None:
    overall, runs = evals_midway()
    assert describe_run(runs[index], overall, runs, AROUND) == snapshot


def test_the_knobs_of_two_runs_are_compared() -> None:
    _, runs = evals_midway()
    assert differences_table(runs[0], runs[1]).rows == (("vllm_config.rag.search_kwargs.k", "1", "5"),)


@pytest.mark.parametrize(
    ("name", "estimate", "words"),
    [
        ("Accuracy", {"value": 0.5, "lower": 0.25, "upper": 0.75}, "50.0% [25.0%, 75.0%]"),
        ("Accuracy", {"value": 70.0, "lower": 61.4, "upper": 78.53}, "70 [61.4, 78.53]"),
        ("F1", {"value": 0.51234}, "0.5123"),
        ("MRR", {"value": 1.0, "lower": 1.0, "upper": 1.0}, "100.0% [100.0%, 100.0%]"),
    ],
)
def test_an_estimate_is_read_with_its_interval(name: str, estimate: dict[str, float], words: str) -> None:
    assert in_words(name, Estimate(**estimate)) == words


def figure(metric: str | None = None) -> Figure:
    overall, runs = evals_midway()
    logs = {
        "rag-r1": shard_series((0.5, 0.3, 0.7), (0.523, 0.423, 0.623)),
        "rag-r2": shard_series((0.6, 0.4, 0.8), (0.7, 0.6, 0.8), (0.69, 0.65, 0.73)),
    }
    return figure_of(overall, runs, logs, metric)


def test_curves_have_bounds_and_the_best_comes_first() -> None:
    seen = figure()
    assert (seen.metric, seen.x) == ("NDCG@5", "share of the rows")
    assert [curve.run for curve in seen.curves] == ["rag-r2", "rag-r1"]
    assert seen.curves[1].points == ((0.25, 0.5), (0.5, 0.523))
    assert seen.curves[1].bounds == ((0.25, 0.3, 0.7), (0.5, 0.423, 0.623))


def test_without_an_objective_the_first_metric_of_the_user_is_shown() -> None:
    overall = evals_experiment()
    overall = overall.model_copy(
        update={"spec": overall.spec.model_copy(update={"objective": type(overall.spec.objective)()})}
    )
    seen = figure_of(overall, [evals_run(1, 1, "Running", 50)], {"rag-r1": shard_series((0.5, 0.3, 0.7))})
    assert seen.metric == "NDCG@5"
    throughput = figure("Throughput")
    assert throughput.curves[0].bounds == ()


def test_the_picture_shows_the_intervals(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert in_characters(figure(), 70, 18, colours=False) == snapshot
    save(figure(), tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count("FillBetweenPolyCollection") == 2
