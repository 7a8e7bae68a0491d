"""The story of somebody who steers from the browser alone, on the whole system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.dashboard.pages import PHONE, ExperimentPage, ExperimentsPage, context
from tests.e2e.conftest import Cluster
from tests.e2e.test_stories import manifest
from tests.support.browser import chromium

from rapidfireai.gateway import Gateway, login_link

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
NAME = "browsed"
WINNER, LOSER, CLONE = f"{NAME}-r1", f"{NAME}-r2", f"{NAME}-r3"
RATE = 5e-4
EVAL_LOSS = "boundary/eval_loss"
SCREENSHOTS = "RAPIDFIRE_SCREENSHOTS"
"""A folder for the pictures of the docs; none are taken without it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    profile = context(browser)
    yield profile.new_page()
    profile.close()


def picture(page: Page, name: str) -> None:
    folder = os.environ.get(SCREENSHOTS)
    if folder:
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=str(Path(folder) / f"{name}.png"), animations="disabled")


def mlflow_run(url: str, name: str) -> dict[str, Any]:
    """Return what MLflow has of a run."""
    with httpx.Client(base_url=f"{url}/api/2.0/mlflow", trust_env=False, timeout=30) as mlflow:
        experiment = mlflow.get("/experiments/get-by-name", params={"experiment_name": NAME}).json()["experiment"]
        search = {"experiment_ids": [experiment["experiment_id"]], "filter": f"tags.`rapidfire.run` = '{name}'"}
        runs = mlflow.post("/runs/search", json=search).json().get("runs", [])
    return dict(runs[0]) if runs else {}


def test_a_loser_is_stopped_and_a_winner_cloned_in_the_browser(cluster: Cluster, rows: Path, page: Page) -> None:
    local = cluster.local
    cluster.wait("the gateway", lambda: _answers(f"{local.gateway_url}/healthz"))
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    config = {
        "model_name": "pvc://rapidfire-data/stories/tiny",
        "peft_config": lora,
        "training_args": {
            "learning_rate": {"$list": [1e-2, 1e-6]},
            "per_device_train_batch_size": 2,
            "num_train_epochs": 30,
            "logging_steps": 5,
            "gradient_checkpointing": False,
        },
    }
    file = manifest(NAME, rows, chunks=1, configs=[{"trainer": "SFT", "config": config}])
    cluster.kubectl("apply", "--server-side", "-f", file)
    token = (local.home / "token").read_text().strip()

    page.goto(login_link(Gateway(local.gateway_url, local.dashboard_url, token)).url)
    shown = ExperimentsPage(page).open(NAME)
    for run in (WINNER, LOSER):
        _wait_points(cluster, shown, run, EVAL_LOSS, 2)
    picture(page, "two-runs")

    shown.operate("Stop", LOSER)
    expect(shown.cell(LOSER, "state")).to_contain_text("Stopped", timeout=120_000)
    assert cluster.get("rfrun", LOSER)["spec"]["requestedBy"] == "system:serviceaccount:default:rapidfire-user"

    shown.begin_clone(WINNER)
    shown.set_knob("training_args.learning_rate", str(RATE))
    shown.warm()
    expect(shown.preview).to_contain_text("training_args.learning_rate")
    picture(page, "clone-form")
    shown.finish_clone()
    _wait_points(cluster, shown, CLONE, EVAL_LOSS, 3)
    picture(page, "warm-clone")

    clone = cluster.get("rfrun", CLONE)
    parent = clone["spec"]["parentRef"]
    assert (parent["name"], parent["warmStart"]) == (WINNER, True)
    start, *_ = shown.curve(CLONE)
    then = {point[0]: point[1] for point in shown.curve(WINNER)}
    assert start[0] == 0
    assert start[1] == pytest.approx(then[parent["checkpoint"]["step"]], rel=1e-6)

    def tracked() -> dict[str, Any]:
        data: dict[str, Any] = mlflow_run(local.mlflow_url, CLONE).get("data", {})
        return data if any(each["key"] == "learning_rate" for each in data.get("metrics", [])) else {}

    data = cluster.wait("the clone's metrics in MLflow", tracked)
    params = {each["key"]: each["value"] for each in data["params"]}
    assert float(params["training_args.learning_rate"]) == RATE
    rates = {each["key"]: each["value"] for each in data["metrics"]}
    assert 0 < rates["learning_rate"] <= RATE

    page.set_viewport_size(PHONE)
    picture(page, "phone")
    cluster.kubectl("delete", "rfexp", NAME)


def _wait_points(cluster: Cluster, shown: ExperimentPage, run: str, metric: str, count: int) -> None:
    """Wait until a run's curve of a metric has so many points."""
    expect(shown.cell(run, "state")).to_be_attached(timeout=120_000)
    cluster.wait(f"{metric} to be offered", lambda: _choose(shown, metric))
    cluster.wait(f"{count} points of {run}", lambda: len(shown.curve(run)) >= count)


def _choose(shown: ExperimentPage, metric: str) -> bool:
    """Choose a metric if it is offered yet."""
    if (shown.page.get_by_test_id("metric").text_content() or "").find(metric) >= 0:
        return True
    shown.page.get_by_test_id("metric").click()
    option = shown.page.get_by_role("option", name=metric, exact=True)
    if option.count() == 0:
        shown.page.keyboard.press("Escape")
        return False
    option.click()
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False
