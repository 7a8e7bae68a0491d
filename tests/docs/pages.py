"""The pages of the repository as the checks see them: links, headings, code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        ROOT / "examples" / "README.md",
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page."""

    page: Path
    line: int
    language: str
    text: str
    quickstart: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> list[Token]:
    return _MARKDOWN.parse(page.read_text())


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page; a comment `quickstart` before one marks it."""
    before = ""
    for token in tokens(page):
        if token.type == "fence":
            assert token.map is not None
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content, "quickstart" in before)
        before = token.content if token.type == "html_block" else ""


def _inline(page: Path) -> Iterator[tuple[int, Token]]:
    for token in tokens(page):
        for child in token.children or ():
            yield (token.map or [0])[0] + 1, child


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the target of every link and image."""
    for line, token in _inline(page):
        target = token.attrs.get("href", token.attrs.get("src"))
        if target is not None:
            yield line, str(target)


def code_words(page: Path) -> Iterator[tuple[int, str]]:
    """Yield what stands in backticks in the text."""
    for line, token in _inline(page):
        if token.type == "code_inline":
            yield line, token.content


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that headings make, as the repository's readers and the site make them."""
    found: set[str] = set()
    parsed = tokens(page)
    for token, inline in pairwise(parsed):
        if token.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found
