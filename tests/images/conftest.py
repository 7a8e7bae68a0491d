"""The images that were built, and their containers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.images import archive
from tests.images.container import Container
from tests.support.images import archives_or_skip

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def archives() -> Path:
    """The directory of the archives; the tests are skipped where nothing starts them."""
    missing = [name for name in ("buildah", "runc") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"not root, or {', '.join(missing) or 'nothing'} is not installed: run `make builder`")
    return archives_or_skip()


@pytest.fixture(scope="session")
def containers(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    import image_store
    from image_parts import PARTS, part

    with ExitStack() as stack:
        made = {}
        for name in PARTS:
            file = archives / f"{name}.tar"
            root = stack.enter_context(image_store.mounted(part(name, "cpu").image, file))
            config = archive.config(file)["config"]
            made[name] = Container(root, config, tmp_path_factory.mktemp(name))
        yield made
