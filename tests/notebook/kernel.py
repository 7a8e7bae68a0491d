"""The panel on a page without Jupyter: its browser side as it is, and its kernel side in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Route

from rapidfireai.gateway import Gateway
from rapidfireai.notebook import panel
from rapidfireai.notebook.client import GatewayClient
from rapidfireai.notebook.panel import Panel

FOLDER = Path(panel.__file__).parent
HTML = """<!doctype html><title>panel</title><link rel="stylesheet" href="panel.css"><div id="out"></div>
<script type="module">
import widget, * as parts from "./panel.js";
const state = STATE;
const listeners = [];
const fire = (event, ...what) => listeners.filter((each) => each[0] === event).forEach((each) => each[1](...what));
const model = {
  get: (key) => state[key],
  set: (key, value) => { if (state[key] !== value) { state[key] = value; fire(`change:${key}`); } },
  save_changes: () => {},
  on: (event, callback) => listeners.push([event, callback]),
  send: async (message) => { for (const answer of await window.kernel(message)) fire("msg:custom", answer); },
};
window.parts = parts;
const made = widget();
made.initialize({ model });
made.render({ model, el: document.getElementById("out") });
</script>"""


class Kernel:
    """What a kernel does for the panel, with `busy` as the star in front of a cell.

    Attributes:
        busy: Whether messages stay unanswered.
    """

    def __init__(self, page: Page, look_up: Callable[[], Gateway]) -> None:
        self.busy, self._page = False, page
        self._panel = Panel(GatewayClient(look_up))
        self._said: list[dict[str, Any]] = []
        self._panel.send = lambda content, buffers=None: self._said.append(content)

    def show(self, namespace: str, experiment: str, address: str = "http://127.0.0.1:9999/") -> Locator:
        """Open a page at this address, served by this process, with the panel on it."""
        state = f'{{"namespace": "{namespace}", "experiment": "{experiment}", "run": 0, "interval": 1}}'
        self._page.expose_function("kernel", self._hear)
        for name, kind, text in (
            ("", "text/html", HTML.replace("STATE", state)),
            ("panel.js", "text/javascript", (FOLDER / "panel.js").read_text()),
            ("panel.css", "text/css", (FOLDER / "panel.css").read_text()),
        ):
            self._page.route(f"{address}{name}", _serve(kind, text))
        self._page.goto(address)
        return self._page.locator(".rf-panel")

    def _hear(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        if self.busy:
            return []
        self._said.clear()
        self._panel._answer(self._panel, message, [])
        return list(self._said)


def _serve(kind: str, text: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(content_type=kind, body=text)
