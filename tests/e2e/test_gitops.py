"""The story of a script that is rendered, applied by kubectl, and only then looked at from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import NOTEBOOK, Cluster
from tests.e2e.test_stories import RUNS, compare_curves, compare_models

from rapidfireai import Experiment
from rapidfireai.records import RunStatus

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
PROGRAM = Path(sys.executable).with_name("rapidfireai")


def committed(experiment: Experiment) -> list[int]:
    info = experiment.get_runs_info()
    return list(info["completed_steps"]) if len(info) else []


def test_a_rendered_script_is_applied_attached_to_cancelled_and_resumed(
    cluster: Cluster, model: Path, plain: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    command = [str(PROGRAM), "render", str(NOTEBOOK), "--", "gitops", str(model), str(tmp_path), "--slow", "0.02"]
    rendered = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    (tmp_path / "gitops.yaml").write_text(rendered.stdout)
    cluster.kubectl("apply", "--server-side", "-f", str(tmp_path / "gitops.yaml"))

    back = Experiment.attach("gitops", experiments_path=tmp_path, kubeconfig=cluster.local.kubeconfig)
    cluster.wait("two runs that have begun", lambda: sum(steps > 0 for steps in committed(back)) > 1)
    assert "gitops-w-0 info     begun run=gitops-r" in back.get_log_file_path("training").read_text()
    back.cancel()
    cancelled = back.get_runs_info()
    assert set(cancelled["status"]) <= {RunStatus.STOPPED, RunStatus.COMPLETED}
    assert len(cancelled) == RUNS

    for run in cluster.list("rfrun", "gitops"):
        name = run["metadata"]["name"]
        cluster.kubectl("patch", "rfrun", name, "--type=merge", "-p", '{"spec":{"desiredState":"Running"}}')
    cluster.kubectl("scale", "rfexp", "gitops", "--replicas=2")
    cluster.wait("a resumed run", lambda: RunStatus.ONGOING in set(back.get_runs_info()["status"]))
    back.wait()
    assert set(back.get_runs_info()["status"]) == {RunStatus.COMPLETED}
    compare_models({index: back.export(index, tmp_path / str(index)) for index in plain}, plain, "gitops")
    back.get_results().to_csv(tmp_path / "results.csv", index=False)
    compare_curves(tmp_path / "results.csv", plain)
