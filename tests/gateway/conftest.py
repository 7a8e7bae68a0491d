"""A gateway as a process for the tests of a module, and the operator's harness."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from tests.gateway.site import Site
from tests.operator.builders import experiment
from tests.operator.conftest import api, client, make_node, make_operator

from rapidfireai.cluster.control_plane import ControlPlane

__all__ = ["api", "client", "make_node", "make_operator"]


@pytest.fixture(scope="session")
def site(control_plane: ControlPlane, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(control_plane, tmp_path_factory.mktemp("site"))
    made.prepare()
    try:
        made.gateway(RAPIDFIRE_BURST="1000000")
        yield made
    finally:
        made.close()
        print(made.log.read_text()[-6000:])


@pytest.fixture(scope="session")
def volume(site: Site) -> Site:
    """The site with its volume service."""
    site.volume_service()
    return site


@pytest.fixture
def name(site: Site) -> str:
    """An experiment of the test's own."""
    made = f"e-{uuid.uuid4().hex[:6]}"
    answer = site.http().post(f"{site.api}/experiments", json=experiment(made))
    assert answer.status_code == 201, answer.text
    return made
