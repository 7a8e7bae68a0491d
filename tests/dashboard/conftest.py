"""One browser and one gateway a module; each test has a namespace-wide experiment of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from kubernetes import config
from playwright.sync_api import Browser, BrowserContext, Page
from tests.dashboard.builders import Writer
from tests.dashboard.pages import context
from tests.gateway.site import Site
from tests.operator.harness import OperatorProcess, log_in_as_operator
from tests.operator.simulated import Attempt, Deed, Node
from tests.support.browser import chromium

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.kube import connect

READ = ["get", "list", "watch"]


@dataclass
class Workspace:
    """A namespace with a gateway, and a user who may do there what the chart lets people do.

    Attributes:
        reader: A token that may read alone.
        foreign: The addresses of other hosts that pages asked for.
        mistakes: What went wrong in the browser.
    """

    site: Site
    writer: Writer
    reader: str
    foreign: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.site.dashboard_port}"

    def address(self, experiment: str) -> str:
        """Return where an experiment is shown."""
        return f"{self.url}/experiments/{self.site.namespace}/{experiment}"

    def login_link(self, token: str | None = None) -> str:
        """Return an address that opens the dashboard, logged in."""
        with self.site.http(token) as http:
            answer = http.post("/api/v1/login-links").raise_for_status()
        return str(answer.json()["url"])


@pytest.fixture(scope="module")
def workspace(control_plane: ControlPlane, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    site = Site(control_plane, tmp_path_factory.mktemp("site"))
    site.prepare()
    try:
        site.gateway(RAPIDFIRE_MLFLOW_URL="http://127.0.0.1:9")
        client = config.new_client_from_config(str(control_plane.kubeconfig))
        reader = site.account("reader", [{"apiGroups": ["rapidfire.ai"], "resources": ["*"], "verbs": READ}])
        made = Workspace(site, Writer(client, site.namespace), reader)
        yield made
    finally:
        site.close()
        print(site.log.read_text()[-4000:])
    assert made.foreign == []
    assert made.mistakes == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def profile(workspace: Workspace, browser: Browser) -> Iterator[BrowserContext]:
    """Log in once for all tests that are not about logging in; what the browser has loaded stays loaded."""
    made = context(browser)
    page = made.new_page()
    page.goto(workspace.login_link())
    page.wait_for_url(f"{workspace.url}/")
    page.close()
    yield made
    made.close()


@pytest.fixture
def new_page(workspace: Workspace, browser: Browser, profile: BrowserContext) -> Iterator[Callable[..., Page]]:
    """Open pages: as the user, or in a profile of its own as whoever has `token`, as nobody if that is empty."""
    made: list[Page | BrowserContext] = []

    def new(token: str | None = None, **options: object) -> Page:
        own = profile if token is None and not options else context(browser, **options)
        page = own.new_page()
        made.append(page if own is profile else own)
        page.on("request", lambda request: _note_foreign(workspace, request.url))
        page.on("pageerror", lambda error: workspace.mistakes.append(str(error)))
        if own is not profile and token != "":
            page.goto(workspace.login_link(token))
            page.wait_for_url(f"{workspace.url}/")
        return page

    yield new
    for each in made:
        each.close()


def _note_foreign(workspace: Workspace, url: str) -> None:
    if not url.startswith((workspace.url, "data:", "blob:", "about:", "ws://127.0.0.1")):
        workspace.foreign.append(url)


class Pace:
    """How long the chunks of simulated workers take from now on."""

    def __init__(self) -> None:
        self.seconds = 3.0

    def __call__(self, attempt: Attempt) -> Deed:
        return Deed(seconds=self.seconds)


@pytest.fixture(scope="module")
def pace(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pace]:
    """Run the real operator and simulated workers; their chunks take long enough for somebody who clicks."""
    home = log_in_as_operator(workspace.site.plane, workspace.site.namespace, tmp_path_factory.mktemp("operator"))
    process = OperatorProcess(workspace.site.plane, workspace.site.namespace, home)
    process.start()
    stop, pace = threading.Event(), Pace()
    thread = threading.Thread(target=lambda: asyncio.run(_nodes(workspace, pace, stop)))
    thread.start()
    yield pace
    stop.set()
    thread.join(30)
    process.kill()
    print(process.log.read_text()[-4000:])


async def _nodes(workspace: Workspace, pace: Pace, stop: threading.Event) -> None:
    client = await connect(workspace.site.plane.kubeconfig)
    task = asyncio.create_task(Node(client, workspace.site.namespace, pace).run())
    try:
        while not stop.is_set():
            assert not task.done(), task.result()
            await asyncio.sleep(0.1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
