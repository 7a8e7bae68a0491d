"""The images that `make images` has built, for the tests that need them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES_ENV = "RAPIDFIRE_TEST_IMAGES"
"""Names a directory of archives that are taken as they are."""


class NoImages(Exception):  # noqa: N818 - it is shown to the person who runs this
    """There are no images of this state of the code; the message says what makes them."""


def find_archives() -> Path:
    """Return the directory of the archives.

    Raises:
        NoImages: If one is missing, or older than what it is built from.
    """
    named = os.environ.get(IMAGES_ENV)
    if named:
        return Path(named)
    command = [sys.executable, str(ROOT / "tools" / "images.py"), "check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise NoImages((answer.stdout + answer.stderr).strip())
    return ROOT / ".cache" / "images"


def archives_or_skip() -> Path:
    """Return the directory of the archives, or skip the test that asks."""
    try:
        return find_archives()
    except NoImages as problem:
        pytest.skip(str(problem))
