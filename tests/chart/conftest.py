"""The chart, rendered."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chart.rendering import Chart


@pytest.fixture(scope="session")
def chart(kubelocal: Path) -> Chart:
    return Chart(kubelocal)
