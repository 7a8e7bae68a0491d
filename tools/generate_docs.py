"""The pages and drawings of `docs/` that follow from code, beside those of the resources."""

from __future__ import annotations

from pathlib import Path

from generate_cli import cli_page
from generate_drawings import drawings
from generate_python import python_page
from generate_rest import rest_page


def docs_files(docs: Path) -> dict[Path, str]:
    """Return the text of each file by its path.

    Args:
        docs: The folder `docs`.
    """
    pages = {"cli.md": cli_page(), "python.md": python_page(), "rest.md": rest_page()}
    files = {docs / "reference" / name: text for name, text in pages.items()}
    return files | {docs / "images" / name: text for name, text in drawings().items()}
