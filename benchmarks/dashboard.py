"""The dashboard's page with 1,000 runs: how long it takes, how much memory, how fast a change is there.

`python -m benchmarks.dashboard [RUNS]` starts a control plane, a gateway and Debian's Chromium. The runs are objects as
the operator leaves them; nothing computes. The figures go to `benchmarks/results/dashboard.md`, the pictures of
`docs/dashboard.md` to `docs/images`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kubernetes import config
from PIL import Image
from playwright.sync_api import BrowserContext, Page
from tests.dashboard.builders import CHUNKS, Writer, experiment, parent_ref, run
from tests.dashboard.pages import PHONE, ExperimentPage, ExperimentsPage, context
from tests.gateway.site import Site
from tests.support.browser import chromium

from benchmarks.many_runs import machine
from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "dashboard.md"
IMAGES = ROOT / "docs" / "images"
NAME = "many"
CHANGES = 30
COLOURS = 96
_MIB = 2**20

TEXT = """# The dashboard with {runs} runs

`python -m benchmarks.dashboard` on {machine}; control plane, gateway, browser and benchmark on the same cores, with
whatever else ran there (load average {load:.0f}). {runs} runs of {chunks} chunks, of which {points} are committed;
objects on a real API server, a headless Chromium of 1280 x 900 pixels.

| what | value |
| --- | --- |
{rows}

- A page is timed from the navigation on; the browser had opened the dashboard before, so that its scripts were cached.
  Where the load average is far above the number of cores, the seconds of CPU say what an idle machine takes.
- The gateway's memory is its resident set: before anybody looked, while one page is open, and after it was closed. What
  a second page of the same user adds is a table of what was sent to it; the objects are shared.
- The tab's memory is the heap of its JavaScript after a collection, and the resident set of its process.
- A change is a commit written to the API server; it is timed until the table in the browser shows it. The page sends
  what changed every half second.
"""


@dataclass
class Received:
    """How much a page was sent over its websocket."""

    size: int = 0

    def follow(self, page: Page) -> None:
        """Count from now on."""
        page.on("websocket", lambda socket: socket.on("framereceived", self._add))

    def _add(self, payload: str | bytes) -> None:
        self.size += len(payload)


@dataclass
class Figures:
    """What was measured, in the order in which it is shown."""

    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """Keep and print a figure."""
        self.rows.append((what, value))
        print(f"{what}: {value}", flush=True)


def timed(act: Callable[[], Any]) -> float:
    """Return how many seconds something takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def resident(pid: int) -> float:
    """Return a process's resident set in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / _MIB


def computed(pid: int) -> float:
    """Return how many seconds a process has computed."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def tabs() -> list[psutil.Process]:
    """Return the browser's renderers."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "--type=renderer" in " ".join(each.cmdline())]


def tabs_computed() -> float:
    """Return how many seconds all renderers have computed."""
    return sum(computed(each.pid) for each in tabs())


def largest_tab() -> float:
    """Return the resident set of the browser's largest renderer in MiB."""
    return max(resident(each.pid) for each in tabs())


def until(what: str, look: Callable[[], Any], seconds: float = 120.0) -> None:
    """Wait until `look` is true."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.01)


def drawn(shown: ExperimentPage) -> int:
    """Return how many curves the chart has."""
    script = "(id) => (getElement(id)?.chart?.getOption().series ?? []).filter((each) => each.data.length).length"
    return int(shown.page.evaluate(script, shown.number(shown.page.get_by_test_id("chart"))))


def bodies(runs: int) -> list[dict[str, Any]]:
    """Return the runs, the first four under way."""
    return [
        run(index, 2 + index % (CHUNKS - 2), worker=index - 1 if index <= 4 else None, experiment=NAME)
        for index in range(1, runs + 1)
    ]


def measure(site: Site, writer: Writer, runs: int, figures: Figures) -> None:
    """Measure with a page open, and take its picture."""
    gateway = site.processes[0].pid
    with chromium() as browser:
        profile = context(browser)
        page = profile.new_page()
        with site.http() as http:
            page.goto(str(http.post("/api/v1/login-links").json()["url"]))
        listed = ExperimentsPage(page)
        listed.row(NAME).wait_for()
        figures.add("gateway, the list open", f"{resident(gateway):.0f} MiB")
        page.goto("about:blank")
        figures.add("list of experiments", f"{timed(lambda: _list(page, site)):.2f} s")
        received = Received()
        received.follow(page)
        address = f"http://127.0.0.1:{site.dashboard_port}/experiments/{site.namespace}/{NAME}"
        began, used = time.monotonic(), (computed(gateway), tabs_computed())
        shown = ExperimentPage(page, address).ready()
        until("whole table", lambda: len(shown.names()) == runs)
        figures.add(f"table of {runs} runs", f"{time.monotonic() - began:.2f} s")
        until("all curves", lambda: drawn(shown) == runs)
        figures.add(f"{runs} curves drawn", f"{time.monotonic() - began:.2f} s")
        figures.add("computed by then, gateway", f"{computed(gateway) - used[0]:.2f} s of CPU")
        figures.add("computed by then, tab", f"{tabs_computed() - used[1]:.2f} s of CPU")
        figures.add("sent to the browser by then", f"{received.size / 1000:.0f} kB")
        figures.add("gateway, one page open", f"{resident(gateway):.0f} MiB")
        memory(page, figures)
        changes(writer, shown, received, figures)
        other = profile.new_page()
        ExperimentPage(other, address).ready()
        figures.add("gateway, two pages open", f"{resident(gateway):.0f} MiB")
        other.close()
        picture(page, "thousand-runs")
        page.close()
        pictures(profile, site, writer)
    figures.add("gateway, pages closed", f"{resident(gateway):.0f} MiB")


def _list(page: Page, site: Site) -> None:
    page.goto(f"http://127.0.0.1:{site.dashboard_port}/")
    ExperimentsPage(page).row(NAME).wait_for()


def memory(page: Page, figures: Figures) -> None:
    """Measure the tab's memory."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"]
    figures.add("tab, JavaScript heap", f"{heap / _MIB:.0f} MiB")
    figures.add("tab, resident set", f"{largest_tab():.0f} MiB")


