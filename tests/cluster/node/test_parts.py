"""Processes, ledger, logs and probes, without an API server."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from rapidfireai.cluster.node import logs
from rapidfireai.cluster.node.facts import ContainerFacts, PodFacts, ProcessId, Running, Terminated
from rapidfireai.cluster.node.ledger import Ledger, recover
from rapidfireai.cluster.node.logs import LogFile, LogOptions, since_of
from rapidfireai.cluster.node.probes import Counter, Target, Timing, check, run_probe
from rapidfireai.cluster.node.process import MARKER_ENV, ContainerProcess, StartError, identify, kill_all

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def env(marker: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], MARKER_ENV: marker}


async def start(script: str, marker: str, directory: Path) -> ContainerProcess:
    return await ContainerProcess.start(["sh", "-c", script], env(marker), directory)


def facts(uid: str, state: Running) -> PodFacts:
    return PodFacts(uid, "ns", "p", "127.1.1.1", "/tmp/none", T0, {"c": ContainerFacts(state, None, 1, True, True)})


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)])
async def test_exit_codes_are_those_of_a_shell(script: str, code: int, tmp_path: Path) -> None:
    assert await (await start(script, f"{tmp_path.name}/c", tmp_path)).wait() == code


async def test_the_end_of_the_first_process_ends_all(tmp_path: Path) -> None:
    process = await start("setsid sleep 100 & echo $!; sleep 0.2", f"{tmp_path.name}/c", tmp_path)
    child = int(await process.output.readline())
    assert await process.wait() == 0
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


async def test_a_program_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot run 'nothing' in .*No such file"):
        await ContainerProcess.start(["nothing"], env("x/c"), tmp_path)


def test_another_pods_processes_are_left_alone(tmp_path: Path) -> None:
    assert kill_all((), {f"{tmp_path.name}-nobody"}) == 0


async def test_what_a_killed_node_left_is_ended_and_known_to_have_ended(tmp_path: Path) -> None:
    uid = f"uid-{tmp_path.name}"
    process = await start("sleep 100", f"{uid}/c", tmp_path)
    Ledger(tmp_path).write(facts(uid, Running(T0, process.id)))
    recovered = recover(tmp_path, T0 + timedelta(seconds=5))
    assert await process.wait() == 137
    state = recovered[uid].containers["c"].state
    assert isinstance(state, Terminated)
    assert (state.exit_code, state.reason, state.started) == (137, "ContainerStatusUnknown", T0)


def test_a_stranger_with_the_recorded_pid_lives_on(tmp_path: Path) -> None:
    stranger = ProcessId(os.getpid(), identify(os.getpid()).created - 3600)
    Ledger(tmp_path).write(facts("other", Running(T0, stranger)))
    assert isinstance(recover(tmp_path, T0)["other"].containers["c"].state, Terminated)


def test_an_unreadable_record_is_no_record(tmp_path: Path) -> None:
    (Ledger(tmp_path).directory("broken") / "pod.json").write_text("{")
    assert recover(tmp_path, T0) == {}
    assert Ledger(tmp_path).uids() == {"broken"}


def test_temporary_directories_have_short_paths(tmp_path: Path) -> None:
    deep = Ledger(tmp_path / ("x" * 80)).temporary("0123456789abcdef")
    assert len(str(deep)) < 60
    assert Ledger(Path("/h")).temporary("01234567-89ab-cdef") == Path("/h/tmp/01234567-89ab")
    deep.rmdir()


async def fill(log: LogFile, *chunks: bytes) -> None:
    reader = asyncio.StreamReader()
    for each in chunks:
        reader.feed_data(each)
    reader.feed_eof()
    await log.fill(reader)


async def read(log: LogFile, options: LogOptions | None = None) -> bytes:
    return b"".join([line async for line in log.read(options or LogOptions())])


async def test_lines_are_put_together_from_chunks(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "1.log")
    await fill(log, b"on", b"e\ntwo\r100%\r\nthr", b"ee")
    assert await read(log) == b"one\ntwo\r100%\r\nthree"
    assert await read(log, LogOptions(tail=2)) == b"two\r100%\r\nthree"
    assert await read(log, LogOptions(limit=5)) == b"one\nt"
    assert log.last_words() == "one\ntwo\r100%\r\nthree"


async def test_long_lines_come_back_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "1.log")
    text = b"x" * (3 * logs.LONGEST_LINE + 7)
    await fill(log, text, b"\nend\n")
    assert await read(log) == text + b"\nend\n"


async def test_a_log_is_rotated_and_followed_across_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ROTATE_BYTES", 400)
    log = LogFile(tmp_path / "1.log")
    reader = asyncio.StreamReader()
    filling = asyncio.create_task(log.fill(reader))
    reader.feed_data(b"line 0\n")
    await asyncio.sleep(0)
    following = asyncio.create_task(read(log, LogOptions(follow=True)))
    for number in range(1, 30):
        reader.feed_data(b"line %d\n" % number)
        await asyncio.sleep(0.001)
    reader.feed_eof()
    await filling
    assert await asyncio.wait_for(following, 5) == b"".join(b"line %d\n" % number for number in range(30))
    assert (tmp_path / "1.log.1").stat().st_size < 500
    kept = await read(log)
    assert kept.endswith(b"line 28\nline 29\n")
    assert len(kept) < 29 * 8


async def test_since_and_timestamps(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "1.log")
    log.path.write_bytes(b"2026-01-01T00:00:00.000000000Z F old\n2026-01-02T00:00:00.000000000Z F new\n")
    since = since_of(None, "2026-01-01T12:00:00Z")
    assert await read(log, LogOptions(since=since)) == b"new\n"
    stamped = await read(log, LogOptions(since=since, timestamps=True))
    assert stamped == b"2026-01-02T00:00:00.000000000Z new\n"


async def test_a_full_disk_costs_lines_not_the_container(tmp_path: Path) -> None:
    (tmp_path / "in the way").touch()
    log = LogFile(tmp_path / "in the way" / "1.log")
    await fill(log, b"lost\n")
    assert log.closed


def test_verdicts_need_their_thresholds() -> None:
    counter = Counter(Timing(0, 1, 1, successes=2, failures=3))
    results = [counter.fold(each) for each in (True, True, False, False, False, True, True)]
    assert results == [None, True, None, None, False, None, True]


def target(tmp_path: Path) -> Target:
    return Target("127.0.0.1", {"http": 9}, {"PATH": os.environ["PATH"]}, tmp_path)


async def test_checks_say_why_they_fail(tmp_path: Path) -> None:
    where = target(tmp_path)
    python = sys.executable
    assert await check({"exec": {"command": [python, "-c", "pass"]}}, where, 30) is None
    assert await check({"exec": {"command": ["sh", "-c", "echo no; exit 1"]}}, where, 10) == "no"
    assert await check({"exec": {"command": ["sleep", "100"]}}, where, 0.2) == "no answer within 0.2 s"
    assert "No such file" in str(await check({"exec": {"command": ["nothing"]}}, where, 10))
    assert "Connect call failed" in str(await check({"httpGet": {"port": "http"}}, where, 10))
    assert await check({"tcpSocket": {"port": "other"}}, where, 10) == "the container has no port named other"
    assert "exec, httpGet and tcpSocket" in str(await check({"grpc": {"port": 1}}, where, 10))


async def test_a_failing_probe_complains_once_a_change(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    verdicts: list[bool] = []
    complaints: list[str] = []

    def report(success: bool, _: str) -> bool:
        verdicts.append(success)
        if len(verdicts) == 2:
            flag.touch()
        return len(verdicts) < 4

    probe = {"exec": {"command": ["test", "-e", str(flag)]}, "periodSeconds": 0.01, "failureThreshold": 1}
    await asyncio.wait_for(run_probe(probe, target(tmp_path), report, complaints.append), 20)
    assert verdicts == [False, False, True, True]
    assert complaints == ["exit code 1"]
