"""A real JupyterLab in a folder of its own, and a notebook in it as a person drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import nbformat
from playwright.sync_api import Locator, Page, expect
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import free_ports

TOKEN = "of-jupyter"
MILLISECONDS = 60_000


class JupyterLab:
    """`jupyter lab` without a browser; kernels get `environment`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        # All that a notebook can keep of a widget is kept, and nobody is asked about news.
        for name, setting in (
            ("@jupyter-widgets/jupyterlab-manager/plugin", {"saveState": True}),
            ("@jupyterlab/apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ):
            path = folder / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(setting))
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAPIDFIRE", "JUPYTER"))}
        places = {
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        words = ["lab", "--no-browser", "--allow-root", f"--port={self.port}", f"--IdentityProvider.token={TOKEN}"]
        self.log = folder / "jupyter.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter", *words],
                cwd=self.notebooks,
                env={**kept, **places, **environment},
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        wait_for("answer of JupyterLab", self._answers, 180)

    def stop(self) -> None:
        """End it with its kernels."""
        self.process.terminate()
        self.process.wait(30)

    def open(self, page: Page, cells: Sequence[str]) -> Path:
        """Open a new notebook with these cells and run them all; return its file."""
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        made.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        path = self.notebooks / "steer.ipynb"
        nbformat.write(made, path)
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{path.name}?token={TOKEN}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=MILLISECONDS)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        return path

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/api?token={TOKEN}", trust_env=False).is_success
        except httpx.ConnectError:
            return False


def busy(page: Page) -> None:
    """Expect that a cell is running: its number is a star."""
    expect(page.locator(".jp-InputPrompt", has_text="[*]")).not_to_have_count(0)


def save(page: Page) -> None:
    """Save the notebook."""
    page.keyboard.press("Control+s")


def panel(page: Page) -> Locator:
    """Return the panel, once it is there."""
    found = page.locator(".rf-panel")
    found.wait_for(timeout=MILLISECONDS)
    return found
