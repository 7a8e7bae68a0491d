"""A run's log: every line once, whatever was replayed, torn or cut short in between."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker import runlog
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.runlog import Cursor, RunLog, end_of, read_after

FULL = Path("/dev/full")


def write(path: Path, *sequences: int, kind: str = "log") -> None:
    log = RunLog(path)
    for each in sequences:
        log.append("log" if kind == "log" else "boundary", each, each, {"loss": float(each)})
    log.sync()
    log.close()


def sequences(path: Path) -> list[int]:
    return [line.sequence for line in read_after(path, Cursor())[0]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "logs" / "metrics.jsonl"


def test_what_a_warm_clone_begins_with_comes_before_its_first_boundary(path: Path) -> None:
    write(path, -1, 0, -1, 1, kind="boundary")
    assert sequences(path) == [-1, 0, 1]
    first = path.read_bytes().index(b"\n") + 1
    _, cursor = read_after(path, Cursor(), limit=first)
    assert Cursor.parse(str(cursor)) == cursor == Cursor(position=first, last={"boundary": -1})
    assert [line.sequence for line in read_after(path, cursor)[0]] == [0, 1]


def test_a_replay_appends_nothing(path: Path) -> None:
    write(path, 1, 2, 3)
    before = path.read_bytes()
    write(path, 2, 3, 4)
    assert path.read_bytes().startswith(before)
    assert sequences(path) == [1, 2, 3, 4]
    assert len(path.read_bytes().splitlines()) == 4


def test_kinds_are_counted_apart(path: Path) -> None:
    write(path, 1, 2)
    write(path, 1, kind="boundary")
    lines, _ = read_after(path, Cursor())
    assert [(line.kind, line.sequence) for line in lines] == [("log", 1), ("log", 2), ("boundary", 1)]


def test_shards_are_read_once_from_where_one_left(path: Path) -> None:
    for _ in range(2):  # a replay by another worker
        log = RunLog(path)
        for shard, rows in enumerate((57, 113, 169)):
            log.append("shard", shard, rows, {"Accuracy": 0.5})
        log.close()
    first, cursor = read_after(path, Cursor(), limit=path.read_bytes().index(b"\n") + 1)
    rest, end = read_after(path, Cursor.parse(str(cursor)))
    assert [(line.sequence, line.step) for line in (*first, *rest)] == [(0, 57), (1, 113), (2, 169)]
    assert end.last == {"shard": 2}
    assert str(end).endswith(".shard-2")


@pytest.mark.parametrize("torn", [b'{"kind": "lo', b"\xff\xfe", b"{}", b"nonsense\nmore"])
def test_a_torn_last_line_is_passed_over_and_nothing_after_it_is_lost(path: Path, torn: bytes) -> None:
    write(path, 1, 2)
    with path.open("ab") as file:
        file.write(torn)
    assert sequences(path) == [1, 2]
    write(path, 2, 3)
    assert sequences(path) == [1, 2, 3]


def test_a_line_that_lacks_only_its_end_counts(path: Path) -> None:
    write(path, 1, 2)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1)
    write(path, 3)
    assert sequences(path) == [1, 2, 3]


def test_lines_of_a_worker_that_was_thought_dead_are_not_doubled(path: Path) -> None:
    stale, current = RunLog(path), RunLog(path)
    stale.append("log", 1, 1, {"loss": 1.0})
    current.append("log", 2, 2, {"loss": 2.0})
    stale.append("log", 2, 2, {"loss": 2.0})
    current.append("log", 3, 3, {"loss": 3.0})
    assert sequences(path) == [1, 2, 3]


def test_numbers_that_are_not_finite_are_null(path: Path) -> None:
    log = RunLog(path)
    log.append("log", 1, 1, {"a": math.nan, "b": math.inf, "c": 1.0})
    log.sync()
    assert json.loads(path.read_text())["values"] == {"a": None, "b": None, "c": 1.0}


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_by_sync_and_by_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(path)
    log.append("log", 1, 1, {"loss": 1.0})
    full = os.open(FULL, os.O_WRONLY)
    with monkeypatch.context() as patched:
        real = os.write
        patched.setattr(runlog.os, "write", lambda file, data: real(full, data))
        log.append("log", 2, 2, {"loss": 2.0})
        with pytest.raises(RunFailure) as failure:
            log.sync()
        assert (failure.value.reason, failure.value.blame) == ("StorageFull", "Infrastructure")
    os.close(full)
    log.append("log", 3, 3, {"loss": 3.0})
    log.sync()
    assert sequences(path) == [1, 2, 3]


def test_a_line_that_was_cut_short_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(path)
    log.append("log", 1, 1, {"loss": 1.0})
    with monkeypatch.context() as patched:
        real = os.write
        patched.setattr(runlog.os, "write", lambda file, data: real(file, data[:10]))
        log.append("log", 2, 2, {"loss": 2.0})
    log.append("log", 3, 3, {"loss": 3.0})
    log.sync()
    assert sequences(path) == [1, 2, 3]


@given(st.lists(st.tuples(st.sampled_from(["log", "boundary"]), st.integers(0, 9)), max_size=30), st.integers(40, 400))
def test_reading_on_from_a_cursor_sees_what_reading_at_once_sees(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    lines = [{"kind": k, "sequence": n, "step": n, "time": 1.0, "values": {"loss": 1.0}} for k, n in pairs]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, end = read_after(path, Cursor())
    pieces, cursor = [], Cursor()
    while cursor.position < path.stat().st_size:
        piece, following = read_after(path, Cursor.parse(str(cursor)), max(limit, 150))
        assert following != cursor
        pieces += piece
        cursor = following
    assert pieces == whole
    assert cursor == end == end_of(path)
    assert len({(line.kind, line.sequence) for line in whole}) == len(whole)


def test_a_log_that_does_not_exist_is_empty(path: Path) -> None:
    assert read_after(path, Cursor()) == ([], Cursor())


@pytest.mark.parametrize("text", ["x", "1.log", "1.log-x", "-"])
def test_a_cursor_that_nobody_made_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Cursor.parse(text)
