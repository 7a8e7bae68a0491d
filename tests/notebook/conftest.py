"""Real gateways, API server and operator for notebooks; the workers alone are simulated."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.gateway.site import ADDRESS, Site
from tests.operator.builders import experiment
from tests.operator.harness import OperatorProcess, log_in_as_operator
from tests.operator.simulated import Attempt, Deed, Node
from tests.sdk.conftest import Workspace
from tests.support.browser import chromium
from tests.support.waiting import wait_for

from rapidfireai.api.base import GROUP, VERSION
from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.kube import connect, connect_sync

MILLISECONDS = 30_000


def url(site: Site) -> str:
    """Return where the gateway of a site is."""
    return f"http://{ADDRESS}:{site.port}"


def workspace(site: Site) -> Workspace:
    """Return the namespace of a site as a person sees it who acts the operator's part."""
    api = connect_sync(site.plane.kubeconfig)
    return Workspace(site.plane, site.namespace, site.volume, api, f"http://{ADDRESS}:{site.volume_port}")


@contextmanager
def new_site(plane: ControlPlane, folder: Path) -> Iterator[Site]:
    made = Site(plane, folder)
    made.prepare()
    try:
        made.gateway()
        yield made
    finally:
        made.close()
        print(made.log.read_text()[-4000:])


@pytest.fixture(scope="package")
def site(control_plane: ControlPlane, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A workspace with a gateway; tests act the operator's part."""
    with new_site(control_plane, tmp_path_factory.mktemp("site") / "files") as made:
        yield made


@pytest.fixture(scope="package")
def manned(control_plane: ControlPlane, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A workspace with a gateway, the operator, and a node."""
    folder = tmp_path_factory.mktemp("manned")
    with new_site(control_plane, folder / "files") as made:
        operator = OperatorProcess(
            control_plane, made.namespace, log_in_as_operator(control_plane, made.namespace, folder)
        )
        operator.start()
        loop = asyncio.new_event_loop()
        task = loop.create_task(_node(made))
        # Playwright wants this thread for itself.
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
        thread.start()
        yield made
        assert not task.done(), f"the simulated node ended: {task}"
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
        loop.close()
        operator.kill()
        print(operator.log.read_text()[-4000:])


async def _node(site: Site) -> None:
    client = await connect(site.plane.kubeconfig)
    try:
        await Node(client, site.namespace, behaviour=one_chunk_each).run()
    finally:
        await client.close()


def one_chunk_each(attempt: Attempt) -> Deed:
    """Let every run commit its first chunk; the second one never ends."""
    return Deed("hang") if attempt.chunk >= 1 else Deed(seconds=0.05)


@dataclass(frozen=True)
class Stage:
    """An experiment of two runs on one worker: both commit a chunk, and then one is at its second for good."""

    site: Site
    workspace: Workspace
    name: str

    def runs(self) -> dict[int, dict[str, Any]]:
        listed = self.workspace.objects.list_namespaced_custom_object(
            GROUP, VERSION, self.site.namespace, "runs", label_selector=f"rapidfire.ai/experiment={self.name}"
        )
        return {run["spec"]["index"]: run for run in listed["items"]}

    def working(self) -> int:
        """Return the run that a worker has begun a second chunk of."""

        def look() -> int | None:
            runs = self.runs()
            committed = [run for run in runs.values() if _chunks(run) >= 1]
            at_work = [index for index, run in runs.items() if _at_second_chunk(run)]
            return at_work[0] if len(committed) == 2 and at_work else None

        return int(wait_for("run at its second chunk while the other has its first", look, 60))


def _chunks(run: dict[str, Any]) -> int:
    return int(run.get("status", {}).get("display", {}).get("chunks", "0/0").partition("/")[0] or 0)


def _at_second_chunk(run: dict[str, Any]) -> bool:
    progress = run.get("status", {}).get("progress") or {}
    return progress.get("chunk") == 1 and not progress.get("final")


@pytest.fixture
def stage(manned: Site) -> Stage:
    name = f"exp-{uuid.uuid4().hex[:6]}"
    manned.apply(experiment(name, runs=2, replicas=1))
    return Stage(manned, workspace(manned), name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module alone: while it is there, its event loop keeps every async test of this process away."""
    with chromium() as made:
        yield made


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    made = context.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    yield made
    context.close()
    assert not problems
