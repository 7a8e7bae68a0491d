"""The command line as a person runs it: the installed program, in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.sdk.conftest import Workspace, condition, served, workspace
from typer.testing import CliRunner, Result

from rapidfireai.api import GROUP, VERSION, Experiment
from rapidfireai.cli.main import app

__all__ = ["served", "workspace"]

PROGRAM = Path(sys.executable).with_name("rapidfireai")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Run `rapidfireai` with further environment variables."""

    def call(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAPIDFIRE", "HF_"))}
        environment = {**kept, "RAPIDFIREAI_HOME": str(home), "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "200", **env}
        return subprocess.run([str(PROGRAM), *words], env=environment, capture_output=True, text=True, check=False)

    return call


@pytest.fixture
def pretended(home: Path, tmp_path: Path) -> Path:
    """A home that looks as if a cluster had been started, whose kubectl and helm say how they were called."""
    program = tmp_path / "kubelocal"
    program.write_text(
        '#!/bin/sh\necho "$0 KUBECONFIG=$KUBECONFIG"\nfor word in "$@"; do echo "[$word]"; done\nexit 7\n'
    )
    program.chmod(0o755)
    kubeconfig = home / "control-plane" / "pki" / "admin.kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch()
    (home / "settings.json").write_text(f'{{"kubelocal": "{program}", "mlflow_port": 1, "volume_port": 2}}')
    return program


@dataclass(frozen=True)
class Program:
    """`rapidfireai` in this process, speaking to one workspace."""

    workspace: Workspace

    def __call__(self, *words: str) -> Result:
        options = ["-n", self.workspace.namespace, "--kubeconfig", str(self.workspace.kubeconfig)]
        return CliRunner().invoke(app, [*words, *options], env={"COLUMNS": "200"})

    def says(self, *words: str) -> str:
        """Run a command that succeeds and return what it prints."""
        answer = self(*words)
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    def refuses(self, *words: str) -> str:
        """Run a command that fails with a sentence and return that."""
        answer = self(*words)
        assert answer.exit_code == 1, answer.output
        return answer.stderr


@pytest.fixture
def program(served: Workspace) -> Program:
    return Program(served)


@pytest.fixture
def sft(served: Workspace) -> Experiment:
    """Make an experiment of two runs; the first has committed both of its chunks, the second one of them."""
    spec = {
        "displayName": "My SFT",
        "configs": [{"trainer": "SFT", "config": {"training_args": {"learning_rate": {"$list": [0.001, 0.0001]}}}}],
        "data": {"train": {"uri": "hf://team/chats"}},
        "chunks": 2,
    }
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Experiment", "metadata": {"name": "sft"}, "spec": spec}
    served.objects.create_namespaced_custom_object(GROUP, VERSION, served.namespace, "experiments", body)
    made = served.experiment("sft")
    assert made is not None
    served.create_runs(made)
    served.commit(made, "sft-r1", 0)
    served.commit(made, "sft-r1", 1)
    served.commit(made, "sft-r2", 0)
    served.end_run("sft-r1")
    served.judge("sft", "Running", condition("Finished", "False"), best={"run": "sft-r1", "metric": "m", "value": 1.5})
    return made
