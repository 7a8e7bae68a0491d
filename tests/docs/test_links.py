"""Every link of the documentation leads somewhere, and lists are written so that every reader shows them as lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.pages import PAGES, ROOT, anchors, links

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for line, target in links(page):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            broken.append(f"line {line}: {target}: there is no such file")
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            broken.append(f"line {line}: {target}: no such heading; there are {', '.join(sorted(anchors(there)))}")
    assert not broken, "\n".join(broken)


@each_page
def test_a_list_begins_after_an_empty_line(page: Path) -> None:
    """Python-Markdown, which makes the site, takes a list that follows a paragraph for a part of it."""
    wrong, fenced, before = [], False, ""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        begins = re.match(r"^(- |\* |\d+\. )", line) is not None
        goes_on = re.match(r"^(- |\* |\d+\. | |$)", before) is not None
        if begins and not goes_on and not fenced:
            wrong.append(f"line {number}: {line[:60]}")
        if re.match(r"^ {1,3}[-*] ", line) and not fenced:
            wrong.append(f"line {number}: indent what lies in a list by four: {line[:60]}")
        before = line
    assert not wrong, "\n".join(wrong)
