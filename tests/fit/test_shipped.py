"""Functions of a user's project and notebook in a worker that has neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ml

PROJECT = {
    "project/__init__.py": "",
    "project/rows.py": """
from .settings import FACTOR

class Row:
    def __init__(self, value):
        self.value = value

def doubled(row):
    return Row(row["value"] * FACTOR).value

def late(row):
    from project.deep import checks
    return checks.positive(row["value"])
""",
    "project/settings.py": "FACTOR = 2\n",
    "project/deep/checks.py": """
from project.settings import FACTOR

def positive(value):
    assert value > 0, f"{value} times {FACTOR}"
    return value
""",
}
MAKE = """
import linecache, sys
from pathlib import Path
from project import rows
from rapidfireai.bundle import make_bundle

CELL = '''def in_a_cell(row):
    factor = 3
    return rows.doubled(row) * factor + row["nothing"]
'''
# As a notebook's kernel does it.
name = "/tmp/ipykernel_4711/1234567.py"
linecache.cache[name] = (len(CELL), None, CELL.splitlines(True), name)
exec(compile(CELL, name, "exec"), globals())
exec(compile(CELL.replace("in_a_cell", "in_a_terminal"), "<ipython-input-7-abc>", "exec"), globals())
linecache.cache["<ipython-input-7-abc>"] = (len(CELL), None, CELL.splitlines(True), "<ipython-input-7-abc>")
objects = {"doubled": rows.doubled, "late": rows.late, "cell": in_a_cell, "terminal": in_a_terminal}
bundle = make_bundle(objects)
path = Path(sys.argv[1], "bundles", bundle.digest, "bundle.pkl")
path.parent.mkdir(parents=True)
path.write_bytes(bundle.data)
print(bundle.digest)
"""
USE = """
import sys
from pathlib import Path
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.user_code.bundles import Bundles
from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.layout import Volume

objects = Bundles(Volume(Path(sys.argv[1]))).objects(sys.argv[2])
print(objects["doubled"]({"value": 4}), objects["late"]({"value": 5}))
for name, value in (("late", -1), ("cell", 1), ("terminal", 1)):
    try:
        Guarded(objects[name], "formatting_func")({"value": value})
    except RunFailure as failure:
        print(failure.message)
"""


def python(script: str, cwd: Path, *words: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_they_run_and_their_tracebacks_show_lines(tmp_path: Path) -> None:
    there, here, volume = (tmp_path / name for name in ("there", "here", "volume"))
    for name, text in PROJECT.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(text)
    here.mkdir()
    digest = python(MAKE, there, str(volume)).strip()
    for name in PROJECT:
        (there / name).write_text("raise SystemExit('the worker must not read the users files')\n")
    seen = python(USE, here, str(volume), digest)
    assert seen.startswith("8 5\n")
    checks = there / "project" / "deep" / "checks.py"
    for words in (
        f"formatting_func raised AssertionError: -1 times 2 at {there}/project/rows.py:13, in late",
        '    return checks.positive(row["value"])\n',
        f'  File "{checks}", line 5, in positive\n    assert value > 0, f"{{value}} times {{FACTOR}}"\n',
        "raised KeyError: 'nothing' at /tmp/ipykernel/1234567.py:3, in in_a_cell",
        '    return rows.doubled(row) * factor + row["nothing"]\n',
        "raised KeyError: 'nothing' at <ipython-input-7-abc>:3, in in_a_terminal",
    ):
        assert words in seen
