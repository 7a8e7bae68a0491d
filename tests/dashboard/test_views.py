"""What the dashboard makes of resources, without a browser."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dashboard.builders import config, experiment, parent_ref, run

from rapidfireai.api import Experiment, ICOp, ICOpSpec, Run
from rapidfireai.clone import cloned, written
from rapidfireai_dashboard.charts import changed_series, series_of
from rapidfireai_dashboard.commands import spelled
from rapidfireai_dashboard.curves import (
    FEWEST_POINTS,
    MOST_LOGS,
    Choice,
    LogPoint,
    chunk_at,
    colour,
    curves_of,
    logs_wanted,
    smoothed,
    thinned,
)
from rapidfireai_dashboard.experiments import experiment_row, mlflow_link, notes
from rapidfireai_dashboard.form import addable, fields_of, patch_of
from rapidfireai_dashboard.icops import icop_row
from rapidfireai_dashboard.lanes import MOST_EXPERIMENTS, LaneBook, Lanes
from rapidfireai_dashboard.lineage import forest
from rapidfireai_dashboard.model import ExperimentModel
from rapidfireai_dashboard.runs import RunLine, best_of, differing, heads, line_of, row_of, transaction
from rapidfireai_gateway.config_schema import config_schema
from rapidfireai_gateway.feed import Change

PLACES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)
AT = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
RATE = "training_args.learning_rate"


def line(index: int, done: int = 3, **more: Any) -> RunLine:
    return line_of(Run.from_body(run(index, done, **more)))


def icop(**spec: Any) -> dict[str, Any]:
    return {"kind": "ICOp", "metadata": {"name": "op"}, "spec": {"experimentRef": "exp", **spec}}


class TestTable:
    def test_every_knob_that_differs_is_a_column_and_the_others_are_none(self) -> None:
        lines = [line(index) for index in (1, 2, 5)]
        assert differing(lines) == ("peft_config.r", RATE)
        assert heads(differing(lines)) == {"peft_config.r": "r", RATE: "learning_rate"}

    def test_a_knob_that_one_run_lacks_is_a_column(self) -> None:
        plain, other = run(1), run(1)
        other["spec"]["config"]["training_args"]["warmup_steps"] = 3
        lines = [line_of(Run.from_body(body)) for body in (plain, other)]
        assert differing(lines) == ("training_args.warmup_steps",)

    def test_columns_of_the_same_name_are_told_apart_by_their_paths(self) -> None:
        assert heads(("a.r", "b.r", "b.x")) == {"a.r": "a.r", "b.r": "b.r", "b.x": "x"}

    def test_a_row_says_what_was_asked_for_and_has_not_come_about(self) -> None:
        body = run(1)
        body["spec"] |= {"desiredState": "Stopped", "when": "Immediate"}
        row = row_of(line_of(Run.from_body(body)), (), "exp-r1", "#000")
        assert row["state"] == "Running, stops now"
        assert row["best"] is True

    def test_only_rows_that_changed_are_sent(self) -> None:
        shown = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
        change = transaction(shown, {"a": {"x": 1}, "b": {"x": 2}, "d": {"x": 1}})
        assert (change.add, change.update, change.remove) == (({"x": 1},), ({"x": 2},), ("c",))
        assert not transaction(shown, shown)

    def test_a_deleted_run_does_not_lead(self) -> None:
        lines = [line(1), line(2), line(3, state="Deleted")]
        leader = min(lines[:2], key=lambda each: each.objective or 0)
        assert best_of(lines, "minimize") == leader.name


class TestCurves:
    def test_the_objective_needs_no_log(self) -> None:
        (curve,) = curves_of([line(1)], {}, Choice(axis="chunk"), {})
        assert [x for x, _ in curve.points] == [1, 2, 3]

    def test_a_metric_is_read_from_the_log_at_its_steps_and_times(self) -> None:
        log = {"exp-r1": [LogPoint(3, 100.0, 2.0), LogPoint(9, 101.0, 1.5)]}
        (by_step,) = curves_of([line(1)], log, Choice(metric="loss"), {})
        (by_chunk,) = curves_of([line(1)], log, Choice(metric="loss", axis="chunk"), {})
        (by_time,) = curves_of([line(1)], log, Choice(metric="loss", axis="time"), {})
        assert by_step.points == ((3, 2.0), (9, 1.5))
        assert by_chunk.points == ((0.5, 2.0), (1.5, 1.5))
        assert by_time.points == ((100_000, 2.0), (101_000, 1.5))

    def test_a_step_beyond_the_last_boundary_is_placed_by_the_first_chunks_length(self) -> None:
        assert [chunk_at(step, [6, 12]) for step in (0, 3, 6, 9, 12, 15, 100)] == [0, 0.5, 1, 1.5, 2, 2.5, 3]

    def test_hidden_and_deleted_runs_have_no_curve_and_pinned_ones_are_on_top(self) -> None:
        lines = [line(1), line(2), line(3), line(4, state="Deleted")]
        choice = Choice(hidden=frozenset({"exp-r2"}), pinned=frozenset({"exp-r1"}))
        assert [curve.run for curve in curves_of(lines, {}, choice, {})] == ["exp-r3", "exp-r1"]

    def test_an_interval_is_an_area_round_its_curve(self) -> None:
        points = [{"chunk": 0, "step": 4, "value": 0.5, "lower": 0.25, "upper": 0.75}]
        lines = [line(1, objective=points), line(2)]
        curves = curves_of(lines, {}, Choice(axis="chunk"), {})
        assert curves[0].band == ((1, 0.25, 0.75),)
        series = series_of(curves)
        assert series["exp-r1:floor"]["data"] == [[1, 0.25]]
        assert series["exp-r1:band"]["data"] == [[1, 0.5]]
        assert series["exp-r1:band"]["stack"] == series["exp-r1:floor"]["stack"]
        assert "exp-r2:band" not in series
        assert row_of(lines[0], (), "", "#000")["interval"] == "[0.25, 0.75]"
        for choice in (Choice(smoothing=0.5), Choice(log=True), Choice(metric="loss")):
            assert not curves_of(lines, {"exp-r1": [LogPoint(4, 0, 1.0)]}, choice, {})[0].band

    def test_what_is_not_positive_is_left_out_of_a_logarithmic_axis(self) -> None:
        log = {"exp-r1": [LogPoint(1, 0, 0.0), LogPoint(2, 0, 1.0)]}
        (curve,) = curves_of([line(1)], log, Choice(metric="loss", log=True), {})
        assert curve.points == ((2, 1.0),)

    def test_a_run_keeps_its_colour_whatever_else_there_is(self) -> None:
        alone = curves_of([line(5)], {}, Choice(), {})[0]
        among = curves_of([line(index) for index in range(1, 30)], {}, Choice(), {})[4]
        assert alone.colour == among.colour == colour(5)
        assert len({colour(index) for index in range(1, 200)}) > 180

    @given(PLACES, st.integers(FEWEST_POINTS, 100))
    def test_thinning_keeps_the_ends_and_the_extremes(self, values: list[float], most: int) -> None:
        points = tuple((float(x), y) for x, y in enumerate(values))
        kept = thinned(points, most)
        assert len(kept) <= max(most, len(points) if len(points) <= most else most)
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert min(y for _, y in kept) == min(values) and max(y for _, y in kept) == max(values)
        assert list(kept) == sorted(kept, key=lambda point: point[0]) and set(kept) <= set(points)

    @given(PLACES, st.floats(0, 0.98))
    def test_smoothing_stays_between_the_values_and_begins_with_the_first(
        self, values: list[float], share: float
    ) -> None:
        made = smoothed(tuple(enumerate(values)), share)
        slack = 1e-6 * max(1.0, *(abs(value) for value in values))
        assert made[0][1] == pytest.approx(values[0])
        assert all(min(values) - slack <= y <= max(values) + slack for _, y in made)

    def test_only_series_that_changed_are_sent_and_a_hidden_one_loses_its_points(self) -> None:
        lines = [line(1), line(2)]
        shown = series_of(curves_of(lines, {}, Choice(), {}))
        grown = series_of(curves_of([line(1, 4), line(2)], {}, Choice(), {}))
        hidden = series_of(curves_of(lines, {}, Choice(hidden=frozenset({"exp-r2"})), {}))
        assert [each["id"] for each in changed_series(shown, grown)] == ["exp-r1"]
        assert changed_series(shown, hidden) == [{"id": "exp-r2", "data": []}]

    def test_logs_of_many_runs_are_read_for_the_pinned_and_the_best(self) -> None:
        lines = [line(index) for index in range(1, MOST_LOGS + 20)]
        wanted = logs_wanted(lines, Choice(pinned=frozenset({lines[-1].name})), [lines[70].name])
        assert len(wanted) == MOST_LOGS
        assert [each.name for each in wanted[:2]] == [lines[-1].name, lines[70].name]


class TestLanes:
    def test_a_bar_ends_when_the_next_assignment_is_seen(self) -> None:
        lanes = Lanes(since=10.0)
        lanes.see([line(1, 2, worker=0, at=5.0)], 11.0)
        lanes.see([line(1, 3, worker=1, at=20.0)], 20.5)
        lanes.see([line(1, 4)], 30.0)
        assert [(bar.worker, bar.chunk, bar.begin, bar.end) for bar in lanes.bars()] == [
            ("exp-w-0", 2, 5.0, 20.5),
            ("exp-w-1", 3, 20.0, 30.0),
        ]

    def test_what_a_deleted_run_was_at_is_over(self) -> None:
        lanes = Lanes(since=0.0)
        lanes.see([line(1, worker=0, at=1.0)], 1.0)
        lanes.forget("exp-r1", 2.0)
        assert [bar.end for bar in lanes.bars()] == [2.0]

    def test_all_pages_share_what_was_seen_and_the_oldest_experiments_are_forgotten(self) -> None:
        book = LaneBook()
        first = book.of("a", 1.0)
        assert book.of("a", 2.0) is first
        for number in range(MOST_EXPERIMENTS):
            book.of(str(number), 3.0)
        assert book.of("a", 4.0) is not first


class TestLineage:
    def test_a_clone_of_a_clone_is_below_it_and_says_what_changed(self) -> None:
        one = run(1)
        two = run(2, parent=parent_ref(one, warm=True))
        three = run(3, parent=parent_ref(two))
        lines = [line_of(Run.from_body(body)) for body in (one, two, three, run(4))]
        (root,) = forest(lines)
        assert (root.run, root.clones[0].run, root.clones[0].clones[0].run) == ("exp-r1", "exp-r2", "exp-r3")
        assert "warm, training_args.learning_rate: 0.0003 -> 0.001" in root.clones[0].words()

    def test_a_parent_whose_object_is_gone_still_has_its_place(self) -> None:
        (root,) = forest([line_of(Run.from_body(run(2, parent=parent_ref(run(1)))))])
        assert root.gone and root.clones[0].run == "exp-r2"


class TestForm:
    SCHEMA = config_schema("SFT")

    def test_it_has_the_parents_values_and_no_functions(self) -> None:
        parent = config(1)
        parent["additional_kwargs"] = {"formatting_func": {"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}}}
        fields = {field.path: field for field in fields_of(self.SCHEMA, written(parent))}
        assert fields[RATE].kind == "number" and fields[RATE].value == 3e-4
        assert fields["training_args.lr_scheduler_type"].kind == "choice"
        assert "cosine" in fields["training_args.lr_scheduler_type"].choices
        assert fields["peft_config.r"].kind == "integer"
        assert fields["peft_config.target_modules"].shown() == '["q_proj", "v_proj"]'
        assert not any("formatting_func" in path for path in fields)

    def test_other_knobs_of_the_schema_can_be_added(self) -> None:
        more = addable(self.SCHEMA, written(config(1)))
        assert RATE not in more and not any("formatting_func" in path for path in more)
        assert more["training_args.warmup_steps"].kind == "number"
        assert more["training_args.gradient_checkpointing"].kind == "boolean"

    def test_only_what_was_changed_is_in_the_patch_and_makes_the_clone_that_was_meant(self) -> None:
        fields = {field.path: field for field in fields_of(self.SCHEMA, written(config(1)))}
        typed = {RATE: "2e-4", "peft_config.r": "4", "peft_config.target_modules": '["q_proj"]'}
        patch = patch_of(fields, typed)
        assert patch == {RATE: 2e-4, "peft_config.target_modules": ["q_proj"]}
        assert cloned(config(1), patch)["training_args"]["learning_rate"] == 2e-4

    def test_an_emptied_field_takes_the_knob_away(self) -> None:
        fields = {field.path: field for field in fields_of(self.SCHEMA, written(config(1)))}
        patch = patch_of(fields, {"training_args.num_train_epochs": ""})
        assert patch == {"training_args.num_train_epochs": None}
        assert "num_train_epochs" not in cloned(config(1), patch)["training_args"]

    @pytest.mark.parametrize(
        ("path", "typed", "said"),
        [
            (RATE, "fast", "training_args.learning_rate: write a number, such as 3e-4, not 'fast'"),
            ("peft_config.r", "8.5", "peft_config.r: write a whole number"),
            ("peft_config.target_modules", '["q_proj"', "peft_config.target_modules: write JSON"),
        ],
    )
    def test_what_is_no_value_is_refused_with_the_fix(self, path: str, typed: str, said: str) -> None:
        fields = {field.path: field for field in fields_of(self.SCHEMA, written(config(1)))}
        with pytest.raises(ValueError, match=said.replace("[", r"\[")):
            patch_of(fields, {path: typed})


class TestWords:
    def test_an_operation_is_spelled_for_kubectl_and_for_python(self) -> None:
        spec = ICOpSpec(experiment_ref="exp", op="Stop", runs=["exp-r1", "exp-r3"], when="Immediate")
        spelling = spelled("lab", "exp", "my exp", spec, [1, 3])
        assert '"op": "Stop"' in spelling.kubectl and '"namespace": "lab"' in spelling.kubectl
        assert spelling.python.endswith(
            "experiment = Experiment.attach('my exp', namespace='lab')\nexperiment.stop([1, 3], when=\"immediate\")"
        )

    def test_a_clone_is_spelled_with_its_patch(self) -> None:
        wire = icop(op="CloneModify", runs=["exp-r1"], clone={"patch": {RATE: 2e-4}, "warmStart": True})
        spelling = spelled("lab", "exp", "", ICOp.from_body(wire).spec, [1])
        assert spelling.python.endswith(f"experiment.clone(1, {{{RATE!r}: 0.0002}}, warm_start=True)")

    def test_the_history_says_who_asked_for_what_and_why_it_was_refused(self) -> None:
        body = icop(op="Stop", runs=["exp-r1", "exp-r2"], requestedBy="ann", reason="too slow")
        assert icop_row(ICOp.from_body(body))["state"] == "pending"
        condition = {
            "type": "Complete",
            "status": "True",
            "reason": "Done",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        body["status"] = {
            "results": [
                {"run": "exp-r1", "outcome": "Applied"},
                {"run": "exp-r2", "outcome": "Refused", "message": "it has succeeded already"},
            ],
            "conditions": [condition],
        }
        row = icop_row(ICOp.from_body(body))
        assert (row["by"], row["runs"], row["why"]) == ("ann", "r1, r2", "too slow")
        assert row["result"] == "Stop is accepted: r1. Stop of r2 was refused: it has succeeded already"

    def test_an_experiment_is_a_row_with_a_link_that_holds(self) -> None:
        body = experiment("exp")
        body["metadata"] |= {"namespace": "lab", "creationTimestamp": "2026-01-01T00:00:00Z"}
        row = experiment_row(Experiment.from_body(body), datetime(2026, 1, 1, 3, tzinfo=UTC))
        assert (row["link"], row["age"], row["state"]) == ("/experiments/lab/exp", "3h", "Running")

    def test_mlflow_is_linked_once_it_knows_the_run(self) -> None:
        known = Experiment.from_body(experiment("exp"))
        assert mlflow_link("http://h:1/", known, "abc") == "http://h:1/#/experiments/7/runs/abc"
        assert mlflow_link("", known, "abc") == mlflow_link("http://h:1", known, "") == ""

    def test_what_keeps_an_experiment_from_going_on_is_said(self) -> None:
        waiting = {"type": "WorkersReady", "status": "False", "reason": "X", "message": "no node has a GPU", **AT}
        body = experiment("exp", conditions=[waiting])
        assert notes(Experiment.from_body(body)) == ("no node has a GPU",)


class TestModel:
    def test_it_follows_a_feed_and_recovers_from_trouble(self) -> None:
        model = ExperimentModel(LaneBook())
        whole = {"experiment": experiment("exp"), "runs": [run(1), run(2)], "icops": []}
        model.take(Change("snapshot", whole), now=1.0)
        model.take(Change("run", run(3)))
        model.take(Change("gone", run(2)))
        assert sorted(model.runs) == ["exp-r1", "exp-r3"]
        model.take(Change("error", {"detail": "the API server does not answer", "status": 503, "final": False}))
        assert (model.trouble, model.ended) == ("the API server does not answer", False)
        model.take(Change("snapshot", whole), now=2.0)
        assert (model.trouble, sorted(model.runs)) == ("", ["exp-r1", "exp-r2"])

    def test_an_object_that_cannot_be_read_is_left_out_and_hurts_nobody(self) -> None:
        model = ExperimentModel(LaneBook())
        broken = run(2)
        del broken["spec"]["index"]
        model.take(
            Change("snapshot", {"experiment": experiment("exp"), "runs": [run(1), broken], "icops": []}), now=1.0
        )
        assert list(model.runs) == ["exp-r1"]
