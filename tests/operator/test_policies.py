"""Policies: who stops, whatever the order in which commits arrive."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.operator.races import CHUNKS, Story

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.policies import Policy, PolicyRecord, seconds
from rapidfireai_operator.core.race import Asked, Decision, Mark, Racer, Stop, decide

HALVING = Policy.model_validate({"successiveHalving": {"eta": 3, "minChunks": 1}})
BEATEN = Policy.model_validate({"stopWhenBeaten": {"minChunks": 2}})
MEDIAN = Policy.model_validate({"stopWhenWorse": {"minChunks": 2, "minRuns": 3}})


def raced(index: int, *values: float, **more: Any) -> Racer:
    """Return a run with one value a chunk."""
    curve = dict(enumerate(values, 1))
    what = {"metric": "eval_loss" if values else None, "done": len(values), "total": CHUNKS, **more}
    return Racer(f"r{index}", index, curve, **what)


def judged(
    *racers: Racer, policies: Sequence[Policy] = (HALVING,), asked: Iterable[Asked] = (), records: Any = ()
) -> Decision:
    return decide(policies, "minimize", racers, asked, records)


def names(stops: Iterable[Stop]) -> list[str]:
    return [stop.run for stop in stops]


values = st.one_of(st.none(), st.integers(0, 9).map(float))
curves = st.lists(st.lists(values, min_size=1, max_size=CHUNKS), min_size=1, max_size=9)
whole = st.lists(st.lists(values, min_size=CHUNKS, max_size=CHUNKS), min_size=1, max_size=12)
some_policies = st.sampled_from(
    [[HALVING], [MEDIAN], [BEATEN], [HALVING, MEDIAN], [MEDIAN, HALVING], [BEATEN, MEDIAN], [HALVING, BEATEN]]
)


def told(story: Story) -> set[tuple[str, Mark]]:
    """Return who was stopped; in its last chunk a run may end before it is."""
    return {(run, mark) for run, marks in story.stops.items() for mark in marks if mark.chunks < CHUNKS - 1}


def rungs(story: Story) -> list[PolicyRecord]:
    return [each for each in story.records if each.policy == "successiveHalving" and (each.chunks or 0) < CHUNKS - 1]


@settings(max_examples=100, deadline=None)
@given(whole, some_policies, st.randoms(use_true_random=False))
def test_the_order_of_commits_changes_nothing(
    table: list[list[float | None]], policies: list[Policy], chance: random.Random
) -> None:
    named = {f"r{index}": curve for index, curve in enumerate(table, 1)}
    first = Story(named, policies)
    first.play(lambda moving: moving[0])
    other = Story(named, policies, overshoot=lambda: chance.random() < 0.5)
    other.play(chance.choice)
    assert told(other) == told(first)
    assert rungs(other) == rungs(first)


@settings(max_examples=100, deadline=None)
@given(curves, some_policies, st.randoms(use_true_random=False))
def test_something_always_goes_on_and_nobody_is_stopped_twice_for_one_reason(
    table: list[list[float | None]], policies: list[Policy], chance: random.Random
) -> None:
    story = Story({f"r{index}": curve for index, curve in enumerate(table, 1)}, policies)
    story.play(chance.choice)
    assert all(each.failed or each.alive or story.stops[each.name] for each in story.racers.values())


@settings(max_examples=60, deadline=None)
@given(whole, some_policies)
def test_the_best_at_every_boundary_goes_on(table: list[list[float | None]], policies: list[Policy]) -> None:
    for curve in table:
        curve[:] = [9.0 if value is None else value + 1 for value in curve]
    table.append([0.0] * CHUNKS)
    story = Story({f"r{index}": curve for index, curve in enumerate(table, 1)}, policies)
    story.play(lambda moving: moving[-1])
    assert f"r{len(table)}" not in story.stops


@settings(max_examples=60, deadline=None)
@given(whole, some_policies, st.randoms(use_true_random=False))
def test_equal_pictures_give_equal_decisions(
    table: list[list[float | None]], policies: list[Policy], chance: random.Random
) -> None:
    story = Story({f"r{index}": curve for index, curve in enumerate(table, 1)}, policies)
    for _ in range(len(table) + 3):
        if moving := story.movable():
            story.commit(chance.choice(moving))
    racers = list(story.racers.values())
    before = decide(policies, "minimize", racers, (), ())
    chance.shuffle(racers)
    assert decide(policies, "minimize", racers, (), ()) == before


def test_only_the_best_third_goes_on_and_each_reason_has_the_figures() -> None:
    runs = [raced(index, float(value)) for index, value in enumerate([5, 3, 8, 1, 9, 2, 7, 4, 6], 1)]
    decision = judged(*runs)
    assert names(decision.stops) == ["r8", "r1", "r9", "r7", "r3", "r5"]
    assert decision.stops[0].reason == "eval_loss 4 after 1 chunk is place 4 of 9; the best 3 go on, with 3 or better"
    assert not decision.records, "on record only when the ICOps are there"


def test_nothing_is_judged_while_an_active_run_is_on_its_way() -> None:
    assert not judged(raced(1, 1.0), raced(2, 2.0), raced(3)).stops
    assert names(judged(raced(1, 1.0), raced(2, 2.0), raced(3, wanted=False)).stops) == ["r2"]
    assert names(judged(raced(1, 1.0), raced(2, 2.0), raced(3, ended=True)).stops) == ["r2"]


def test_a_decision_is_on_record_once_its_icops_are_seen_and_is_not_made_again() -> None:
    runs = [raced(1, 1.0), raced(2, 2.0), raced(3, 3.0)]
    mark = Mark("successiveHalving", 1)
    half = judged(*runs, asked=[Asked("r2", mark, "", open=True)])
    assert names(half.stops) == ["r3"], "an operator that died half way makes only what is missing"
    both = judged(*runs, asked=[Asked("r2", mark, "", open=True), Asked("r3", mark, "", open=True)])
    assert not both.stops
    assert [(each.chunks, each.stopped, each.threshold) for each in both.records] == [(1, 2, 1.0)]
    assert both.told == both.records
    forgotten = [replace(each, marks=(mark,)) for each in runs[1:]]
    assert not judged(runs[0], *forgotten, records=both.records).stops, "somebody deleted the ICOps and resumed both"


def test_a_decision_gets_on_record_though_all_others_ended_meanwhile() -> None:
    asked = [Asked("r2", Mark("successiveHalving", 1), "", open=False)]
    decision = judged(raced(1, 1.0, 1.0, ended=True), raced(2, 2.0, wanted=False), asked=asked)
    assert [(each.chunks, each.stopped) for each in decision.records] == [(1, 1)]


def test_a_run_that_was_resumed_is_judged_again_at_the_next_rung_only() -> None:
    mark, records = Mark("successiveHalving", 1), [rung(1, 2.0)]
    back = raced(3, 9.0, 9.0, marks=(mark,))
    assert not judged(raced(1, 1.0, 1.0), raced(2, 2.0, 2.0), back, records=records).stops
    third = [raced(1, 1, 1, 1), raced(2, 2, 2, 2), raced(3, 9, 9, 9, marks=(mark,))]
    assert names(judged(*third, records=records).stops) == ["r2", "r3"]


def test_the_median_rule_leaves_a_run_alone_that_somebody_resumed() -> None:
    runs = [raced(1, 1, 1), raced(2, 2, 2), raced(3, 9, 9)]
    decision = judged(*runs, policies=[MEDIAN])
    assert names(decision.stops) == ["r3"]
    assert (
        decision.stops[0].reason
        == "its best so far, 9, is worse after 2 chunks than 2, the median of the runs' averages"
    )
    back = [raced(1, 1, 1, 1), raced(2, 2, 2, 2), raced(3, 9, 9, 9, marks=(Mark("stopWhenWorse", 2),))]
    records = [PolicyRecord(policy="stopWhenWorse", chunks=2, runs=3, stopped=1)]
    assert not judged(*back, policies=[MEDIAN], records=records).stops


def test_a_late_clone_is_measured_with_what_it_took_to_go_on() -> None:
    records = [rung(1, 2.0)]
    good, bad = raced(4, 2.0, head_start=3), raced(5, 2.5, head_start=3)
    decision = judged(raced(1, 1, 1), raced(2, 2, 2), good, bad, records=records)
    assert names(decision.stops) == ["r5"]
    assert decision.stops[0].reason == (
        "eval_loss 2.5 after 1 chunk is worse than 2, the worst with which runs went on from there"
    )


def test_nobody_waits_for_a_late_clone_unless_there_are_only_such() -> None:
    old = [raced(1, 1.0), raced(2, 2.0), raced(3, 3.0)]
    assert names(judged(*old, raced(4, head_start=2)).stops) == ["r2", "r3"]
    resting = [replace(each, wanted=False) for each in old]
    assert not judged(*resting, raced(4, 1.0, head_start=2), raced(5, head_start=2)).stops
    assert names(judged(*resting, raced(4, 1.0, head_start=2), raced(5, 2.0, head_start=2)).stops) == ["r5"]


def test_a_run_whose_objective_is_not_a_number_does_worst() -> None:
    lost = replace(raced(2, 1.0), curve={}, done=1)
    assert names(judged(lost, raced(1, 5.0), raced(3, 4.0)).stops) == ["r1", "r2"]


def test_nobody_is_stopped_by_an_objective_that_was_never_measured() -> None:
    blind = [replace(raced(index), done=1) for index in (1, 2, 3)]
    assert not judged(*blind).stops
    assert not judged(*[replace(each, done=2) for each in blind], policies=[MEDIAN]).stops


def test_the_last_run_that_goes_on_is_spared() -> None:
    failed = raced(1, 1.0, ended=True, failed=True)
    assert names(judged(failed, raced(2, 2.0), raced(3, 3.0)).stops) == ["r3"]
    succeeded = raced(1, 1.0, ended=True)
    assert names(judged(succeeded, raced(2, 2.0), raced(3, 3.0)).stops) == ["r2", "r3"]


def test_more_is_better_where_the_objective_says_so() -> None:
    decision = decide([HALVING], "maximize", [raced(1, 0.1), raced(2, 0.2), raced(3, 0.9)], (), ())
    assert names(decision.stops) == ["r2", "r1"]


def known(index: int, *ends: tuple[float, float], **more: Any) -> Racer:
    """Return a run with one interval a chunk, whose middle is the value."""
    middles = [(lower + upper) / 2 for lower, upper in ends]
    return raced(index, *middles, intervals=dict(enumerate(ends, 1)), metric="Accuracy", **more)


WIDE, LOW, HIGH = (0.2, 0.9), (0.3, 0.5), (0.6, 0.8)


def test_a_run_stops_whose_interval_lies_wholly_on_the_worse_side_of_another_ones() -> None:
    runs = [known(1, WIDE, LOW), known(2, WIDE, HIGH), known(3, WIDE, WIDE)]
    (stop,) = decide([BEATEN], "maximize", runs, (), ()).stops
    assert (stop.run, stop.mark) == ("r1", Mark("stopWhenBeaten", 2))
    assert stop.reason == "Accuracy 0.4 [0.3, 0.5] after 2 chunks lies wholly below 0.7 [0.6, 0.8] of r2"
    (stop,) = decide([BEATEN], "minimize", runs, (), ()).stops
    assert stop.reason == "Accuracy 0.7 [0.6, 0.8] after 2 chunks lies wholly above 0.4 [0.3, 0.5] of r1"


def test_nobody_is_beaten_before_the_first_boundary_nor_by_who_touches_it() -> None:
    assert not decide([BEATEN], "maximize", [known(1, LOW), known(2, HIGH)], (), ()).stops
    touching = [known(1, WIDE, (0.3, 0.6)), known(2, WIDE, HIGH)]
    assert not decide([BEATEN], "maximize", touching, (), ()).stops
    assert not decide([BEATEN], "maximize", [known(1, WIDE, LOW), known(2, WIDE)], (), ()).stops, "it is on its way"
    assert not decide([BEATEN], "maximize", [raced(1, 1.0, 1.0), raced(2, 9.0, 9.0)], (), ()).stops, "no intervals"


def test_what_was_beaten_is_on_record_once_and_left_alone_if_somebody_resumes_it() -> None:
    runs = [known(1, WIDE, LOW), known(2, WIDE, HIGH)]
    mark = Mark("stopWhenBeaten", 2)
    after = decide([BEATEN], "maximize", runs, [Asked("r1", mark, "", open=True)], ())
    assert not after.stops
    assert [(each.chunks, each.stopped, each.threshold) for each in after.records] == [(2, 1, 0.6)]
    assert after.told[0].message == (
        "stopWhenBeaten stopped what another run certainly beats: 1 of 2 runs stop after 2 chunks"
    )
    back = [known(1, WIDE, LOW, LOW, marks=(mark,)), known(2, WIDE, HIGH, HIGH)]
    assert not decide([BEATEN], "maximize", back, (), after.records).stops
    one_behind = [known(1, WIDE, LOW, marks=(mark,)), known(2, WIDE, HIGH, HIGH, HIGH)]
    records = [PolicyRecord(policy="stopWhenBeaten", chunks=3)]
    assert not decide([BEATEN], "maximize", one_behind, (), records).stops


def test_who_comes_late_is_measured_with_the_others_at_the_same_boundary() -> None:
    records = [PolicyRecord(policy="stopWhenBeaten", chunks=4)]
    ahead = known(1, WIDE, HIGH, HIGH, HIGH)
    late = known(2, WIDE, LOW, head_start=2)
    assert names(decide([BEATEN], "maximize", [ahead, late], (), records).stops) == ["r2"]
    other = replace(late, metric="Recall")
    assert not decide([BEATEN], "maximize", [ahead, other], (), records).stops, "another metric"


def rung(chunks: int, threshold: float) -> PolicyRecord:
    return PolicyRecord(
        policy="successiveHalving", chunks=chunks, runs=3, stopped=1, metric="eval_loss", threshold=threshold
    )


@pytest.mark.parametrize(("text", "expected"), [("90m", 5400), ("1d12h", 129600), ("1.5h", 5400), ("45s", 45)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["0s", "", "8", "8 h", "-1h", "8H", "1.h"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write a duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("policies", "sentence"),
    [
        ([{}], "write exactly one of"),
        ([{"maxDuration": {"limit": "8h"}, "maxCost": {"limit": 1, "pricePerWorkerHour": 1}}], "write exactly one of"),
        ([{"maxDuration": {"limit": "8h"}}, {"maxDuration": {"limit": "9h"}}], "write each policy once"),
        ([{"maxDuration": {"limit": "soon"}}], "write a duration"),
    ],
)
def test_nonsense_is_refused(policies: list[dict[str, Any]], sentence: str) -> None:
    body = {
        "configs": [{"trainer": "SFT", "config": {}}],
        "data": {"train": {"uri": "hf://owner/rows"}},
        "policies": policies,
    }
    with pytest.raises(ValidationError, match=sentence):
        ExperimentSpec.model_validate(body)
