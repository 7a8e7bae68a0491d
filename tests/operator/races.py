"""An experiment of curves alone: what policies make of it, commit by commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rapidfireai.api.policies import Policy, PolicyRecord
from rapidfireai_operator.core.race import Mark, Racer, decide

CHUNKS = 9


@dataclass
class Story:
    """An experiment whose runs commit in some order, as the operator sees it after each commit.

    Attributes:
        curves: What each run would show, chunk by chunk; a curve that ends early is of a run that fails there.
        overshoot: Whether a run that is asked to stop commits one more chunk.
        chunks: How many chunks each run has.
        width: How far the ends of each interval are from the value.
    """

    curves: dict[str, list[float | None]]
    policies: Sequence[Policy]
    overshoot: Callable[[], bool] = lambda: False
    chunks: int = CHUNKS
    width: float = 1.5
    racers: dict[str, Racer] = field(default_factory=dict)
    records: Sequence[PolicyRecord] = ()
    stops: dict[str, set[Mark]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, name in enumerate(self.curves, 1):
            self.racers[name] = Racer(name, index, total=self.chunks)

    def play(self, choose: Callable[[list[Racer]], Racer]) -> None:
        """Let the runs commit until none goes on; `choose` says whose turn it is."""
        while moving := self.movable():
            self.commit(choose(moving))
            self.look()

    def movable(self) -> list[Racer]:
        """Return the runs that may commit next: none is more than a chunk ahead of another."""
        active = [each for each in self.racers.values() if each.active]
        behind = min((each.done for each in active), default=0)
        return [each for each in active if each.done <= behind + 1]

    def commit(self, each: Racer) -> None:
        curve, done = self.curves[each.name], each.done + 1
        if each.done >= len(curve):
            self.racers[each.name] = replace(each, ended=True, failed=True)
            return
        value = curve[each.done]
        known = each.curve if value is None else {**each.curve, done: value}
        ends = {} if value is None else {done: (value - self.width, value + self.width)}
        metric = each.metric or (None if value is None else "eval_loss")
        self.racers[each.name] = replace(
            each,
            curve=known,
            intervals={**each.intervals, **ends},
            metric=metric,
            done=done,
            ended=done == self.chunks,
        )

    def look(self) -> None:
        while True:
            decision = decide(self.policies, "minimize", self.racers.values(), (), self.records)
            self.records = decision.records
            if not decision.stops:
                return
            for stop in decision.stops:
                each = self.racers[stop.run]
                assert each.active, "only what goes on can be stopped"
                assert stop.mark not in self.stops.setdefault(stop.run, set()), "stopped twice for one reason"
                self.stops[stop.run].add(stop.mark)
                self.racers[stop.run] = replace(each, wanted=False, marks=(*each.marks, stop.mark))
                if self.overshoot():
                    self.commit(self.racers[stop.run])
            assert any(each.alive for each in self.racers.values()), "nothing is left"
