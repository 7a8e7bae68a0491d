"""IC Ops: the table of transitions, and what holds for every history of operations, commits and dead operators."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.builders import condition, icop
from tests.operator.shelf import Body, Died, Shelf
from tests.operator.test_reconcile import RULES, Scene

from rapidfireai.api import ICOp
from rapidfireai.api.icop import Op
from rapidfireai.api.run import DesiredState, RunState
from rapidfireai_operator.core.acceptance import Accepted, Refused, judge
from rapidfireai_operator.core.icops import FULL_RESULTS, TRANSITIONS, apply, position
from rapidfireai_operator.core.picture import KINDS, Key, Picture
from rapidfireai_operator.core.reconcile import reconcile
from rapidfireai_operator.loops.writer import Memory, Writer

STATES, DESIRES = get_args(RunState), get_args(DesiredState)
CHECKPOINT = {"path": "p", "digest": "0" * 64, "step": 4}
COMMITTED = {"attempt": 1, "chunk": 0, "step": 4, "final": True, "checkpoint": CHECKPOINT}
BOUNDARIES = [4, 8]


def test_the_table_answers_for_every_state_and_operation() -> None:
    ops = [op for op in get_args(Op) if op != "CloneModify"]
    assert set(TRANSITIONS) == set(product(STATES, ops))
    for (state, op), answer in TRANSITIONS.items():
        assert answer.desired in {None, {"Stop": "Stopped", "Resume": "Running", "Delete": "Deleted"}[op]}
        assert answer.desired is not None or "; clone it" in answer.message, "a refusal says what to do instead"
        ended = state in {"Succeeded", "Failed", "Deleted"}
        assert (answer.desired is None) == (ended and op != "Delete")


@pytest.mark.parametrize(("state", "wanted"), list(product([None, *STATES], DESIRES)))
def test_a_run_counts_as_what_it_was_last_asked_to_be(state: Any, wanted: Any) -> None:
    here = position(state, wanted)
    if wanted == "Deleted":
        assert here == "Deleted"
    elif state in {"Succeeded", "Failed", "Deleted"}:
        assert here == state
    elif wanted == "Stopped":
        assert here == "Stopped"
    else:
        assert here in {"Pending", "Running"}


# One experiment, all of whose runs are made.


def scene(runs: int = 3, **spec: Any) -> Scene:
    made = Scene(runs=runs, **spec)
    made.add("experiments", "exp", spec=made.body["spec"], status={"nextIndex": runs + 1})
    return made


def ask(
    made: Scene, op: str, runs: list[str] | None = None, name: str = "op", **spec: Any
) -> dict[str, tuple[str, str]]:
    """Apply one operation; return outcome and message by run."""
    named = {"runs": runs} if runs is not None else {}
    body = icop(name, op, [])["spec"]
    del body["runs"]
    made.add("icops", name, spec={**body, **named, **spec})
    applied = apply(made.world(), made.verdict(), {"rapidfire-data"})
    (record,) = applied.records
    return {result.run: (result.outcome, result.message) for result in record.status.results}


def test_unknown_runs_are_refused_with_what_was_perhaps_meant() -> None:
    made = scene()
    made.run(1)
    answers = ask(made, "Stop", ["exp-r2", "exp-r9", "other-r1", "exp-r1", "exp-r1"])
    assert answers["exp-r1"] == ("Applied", "")
    assert "exp-r2 is gone" in answers["exp-r2"][1]
    assert "exp has no run exp-r9; its runs are exp-r1" in answers["exp-r9"][1]
    assert "if it is a run of other, write experimentRef: other" in answers["other-r1"][1]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, {1, 2, 3, 4}),
        ({"states": ["Running", "Stopped"]}, {1, 2}),
        ({"matchLabels": {"a": "b"}}, {4}),
        ({"matchLabels": {"a": "b"}, "states": ["Failed"]}, set()),
    ],
)
def test_a_selector_chooses_what_fits_all_of_it(selector: dict[str, Any], chosen: set[int]) -> None:
    made = scene(4)
    made.run(1)
    made.run(2, "Stopped", state="Stopped")
    made.run(3, state="Failed")
    spec = {"experimentRef": "exp", "index": 4, "config": {}}
    made.add("runs", "exp-r4", {"a": "b"}, spec=spec, status={"state": "Pending"})
    assert set(ask(made, "Stop", selector=selector)) == {f"exp-r{index}" for index in chosen}


def test_an_operation_that_fits_no_run_is_complete_and_says_so() -> None:
    made = scene(1)
    made.run(1)
    ask(made, "Resume", selector={"states": ["Failed"]})
    (record,) = apply(made.world(), made.verdict()).records
    (complete,) = record.status.conditions
    assert (complete.status, complete.reason) == ("True", "NothingToDo")
    assert "no run of exp fits the selector" in complete.message


def test_a_finished_experiment_takes_clones_and_nothing_else() -> None:
    made = scene(2)
    made.run(1, state="Succeeded", progress=COMMITTED)
    made.run(2, state="Failed")
    for op in ("Stop", "Resume", "Delete"):
        assert "the experiment is finished" in ask(made, op, ["exp-r1"], name=op)["exp-r1"][1]
        made.picture.forget_name("icops", "n", op)
    made.add("icops", "clone", spec=cloning(["exp-r2"]))
    made.add("icops", "late", spec=icop("late", "Delete", ["exp-r1"])["spec"])
    applied = apply(made.world(), made.verdict(), {"rapidfire-data"})
    assert [record.status.results[0].outcome for record in applied.records] == ["Applied", "Applied"], "it is reopened"


def cloning(runs: list[str], patch: dict[str, Any] | None = None, **clone: Any) -> dict[str, Any]:
    spec: dict[str, Any] = icop("", "CloneModify", runs)["spec"]
    return {**spec, "clone": {"patch": patch or {}, "warmStart": False, **clone}}


def clone(made: Scene, run: str, patch: dict[str, Any] | None = None, warm: bool = False) -> tuple[str, str]:
    made.add("icops", "op", spec=cloning([run], patch, warmStart=warm))
    applied = apply(made.world(), made.verdict(), {"rapidfire-data"})
    (result,) = applied.records[0].status.results
    return result.outcome, result.message


def leafed(made: Scene, index: int = 1, **status: Any) -> None:
    """Add a run with a real config."""
    leaf = made.verdict().leaves[index - 1]
    spec = {"experimentRef": "exp", "index": index, "config": dict(leaf)}
    made.add("runs", f"exp-r{index}", spec=spec, status={"state": "Running", "attempt": 1, **status})


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        ({"training_args": {"learning_rte": 1}}, "clone.patch.training_args.learning_rte"),
        ({"training_args": {"learning_rate": "fast"}}, "clone.patch.training_args.learning_rate"),
        ({"training_args.learning_rate": {"$list": [1, 2]}}, "one"),
        ({"model_name": "pvc://elsewhere/model"}, "no worker of the experiment mounts the claim elsewhere"),
        ({"formatting_func": {"$function": "to_chat"}}, "clone.patch.formatting_func"),
    ],
)
def test_a_patch_that_could_not_run_is_refused_with_the_knob(patch: dict[str, Any], sentence: str) -> None:
    made = scene(1)
    leafed(made)
    outcome, message = clone(made, "exp-r1", patch)
    assert outcome == "Refused"
    assert sentence in message


def test_a_clone_that_changes_nothing_is_made_and_says_so() -> None:
    made = scene(1)
    leafed(made)
    assert clone(made, "exp-r1") == ("Applied", "the patch changes nothing: the clone has its parent's config")
    assert clone(made, "exp-r1", {"training_args": {"learning_rate": 0.5}}) == ("Applied", "")


def test_a_warm_clone_needs_weights_of_the_same_shapes() -> None:
    made = scene(1)
    leafed(made)
    assert "no weights yet; wait for its first chunk, or clone it cold" in clone(made, "exp-r1", warm=True)[1]
    leafed(made, progress=COMMITTED)
    outcome, message = clone(made, "exp-r1", {"peft_config": {"r": 4, "target_modules": ["q"]}}, warm=True)
    assert outcome == "Refused"
    assert "peft_config" in message
    assert clone(made, "exp-r1", {"training_args": {"learning_rate": 0.5}}, warm=True) == ("Applied", "")


@pytest.mark.parametrize("state", [state for state in STATES if state != "Pending"])
def test_a_parent_may_be_in_any_state(state: str) -> None:
    made = scene(1)
    leafed(made, state=state, progress=COMMITTED)
    assert clone(made, "exp-r1", warm=True)[0] == "Applied"
    assert clone(made, "exp-r1")[0] == "Applied"


def test_a_refused_experiment_takes_operations_but_no_clones() -> None:
    made = scene(1)
    leafed(made)
    made.add("icops", "a", spec=cloning(["exp-r1"]))
    made.add("icops", "b", spec=icop("b", "Stop", ["exp-r1"])["spec"])
    records = apply(made.world(), Refused("InvalidSpec", "spec.seed: is required")).records
    assert [record.status.results[0].outcome for record in records] == ["Refused", "Applied"]
    assert "spec.seed: is required" in records[0].status.results[0].message


def test_the_record_of_ten_thousand_runs_is_small_enough_for_the_api_server() -> None:
    made = scene(1)
    for index in range(1, 2001):
        made.run(index, state="Failed")
    made.add("icops", "op", spec={"experimentRef": "exp", "op": "Stop", "selector": {}})
    (record,) = apply(made.world(), made.verdict()).records
    results = record.status.results
    assert results[FULL_RESULTS - 1].message
    assert not results[FULL_RESULTS].message
    silent = sum(len(result.model_dump_json(by_alias=True)) for result in results[FULL_RESULTS:])
    assert len(record.status.model_dump_json(by_alias=True)) + 8 * silent < 1_400_000


# Whole histories: users, workers, and an operator that is killed between any two writes.


@dataclass
class History:
    """An experiment of two runs on one worker, as the API server has it."""

    shelf: Shelf = field(default_factory=Shelf)
    picture: Picture = field(default_factory=Picture)
    memory: Memory = field(default_factory=Memory)
    rival: tuple[Picture, Memory] = field(default_factory=lambda: (Picture(), Memory()))
    ops: int = 0
    now_: float = 1_700_000_000.0

    def __post_init__(self) -> None:
        start = scene(2, replicas=1)
        start.worker(0)
        for kind in KINDS:
            for entry in start.picture._experiments[Key("n", "exp")].objects[kind].values():
                self.shelf.objects[kind, entry.body["metadata"]["name"]] = dict(entry.body)
        self.shelf.objects["experiments", "exp"]["status"] = {"nextIndex": 1}
        self.shelf.version = 100
        verdict = judge("exp", start.body["spec"], allow_file_uris=False)
        assert isinstance(verdict, Accepted)
        self.verdict = verdict

    def now(self) -> float:
        self.now_ += 0.001
        return self.now_

    def monotonic(self) -> float:
        return 1.0

    async def restart(self) -> None:
        self.picture, self.memory = Picture(), Memory()
        await self.see()

    async def see(self) -> None:
        """Bring the picture up to date."""
        for kind in KINDS:
            listing = await self.shelf.list(kind, "n")
            self.picture.replace(kind, "n", listing.items, listing.version, self.monotonic())

    async def look(self) -> bool:
        """Let the operator look once; return whether it wrote anything."""
        subject = self.picture.subject(Key("n", "exp"))
        assert subject is not None
        memory, before = self.memory.of(subject.uid), self.shelf.version
        world = self.picture.world(subject, self.now(), 1.0, made=memory.made, refusals=memory.refusals)
        memory.made.update(world.made)
        outcome = reconcile(world, self.verdict, {"rapidfire-data": "/data"}, RULES)
        await Writer(self.shelf.api, self.picture, self).write(world, outcome, memory)
        return self.shelf.version != before

    async def settle(self) -> None:
        for _ in range(60):
            await self.see()
            if not await self.look():
                return
        raise AssertionError("the operator never comes to rest")

    def runs(self) -> list[Body]:
        return [body for (kind, _), body in self.shelf.objects.items() if kind == "runs"]

    async def do(self, what: tuple[Any, ...]) -> None:
        """One thing that happens."""
        match what:
            case ("op", op, picks, more):
                await self.operate(op, picks, more)
            case ("patch", pick, desired):
                run = self.pick(pick)
                if run is not None and run["spec"]["desiredState"] != "Deleted":
                    await self.shelf.patch("runs", "n", run["metadata"]["name"], {"spec": {"desiredState": desired}})
            case ("delete", pick):
                run = self.pick(pick)
                if run is not None:
                    await self.shelf.delete("runs", "n", run["metadata"]["name"], run["metadata"]["uid"])
            case ("commit", pick):
                await self.commit(pick)
            case ("look", up_to_date):
                if up_to_date:
                    await self.see()
                await self.look()
            case ("rival", up_to_date):
                (self.picture, self.memory), self.rival = self.rival, (self.picture, self.memory)
                if up_to_date or not self.picture.known():
                    await self.see()
                await self.look()
                (self.picture, self.memory), self.rival = self.rival, (self.picture, self.memory)
            case ("die", writes):
                await self.die(writes)

    def pick(self, number: int) -> Body | None:
        runs = self.runs()
        return runs[number % len(runs)] if runs else None

    async def operate(self, op: str, picks: list[int], more: dict[str, Any]) -> None:
        self.ops += 1
        names = [f"exp-r{pick}" for pick in picks]
        spec = {**icop("", op, names)["spec"], **more}
        if op == "CloneModify":
            spec["clone"] = {"patch": {"training_args": {"learning_rate": 0.25}}, "warmStart": bool(picks[0] % 2)}
        body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "ICOp", "metadata": {"name": f"op-{self.ops}"}}
        await self.shelf.create("icops", "n", {**body, "spec": spec})

    async def commit(self, pick: int) -> None:
        """Let the worker commit one of the runs that it holds."""
        held = [run for run in self.runs() if (run.get("status") or {}).get("assignment")]
        if not held:
            return
        run = held[pick % len(held)]
        given = run["status"]["assignment"]
        progress: Body = {"attempt": given["attempt"], "chunk": given["chunk"], "step": 0, "final": True}
        if given["task"] == "prepare":
            progress["prepared"] = {"totalSteps": BOUNDARIES[-1], "boundaries": BOUNDARIES}
        else:
            step = BOUNDARIES[given["chunk"]]
            checkpoint = {"path": f"{step}-{given['attempt']}", "digest": "0" * 64, "step": step}
            progress |= {"step": step, "checkpoint": checkpoint}
        await self.shelf.patch("runs", "n", run["metadata"]["name"], {"status": {"progress": progress}}, status=True)

    async def die(self, writes: int) -> None:
        """Look with an operator that is killed after some writes; then the next one comes."""
        self.shelf.writes_left = writes
        try:
            await self.see()
            for _ in range(6):
                await self.look()
        except Died:
            pass
        self.shelf.writes_left = 10**9
        await self.restart()


def check(history: History) -> None:
    """Assert what holds at rest after every history."""
    claims: Counter[str] = Counter()
    for (kind, name), body in history.shelf.objects.items():
        if kind == "icops":
            record = ICOp.from_body(body)
            assert condition(body, "Complete").get("status") == "True", (name, body)
            assert {result.run for result in record.status.results} == set(record.spec.runs or ())
            assert all(result.message for result in record.status.results if result.outcome == "Refused")
            claims.update(result.created for result in record.status.results if result.created)
            assert record.metadata.owner_references[0]["uid"] == "e"
    made = Counter(history.shelf.made)
    assert set(made.values()) <= {1}, f"an index was used twice: {made}"
    assert set(claims.values()) <= {1}, f"a name was claimed twice: {claims}"
    assert set(made) == {"exp-r1", "exp-r2", *claims}, "each claim became one run, and nothing else did"
    present = {run["metadata"]["name"]: run for run in history.runs()}
    for run in present.values():
        check_run(run, present)
    used = history.shelf.objects["experiments", "exp"]["status"]["nextIndex"]
    assert used == 1 + len(made)


def check_run(run: Body, present: dict[str, Body]) -> None:
    state, desired = run["status"]["state"], run["spec"]["desiredState"]
    if not run["status"].get("assignment"):
        allowed = {"Running": {"Pending", "Running", "Succeeded"}, "Stopped": {"Stopped", "Succeeded"}}
        assert state in allowed.get(desired, {"Deleted"})
    parent = run["spec"].get("parentRef")
    if parent is None:
        return
    assert run["spec"]["config"]["training_args"]["learning_rate"] == 0.25
    assert ("checkpoint" in parent) == parent["warmStart"]
    if parent["warmStart"] and parent["name"] in present:
        assert parent["checkpoint"] in present[parent["name"]]["status"]["pinned"]


picks = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)
happenings = st.one_of(
    st.tuples(
        st.just("op"),
        st.sampled_from(["Stop", "Resume", "Delete", "CloneModify"]),
        picks,
        st.sampled_from([{}, {"when": "Immediate"}, {"requestedBy": "alice"}]),
    ),
    st.tuples(st.just("patch"), st.integers(0, 9), st.sampled_from(DESIRES)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("commit"), st.integers(0, 9)),
    st.tuples(st.just("commit"), st.integers(0, 9)),
    st.tuples(st.just("look"), st.booleans()),
    st.tuples(st.just("rival"), st.booleans()),  # a second operator, which should not be there
    st.tuples(st.just("die"), st.integers(0, 12)),
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 6), st.lists(happenings, max_size=14))
def test_every_history_ends_in_what_the_table_allows_with_each_operation_answered(
    commits: int, happened: list[tuple[Any, ...]]
) -> None:
    async def live() -> History:
        history = History()
        await history.settle()
        for _ in range(commits):
            await history.commit(0)
            await history.settle()
        for what in happened:
            await history.do(what)
        await history.settle()
        return history

    check(asyncio.run(live()))
