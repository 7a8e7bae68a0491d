"""What the chart renders for people's values, line by line: `pytest tests/chart --snapshot-update` after a change."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from tests.chart.rendering import VALUE_SETS, Chart

# These have tests of their own, or are files of the chart as they are.
LEFT_OUT = ("templates/crds/", "templates/fence/", "/rbac", "templates/monitoring/rules", "templates/monitoring/dash")


class Manifest(SingleFileSnapshotExtension):
    """One YAML file a snapshot, to be read and compared as such."""

    file_extension = "yaml"
    _write_mode = WriteMode.TEXT


@pytest.mark.parametrize("name", VALUE_SETS)
def test_manifests(chart: Chart, snapshot: SnapshotAssertion, name: str) -> None:
    pieces = chart.text(**VALUE_SETS[name]).removeprefix("---\n").split("\n---\n")
    kept = [piece.strip() for piece in pieces if not any(each in piece.split("\n", 1)[0] for each in LEFT_OUT)]
    assert "\n---\n".join(kept) + "\n" == snapshot(extension_class=Manifest)
