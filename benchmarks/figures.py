"""From what was seen to the figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.cluster import Event, Trace


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to train all configs, once.

    Attributes:
        wall: Seconds from nothing to the last config's end, every start, load and tokenisation included.
        cpu: CPU seconds of the processes that train, in that time.
        training_wall: Seconds of training alone: evaluations included, and ours with every swap, checkpoint and wait.
        training_cpu: CPU seconds of that.
        compared: Seconds until every config has its first evaluation at the same step.
        losses: The eval losses of each config, in the order of its evaluations.
        peak: The most memory that one process had, in bytes.
    """

    wall: float
    cpu: float
    training_wall: float
    training_cpu: float
    compared: float
    losses: list[list[float]]
    peak: int


def of_plain(begun: float, programs: Sequence[tuple[float, Mapping[str, Any]]]) -> Pass:
    """Return the figures of plain programs that ran one after another.

    Args:
        begun: When the first was started.
        programs: When each ended, and what it printed.
    """
    return Pass(
        wall=programs[-1][0] - begun,
        cpu=sum(said["cpu"][2] for _, said in programs),
        training_wall=sum(said["train"][1] - said["train"][0] for _, said in programs),
        training_cpu=sum(said["cpu"][1] - said["cpu"][0] for _, said in programs),
        compared=programs[-1][1]["evals"][0][0] - begun,
        losses=[[loss for _, loss in said["evals"]] for _, said in programs],
        peak=max(said["peak"] for _, said in programs),
    )


def of_chunks(trace: Trace) -> Pass:
    """Return the figures of an experiment on one worker."""
    spans = [*_spans(trace.events)]
    training = [(begin, end) for task, begin, end in spans if task != "prepare"]
    boundaries: dict[str, list[tuple[float, float]]] = {}
    for line in trace.lines:
        if "boundary/eval_loss" in line.values:
            boundaries.setdefault(line.run, []).append((line.time, line.values["boundary/eval_loss"]))
    return Pass(
        wall=trace.finished - trace.asked,
        cpu=trace.cpu_at(trace.finished),
        training_wall=sum(end - begin for begin, end in training),
        training_cpu=sum(trace.cpu_at(end) - trace.cpu_at(begin) for begin, end in training),
        compared=max(times[0][0] for times in boundaries.values()) - trace.asked,
        losses=[[loss for _, loss in boundaries[run]] for run in sorted(boundaries)],
        peak=trace.peak,
    )


def _spans(events: Sequence[Event]) -> Iterable[tuple[str, float, float]]:
    """Return (task, begin, end) of what a worker did, one after another without a gap: each waits for the next."""
    begun = [event for event in events if event.event == "begun"]
    last = max(event.time for event in events if event.event == "ended")
    ends = [*(event.time for event in begun[1:]), last]
    return [(event.task, event.time, end) for event, end in zip(begun, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class Latency:
    """From the decision that a worker computes a chunk to the end of the chunk's first optimizer step, in seconds."""

    warm: list[float]
    fresh: list[float]


def latencies(trace: Trace, renewals: Sequence[float]) -> Latency:
    """Return the latencies of an experiment of one run whose chunks are single steps.

    Args:
        trace: What was seen.
        renewals: When each new worker was asked for.
    """
    done = {line.step: line.time for line in trace.lines if line.kind == "log" and "loss" in line.values}
    chunks = sorted((grant for grant in trace.grants.values() if grant.task == "chunk"), key=lambda grant: grant.at)
    latest = {grant.chunk: grant for grant in chunks}  # a chunk that a leaving worker gave back is given out again
    warm, seen = [], set()
    for chunk, grant in sorted(latest.items()):
        if grant.process in seen:
            warm.append(done[chunk + 1] - grant.at)
        seen.add(grant.process)
    fresh = [min(time for time in done.values() if time > asked) - asked for asked in renewals]
    return Latency(warm, fresh)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def middle(passes: Sequence[Pass]) -> dict[str, float]:
    """Return the median of each figure over repetitions."""
    numbers = [{name: value for name, value in asdict(each).items() if name != "losses"} for each in passes]
    return {name: median(each[name] for each in numbers) for name in numbers[0]}
