"""The panel's browser side in Chromium, against a real gateway and API server."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.gateway.site import Site
from tests.notebook.conftest import url, workspace
from tests.notebook.kernel import Kernel
from tests.sdk.conftest import condition

from rapidfireai.gateway import Gateway

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("notebook"), pytest.mark.timeout(180)]


@dataclass
class Scene:
    """An experiment of two runs, and a panel that knows the gateway by `token`."""

    site: Site
    page: Page
    token: str
    name: str = field(default_factory=lambda: f"exp-{uuid.uuid4().hex[:6]}")

    def __post_init__(self) -> None:
        self.workspace = workspace(self.site)
        self.experiment = self.workspace.create_experiment(self.name, learning_rate={"$list": [1.0, 0.5]})
        self.first, self.second = self.workspace.create_runs(self.experiment)

    def show(self, **where: str) -> Locator:
        self.kernel = Kernel(self.page, lambda: Gateway(url(self.site), "", self.token))
        return self.kernel.show(self.site.namespace, self.name, **where)

    def commit(self, chunk: int) -> None:
        self.workspace.commit(self.experiment, self.first, chunk)


@pytest.fixture
def scene(site: Site, page: Page) -> Scene:
    return Scene(site, page, site.token)


def row(shown: Locator, index: int) -> Locator:
    return shown.locator(f'tr[data-run="{index}"]')


def trouble(shown: Locator) -> Locator:
    return shown.locator(".rf-trouble")


def test_changes_appear_by_themselves_and_colours_stay(scene: Scene) -> None:
    shown = scene.show()
    expect(row(shown, 2)).to_contain_text("learning_rate=0.5")
    colour = row(shown, 2).locator(".rf-dot").get_attribute("style")
    scene.commit(0)
    expect(row(shown, 1)).to_contain_text("1/2")
    expect(row(shown, 1)).to_contain_text("2.500")
    row(shown, 2).get_by_role("button").click()
    expect(shown.locator("pre")).to_contain_text('"learning_rate": 0.5')
    scene.workspace.end_run(scene.first, "Failed", condition("Succeeded", "False", "NonFiniteLoss", "its loss is NaN"))
    row(shown, 1).get_by_role("button").click()
    expect(shown.locator(".rf-detail")).to_contain_text("NonFiniteLoss: its loss is NaN")
    assert row(shown, 2).locator(".rf-dot").get_attribute("style") == colour


def test_a_gateway_that_dies_is_missed_and_found_again(scene: Scene) -> None:
    shown = scene.show()
    expect(row(shown, 1)).to_be_visible()
    scene.site.processes[-1].kill()
    scene.site.processes[-1].wait(10)
    expect(trouble(shown)).to_contain_text("does not answer")
    expect(trouble(shown)).to_contain_text("What is shown was seen at")
    scene.commit(0)
    scene.site.gateway()
    expect(trouble(shown)).to_be_hidden()
    expect(row(shown, 1)).to_contain_text("1/2")


def test_an_api_server_that_dies_is_missed_and_found_again(scene: Scene) -> None:
    shown = scene.show()
    expect(row(shown, 1)).to_be_visible()
    scene.site.line.cut()
    expect(trouble(shown)).to_contain_text("API server does not answer")
    scene.commit(0)
    scene.site.line.mend()
    expect(trouble(shown)).to_be_hidden()
    expect(row(shown, 1)).to_contain_text("1/2")


def test_a_token_that_has_expired_is_explained_and_a_new_one_is_taken(scene: Scene) -> None:
    good, scene.token = scene.token, "expired"
    shown = scene.show()
    expect(trouble(shown)).to_contain_text("Run the cell that shows this panel again")
    scene.token = good
    expect(trouble(shown)).to_be_hidden()
    expect(row(shown, 1)).to_be_visible()


def test_where_the_browser_cannot_reach_the_gateway_the_kernel_passes_requests_on(scene: Scene) -> None:
    asked: list[str] = []
    scene.page.on("request", lambda request: asked.append(request.url))
    shown = scene.show(address="http://hub.example/")
    expect(shown.locator(".rf-way")).to_contain_text("through the kernel")
    expect(row(shown, 1)).to_be_visible()
    scene.kernel.busy = True
    expect(trouble(shown)).to_contain_text("the kernel is busy")
    scene.commit(0)
    scene.kernel.busy = False
    expect(trouble(shown)).to_be_hidden()
    expect(row(shown, 1)).to_contain_text("1/2")
    assert not [address for address in asked if address.startswith(url(scene.site))], (
        "the token went to the browser's own machine"
    )


def test_where_changes_cannot_be_sent_the_panel_looks_from_time_to_time(scene: Scene) -> None:
    scene.page.route("**/changes", lambda route: route.fulfill(status=404, body="{}"))
    shown = scene.show()
    expect(row(shown, 1)).to_be_visible()
    scene.commit(0)
    expect(row(shown, 1)).to_contain_text("1/2")


def test_what_may_not_be_done_is_said(scene: Scene) -> None:
    scene.token = scene.site.account("nobody", [])
    shown = scene.show()
    expect(trouble(shown)).to_contain_text("may not list experiments")


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}}, {"b": {"c": 4, "d": None}}),
        ({"a": 1}, {"a": None}, {"a": {"$none": True}}),
        ({"f": {"$ref": {"key": "x"}}}, {"f": {"$ref": {"key": "y"}}}, {"f": {"$ref": {"key": "y"}}}),
        ({"a": [1, 2]}, {"a": [1, 2]}, {}),
    ],
)
def test_a_whole_config_becomes_the_patch_that_makes_it(
    logic: Page, before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert logic.evaluate("([before, after]) => parts.patchOf(before, after)", [before, after]) == patch


@pytest.mark.parametrize(
    ("gateway_url", "origin", "may"),
    [
        ("http://127.0.0.1:8851", "http://localhost:8888", True),
        ("http://127.0.0.1:8851", "https://hub.example", False),
        ("http://localhost:8851", "https://hub.example", False),
        ("https://gateway.example", "https://hub.example", True),
    ],
)
def test_a_loopback_address_means_the_browsers_machine_only_if_the_page_is_from_there(
    logic: Page, gateway_url: str, origin: str, may: bool
) -> None:
    assert logic.evaluate("([url, page]) => parts.reachable(url, new URL(page))", [gateway_url, origin]) == may


@pytest.fixture
def logic(page: Page) -> Page:
    Kernel(page, lambda: Gateway("http://127.0.0.1:1", "", "none")).show("none", "none")
    page.wait_for_function("window.parts")
    return page