def changes(writer: Writer, shown: ExperimentPage, received: Received, figures: Figures) -> None:
    """Commit chunks of single runs and wait until the table shows them."""
    script = "([id, name]) => getElement(id).api.getRowNode(name).data.chunks"
    grid = shown.number(shown.grid)
    seconds, before = [], received.size
    for index in range(1, CHANGES + 1):
        name, done = f"{NAME}-r{index}", 3 + index % (CHUNKS - 2)
        began = time.monotonic()
        writer.write(run(index, done, experiment=NAME))
        wanted = f"{done}/{CHUNKS}"
        until("change", lambda name=name, wanted=wanted: shown.page.evaluate(script, [grid, name]) == wanted)
        seconds.append(time.monotonic() - began)
    figures.add("a change is in the table, p50", f"{statistics.median(seconds):.2f} s")
    figures.add("a change is in the table, largest of 30", f"{max(seconds):.2f} s")
    figures.add("sent for a change", f"{(received.size - before) / CHANGES / 1000:.1f} kB")


def picture(page: Page, name: str, *, whole: bool = False) -> None:
    """Take a picture of a page, of few colours: it is read on screens and kept in the repository."""
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    with Image.open(path) as taken:
        taken.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def pictures(profile: BrowserContext, site: Site, writer: Writer) -> None:
    """Take the pictures of the documentation, of an experiment with six runs."""
    name, now = "sft-demo", time.time()
    first = run(1, 5, worker=0, experiment=name, at=now - 40)
    writer.create(
        experiment(
            name,
            runs={"total": 6, "running": 3, "stopped": 1, "succeeded": 1, "pending": 1, "active": 4},
            chunks={"done": 22, "total": 48, "summary": "22/48"},
            workers={"ready": 2, "summary": "2/2"},
            best={"run": f"{name}-r4", "metric": "eval_loss", "value": 0.527, "summary": f"{name}-r4 (0.527)"},
            eta="4m",
        )
    )
    others = [
        run(2, 5, worker=1, experiment=name, at=now - 25),
        run(3, 2, "Stopped", experiment=name),
        run(4, 8, "Succeeded", experiment=name),
        run(5, 0, "Pending", experiment=name),
        run(6, 2, experiment=name, parent=parent_ref(first, warm=True)),
    ]
    for body in (first, *others):
        writer.create(body)
    page = profile.new_page()
    address = f"http://127.0.0.1:{site.dashboard_port}/experiments/{site.namespace}/{name}"
    shown = ExperimentPage(page, address).ready()
    until("curves", lambda: drawn(shown) == 5)
    picture(page, "experiment", whole=True)
    shown.begin_clone(f"{name}-r1")
    shown.set_knob("training_args.learning_rate", "2e-4")
    shown.warm()
    until("preview", lambda: "0.0002" in shown.preview.inner_text())
    picture(page, "clone")
    page.get_by_test_id("clone-no").click()
    page.set_viewport_size(PHONE)
    page.get_by_test_id("theme").click()
    page.wait_for_selector("body.body--dark")
    picture(page, "phone")
    page.close()


def main() -> None:
    """Measure, print and write the figures."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    figures = Figures()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rapidfireai-benchmark-") as directory:
        plane = ControlPlane(Path(directory) / "plane", find_binary())
        plane.start()
        site = Site(plane, Path(directory) / "site", "bench")
        try:
            plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
            plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
            site.prepare()
            writer = Writer(config.new_client_from_config(str(plane.kubeconfig)), site.namespace)
            objects = bodies(runs)
            writer.create(experiment(NAME, runs={"total": runs, "running": runs, "active": runs}))
            writer.many(objects)
            site.gateway()
            figures.add("gateway, nobody looks", f"{resident(site.processes[0].pid):.0f} MiB")
            measure(site, writer, runs, figures)
        finally:
            site.close()
            plane.purge()
    text = TEXT.format(
        runs=f"{runs:,}",
        machine=machine(),
        load=os.getloadavg()[1],
        chunks=CHUNKS,
        points=f"{sum(len(each['status']['objective']) for each in objects):,}",
        rows="\n".join(f"| {what} | {value} |" for what, value in figures.rows),
    )
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
