"""Which checkpoints stay, and that nothing is removed that anybody may need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai.api import Experiment, Run
from rapidfireai_worker.layout import RunDirectory
from rapidfireai_worker.record import recorded_commits
from rapidfireai_worker.retention import attempt_of, kept_steps, ranking

SPEC = {"configs": [{"trainer": "SFT", "config": {}}], "data": {"train": {"uri": "pvc://c/t.jsonl"}}}


def experiment(**spec: Any) -> Experiment:
    return Experiment.from_body({"metadata": {"name": "e", "uid": "eu"}, "spec": SPEC | spec})


def run(*values: float, **status: Any) -> Run:
    """Return a run whose boundaries, four steps apart, had these objectives."""
    points = [{"chunk": i, "step": 4 * (i + 1), "value": value} for i, value in enumerate(values)]
    spec = {"experimentRef": "e", "index": 1, "config": {}}
    return Run.from_body(
        {"metadata": {"name": "e-r1", "uid": "u"}, "spec": spec, "status": {"objective": points, **status}}
    )


def test_boundaries_are_ranked_by_the_objectives_direction() -> None:
    values = (2.0, 1.0, 3.0, 1.0)
    assert ranking(run(*values), experiment()) == (8, 16, 4, 12)
    upwards = experiment(objective={"metric": "eval_accuracy", "direction": "maximize"})
    assert ranking(run(*values), upwards) == (12, 4, 8, 16)
    assert ranking(run(*values), experiment(retention={"keepBest": False})) == ()


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [
        (1, (), {20}),
        (1, (8, 4), {8, 20}),
        (2, (8, 4), {8, 16, 20}),
        (1, (12, 8), {8, 20}),  # the best one was not kept when it was the second best
        (9, (8,), {4, 8, 16, 20}),
    ],
)
def test_the_latest_and_the_best_that_is_there_stay(last: int, best: tuple[int, ...], kept: set[int]) -> None:
    assert kept_steps([4, 8, 16, 20], last, best) == kept


@given(st.lists(st.integers(0, 99), unique=True).map(sorted), st.integers(1, 5), st.lists(st.integers(0, 99)))
def test_the_last_commit_always_stays_and_the_number_is_bounded(
    committed: list[int], last: int, best: list[int]
) -> None:
    kept = kept_steps(committed, last, best)
    assert kept <= set(committed)
    assert not committed or committed[-1] in kept
    assert len(kept) <= last + 1


@pytest.mark.parametrize(
    ("name", "attempt"),
    [("12-3", 3), (".tmp-12-3-0badcafe", 3), ("somebody-elses", None), ("12", None), ("12-x", None)],
)
def test_a_strangers_directory_has_no_attempt(name: str, attempt: int | None) -> None:
    assert attempt_of(name) == attempt


def test_recorded_commits_are_those_that_are_still_there(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert recorded_commits(directory) == []
    directory.record.write_text("{")
    assert recorded_commits(directory) == []
    (directory.checkpoints / "8-2").mkdir(parents=True)
    commits = [{"path": f"x/checkpoints/{name}", "step": 4} for name in ("4-1", "8-2")]
    directory.record.write_text(json.dumps({"commits": commits}))
    assert recorded_commits(directory) == commits[1:]
