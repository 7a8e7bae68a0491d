"""One real node for all tests here; a machine that cannot run one says why."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.binaries import Binaries, find_binaries
from tests.node.realnode import RealNode, obstacle
from tests.support.images import archives_or_skip


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    return find_binaries()


@pytest.fixture(scope="session")
def archives() -> Path:
    return archives_or_skip()


@pytest.fixture(scope="session")
def node(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    node = RealNode(tmp_path_factory.mktemp("node") / "n", binaries)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def strict(node: RealNode) -> str:
    """A namespace that takes restricted pods alone."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    make_strict(node, name)
    return name


def make_strict(node: RealNode, name: str) -> None:
    node.kubectl("create", "namespace", name)
    node.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
