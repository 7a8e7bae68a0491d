"""The commands of docs/quickstart.md in their order, as a reader types them, on a model that trains in milliseconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks
from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(1800)]
PAGE = ROOT / "docs" / "quickstart.md"
NAME = "sft-smollm2"
ADAPTER = "adapter_model.safetensors"


def test_the_quickstart_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    """It also is the test of the SFT script, which the quickstart starts."""
    from tests.support.tiny import SERVED, write_tiny_model

    steps = [block.text for block in blocks(PAGE) if block.quickstart]
    assert len(steps) == 7, "each step of the page is marked"
    for folder in ("examples", ".venv"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    # Earlier stories have used the name; the page's reader has not.
    cluster.kubectl("delete", "rfexp", NAME, "--ignore-not-found", "--wait")
    environment = cluster.environment | {
        "PATH": f"{Path(sys.executable).parent}:{cluster.environment['PATH']}",
        "RAPIDFIREAI_DEMO_MODEL": str(write_tiny_model(tmp_path / "small", **SERVED)),
    }
    script = "\n".join(["set -euxo pipefail", *steps])
    answer = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-6000:]
    clone = cluster.get("rfrun", f"{NAME}-r5")
    assert clone["spec"]["config"]["training_args"]["learning_rate"] == 3e-4
    assert clone["spec"]["parentRef"]["checkpoint"]["step"] > 0, "it is warm"
    states = [run["status"]["state"] for run in cluster.list("rfrun", NAME)]
    assert states == ["Succeeded"] * 5
    assert (tmp_path / "my-adapter" / ADAPTER).exists()
    assert (tmp_path / "my-adapter" / "README.md").exists()
    assert "/login/once?code=" in answer.stdout
    results = answer.stdout
    assert f"{NAME}-r5" in results
    assert "run_id" in results
