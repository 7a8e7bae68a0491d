"""Adopting from the command line: a real API server that lost its experiments, a real volume service that did not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.support.waiting import wait_for

from rapidfireai.api import GROUP, VERSION, Experiment

if TYPE_CHECKING:
    from conftest import Program

pytestmark = pytest.mark.integration


def runs_of(program: Program, experiment: Experiment) -> list[dict[str, Any]]:
    """Return what the volume has of the runs of an experiment."""
    directory = program.workspace.volume / "experiments" / experiment.metadata.uid / "runs"
    return [json.loads(path.read_text()) for path in directory.glob("*/resource.json")]


@pytest.fixture
def lost(program: Program, sft: Experiment) -> Experiment:
    """Lose an experiment of which the first run had succeeded and the second had committed half."""
    wait_for("records", lambda: [each["status"].get("state") for each in runs_of(program, sft)].count("Succeeded"))
    objects, namespace = program.workspace.objects, program.workspace.namespace
    objects.delete_namespaced_custom_object(GROUP, VERSION, namespace, "experiments", "sft")
    objects.delete_collection_namespaced_custom_object(GROUP, VERSION, namespace, "runs")
    return sft


def test_what_is_lost_is_shown_and_made_again(program: Program, lost: Experiment) -> None:
    shown = program.says("adopt", "--dry-run")
    assert lost.metadata.uid in shown
    lines = [line.split(None, 2) for line in shown.splitlines() if line.startswith("  sft-r")]
    assert lines == [["sft-r1", "4/4", "stays succeeded"], ["sft-r2", "2/4", "goes on from step 2"]]
    assert program.workspace.experiment("sft") is None, "nothing was made"
    assert "sft is adopted" in program.says("adopt", "--yes")
    made = program.workspace.experiment("sft")
    assert made is not None and made.spec.adopted is not None
    assert made.volume_uid == lost.metadata.uid != made.metadata.uid
    assert [each.adopted.state for each in made.spec.adopted.runs] == ["Succeeded", None]
    assert made.spec.display_name == "My SFT"
    answer = program("adopt", "--yes")
    assert answer.exit_code == 0 and "is in the cluster" in answer.stderr


def test_whoever_is_asked_may_say_no(program: Program, lost: Experiment) -> None:
    answer = program("adopt")
    assert "Make sft with 2 runs?" in answer.stdout
    assert program.workspace.experiment("sft") is None


def test_a_name_that_is_taken_says_how_to_go_on(program: Program, lost: Experiment) -> None:
    program.workspace.create_experiment("sft", learning_rate=0.1)
    said = program.refuses("adopt", "--yes")
    assert (
        f"there is an experiment of this name already; adopt it under another: --experiment {lost.metadata.uid}" in said
    )
    program.says("adopt", "--experiment", "sft", "--as", "sft-before", "--yes")
    assert program.workspace.experiment("sft-before") is not None


def test_a_name_that_nothing_has_is_refused(program: Program, lost: Experiment) -> None:
    assert "nothing on the volume waits to be adopted" in program.refuses("adopt", "-e", "sfr", "--yes")


def test_a_record_that_is_gone_is_given_by_hand(program: Program, lost: Experiment) -> None:
    directory = program.workspace.volume / "experiments" / lost.metadata.uid
    record = json.loads((directory / "experiment.json").read_text())
    (directory / "experiment.json").unlink()
    assert "give its manifest with --spec" in program.refuses("adopt", "-e", lost.metadata.uid, "--yes")
    manifest = program.workspace.volume / "sft.yaml"
    manifest.write_text(yaml.safe_dump({"kind": "Experiment", "metadata": {"name": "sft"}, "spec": record["spec"]}))
    words = ("adopt", "-e", lost.metadata.uid, "--as", "sft", "--spec", str(manifest), "--yes")
    assert "sft is adopted" in program.says(*words)
