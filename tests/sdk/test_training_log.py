"""The file that keeps what workers wrote."""

from __future__ import annotations

from pathlib import Path

from kubernetes.client import ApiException

from rapidfireai.errors import ClusterNotFoundError
from rapidfireai.progress import Picture
from rapidfireai.show.worker_logs import LogEntry, WorkerLog
from rapidfireai.training_log import TrainingLog


def at(second: int, text: str) -> str:
    return f"2026-11-24T10:00:{second:02}.000000000Z {text}"


class Pods:
    """Workers whose logs grow."""

    def __init__(self) -> None:
        self.written: dict[str, list[str]] = {"e-w-0": [], "e-w-1": []}
        self._logs = {name: WorkerLog(name) for name in self.written}

    def read(self) -> list[LogEntry]:
        return [entry for name, log in self._logs.items() for entry in log.read(self.written[name])]


def picture(workers: str) -> Picture:
    return Picture("e", "Running", (), workers, "", "", ())


def test_what_workers_write_is_added_once(tmp_path: Path) -> None:
    pods, path = Pods(), tmp_path / "e" / "training.log"
    log = TrainingLog(path, pods.read)
    log.fetch()
    assert not path.exists()
    pods.written["e-w-0"] = [at(1, "loading"), at(1, '{"event": "begun", "level": "info", "run": "e-r1"}')]
    log.fetch()
    pods.written["e-w-0"].append(at(3, "a line of the user"))
    pods.written["e-w-1"].append(at(2, "loading"))
    log.fetch()
    log.close()
    assert path.read_text().splitlines() == [
        at(1, "e-w-0 loading"),
        at(1, "e-w-0 info     begun run=e-r1"),
        at(3, "e-w-0 a line of the user"),
        at(2, "e-w-1 loading"),
    ]


def test_another_process_goes_on_behind_the_last_line_of_each_worker(tmp_path: Path) -> None:
    path = tmp_path / "training.log"
    trace = '{"event": "raised", "level": "error", "exception": "Traceback:\\n  2026 lines of it"}'
    first, second = Pods(), Pods()
    first.written["e-w-0"] = [at(1, "loading"), at(5, trace)]
    TrainingLog(path, first.read).fetch()
    second.written = {"e-w-0": [at(1, "loading"), at(5, trace), at(7, "more")], "e-w-1": [at(2, "late")]}
    TrainingLog(path, second.read).fetch()
    assert [line for line in path.read_text().splitlines() if line.startswith("2026-")] == [
        at(1, "e-w-0 loading"),
        at(5, "e-w-0 error    raised"),
        at(7, "e-w-0 more"),
        at(2, "e-w-1 late"),
    ]


def test_logs_that_cannot_be_read_stop_nothing(tmp_path: Path) -> None:
    problems = [ClusterNotFoundError("it does not answer"), ApiException(status=403)]

    def read() -> list[LogEntry]:
        raise problems[-1]

    for _ in range(2):
        log = TrainingLog(tmp_path / "training.log", read)
        log.update(picture("0/300"))
        log.close()
        problems.pop()
    assert list(tmp_path.iterdir()) == []


def test_the_logs_of_many_workers_are_read_now_and_then(tmp_path: Path) -> None:
    reads: list[int] = []

    def read() -> list[LogEntry]:
        reads.append(1)
        return []

    log = TrainingLog(tmp_path / "training.log", read)
    for _ in range(5):
        log.update(picture("100/100"))
    assert len(reads) == 1
    log.close()
    assert len(reads) == 2
