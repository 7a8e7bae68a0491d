"""Runs at rest are not looked at again, and nobody can tell by what is decided."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.builders import merged
from tests.operator.test_reconcile import NOW, PREPARED, Scene

from rapidfireai.api import Run
from rapidfireai_operator.core.conditions import merge_patch, owned, stored
from rapidfireai_operator.core.lifecycle import candidate, describe
from rapidfireai_operator.core.picture import Key, Picture
from rapidfireai_operator.core.standing import standing
from rapidfireai_operator.core.summary import tally

checkpoints = st.sampled_from([0, 4, 8, 16]).map(lambda step: {"path": "p", "digest": "0" * 64, "step": step})
statuses = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["Pending", "Running", "Stopped", "Deleted", "Succeeded", "Failed"]),
        "attempt": st.integers(0, 3),
        "prepared": st.just(PREPARED),
        "progress": st.fixed_dictionaries(
            {"attempt": st.integers(1, 3), "chunk": st.integers(-1, 3), "step": st.integers(0, 16)},
            optional={"final": st.booleans(), "checkpoint": checkpoints, "seconds": st.floats(1, 9)},
        ),
        "failures": st.fixed_dictionaries({"errors": st.integers(0, 2)}, optional={"retryAt": st.just(NOW + 5)}),
        "objective": st.lists(st.just({"chunk": 0, "step": 4, "value": 1.5}), max_size=1),
        "objectiveMetric": st.sampled_from(["eval_loss", "loss"]),
    },
)
desires = st.sampled_from(["Running", "Stopped", "Deleted"])


def afresh(scene: Scene) -> Scene:
    """Return a scene with the same objects, looked at for the first time."""
    other = Scene(runs=1)
    other.body, other.picture = scene.body, Picture()
    for kind, shelf in scene.picture._experiments[Key("n", "exp")].objects.items():
        for entry in shelf.values():
            other.picture.fold(kind, entry.body, 0.0)
    return other


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(desires, statuses), min_size=1, max_size=6), st.data())
def test_what_is_remembered_of_runs_changes_no_decision(runs: list[tuple[Any, Any]], data: st.DataObject) -> None:
    scene = Scene(runs=len(runs), replicas=1)
    scene.worker(0)
    for index, (desired, status) in enumerate(runs, 1):
        scene.run(index, desired, **status)
    for now in (NOW, NOW + 10, NOW + 20):
        outcome = scene.look(now)
        assert outcome == afresh(scene).look(now)
        known = {run.metadata.name: run for run in scene.runs()}
        for patch in outcome.runs:
            run = known[patch.name]
            scene.run(run.spec.index, run.spec.desired_state, **merged(stored(run.status), patch.status))
        changed, desired, status = data.draw(st.tuples(st.integers(1, len(runs)), desires, statuses))
        scene.run(changed, desired, **status)
        if data.draw(st.booleans()):
            scene.picture.forget_name("runs", "n", f"exp-r{data.draw(st.integers(1, len(runs)))}")


@given(desires, statuses, st.floats(NOW, NOW + 1000))
def test_at_rest_means_that_no_time_changes_a_run(desired: Any, status: Any, now: float) -> None:
    spec = {"experimentRef": "exp", "index": 1, "config": {}, "desiredState": desired}
    run = Run.model_validate({"metadata": {"name": "exp-r1"}, "spec": spec, "status": status})
    found = standing(run)
    if found.at_rest:
        described = describe(run, run.status, now)
        assert not merge_patch(owned(stored(run.status)), owned(described.status.to_wire()))
        assert described.events == ()
        assert found.candidate == candidate(run, run.status, now)
        assert found.tally == tally(run, described.status)


def test_an_old_run_is_worked_out_once() -> None:
    scene = Scene(runs=4)
    for index in (1, 2, 3):
        scene.run(index)
    first = scene.world().standings
    scene.run(2, "Stopped")
    scene.run(4)
    assert [a is b for a, b in zip(first, scene.world().standings, strict=False)] == [True, False, True]
