"""One pass over an experiment: what is written, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.builders import experiment, merged

from rapidfireai.api import Run
from rapidfireai_operator.core.acceptance import Accepted, judge
from rapidfireai_operator.core.jobs import WorkerDefaults, manifest
from rapidfireai_operator.core.outcome import Outcome, Rules
from rapidfireai_operator.core.picture import Key, Picture
from rapidfireai_operator.core.reconcile import CREATE_AT_ONCE, reconcile
from rapidfireai_operator.core.snapshot import TEMPLATE_ANNOTATION, Subject, World

NOW = 1_700_000_000.0
RULES = Rules(WorkerDefaults("image:1", {}, "rapidfire-data", "/data", 30), 30.0, 300.0, allow_file_uris=False)
OWNER = [{"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "name": "exp", "uid": "e", "controller": True}]
PREPARED = {"totalSteps": 16, "boundaries": [4, 8, 12, 16]}


class Scene:
    """An experiment and what belongs to it, put together piece by piece."""

    def __init__(self, runs: int = 4, replicas: int = 2, **spec: Any) -> None:
        self.picture, self.version = Picture(), 0
        self.body = experiment(runs=runs, replicas=replicas, **spec)
        self.add("experiments", "exp", spec=self.body["spec"], status={"nextIndex": 1})

    def add(self, kind: Any, name: str, labels: dict[str, str] | None = None, **body: Any) -> None:
        self.version += 1
        meta = {"name": name, "namespace": "n", "uid": "e" if kind == "experiments" else f"{kind}-{name}"}
        meta |= {
            "resourceVersion": str(self.version),
            "generation": 1,
            "labels": labels or {},
            "ownerReferences": OWNER,
        }
        meta |= {"annotations": body.pop("annotations", {})}
        self.picture.fold(kind, {**body, "metadata": meta}, 0.0)

    def run(self, index: int, desired: str = "Running", **status: Any) -> None:
        spec = {"experimentRef": "exp", "index": index, "config": {}, "desiredState": desired}
        state = {"state": "Running", "attempt": 1, "prepared": PREPARED, **status}
        self.add("runs", f"exp-r{index}", spec=spec, status=state)

    def worker(self, slot: int, holder: str = "a", **container: Any) -> str:
        name = f"exp-w-{slot}"
        labels = {"rapidfire.ai/experiment": "exp", "rapidfire.ai/worker": name}
        subject = self.picture.subject(Key("n", "exp"))
        verdict = self.verdict()
        assert subject is not None
        body = manifest(subject, verdict.spec, name, RULES.defaults, {})
        template = {TEMPLATE_ANNOTATION: body["metadata"]["annotations"][TEMPLATE_ANNOTATION]}
        self.add("jobs", name, labels, annotations=template)
        statuses = [{"name": "worker", "restartCount": 0, "state": {"running": {}}, **container}]
        self.add("pods", f"{name}-abcde", labels, status={"phase": "Running", "containerStatuses": statuses})
        process = f"{name}-abcde/{holder}"
        renewed = "2026-01-01T00:00:00.000000Z"
        self.add("leases", name, labels, spec={"holderIdentity": process, "renewTime": renewed})
        return process

    def given(self, slot: int, granted: float, attempt: int = 1, chunk: int = 0, holder: str = "a") -> dict[str, Any]:
        name = f"exp-w-{slot}"
        return {
            "worker": name,
            "pod": f"{name}-abcde",
            "podUID": f"pods-{name}-abcde",
            "process": f"{name}-abcde/{holder}",
            "attempt": attempt,
            "task": "chunk",
            "chunk": chunk,
            "grantedAt": granted,
        }

    def verdict(self) -> Accepted:
        verdict = judge("exp", self.body["spec"], allow_file_uris=False)
        assert isinstance(verdict, Accepted)
        return verdict

    def subject(self) -> Subject:
        subject = self.picture.subject(Key("n", "exp"))
        assert subject is not None
        return subject

    def runs(self) -> tuple[Run, ...]:
        return self.picture.runs(self.subject())

    def world(self, now: float = NOW, monotonic: float = 1.0) -> World:
        return self.picture.world(self.subject(), now, monotonic)

    def look(self, now: float = NOW, monotonic: float = 1.0) -> Outcome:
        return reconcile(self.world(now, monotonic), self.verdict(), {}, RULES)


def test_a_new_experiment_gets_its_runs_and_jobs_at_once() -> None:
    outcome = Scene().look()
    assert [body["metadata"]["name"] for body in outcome.create] == [f"exp-r{index}" for index in range(1, 5)]
    assert [body["metadata"]["name"] for body in outcome.make_jobs] == ["exp-w-0", "exp-w-1"]
    assert outcome.experiment is not None
    assert "nextIndex" not in outcome.experiment.status, "an index counts once its run is seen"


def test_runs_that_were_made_before_a_crash_are_not_made_again() -> None:
    scene = Scene()
    scene.run(1)
    scene.run(2)
    outcome = scene.look()
    assert [body["metadata"]["name"] for body in outcome.create] == ["exp-r3", "exp-r4"]
    assert outcome.experiment is not None
    assert outcome.experiment.status["nextIndex"] == 3


def test_a_large_experiment_is_made_bit_by_bit_and_an_index_is_never_used_twice() -> None:
    scene = Scene(runs=CREATE_AT_ONCE + 30)
    assert len(scene.look().create) == CREATE_AT_ONCE
    subject = scene.picture.subject(Key("n", "exp"))
    assert subject is not None
    made = range(1, CREATE_AT_ONCE + 1)  # by this operator; somebody deleted all of them since
    world = scene.picture.world(subject, NOW, 1.0, made=made)
    outcome = reconcile(world, scene.verdict(), {}, RULES)
    assert outcome.create[0]["metadata"]["name"] == f"exp-r{CREATE_AT_ONCE + 1}"
    assert outcome.experiment is not None
    assert outcome.experiment.status["nextIndex"] == CREATE_AT_ONCE + 1


def test_a_crash_is_paid_by_the_older_assignment_which_is_written_last() -> None:
    scene = Scene(runs=3, replicas=1)
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:01Z"}
    scene.worker(0, state={"terminated": ended})
    scene.run(1, assignment=scene.given(0, granted=10.0))
    scene.run(2, assignment=scene.given(0, granted=20.0))
    scene.run(3)
    patches = {patch.name: patch.status for patch in scene.look().runs}
    assert list(patches)[-1] == "exp-r1"
    assert patches["exp-r1"]["failures"]["crashes"] == 1
    assert patches["exp-r2"]["failures"]["crashes"] == 0
    assert patches["exp-r1"]["assignment"] is patches["exp-r2"]["assignment"] is None


@pytest.mark.parametrize(
    ("granted", "begun", "pays"),
    [
        ((10.0, 10.0), (False, True), "exp-r2"),  # given out in one go, and the second was seen first
        ((10.0, 10.0), (True, False), "exp-r1"),
        ((10.0, 20.0), (True, True), "exp-r2"),  # the first is computed and only being written
    ],
)
def test_the_run_that_was_computing_pays_for_a_crash_and_no_other(
    granted: tuple[float, float], begun: tuple[bool, bool], pays: str
) -> None:
    scene = Scene(runs=2, replicas=1)
    ended = {"exitCode": 124, "reason": "Error", "finishedAt": "2026-01-01T00:00:01Z"}
    scene.worker(0, state={"terminated": ended})
    for index in (1, 2):
        said = {"progress": {"attempt": 1, "chunk": 0, "step": 1}} if begun[index - 1] else {}
        scene.run(index, assignment=scene.given(0, granted=granted[index - 1]), **said)
    crashes = {patch.name: patch.status["failures"]["crashes"] for patch in scene.look().runs}
    assert crashes == {"exp-r1": int(pays == "exp-r1"), "exp-r2": int(pays == "exp-r2")}


def test_a_commit_is_folded_and_the_next_chunk_given_out_in_one_write() -> None:
    scene = Scene(runs=1, replicas=1)
    process = scene.worker(0)
    checkpoint = {"path": "p", "digest": "0" * 64, "step": 4}
    progress = {
        "attempt": 1,
        "chunk": 0,
        "step": 4,
        "final": True,
        "checkpoint": checkpoint,
        "metrics": {"chunk/loss": 1},
    }
    scene.run(1, assignment=scene.given(0, granted=10.0), progress=progress)
    (patch,) = scene.look().runs
    assert patch.status["display"]["chunks"] == "1/4"
    assert (patch.status["assignment"]["chunk"], patch.status["assignment"]["attempt"]) == (1, 2)
    assert patch.status["residence"]["process"] == process
    assert "progress" not in patch.status


def test_a_run_that_joins_late_gets_its_head_start_with_its_first_work() -> None:
    scene = Scene(runs=2, replicas=1)
    scene.worker(0)
    checkpoint = {"path": "p", "digest": "0" * 64, "step": 12}
    ahead = {"attempt": 1, "chunk": 2, "step": 12, "final": True, "checkpoint": checkpoint}
    scene.run(1, state="Stopped", desired="Stopped", progress=ahead)
    scene.run(2, attempt=0, state="Pending")
    patches = {patch.name: patch.status for patch in scene.look().runs}
    assert patches["exp-r2"]["headStart"] == 2, "one behind the front, stopped or not"
    assert patches["exp-r2"]["assignment"]["chunk"] == 0, "what it trains is its own first chunk"


def test_nothing_is_written_when_nothing_changed() -> None:
    scene = Scene(runs=1, replicas=1)
    status = {"state": "Running", "attempt": 1, "prepared": PREPARED, "assignment": scene.given(0, granted=10.0)}
    scene.run(1, **status)
    scene.worker(0)
    first = scene.look()
    assert first.experiment is not None
    scene.add("experiments", "exp", spec=scene.body["spec"], status=merged({"nextIndex": 1}, first.experiment.status))
    scene.run(1, **merged(status, first.runs[0].status))
    again = scene.look(now=NOW + 5)
    assert (again.runs, again.create, again.make_jobs, again.remove_jobs, again.experiment) == ((), (), (), (), None)


def test_workers_wait_for_a_stopped_run_as_long_as_the_chart_says() -> None:
    scene = Scene(runs=2, replicas=2)
    for index in (1, 2):
        scene.run(index, desired="Stopped", state="Stopped")
        scene.worker(index - 1)
    first = scene.look()
    assert first.experiment is not None
    scene.add("experiments", "exp", spec=scene.body["spec"], status=merged({"nextIndex": 1}, first.experiment.status))
    warm = scene.look(now=NOW + RULES.idle_seconds - 1)
    assert warm.remove_jobs == ()
    assert warm.look_again is not None
    assert warm.look_again <= NOW + RULES.idle_seconds + 0.2, "nothing else wakes it"
    assert scene.look(now=NOW + RULES.idle_seconds + 1).remove_jobs == ("exp-w-0", "exp-w-1")
    scene.run(2)
    assert scene.look(now=NOW + RULES.idle_seconds + 1).remove_jobs == (), "it was resumed"


def test_a_silent_lease_is_looked_at_again_when_it_runs_out() -> None:
    scene = Scene(runs=1, replicas=1)
    scene.worker(0)
    scene.run(1, assignment=scene.given(0, granted=10.0))
    alive = scene.look(monotonic=20.0)
    assert alive.look_again is not None
    assert abs(alive.look_again - (NOW + 10.1)) < 0.01
    lost = scene.look(monotonic=31.0)
    (patch,) = lost.runs
    assert patch.status["assignment"] is None
    assert patch.status["failures"]["crashes"] == 0


def test_an_experiment_that_is_being_deleted_is_left_alone() -> None:
    scene = Scene()
    entry = scene.picture.subject(Key("n", "exp"))
    assert entry is not None
    body = {**entry.body, "metadata": {**entry.body["metadata"], "resourceVersion": "99", "deletionTimestamp": "now"}}
    scene.picture.fold("experiments", body, 0.0)
    assert scene.look() == Outcome()
