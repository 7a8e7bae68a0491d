"""Write each example script as a notebook: `# %%` begins a cell, `# %% [markdown]` one of text.

`python examples/notebooks.py` does it after a script was changed; a test holds them equal.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

NAMES = ("sft", "dpo", "grpo", "steering", "rag", "prompts")
SCRIPTS = [Path(__file__).with_name(f"{name}_smollm2.py") for name in NAMES]
_MARKDOWN = " [markdown]"


def notebook(script: Path) -> str:
    """Return the notebook of a script: its docstring, then its cells, without outputs."""
    source = script.read_text()
    title, _, text = (ast.get_docstring(ast.parse(source)) or script.stem).partition("\n")
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# {title}\n{text}"), *_cells(source)],
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # else a random one
    return nbformat.writes(made) + "\n"


def _cells(source: str) -> Iterator[nbformat.NotebookNode]:
    for block in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        kind, _, body = block.partition("\n")
        if kind == _MARKDOWN:
            yield nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            yield nbformat.v4.new_code_cell(body.strip())


def main() -> None:
    for script in SCRIPTS:
        script.with_suffix(".ipynb").write_text(notebook(script))


if __name__ == "__main__":
    main()
