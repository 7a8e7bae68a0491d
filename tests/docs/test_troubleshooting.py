"""Whoever looks up the reason of a condition finds it."""

from __future__ import annotations

import re

import pytest
from tests.docs.reasons import OPERATOR, ROOT, WORKER, reasons

PAGE = ROOT / "docs" / "troubleshooting.md"


@pytest.mark.parametrize(("part", "some"), [(OPERATOR, "Unschedulable"), (WORKER, "NonFiniteLoss")])
def test_every_reason_in_the_code_is_explained(part: object, some: str) -> None:
    found = reasons(part)  # type: ignore[arg-type]
    assert some in found, "the search finds reasons at all"
    told = set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE.read_text()))
    missing = {reason: path.relative_to(ROOT).as_posix() for reason, path in found.items() if reason not in told}
    assert not missing, f"docs/troubleshooting.md does not say what these mean: {missing}"
