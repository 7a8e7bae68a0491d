"""The panel in a real JupyterLab, while `Experiment.wait` keeps the kernel busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.notebook.conftest import Stage, url
from tests.notebook.lab import JupyterLab, busy, panel, save
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("notebook"), pytest.mark.timeout(600)]
SCREENSHOTS = "RAPIDFIRE_SCREENSHOTS"
"""A folder for the picture of the docs; none is taken without it."""
DISPLAY = """
from rapidfireai.utils.interactive_controller import InteractiveController
controller = InteractiveController(experiment="{name}")
controller.display()
"""
WATCH = """
from rapidfireai import Experiment
Experiment.attach("{name}", namespace="{namespace}", kubeconfig="{kubeconfig}").wait()
"""


@pytest.fixture
def lab(stage: Stage, tmp_path: Path) -> Iterator[JupyterLab]:
    folder = tmp_path / "lab"
    folder.mkdir()
    made = JupyterLab(folder, {"RAPIDFIRE_GATEWAY": url(stage.site), "RAPIDFIRE_TOKEN": stage.site.token})
    try:
        made.wait()
        yield made
    finally:
        made.stop()
        print(made.log.read_text()[-3000:])


def test_runs_are_steered_while_the_kernel_is_busy(lab: JupyterLab, page: Page, stage: Stage) -> None:
    winner = stage.working()
    loser = 3 - winner
    watch = WATCH.format(name=stage.name, namespace=stage.site.namespace, kubeconfig=stage.workspace.kubeconfig)
    path = lab.open(page, [DISPLAY.format(name=stage.name), watch])
    shown = panel(page)
    row = {index: shown.locator(f'tr[data-run="{index}"]') for index in (1, 2, 3)}
    expect(row[loser]).to_contain_text("1/4")
    busy(page)

    row[loser].get_by_role("button").click()
    shown.get_by_role("button", name="Stop").click()
    expect(shown.locator(".rf-messages")).to_contain_text(f"Run {loser} stops at its next chunk boundary")
    expect(row[loser]).to_contain_text("Stopped")

    row[winner].get_by_role("button").click()
    shown.get_by_role("button", name="Clone…").click()
    editor = shown.get_by_label("JSON of the clone")
    findings = shown.locator(".rf-findings")
    editor.fill('{"training_args": {"learning_rate": ')
    expect(findings).to_contain_text("Not JSON")
    editor.fill('{"training_args": {"learning_rte": 0.0005}}')
    expect(findings).to_contain_text("learning_rate")
    editor.fill('{"training_args": {"learning_rate": 0.0005}}')
    expect(findings).to_contain_text("→ 0.0005")
    shown.get_by_label("Warm start").check()
    submit = shown.get_by_role("button", name="Submit clone")
    expect(submit).to_be_enabled()
    picture(shown)
    submit.click()
    expect(row[3]).to_contain_text(f"of {winner}, warm")
    expect(row[3]).to_contain_text("learning_rate=0.0005")
    clone = stage.runs()[3]["spec"]
    assert clone["config"]["training_args"]["learning_rate"] == 0.0005
    assert clone["parentRef"]["index"] == winner and clone["parentRef"]["checkpoint"]["step"] == 4
    busy(page)

    save(page)
    kept = wait_for("panel in the notebook's file", lambda: _with_panel(path))
    assert stage.site.token not in kept


def picture(shown: Locator) -> None:
    """Take the picture of the docs, where somebody wants one."""
    folder = os.environ.get(SCREENSHOTS)
    if folder:
        shown.screenshot(path=str(Path(folder) / "notebook.png"), animations="disabled")


def _with_panel(path: Path) -> str:
    text = path.read_text()
    return text if "widget-view" in text and "AnyModel" in text else ""
