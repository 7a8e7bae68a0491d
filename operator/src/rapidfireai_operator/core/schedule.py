"""What runs next, and where: the one place that decides it.

Fair first: the run whose turn it is, which is the one with the fewest finished chunks. Then the run that is still warm
on a worker. Then the longest remaining. A higher priority comes before all of that, but not before this: no run begins
a chunk while another run of its age is more than one chunk behind. A run that is further behind joined late (a clone)
or had to wait (it was stopped, or failed): it is of another age, and gets a head start, so that it neither catches up
at the others' cost nor waits for them. Nobody waits for such a run while it builds an index.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from rapidfireai.api.run import PREPARE_CHUNK, Task

HELD_AT_MOST = 2
"""How many runs a worker may hold, so that it seldom waits for the operator."""
TOO_FAR_BEHIND = 2
"""So many chunks behind, a run of the same age holds the others up."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A living worker process that takes new work."""

    name: str
    process: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that has not ended and that nobody stopped.

    Attributes:
        done: How many chunks it finished.
        head_start: Chunks that count as done in the order of turns.
        remaining: Optimizer steps or rows to go; None before it is prepared.
        index_digest: The index that has to be built before its first chunk; None if there is nothing to build.
        attempt: The last attempt that was given out.
        ready: Whether it may go on now; False while it waits after a failure, or stops at the next boundary.
        held_by: The worker that holds its assignment.
        granted_at: When it got that assignment.
        begun: Whether that worker said that it began.
        builds: Whether that assignment is to build its index.
        residence: The process where its session is warm.
        alone: Whether it needs a worker for itself.
        priority: The highest goes first among those that may begin.
    """

    name: str
    index: int
    done: int = 0
    head_start: int = 0
    remaining: int | None = None
    index_digest: str | None = None
    attempt: int = 0
    ready: bool = True
    held_by: str | None = None
    granted_at: float = 0.0
    begun: bool = False
    builds: bool = False
    residence: str | None = None
    alone: bool = False
    priority: int = 0

    @property
    def prepared(self) -> bool:
        """Whether its steps are known."""
        return self.remaining is not None

    @property
    def task(self) -> Task:
        """What it does next."""
        if not self.prepared:
            return "prepare"
        return "chunk" if self.index_digest is None else "index"

    @property
    def turn(self) -> int:
        """Its place in the order of turns: the fewest go first."""
        return self.done + self.head_start


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the planner may look at."""

    runs: tuple[Candidate, ...]
    workers: tuple[Worker, ...]


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the next task of `run` to `worker`; `attempt` fences earlier tries.

    A run that another worker holds, and has not begun, moves.
    """

    run: str
    worker: str
    process: str
    task: Task
    chunk: int
    attempt: int


def head_starts(runs: Iterable[Candidate], front: int) -> dict[str, int]:
    """Return the new head start of each run that joins late, by name.

    Runs of one age are never more than two finished chunks apart. Who is further behind comes in one behind the front:
    it is among the next, and a chunk later one of many.

    Args:
        runs: The runs that have not ended and that nobody stopped.
        front: The furthest turn that any run of the experiment ever had, ended and stopped ones included.
    """
    late = (run for run in runs if run.ready and run.turn < front - TOO_FAR_BEHIND)
    return {run.name: front - 1 - run.done for run in late}


def plan(snapshot: Snapshot) -> tuple[Assign, ...]:
    """Choose what each worker gets next.

    Deterministic: equal snapshots give equal plans. Workers without work are served first, if need be with what
    another worker holds and has not begun; then each worker gets a second run to go on with.
    """
    board = _Board.of(snapshot)
    if idle := [worker for worker in board.workers if not board.held[worker.name]]:
        board.hand_out(idle, [*board.waiting(), *board.queued()])
    if busy := [worker for worker in board.workers if board.may_queue(worker)]:
        waiting = board.waiting()
        lonely = sum(run.alone for run in waiting)
        board.hand_out(busy[lonely:], [run for run in waiting if not run.alone])
    return tuple(board.decisions)


@dataclass(slots=True)
class _Board:
    """The plan while it is made."""

    runs: dict[str, Candidate]
    workers: tuple[Worker, ...]
    held: dict[str, list[str]]
    standings: frozenset[int]
    decisions: list[Assign] = field(default_factory=list)

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Board:
        runs = {run.name: run for run in sorted(snapshot.runs, key=lambda run: run.index)}
        held: dict[str, list[str]] = {worker.name: [] for worker in snapshot.workers}
        given = [(run.granted_at, run.index, run.held_by, run.name) for run in snapshot.runs if run.held_by is not None]
        for _, _, worker, name in sorted(given):
            held.setdefault(worker, []).append(name)
        waited_for = (run for run in runs.values() if run.ready and not (run.head_start and run.task == "index"))
        standings = frozenset(run.turn for run in waited_for)
        return cls(runs, tuple(sorted(snapshot.workers, key=lambda worker: worker.name)), held, standings)

    def waiting(self) -> list[Candidate]:
        """Return the runs that could be given out."""
        return [run for run in self.runs.values() if run.ready and run.held_by is None and self.is_fair(run)]

    def queued(self) -> list[Candidate]:
        """Return the runs that lie behind another one and have not begun."""
        names = (name for runs in self.held.values() for name in runs[1:])
        return [run for run in map(self.runs.__getitem__, names) if run.ready and not run.begun]

    def is_fair(self, run: Candidate) -> bool:
        """Return whether no run of its age would be more than one chunk behind."""
        return run.turn - TOO_FAR_BEHIND not in self.standings

    def may_queue(self, worker: Worker) -> bool:
        """Return whether the worker has something to do and room for more."""
        held = self.held[worker.name]
        return 0 < len(held) < HELD_AT_MOST and not any(self.runs[name].alone for name in held)

    def hand_out(self, workers: Iterable[Worker], candidates: Iterable[Candidate]) -> None:
        """Give each worker one of the candidates, the fairest first."""
        free = {worker.process: worker for worker in workers}
        for run, worker in _match(free, list(candidates)):
            if run.held_by is not None:
                self.held[run.held_by].remove(run.name)
            self.held[worker.name].append(run.name)
            self.runs[run.name] = replace(run, held_by=worker.name, begun=False)
            chunk = run.done if run.task == "chunk" else PREPARE_CHUNK
            self.decisions.append(Assign(run.name, worker.name, worker.process, run.task, chunk, run.attempt + 1))


def _match(free: dict[str, Worker], candidates: list[Candidate]) -> Iterator[tuple[Candidate, Worker]]:
    """Pair candidates and free workers, by priority and turn by turn; `free` is used up."""
    tiers: dict[tuple[int, int], list[Candidate]] = {}
    for run in candidates:
        tiers.setdefault((-run.priority, run.turn), []).append(run)
    for turn in sorted(tiers):
        warm: list[Candidate] = []
        moved: list[Candidate] = []
        for run in tiers[turn]:
            (warm if run.held_by is None and run.residence in free else moved).append(run)
        for run in sorted(warm, key=_rank):
            if run.residence in free:
                yield run, free.pop(run.residence)
            else:
                moved.append(run)
        for run in heapq.nsmallest(len(free), moved, key=_rank):
            yield run, free.pop(min(free, key=lambda process: free[process].name))
        if not free:
            return


_FIRST: Mapping[Task, int] = {"prepare": 0, "index": 1, "chunk": 2}
"""What others wait for goes first: preparing names the indexes, and building one lets all go on that search it."""


def _rank(run: Candidate) -> tuple[bool, int, int, int]:
    return run.held_by is not None, _FIRST[run.task], -(run.remaining or 0), run.index
