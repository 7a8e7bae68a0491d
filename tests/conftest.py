"""A real control plane a test session, a fresh namespace a test."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane

SHOWN = "shown"
"""Property of a test's report: a line that the summary shows, such as digests that were compared."""
CELL = "cell"
"""Property of a test's report: (table, row, column, text), one cell of a table that the summary shows."""
ROOT = Path(__file__).resolve().parent.parent
Kubectl = Callable[..., str]

# A change is judged by the same examples wherever it is tested; `make fuzz` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("new", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A shell's background jobs ignore these, and so would everything that tests start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def kubelocal() -> Path:
    return find_binary()


@pytest.fixture(scope="session")
def control_plane(kubelocal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("cp"), kubelocal)
    plane.start()
    yield plane
    plane.purge()


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> None:
    for words in (
        ("apply", "--server-side", "-f", str(ROOT / "crds")),
        ("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds")),
    ):
        answer = control_plane.kubectl(*words)
        assert answer.returncode == 0, answer.stderr


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    assert control_plane.kubectl("create", "namespace", name).returncode == 0
    return name


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    """Run kubectl in the test's namespace and return what it prints, errors included."""

    def run(*words: str, stdin: str = "") -> str:
        command = [str(control_plane.binary), "kubectl", "--kubeconfig", str(control_plane.kubeconfig)]
        answer = subprocess.run(
            [*command, "--namespace", namespace, *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout + answer.stderr

    return run


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a line shown at the end of the test session, from whichever process."""
    return lambda line: record_property(SHOWN, line)


@pytest.fixture
def cell(record_property: Callable[[str, object], None]) -> Callable[[str, str, str, str], None]:
    """Have a cell (table, row, column, text) shown in a table at the end of the test session."""
    return lambda table, row, column, text: record_property(CELL, (table, row, column, text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    kept = [(name, value) for report in reports for name, value in report.user_properties]
    lines = [str(value) for name, value in kept if name == SHOWN]
    if lines:
        terminalreporter.section("shown by tests")
        for line in lines:
            terminalreporter.write_line(line)
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for table, row, column, text in (value for name, value in kept if name == CELL):
        tables.setdefault(table, {}).setdefault(row, {})[column] = text
    for table, rows in tables.items():
        terminalreporter.section(table)
        for line in _as_table(rows):
            terminalreporter.write_line(line)


def _as_table(rows: dict[str, dict[str, str]]) -> list[str]:
    """Return rows of named cells as lines, the columns in the order in which they were first named."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [["", *columns], *([row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items())]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns) + 1)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
