"""The page `docs/reference/values.md`: the chart's values, out of the comments in its `values.yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from generate_reference import NOTE
from yaml.nodes import MappingNode, Node

_INTRODUCTION = """\
# Values of the chart

`helm show values charts/rapidfireai` prints them with these comments. A value that is not here, or of another kind, is
refused with its path. (local) marks what `rapidfireai start` sets. How to install, upgrade and uninstall:
[install.md](../install.md).

| value | default | meaning |
| --- | --- | --- |"""


def values_page(values: Path) -> str:
    """Return the page.

    Args:
        values: The chart's `values.yaml`; the comment above a key says what it means.
    """
    text = values.read_text()
    root = yaml.compose(text)
    if not isinstance(root, MappingNode):
        raise TypeError(f"{values}: not a mapping")
    rows = [f"| {' | '.join(row)} |" for row in _rows(root, "", text.splitlines())]
    return "\n".join([NOTE, _INTRODUCTION, *rows]) + "\n"


def _rows(node: MappingNode, path: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (path, default, meaning) of every value; of a block that has a comment, a row for that too."""
    for key, value in node.value:
        where = f"{path}.{key.value}" if path else key.value
        comment = _comment(lines, key.start_mark.line)
        if _is_block(value):
            if comment:
                yield f"**`{where}`**", "", comment
            yield from _rows(value, where, lines)
        else:
            yield f"`{where}`", f"`{_source(value)}`", comment


def _is_block(value: Node) -> bool:
    return isinstance(value, MappingNode) and not value.flow_style


def _comment(lines: list[str], line: int) -> str:
    """Return the comment that ends right above a line."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    said = " ".join(each.strip().removeprefix("#").strip() for each in lines[first:line])
    return said.replace("|", "\\|").replace("<", "&lt;")


def _source(value: Node) -> str:
    """Return a value as it is written in the file."""
    return str(value.start_mark.buffer[value.start_mark.pointer : value.end_mark.pointer])
