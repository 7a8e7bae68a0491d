"""Which worker ran which chunk, as far as anybody has seen it. The bookkeeping is pure but for its own memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rapidfireai_dashboard.runs import Held, RunLine

MOST_BARS = 4000
"""How many pieces of work of one experiment are remembered; the oldest go first."""
MOST_EXPERIMENTS = 64


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of work.

    Attributes:
        run: The run's name.
        index: The run's number.
        begin: When it was given out, in seconds since the epoch.
        end: When it was seen to be over, or None while it goes on.
    """

    worker: str
    run: str
    index: int
    task: str
    chunk: int
    attempt: int
    begin: float
    end: float | None = None


@dataclass(slots=True)
class Lanes:
    """What is known of one experiment: the assignments that some page has seen while it was open.

    A run's resource names its present assignment alone, so that what happened while nobody looked is not here.

    Attributes:
        since: When somebody began to look, in seconds since the epoch.
    """

    since: float
    done: deque[Bar] = field(default_factory=lambda: deque(maxlen=MOST_BARS))
    open: dict[str, Bar] = field(default_factory=dict)

    def see(self, lines: Iterable[RunLine], now: float) -> None:
        """Take up the present assignments of some runs."""
        for line in lines:
            before, held = self.open.get(line.name), line.held
            if before and (held is None or held.attempt != before.attempt):
                self.done.append(replace(before, end=max(now, before.begin)))
                del self.open[line.name]
            if held is not None and line.name not in self.open:
                self.open[line.name] = _bar(line, held)

    def forget(self, run: str, now: float) -> None:
        """A run is gone: what it was at is over."""
        if (before := self.open.pop(run, None)) is not None:
            self.done.append(replace(before, end=max(now, before.begin)))

    def bars(self) -> list[Bar]:
        """Return all pieces of work, by the time when they began."""
        return sorted([*self.done, *self.open.values()], key=lambda bar: (bar.begin, bar.worker, bar.run))


def _bar(line: RunLine, held: Held) -> Bar:
    return Bar(held.worker, line.name, line.index, held.task, held.chunk, held.attempt, held.since)


class LaneBook:
    """The lanes of the experiments that were looked at last, shared by all pages of this process."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, Lanes] = OrderedDict()

    def of(self, experiment_uid: str, now: float) -> Lanes:
        """Return an experiment's lanes; whoever asks has read that experiment with a token of their own."""
        lanes = self._lanes.setdefault(experiment_uid, Lanes(now))
        self._lanes.move_to_end(experiment_uid)
        while len(self._lanes) > MOST_EXPERIMENTS:
            self._lanes.popitem(last=False)
        return lanes


def workers_of(bars: Iterable[Bar]) -> list[str]:
    """Return the workers that have a lane, by their number."""
    return sorted({bar.worker for bar in bars}, key=lambda name: (len(name), name))


def words(bar: Bar, now: float) -> str:
    """Return a bar in words, for the hover and the table."""
    what = "prepares" if bar.task == "prepare" else f"chunk {bar.chunk + 1}"
    seconds = (now if bar.end is None else bar.end) - bar.begin
    return f"r{bar.index} {what}, {max(0.0, seconds):.1f} s{' so far' if bar.end is None else ''}"
