"""What runs next: properties of every plan, and of whole simulated lives."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rapidfireai_operator.core.schedule import HELD_AT_MOST, Assign, Candidate, Snapshot, Worker, head_starts, plan

WORKERS = tuple(Worker(f"w-{index}", f"pod-{index}/a") for index in range(4))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    workers = tuple(draw(st.lists(st.sampled_from(WORKERS), unique=True)))
    room = Counter({worker.name: HELD_AT_MOST for worker in WORKERS})
    runs = []
    for index in range(draw(st.integers(0, 8))):
        holder = draw(st.none() | st.sampled_from([worker.name for worker in WORKERS]))
        if holder is not None and not room[holder]:
            holder = None
        if holder is not None:
            room[holder] -= 1
        done = draw(st.integers(0, 5))
        runs.append(
            Candidate(
                name=f"r{index}",
                index=index,
                done=done,
                remaining=draw(st.integers(1, 40)) if done else draw(st.none() | st.integers(1, 40)),
                index_digest=None if done else draw(st.none() | st.just("a" * 64)),
                attempt=draw(st.integers(0, 9)),
                ready=draw(st.booleans()),
                held_by=holder,
                granted_at=draw(st.floats(0, 100)),
                begun=draw(st.booleans()),
                residence=draw(st.none() | st.sampled_from([worker.process for worker in WORKERS])),
                alone=draw(st.integers(0, 5)) == 0,
            )
        )
    return Snapshot(tuple(runs), workers)


def after(snapshot: Snapshot, decisions: tuple[Assign, ...]) -> dict[str, list[Candidate]]:
    """Return what each worker holds once the decisions are written."""
    given_to = {decision.run: decision.worker for decision in decisions}
    held: dict[str, list[Candidate]] = {}
    for run in snapshot.runs:
        worker = given_to.get(run.name, run.held_by)
        if worker is not None:
            held.setdefault(worker, []).append(run)
    return held


@given(snapshots())
def test_a_plan_that_was_carried_out_asks_for_nothing_more(snapshot: Snapshot) -> None:
    given_out = {decision.run: decision for decision in plan(snapshot)}
    runs = tuple(
        replace(run, held_by=given_out[run.name].worker, granted_at=1000.0, begun=False)
        if run.name in given_out
        else run
        for run in snapshot.runs
    )
    assert plan(Snapshot(runs, snapshot.workers)) == ()


@given(snapshots())
def test_a_run_that_waits_after_a_failure_changes_nothing_for_the_others(snapshot: Snapshot) -> None:
    others = tuple(run for run in snapshot.runs if run.ready or run.held_by is not None)
    assert plan(snapshot) == plan(replace(snapshot, runs=others))


@given(snapshots())
def test_a_run_gets_at_most_one_decision_with_the_next_attempt(snapshot: Snapshot) -> None:
    decisions = plan(snapshot)
    runs = {run.name: run for run in snapshot.runs}
    assert len({decision.run for decision in decisions}) == len(decisions)
    for decision in decisions:
        run = runs[decision.run]
        assert decision.attempt == run.attempt + 1
        assert decision.task == run.task
        assert decision.chunk == (run.done if run.task == "chunk" else -1)


@given(snapshots())
def test_what_is_not_ready_or_was_begun_stays_as_it_is(snapshot: Snapshot) -> None:
    runs = {run.name: run for run in snapshot.runs}
    for decision in plan(snapshot):
        run = runs[decision.run]
        assert run.ready
        assert run.held_by is None or (not run.begun and run.held_by != decision.worker)


@given(snapshots())
def test_work_goes_to_known_workers_that_have_room(snapshot: Snapshot) -> None:
    decisions = plan(snapshot)
    assert {(d.worker, d.process) for d in decisions} <= {(w.name, w.process) for w in snapshot.workers}
    held = after(snapshot, decisions)
    for decision in decisions:
        assert len(held[decision.worker]) <= HELD_AT_MOST


@given(snapshots())
def test_a_run_that_took_its_worker_down_is_tried_alone(snapshot: Snapshot) -> None:
    held = after(snapshot, plan(snapshot))
    for decision in plan(snapshot):
        others = [run for run in held[decision.worker] if run.name != decision.run]
        mine = next(run for run in snapshot.runs if run.name == decision.run)
        assert not (mine.alone and others)
        assert not any(run.alone for run in others)


@given(snapshots())
def test_no_worker_is_idle_while_a_fair_run_waits(snapshot: Snapshot) -> None:
    decisions = plan(snapshot)
    held = after(snapshot, decisions)
    given_out = {decision.run for decision in decisions}
    standings = {run.done for run in snapshot.runs if run.ready}
    waiting = [
        run
        for run in snapshot.runs
        if run.ready and run.held_by is None and run.name not in given_out and run.done - 2 not in standings
    ]
    idle = [worker for worker in snapshot.workers if not held.get(worker.name)]
    assert not (waiting and idle)


@given(snapshots())
def test_who_waits_is_not_behind_who_is_served(snapshot: Snapshot) -> None:
    """Fewest finished chunks first; only what needs a worker for itself may have to wait longer."""
    decisions = plan(snapshot)
    given_out = {decision.run for decision in decisions}
    standings = {run.done for run in snapshot.runs if run.ready}
    served = [run.done for run in snapshot.runs if run.name in given_out and run.held_by is None]
    for run in snapshot.runs:
        waits = run.ready and run.held_by is None and run.name not in given_out and run.done - 2 not in standings
        if waits and not run.alone and served:
            assert run.done >= max(served)


@given(snapshots(), st.randoms(use_true_random=False))
def test_equal_snapshots_give_equal_plans_in_whatever_order(snapshot: Snapshot, random: Random) -> None:
    runs, workers = list(snapshot.runs), list(snapshot.workers)
    random.shuffle(runs)
    random.shuffle(workers)
    assert plan(Snapshot(tuple(runs), tuple(workers))) == plan(snapshot)


def test_residents_go_to_their_workers_and_the_longest_goes_first() -> None:
    runs = (
        Candidate("r1", 1, done=1, remaining=10),
        Candidate("r2", 2, done=1, remaining=30),
        Candidate("r3", 3, done=1, remaining=20, residence=WORKERS[0].process),
    )
    decisions = {decision.run: decision.worker for decision in plan(Snapshot(runs, WORKERS[:2]))}
    assert decisions["r3"] == "w-0"
    assert decisions["r2"] == "w-1"


def test_what_others_wait_for_goes_first() -> None:
    runs = (
        Candidate("chunk", 1, remaining=30),
        Candidate("index", 2, remaining=9, index_digest="a" * 64),
        Candidate("new", 3),
    )
    for count in (1, 2):
        decisions = plan(Snapshot(runs, WORKERS[:count]))
        assert [each.run for each in decisions][:count] == ["new", "index"][:count]
    tasks = {each.run: (each.task, each.chunk) for each in plan(Snapshot(runs, WORKERS[:3]))}
    assert tasks == {"new": ("prepare", -1), "index": ("index", -1), "chunk": ("chunk", 0)}


def test_an_idle_worker_takes_over_what_another_one_has_not_begun() -> None:
    runs = (
        Candidate("r1", 1, remaining=9, held_by="w-0", granted_at=1, begun=True, attempt=1),
        Candidate("r2", 2, remaining=9, held_by="w-0", granted_at=2, attempt=1),
    )
    assert plan(Snapshot(runs, WORKERS[:2])) == (Assign("r2", "w-1", WORKERS[1].process, "chunk", 0, 2),)


def test_a_run_far_behind_holds_nobody_up() -> None:
    runs = (
        Candidate("resumed", 1, done=1, remaining=30),
        Candidate("ahead", 2, done=5, remaining=5),
        Candidate("too", 3, done=5, remaining=5),
    )
    assert {decision.run for decision in plan(Snapshot(runs, WORKERS[:2]))} == {"resumed", "ahead", "too"}


# Whole lives.


@dataclass
class Life:
    """Runs of some chunks on some workers that compute, commit and die; the planner's only input is a snapshot."""

    runs: dict[str, Candidate]
    seconds: dict[str, float]
    chunks: int
    workers: dict[str, Worker]
    random: Random
    deaths: int
    queues: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    events: list[tuple[float, int, str, str]] = field(default_factory=list)
    committed: list[tuple[str, int]] = field(default_factory=list)
    spread: int = 0
    ticks: int = 0
    now: float = 0.0
    front: int = 0
    begun: list[str] = field(default_factory=list)

    def look(self) -> None:
        self.front = max([self.front, *(run.turn for run in self.runs.values())])
        for name, start in head_starts(self.runs.values(), self.front).items():
            self.runs[name] = replace(self.runs[name], head_start=start)
        snapshot = Snapshot(tuple(self.runs.values()), tuple(self.workers.values()))
        for decision in plan(snapshot):
            for queue in self.queues.values():
                queue[:] = [each for each in queue if each[0] != decision.run]
            queue = self.queues.setdefault(decision.worker, [])
            queue.append((decision.run, decision.attempt))
            self.ticks += 1
            self.runs[decision.run] = replace(
                self.runs[decision.run],
                held_by=decision.worker,
                attempt=decision.attempt,
                granted_at=self.now + self.ticks * 1e-9,
                begun=False,
            )
        for worker, queue in self.queues.items():
            if queue and not self.runs[queue[0][0]].begun:
                self.begin(worker, *queue[0])

    def begin(self, worker: str, name: str, attempt: int) -> None:
        run = self.runs[name] = replace(self.runs[name], begun=True)
        self.begun.append(name)
        under_way = [each.done for each in self.runs.values()]
        self.spread = max(self.spread, run.done - min(under_way))
        self.ticks += 1
        how = "die" if self.deaths and self.random.random() < 0.2 else "commit"
        self.deaths -= how == "die"
        heapq.heappush(self.events, (self.now + self.seconds[name], self.ticks, how, f"{worker} {name} {attempt}"))

    def step(self) -> None:
        self.now, _, how, what = heapq.heappop(self.events)
        worker, name, attempt = what.split()
        if (name, int(attempt)) not in self.queues.get(worker, []):
            return
        if how == "die":
            self.die(worker)
            return
        self.queues[worker].remove((name, int(attempt)))
        run = self.runs[name]
        if run.prepared:
            self.committed.append((name, run.done))
        left = (run.remaining or self.chunks) - run.prepared
        process = self.workers[worker].process
        self.runs[name] = replace(
            run, done=run.done + run.prepared, remaining=left, held_by=None, begun=False, residence=process, alone=False
        )
        if not left:
            del self.runs[name]

    def die(self, worker: str) -> None:
        """A new process takes the place of the old one, which takes all it held along."""
        for place, (name, _) in enumerate(self.queues.pop(worker)):
            run = self.runs[name]
            self.runs[name] = replace(run, held_by=None, begun=False, alone=run.alone or place == 0)
        self.ticks += 1
        self.workers[worker] = Worker(worker, f"{worker}/{self.ticks}")

    def live(self) -> None:
        for _ in range(5000):
            self.look()
            if not self.events:
                return
            self.step()
        raise AssertionError(f"it does not end: {self.runs}")


