"""A real browser: the distribution's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a headless Chromium; the test is skipped where there is none: `make browser` installs it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no Chromium: run `make browser`")
    with sync_playwright() as playwright:
        # A test may run as root in a container, where Chromium's own sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
