"""The curves of all runs in one picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from tests.cli.builders import experiment, midway, run, series

from rapidfireai.errors import ExperimentError
from rapidfireai.show.curves import Figure, figure_of
from rapidfireai.show.draw import in_characters, save
from rapidfireai.volume import MetricLine


def figure(metric: str | None = None) -> Figure:
    overall, runs = midway()
    logged = MetricLine("log", 1, 6, 0.0, {"loss": 3.0, "epoch": 0.125})
    logs = {"sft-r1": [logged, *series(2.5, 1.9)], "sft-r2": series(2.4), "sft-r3": series(2.3, None, 1.7, 1.5)}
    return figure_of(overall, runs, logs, metric)


def test_what_ranks_the_runs_is_shown_by_default_best_first() -> None:
    seen = figure()
    assert seen.metric == "boundary/eval_loss"
    assert [curve.label for curve in seen.curves] == [
        "r3 r=24 learning_rate=0.0001",
        "r1 r=8 learning_rate=0.0001",
        "r2 r=16 learning_rate=0.001",
    ]
    # A value that was not finite leaves a gap, a run that logged nothing is left out.
    assert seen.curves[0].points == ((0.25, 2.3), (0.75, 1.7), (1.0, 1.5))


def test_the_trainers_own_series_can_be_named() -> None:
    assert figure("loss").curves[0].points == ((0.125, 3.0),)
    assert figure("eval_loss").metric == "boundary/eval_loss"


def test_steps_can_stand_below() -> None:
    overall, runs = midway()
    curves = figure_of(overall, runs, {"sft-r1": series(2.5, 1.9)}, x="step").curves
    assert curves[0].points == ((12.0, 2.5), (24.0, 1.9))


def test_lines_that_do_not_say_where_they_are_are_placed_by_their_step() -> None:
    lines = [MetricLine("log", 1, 24, 0.0, {"loss": 3.0})]
    curves = figure_of(experiment(), [run(1, 1e-4, "Running", 24)], {"sft-r1": lines}).curves
    assert curves[0].points == ((0.5, 3.0),)


def test_without_evaluations_the_loss_of_the_chunk_takes_their_place() -> None:
    overall, runs = midway()
    logs = {"sft-r1": series(2.5, name="chunk/loss")}
    assert figure_of(overall, runs, logs).metric == "chunk/loss"


def test_the_higher_run_leads_if_the_objective_is_to_be_maximized() -> None:
    overall = experiment(spec={"objective": {"metric": "eval_accuracy", "direction": "maximize"}})
    runs = [run(1, 1e-4, "Running", 24), run(2, 1e-3, "Running", 24)]
    logs = {f"sft-r{i}": series(float(i), name="boundary/eval_accuracy") for i in (1, 2)}
    assert [curve.run for curve in figure_of(overall, runs, logs).curves] == ["sft-r2", "sft-r1"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [("evalloss", "did you mean boundary/eval_loss?"), ("zzz", "there are boundary/eval_loss, loss")],
)
def test_a_metric_that_nobody_logged_gets_those_that_there_are(metric: str, words: str) -> None:
    with pytest.raises(ExperimentError, match=f"no run has logged the metric {metric}; ") as refusal:
        figure(metric)
    assert str(refusal.value).endswith(words)


def test_nothing_logged_yet_is_said() -> None:
    with pytest.raises(ExperimentError, match="no run has logged anything yet"):
        figure_of(*midway(), {"sft-r1": []})


def test_the_terminal_shows_every_run(snapshot: SnapshotAssertion) -> None:
    assert in_characters(figure(), 70, 18, colours=False) == snapshot


def test_a_file_is_written_in_the_format_of_its_name(tmp_path: Path) -> None:
    save(figure(), tmp_path / "new" / "curves.png")
    save(figure(), tmp_path / "curves.svg")
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "learning_rate" in (tmp_path / "curves.svg").read_text()


def test_a_name_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"--output .*curves\.txt: end its name in \."):
        save(figure(), tmp_path / "curves.txt")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExperimentError, match="cannot be written"):
        save(figure(), tmp_path / "file" / "curves.png")
