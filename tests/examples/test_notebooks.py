"""That each notebook is the script of its name, and that nobody left outputs in it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from examples import notebooks


@pytest.mark.parametrize("script", notebooks.SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    committed = script.with_suffix(".ipynb").read_text()
    assert committed == notebooks.notebook(script), "run python examples/notebooks.py"
    nbformat.validate(nbformat.reads(committed, as_version=4))