def life(runs: int, workers: int, chunks: int, seconds: list[float], deaths: int, seed: int) -> Life:
    names = [f"r{index + 1}" for index in range(runs)]
    return Life(
        runs={name: Candidate(name, index) for index, name in enumerate(names)},
        seconds=dict(zip(names, seconds, strict=False)),
        chunks=chunks,
        workers={worker.name: worker for worker in WORKERS[:workers]},
        random=Random(seed),
        deaths=deaths,
    )


lives = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.lists(st.floats(0.5, 5), min_size=9, max_size=9)
)


@given(lives, st.integers(0, 12), st.integers(0, 2**32))
@settings(deadline=None)
def test_every_chunk_is_committed_once_whoever_dies(
    shape: tuple[int, int, int, list[float]], deaths: int, seed: int
) -> None:
    simulated = life(*shape, deaths=deaths, seed=seed)
    simulated.live()
    runs, _, chunks, _ = shape
    assert not simulated.runs, "some runs starved"
    assert Counter(simulated.committed) == Counter(
        {(f"r{run + 1}", chunk): 1 for run in range(runs) for chunk in range(chunks)}
    )


@given(lives)
@settings(deadline=None)
def test_no_run_is_more_than_one_chunk_ahead_of_another(shape: tuple[int, int, int, list[float]]) -> None:
    simulated = life(*shape, deaths=0, seed=0)
    simulated.live()
    assert simulated.spread <= 1


