"""An index is built once, by one run at a time, while the others wait; whoever builds may fail, stop or die."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.builders import condition, merged
from tests.operator.test_reconcile import NOW, PREPARED, Scene
from tests.operator.test_standing import afresh

from rapidfireai_operator.core.indexes import take_turns
from rapidfireai_operator.core.schedule import Candidate, Snapshot, Worker, plan

Body = dict[str, Any]
BOUNDARIES = PREPARED["boundaries"]
OURS, THEIRS = "a" * 64, "b" * 64


def waiting(name: str, index: int, **more: Any) -> Candidate:
    return Candidate(name, index, remaining=16, index_digest=OURS, **more)


def test_one_builds_and_the_others_learn_for_whom_they_wait() -> None:
    turns = take_turns([waiting("r1", 1), waiting("r2", 2), Candidate("r3", 3, remaining=16)])
    assert turns.builders == {"r2": "r1"}
    assert {run.name for run in turns.candidates if run.ready} == {"r1", "r3"}


def test_who_holds_the_task_keeps_it_though_it_is_about_to_stop() -> None:
    turns = take_turns([waiting("r1", 1), waiting("r2", 2, held_by="w-0", builds=True, begun=True, ready=False)])
    assert turns.builders == {"r1": "r2"}


def test_it_is_built_by_a_run_that_took_no_worker_down_if_there_is_one() -> None:
    assert take_turns([waiting("r1", 1, alone=True), waiting("r2", 2)]).builders == {"r1": "r2"}
    assert take_turns([waiting("r1", 1, alone=True)]).builders == {}


def test_a_late_run_that_builds_holds_nobody_up_and_one_of_the_same_age_does() -> None:
    for head_start, served in ((4, {"r2"}), (0, set())):
        done = 6 if head_start else 2
        builder = waiting("r1", 1, held_by="w-0", builds=True, begun=True, head_start=head_start)
        runs = (builder, Candidate("r2", 2, done=done, remaining=4))
        assert {each.run for each in plan(Snapshot(runs, (Worker("w-1", "w-1/a"),)))} == served


@st.composite
def crowds(draw: st.DrawFn) -> list[Candidate]:
    crowd, building = [], set()
    for index in range(draw(st.integers(1, 8))):
        digest = draw(st.sampled_from([None, OURS, THEIRS]))
        builds = digest is not None and digest not in building and draw(st.booleans())
        building |= {digest} if builds else set()
        crowd.append(
            Candidate(
                f"r{index}",
                index,
                remaining=draw(st.none() | st.just(16)) if digest is None else 16,
                index_digest=digest,
                ready=draw(st.booleans()),
                held_by="w-9" if builds else None,
                builds=builds,
                begun=builds,
                alone=draw(st.booleans()),
            )
        )
    return crowd


@given(crowds(), st.randoms(use_true_random=False))
def test_no_index_has_two_builders_and_none_is_left_without(crowd: list[Candidate], chance: Random) -> None:
    turns = take_turns(crowd)
    given_out = plan(Snapshot(turns.candidates, tuple(Worker(f"w-{i}", f"w-{i}/a") for i in range(4))))
    builders = {each.run for each in given_out if each.task == "index"} | {run.name for run in crowd if run.builds}
    by_digest = [run.index_digest for run in crowd if run.name in builders]
    assert len(by_digest) == len(set(by_digest))
    assert not {each.run for each in given_out if each.task == "chunk"} & {
        run.name for run in crowd if run.index_digest
    }
    for run in crowd:
        served = run.name in {each.run for each in given_out}
        lonely = any(other.alone for other in crowd)  # it may have to wait for a worker of its own
        assert served or lonely or run.builds or not run.ready or turns.builders[run.name] in builders
    chance.shuffle(crowd)
    assert take_turns(crowd).builders == turns.builders


class Village(Scene):
    """Runs that share indexes and workers that answer, with every decision taken by `reconcile` itself."""

    def __init__(self, digests: list[str | None], replicas: int, chance: Random) -> None:
        super().__init__(runs=len(digests), replicas=replicas, backoffLimit=50, crashLimit=100)
        self.digests, self.chance, self.now, self.deaths = digests, chance, NOW, 0
        self.statuses: list[Body] = [{} for _ in digests]
        self.desired = ["Running"] * len(digests)
        self.volume: set[str] = set()
        self.builds: list[str] = []
        for slot in range(replicas):
            self.worker(slot)
        for index in range(1, len(digests) + 1):
            self.put(index)
        self.holders = ["a"] * replicas

    def put(self, index: int) -> None:
        spec = {"experimentRef": "exp", "index": index, "config": {}, "desiredState": self.desired[index - 1]}
        self.add("runs", f"exp-r{index}", spec=spec, status=self.statuses[index - 1])

    def decide(self) -> None:
        self.now += 1
        outcome = self.look(self.now)
        assert outcome == afresh(self).look(self.now), "what is remembered of runs changes a decision"
        for patch in outcome.runs:
            index = int(patch.name.rpartition("-r")[2])
            self.statuses[index - 1] = merged(self.statuses[index - 1], patch.status)
            self.put(index)
        self.check()

    def check(self) -> None:
        tasks = [
            (digest, status["assignment"]["task"])
            for digest, status in zip(self.digests, self.statuses, strict=True)
            if status.get("assignment")
        ]
        building = [digest for digest, task in tasks if task == "index"]
        assert len(building) == len(set(building)), "two build one index"
        for digest, task in tasks:
            assert task != "chunk" or digest is None or digest in self.volume, "a chunk before its index"

    def held(self) -> list[int]:
        """Return the runs whose worker works on them."""
        return [
            index
            for index, status in enumerate(self.statuses, 1)
            if status.get("assignment") and not self.reported(status, final=True)
        ]

    def reported(self, status: Body, *, final: bool) -> bool:
        progress = status.get("progress") or {}
        return progress.get("attempt") == status["assignment"]["attempt"] and progress["final"] == final

    def report(self, index: int, how: str) -> None:
        status, digest = self.statuses[index - 1], self.digests[index - 1]
        given, before = status["assignment"], (status.get("progress") or {}).get("checkpoint")
        step = before["step"] if before else 0
        progress: Body = {"attempt": given["attempt"], "chunk": given["chunk"], "step": step, "final": how != "begin"}
        if before:
            progress["checkpoint"] = before
        if how == "fail":
            progress["error"] = {"reason": "R", "message": "m", "blame": self.chance.choice(["Run", "Infrastructure"])}
        elif how == "commit" and given["task"] == "chunk":
            step = BOUNDARIES[given["chunk"]]
            progress |= {"step": step, "checkpoint": {"path": "p", "digest": "0" * 64, "step": step}}
        elif how == "commit":
            if given["task"] == "index":
                assert digest is not None
                self.volume.add(digest)
                self.builds.append(digest)
            named = {"index": digest, "indexBuilt": digest in self.volume} if digest else {}
            progress["prepared"] = {**PREPARED, **named}
        self.statuses[index - 1] = {**status, "progress": progress}
        self.put(index)

    def die(self, slot: int) -> None:
        """The process of a slot is replaced by another one."""
        self.deaths += 1
        self.holders[slot] = f"h{self.deaths}"
        self.worker(slot, holder=self.holders[slot])

    def steer(self, index: int, desired: str) -> None:
        self.desired[index - 1] = desired
        self.put(index)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([None, OURS, THEIRS]), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 25),
    st.randoms(use_true_random=False),
)
def test_whoever_fails_stops_or_dies_all_indexes_are_built_once_and_all_runs_end(
    digests: list[str | None], replicas: int, troubles: int, chance: Random
) -> None:
    village = Village(digests, replicas, chance)
    for turn in range(1000):
        village.decide()
        held = village.held()
        if turn < troubles and chance.random() < 0.6:
            what = chance.choice(["die", "stop", "resume", "fail", "begin"])
            if what == "die":
                village.die(chance.randrange(replicas))
            elif what in {"stop", "resume"}:
                village.steer(chance.randint(1, len(digests)), "Stopped" if what == "stop" else "Running")
            elif held:
                village.report(chance.choice(held), what)
            continue
        if turn == troubles:
            for index in range(1, len(digests) + 1):
                village.steer(index, "Running")
        if held:
            village.report(chance.choice(held), "commit")
        elif all(status.get("state") == "Succeeded" for status in village.statuses):
            break
        else:
            village.now += 400  # whatever waits after a failure is tried again
    else:
        raise AssertionError(f"it does not end: {village.statuses}")
    assert sorted(village.builds) == sorted({digest for digest in digests if digest})


def test_a_resting_run_wakes_when_another_one_has_built_its_index() -> None:
    village = Village([OURS, OURS], 1, Random(0))
    village.decide()
    village.report(1, "commit")
    village.report(2, "commit")
    village.decide()
    assert village.statuses[0]["assignment"]["task"] == "index"
    village.decide()
    told = condition({"status": village.statuses[1]}, "Progressing")
    assert (told["status"], told["reason"]) == ("True", "WaitingForIndex")
    assert told["message"] == "It goes on when exp-r1 has built the index that both search."
    assert village.world().standings[1].at_rest, "nothing is worked out for it while it waits"
    village.report(1, "commit")
    village.decide()
    assert [status["prepared"]["indexBuilt"] for status in village.statuses] == [True, True]
    assert [status["assignment"]["task"] for status in village.statuses] == ["chunk", "chunk"]


def test_an_index_task_that_built_nothing_is_an_error_of_the_run() -> None:
    village = Village([OURS], 1, Random(0))
    village.decide()
    village.report(1, "commit")
    village.decide()
    village.report(1, "begin")
    status = village.statuses[0]
    village.statuses[0] = {**status, "progress": {**status["progress"], "final": True, "prepared": status["prepared"]}}
    village.put(1)
    village.decide()
    assert village.statuses[0]["failures"]["errors"] == 1
