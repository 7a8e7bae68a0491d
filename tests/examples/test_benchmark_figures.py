"""What the benchmark makes of what it saw."""

from __future__ import annotations

from benchmarks import figures
from benchmarks.cluster import Event, Grant, Line, Sample, Trace

A, B = "swap-r1", "swap-r2"


def event(kind: str, run: str, task: str, chunk: int, when: float) -> Event:
    return Event(kind, run, task, chunk, 1, when)


def swapped() -> Trace:
    """Two runs of one chunk: prepared from 10 to 16, trained from 16 to 27, with a commit that overlaps."""
    trace = Trace(asked=0.0, finished=30.0)
    trace.events = [
        event("begun", A, "prepare", -1, 10.0),
        event("ended", A, "prepare", -1, 14.0),
        event("begun", B, "prepare", -1, 14.0),
        event("begun", A, "chunk", 0, 16.0),
        event("begun", B, "chunk", 0, 22.0),
        event("ended", A, "chunk", 0, 23.0),
        event("ended", B, "chunk", 0, 27.0),
    ]
    trace.lines = [Line(run, "boundary", 4, when, {"boundary/eval_loss": 2.0}) for run, when in ((A, 21.0), (B, 26.0))]
    trace.samples = [Sample(7, float(second), second / 2, second << 20) for second in range(31)]
    return trace


def test_training_is_what_is_left_without_loading() -> None:
    found = figures.of_chunks(swapped())
    assert (found.wall, found.cpu) == (30.0, 15.0)
    assert (found.training_wall, found.training_cpu) == (11.0, 5.5)


def test_configs_compare_once_the_last_has_its_first_evaluation() -> None:
    assert figures.of_chunks(swapped()).compared == 26.0


def test_plain_programs_compare_once_the_last_has_its_first_evaluation() -> None:
    said = [
        {"train": [8.0, 18.0], "cpu": [6.0, 15.0, 16.0], "evals": [[13.0, 2.5], [18.0, 2.0]], "peak": 5},
        {"train": [28.0, 39.0], "cpu": [6.0, 16.0, 17.0], "evals": [[33.0, 2.4], [38.0, 1.9]], "peak": 6},
    ]
    found = figures.of_plain(0.0, [(20.0, said[0]), (40.0, said[1])])
    assert (found.wall, found.cpu, found.training_wall, found.training_cpu) == (40.0, 33.0, 21.0, 19.0)
    assert (found.compared, found.peak, found.losses) == (33.0, 6, [[2.5, 2.0], [2.4, 1.9]])


def test_a_chunk_is_warm_if_its_process_had_one_before() -> None:
    trace = Trace()
    given = [(1, 0, "one", 1.0), (2, 1, "one", 3.0), (3, 2, "two", 9.0), (4, 3, "two", 12.0)]
    trace.grants = {
        (A, attempt): Grant(A, attempt, "chunk", chunk, process, at) for attempt, chunk, process, at in given
    }
    trace.lines = [
        Line(A, "log", step, when, {"loss": 1.0}) for step, when in ((1, 2.0), (2, 3.25), (3, 9.5), (4, 12.5))
    ]
    found = figures.latencies(trace, renewals=[5.0])
    assert found == figures.Latency(warm=[0.25, 0.5], fresh=[4.5])


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [figures.percentile(values, share) for share in (0.5, 0.99)] == [50.0, 99.0]
    assert figures.percentile([3.0], 0.99) == 3.0