# Who joins late.


@given(
    incumbents=st.integers(1, 6),
    joiners=st.integers(1, 3),
    workers=st.integers(1, 4),
    ahead=st.integers(3, 30),
    data=st.data(),
)
@settings(deadline=None)
def test_who_joins_late_gets_a_fair_share_and_takes_no_more(
    incumbents: int, joiners: int, workers: int, ahead: int, data: st.DataObject
) -> None:
    """In any window of grants each run gets its share, give or take two, whatever the others were ahead."""
    many = incumbents + joiners
    simulated = life(many, workers, 60, [1.0] * many, deaths=0, seed=0)
    for name, run in list(simulated.runs.items()):
        late = run.index >= incumbents
        done = data.draw(st.integers(0, ahead - 3)) if late else ahead
        prepared = not late or data.draw(st.booleans())
        left = 60 if prepared else None
        simulated.runs[name] = replace(run, done=done if prepared else 0, remaining=left)
    simulated.front = ahead
    simulated.look()
    while len(simulated.begun) < 20 * many:
        simulated.step()
        simulated.look()
    length = data.draw(st.integers(many, 8 * many))
    start = data.draw(st.integers(0, len(simulated.begun) - length))
    window = Counter(simulated.begun[start : start + length])
    for name in simulated.runs:
        assert abs(window[name] - length / many) <= 2, (name, window, simulated.begun)


@given(snapshots(), st.integers(0, 40))
def test_after_head_starts_everybody_who_may_run_is_close_to_the_front(snapshot: Snapshot, ended: int) -> None:
    front = max([ended, *(run.turn for run in snapshot.runs)])
    starts = head_starts(snapshot.runs, front)
    runs = [replace(run, head_start=starts.get(run.name, run.head_start)) for run in snapshot.runs]
    assert all(front - 2 <= run.turn <= front for run in runs if run.ready)
    assert head_starts(runs, front) == {}, "nobody is lifted twice"
    assert all(run.head_start == 0 for run in runs if not run.ready or run.done >= front - 2)


@given(lives)
@settings(deadline=None)
def test_no_run_of_one_age_gets_a_head_start_whatever_its_pace(shape: tuple[int, int, int, list[float]]) -> None:
    """The promise of one chunk between runs of one age rests on it."""
    simulated = life(*shape, deaths=0, seed=0)
    while simulated.runs:
        simulated.look()
        assert all(run.head_start == 0 for run in simulated.runs.values())
        if simulated.events:
            simulated.step()
