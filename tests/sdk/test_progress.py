"""What a user sees of an experiment under way."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from syrupy.assertion import SnapshotAssertion

from rapidfireai.api import Experiment, Run
from rapidfireai.progress.lines import LineView, lines_between
from rapidfireai.progress.picture import Picture, differing_knobs, picture_of
from rapidfireai.progress.views import TerminalView, choose_view, html_of, in_notebook, table_of

NOW = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def experiment(**status: Any) -> Experiment:
    spec = {"configs": [{"trainer": "SFT", "config": {}}], "data": {"train": {"uri": "hf://x/y"}}}
    return Experiment.from_body({"metadata": {"name": "sft"}, "spec": spec, "status": status})


def run(index: int, rate: float, state: str, step: int = 0, **status: Any) -> Run:
    checkpoint = {"path": "p", "digest": "0" * 64, "step": step // 12 * 12}
    progress = {"attempt": 1, "chunk": step // 12, "step": step, "loss": "1.934", "checkpoint": checkpoint}
    prepared = {"totalSteps": 48, "boundaries": [12, 24, 36, 48], "bytes": 1}
    known = {"prepared": prepared, "progress": progress, "display": {"objective": "1.951"}} if step else {}
    config = {"training_args": {"learning_rate": rate}, "peft_params": {"r": 8 * index, "bias": "none"}}
    return Run.from_body(
        {
            "metadata": {"name": f"sft-r{index}"},
            "spec": {"experimentRef": "sft", "index": index, "config": config},
            "status": {"state": state, **known, **status},
        }
    )


def midway() -> Picture:
    assignment = {"worker": "sft-w-0", "pod": "p", "podUID": "u", "process": "p/1", "attempt": 3, "task": "chunk"}
    failed = condition("Succeeded", "False", "UserCodeError", "formatting_func: KeyError: <'text'>")
    return picture_of(
        experiment(
            state="Running",
            workers={"summary": "1/2"},
            best={"run": "sft-r1", "metric": "eval_loss", "value": 1.951, "summary": "sft-r1 (1.951)"},
            eta="4m",
            conditions=[
                condition("Accepted", "True", "Valid", ""),
                condition("WorkersReady", "False", "Waiting", "Waiting for 1 of 2 workers: no node has a free slot."),
            ],
        ),
        [
            run(1, 1e-4, "Running", 30, assignment={**assignment, "chunk": 2, "grantedAt": 1.0}),
            run(2, 1e-3, "Failed", 12, conditions=[failed]),
            run(3, 1e-4, "Succeeded", 48),
            run(4, 1e-3, "Pending"),
        ],
    )


def drawn(picture: Picture) -> str:
    file = io.StringIO()
    Console(file=file, width=120, color_system=None, force_terminal=True).print(table_of(picture))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_the_terminal_table(snapshot: SnapshotAssertion) -> None:
    assert drawn(midway()) == snapshot


def test_the_notebook_table(snapshot: SnapshotAssertion) -> None:
    assert html_of(midway()) == snapshot


def test_the_lines_of_a_log(snapshot: SnapshotAssertion) -> None:
    earlier = picture_of(experiment(state="Running"), [run(1, 1e-4, "Running", 12), run(2, 1e-3, "Pending")])
    later = picture_of(experiment(state="Failed"), [run(1, 1e-4, "Running", 26), run(2, 1e-3, "Failed")])
    assert {"first": lines_between(None, earlier), "then": lines_between(earlier, later)} == snapshot


def test_nothing_is_written_while_nothing_happens() -> None:
    lines: list[str] = []
    view = LineView(lines.append)
    view.update(midway())
    count = len(lines)
    view.update(midway())
    view.note("the cluster does not answer")
    view.note("the cluster does not answer")
    assert lines[count:] == ["the cluster does not answer"]


def test_markup_of_users_is_text_in_a_notebook() -> None:
    assert "<'text'>" not in html_of(midway())
    assert "&lt;&#x27;text&#x27;&gt;" in html_of(midway())


def test_a_terminal_is_drawn_over_in_place() -> None:
    file = io.StringIO()
    view = TerminalView(Console(file=file, width=120, force_terminal=True))
    view.update(midway())
    view.note("the cluster does not answer; waiting for it")
    view.update(midway())
    view.close()
    assert "\x1b[1A" in file.getvalue()
    assert "waiting for it" in file.getvalue()


def test_without_a_terminal_there_are_lines() -> None:
    assert not in_notebook()
    assert isinstance(choose_view(), LineView)


def test_knobs_are_the_values_that_differ_under_names_that_tell_them_apart() -> None:
    reference = {"$ref": {"bundle": "0", "key": "k", "label": "as_chat"}}
    first = {"a": {"r": 1, "same": 1}, "b": {"r": 1.0}, "m": ["q", "v"]}
    second = {"a": {"r": 2, "same": 1}, "b": {"r": 1e-4}, "f": reference, "m": ["q", "v"]}
    third = {"a": {"r": 2, "same": 1}, "b": {"r": 1.0}, "m": ["q"]}
    assert differing_knobs([first, second, third]) == [
        "a.r=1 b.r=1 m=q+v",
        "a.r=2 b.r=0.0001 f=as_chat m=q+v",
        "a.r=2 b.r=1 m=q",
    ]
    assert differing_knobs([{"f": reference}, {"f": None}]) == ["f=as_chat", "f=None"]
    assert differing_knobs([{"f": reference}, {"f": {"$function": "as_text"}}]) == ["f=as_chat", "f=as_text"]
    assert differing_knobs([first]) == [""]


def test_of_knobs_that_change_together_the_shortest_is_shown() -> None:
    adapters = [
        {"r": 8, "lora_alpha": 16, "target_modules": ["q"]},
        {"r": 32, "lora_alpha": 64, "target_modules": ["v"]},
    ]
    configs = [{"peft": adapter, "args": {"learning_rate": rate}} for adapter in adapters for rate in (1e-4, 1e-3)]
    assert differing_knobs(configs) == [
        "learning_rate=0.0001 r=8",
        "learning_rate=0.001 r=8",
        "learning_rate=0.0001 r=32",
        "learning_rate=0.001 r=32",
    ]


def test_chunks_are_counted_by_what_is_committed() -> None:
    assert [row.chunks_done for row in midway().rows] == [2, 1, 4, 0]
    assert midway().chunks == (7, 12)
