"""What of the workers' lines concerns a run, and how it reads."""

from __future__ import annotations

import json

from rapidfireai.show.worker_logs import WorkerLog, of_run


def line(second: int, event: str, **more: object) -> str:
    return f"2026-01-01T12:00:{second:02}.000000001Z " + json.dumps({"event": event, "level": "info", **more})


def raw(second: int, text: str) -> str:
    return f"2026-01-01T12:00:{second:02}.000000001Z {text}"


LINES = [
    line(0, "ready for assignments", process="sft-w-0-abcde/1"),
    line(1, "begun", run="sft-r1", chunk=0, attempt=2, task="chunk", worker="sft-w-0", experiment="sft"),
    raw(2, "my own print"),
    line(
        3, "failed", run="sft-r1", chunk=0, attempt=2, level="warning", reason="UserCodeError", exception="Trace\n  x"
    ),
    line(4, "ended", run="sft-r1", chunk=0, attempt=2, outcome="failed", seconds=1.5),
    raw(5, "of nobody"),
    line(6, "begun", run="sft-r2", chunk=0, attempt=1, task="chunk"),
    raw(7, '{"json": "but not ours"}'),
]


def test_a_runs_lines_are_its_own_and_what_user_code_printed_meanwhile() -> None:
    lines = [entry.line() for entry in of_run(WorkerLog("sft-w-0").read(LINES), "sft-r1")]
    assert lines == [
        "12:00:01 sft-w-0  info     begun run=sft-r1 chunk=0 attempt=2 task=chunk",
        "12:00:02 sft-w-0  my own print",
        "12:00:03 sft-w-0  warning  failed run=sft-r1 chunk=0 attempt=2 reason=UserCodeError\nTrace\n  x",
        "12:00:04 sft-w-0  info     ended run=sft-r1 chunk=0 attempt=2 outcome=failed seconds=1.5",
    ]


def test_without_a_run_every_line_is_there() -> None:
    entries = list(of_run(WorkerLog("sft-w-0").read(LINES), ""))
    assert len(entries) == len(LINES)
    assert [entry.run for entry in entries][-3:] == ["", "sft-r2", "sft-r2"]


def test_lines_that_are_read_again_are_passed_over_and_none_is_lost() -> None:
    log = WorkerLog("sft-w-0")
    first = list(log.read(LINES[:4]))
    # Written in the same instant as the last one that was seen.
    twin = LINES[3].replace("failed", "failed as well")
    again = list(log.read([*LINES[2:4], twin, *LINES[4:]]))
    assert next(entry.text for entry in again).startswith("warning  failed as well")
    assert len(first) + len(again) == len(LINES) + 1
