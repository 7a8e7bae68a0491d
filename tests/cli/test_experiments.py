"""Looking at experiments, on a real API server and through a real volume service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.sdk.conftest import condition

from rapidfireai.api import Experiment

if TYPE_CHECKING:
    from conftest import Program

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("sft")]


def test_experiments_and_runs_are_listed(program: Program) -> None:
    assert [line.split()[:2] for line in program.says("get").splitlines()] == [["NAME", "STATE"], ["sft", "Running"]]
    runs = [line.split() for line in program.says("get", "My SFT").splitlines()[1:]]
    assert [(row[0], row[1], row[2], row[-1]) for row in runs] == [
        ("sft-r1", "Succeeded", "2/2", "learning_rate=0.001"),
        ("sft-r2", "Running", "1/2", "learning_rate=0.0001"),
    ]
    assert json.loads(program.says("get", "sft-r2", "-o", "json"))[0]["step"] == 2
    assert yaml.safe_load(program.says("get", "sft", "-o", "yaml"))[1]["name"] == "sft-r2"
    assert "WORKER" in program.says("get", "sft", "-o", "wide")


def test_what_is_described_is_read_from_the_cluster(program: Program, sft: Experiment) -> None:
    overall = program.says("describe", "sft")
    assert "Called:       My SFT" in overall
    assert f"experiments/{sft.metadata.uid}" in overall
    assert f"Logs:         rapidfireai logs sft -n {program.workspace.namespace} --kubeconfig" in overall
    assert "sft-r2  Running" in overall
    run = program.says("describe", "sft-r1")
    assert "checkpoints/4-1 (step 4)" in run
    assert "learning_rate: 0.001" in run


def test_the_curves_come_from_the_runs_own_logs(program: Program, tmp_path: Path) -> None:
    drawn = program.says("plot", "sft")
    assert "My SFT: boundary/eval_loss" in drawn
    assert "r1 learning_rate=0.001" in drawn
    words = program.says("plot", "sft", "--metric", "loss", "--x", "step", "-o", str(tmp_path / "c.png"))
    assert words == f"loss of 2 runs: {tmp_path / 'c.png'}\n"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "there are boundary/eval_loss, loss" in program.refuses("plot", "sft", "--metric", "zzz")


def test_logs_of_workers_that_left_are_gone_and_it_is_said(program: Program) -> None:
    for words in (("logs", "sft-r1"), ("logs", "sft", "--worker", "0")):
        assert "sft has no worker now, and what workers wrote goes with them" in program.refuses(*words)
    program.workspace.end_run("sft-r1", "Succeeded", condition("Finished", "True"))
    assert "rapidfireai describe sft-r1" in program.refuses("logs", "-f", "sft-r1")


def test_a_name_that_nothing_has_gets_those_that_are_near(program: Program) -> None:
    for command in ("get", "describe", "logs", "plot"):
        assert "there is no experiment or run sftt" in program.refuses(command, "sftt")
        assert "did you mean sft-r1 or sft-r2?" in program.refuses(command, "sft-r9")


def test_what_is_to_be_steered_has_to_be_named(program: Program) -> None:
    for command in ("stop", "resume", "delete", "clone"):
        assert f"name the runs of sft to {command}, by number or name: 1, 2" in program.refuses(command, "sft")
    assert "--purge removes the cluster of this machine" in program.refuses("stop", "sft", "1", "--purge")


def test_a_patch_that_cannot_be_is_refused_before_anything_is_made(program: Program, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1]")
    for words, why in (
        (("--set", "learning_rate"), "--set learning_rate: write KNOB=VALUE"),
        (("--set", "a=1", "--set", "a=2"), "--set a: is given twice"),
        (("--set", "a=[1"), "--set a: '[1' is no YAML value"),
        (("--patch-file", str(tmp_path / "list.yaml")), "must hold a mapping of what changes"),
        (("--set", "training_args.learning_rte=1"), "training_args.learning_rte: unknown field of SFTConfig"),
        (("--warm", "--set", "peft_config.r=4"), "sft-r1 cannot be cloned warm: peft_config: "),
    ):
        assert why in program.refuses("clone", "sft", "1", *words)
    assert program("get", "icops").stderr == f"no operations in namespace {program.workspace.namespace}\n"
    assert "`get icops x`" in program.refuses("get", "sft", "x")


def test_two_runs_are_compared(program: Program) -> None:
    lines = program.says("diff", "sft", "1", "sft-r2").splitlines()
    assert [line.split() for line in lines] == [
        ["KNOB", "SFT-R1", "SFT-R2"],
        ["training_args.learning_rate", "0.001", "0.0001"],
    ]
    assert program.says("diff", "sft", "1", "1") == "1 and 1 have the same config\n"
