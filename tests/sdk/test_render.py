"""`rapidfireai render` and `rapidfireai upload`: scripts become manifests that people can apply later."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from rapidfireai.api.experiment import ExperimentSpec
from rapidfireai.cli.main import app
from rapidfireai.expand import expand, restore

from .acting import Act, create_model, experiment, fit, play, rows, search
from .conftest import Workspace

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("rapidfireai")
Cli = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = """
import sys
from datasets import Dataset
from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFModelConfig, RFSFTConfig

def create_model(config):
    raise NotImplementedError

config = RFModelConfig(model_name="m", training_args=RFSFTConfig(learning_rate=List([1.0, 0.5])))
for chunks in map(int, sys.argv[1:]):
    experiment = Experiment("My Sweep", namespace={namespace!r}, kubeconfig={kubeconfig!r})
    print("rendering", chunks)
    search, rows = RFGridSearch(config, "SFT"), Dataset.from_list([{{"text": "a"}}])
    experiment.run_fit(search, create_model, rows, num_chunks=chunks)
    experiment.end()
print("asking")
{last}
print("never said")
"""


EVALUATE = """
from datasets import Dataset
from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFOpenAIAPIModelConfig

def preprocess(batch, rag, prompt_manager):
    raise NotImplementedError

client = {"base_url": "http://127.0.0.1:1/v1", "api_key": "sk-never-to-be-seen"}
api = RFOpenAIAPIModelConfig(client, {"model": "m"}, rpm_limit=List([10, 20]), tpm_limit=1000)
search = RFGridSearch({"openai_config": api, "preprocess_fn": preprocess})
rows = Dataset.from_list([{"question": "a"}, {"question": "b"}])
for shards in (2, 1):
    experiment = Experiment("My Evals", mode="evals", namespace="team")
    results = experiment.run_evals(search, rows, num_shards=shards)
for run_id, (answers, metrics) in results.items():
    print("never said", run_id)
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `rapidfireai` in the test's directory, as on a machine without a cluster of its own."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAPIDFIRE", "KUBECONFIG"))}
        environment = {**kept, "RAPIDFIREAI_HOME": str(tmp_path / "home"), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        return subprocess.run([str(PROGRAM), *words], env=environment, capture_output=True, text=True, check=False)

    return call


def script(workspace: Workspace | None, last: str = "experiment.get_results()") -> str:
    """Write a script and return its path."""
    where = {"namespace": "team", "kubeconfig": None}
    if workspace is not None:
        where = {"namespace": workspace.namespace, "kubeconfig": str(workspace.kubeconfig)}
    Path("train.py").write_text(SCRIPT.format(last=last, **where))
    return "train.py"


def applied(workspace: Workspace, manifest: str) -> None:
    command = [str(workspace.plane.binary), "kubectl", "--kubeconfig", str(workspace.kubeconfig)]
    answer = subprocess.run([*command, "apply", "-f", "-"], input=manifest, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_script_is_rendered_up_to_where_it_asks_for_results(served: Workspace, cli: Cli) -> None:
    answer = cli("render", script(served), "2", "3")
    assert answer.returncode == 0, answer.stderr
    assert "rendering 2" in answer.stderr
    assert "get_results(): nothing has run, the script was only rendered; it ends here" in answer.stderr
    assert "never said" not in answer.stderr
    first, second = yaml.safe_load_all(answer.stdout)
    assert (first["metadata"]["name"], second["metadata"]["name"]) == ("my-sweep", "my-sweep-1")
    assert (first["spec"]["displayName"], second["spec"]["displayName"]) == ("My Sweep", "My Sweep_1")
    assert (first["spec"]["chunks"], second["spec"]["chunks"]) == (2, 3)
    assert first["metadata"]["namespace"] == served.namespace
    assert answer.stdout.startswith("# 2 runs of an experiment. To start it: kubectl apply --server-side -f FILE\n")
    assert served.experiments() == []

    spec = ExperimentSpec.model_validate(first["spec"])
    assert spec.code is not None
    assert (served.volume / "bundles" / str(spec.code.bundle) / "bundle.pkl").is_file()
    applied(served, answer.stdout)
    assert [each.metadata.name for each in served.experiments()] == ["my-sweep", "my-sweep-1"]
    assert [restore(leaf) for leaf in expand(served.experiments()[0].spec.configs)] == expand(spec.configs)


def test_what_was_applied_is_what_the_same_call_goes_on_with(
    served: Workspace, act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment(served)
    arguments: dict[str, Any] = {"create_model_fn": create_model, "eval_dataset": rows(2), "seed": 7}
    asked = {"train_dataset": rows(), "num_shards": 2, "num_workers": 2, **arguments}
    applied(served, made.to_yaml(search(), **asked))
    act(play(served, "my-sweep"))
    capsys.readouterr()
    fit(made, **arguments)
    said = capsys.readouterr().out
    assert "Going on with my-sweep." in said
    assert "sent" not in said
    assert len(made.get_results()) == 4


def test_a_script_is_rendered_without_a_cluster_and_its_files_are_sent_later(served: Workspace, cli: Cli) -> None:
    answer = cli("render", script(None), "--offline", "--output", "gitops", "--", "2", "2")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    written = Path("gitops", "my-sweep.yaml").read_text()
    assert "# Before that send its code and data: rapidfireai upload DIRECTORY --namespace team\n" in written
    spec = ExperimentSpec.model_validate(yaml.safe_load(written)["spec"])
    assert spec.code is not None
    digest = spec.data.train.uri.removeprefix("blob://sha256/")
    assert sorted(path.name for path in Path("gitops").glob("*/*")) == sorted([str(spec.code.bundle), digest])
    assert {path.name for path in Path("gitops").iterdir()} == {
        "my-sweep.yaml", "my-sweep-1.yaml", "bundles", "datasets",
    }  # fmt: skip
    script(None, "Experiment.attach('My Sweep')")
    again = cli("render", "train.py", "--offline", "--output", "gitops", "--", "2", "2")
    assert "Experiment.attach(): nothing has run" in again.stderr
    assert Path("gitops", "my-sweep.yaml").read_text() == written, again.stderr

    where = ["--namespace", served.namespace, "--kubeconfig", str(served.kubeconfig)]
    sent = cli("upload", "gitops", *where)
    assert sent.stdout == f"2 files on the volume of workspace {served.namespace}\n", sent.stderr
    assert pq.read_table(served.volume / "datasets" / digest / "data.parquet").to_pylist() == [{"text": "a"}]
    assert (served.volume / "bundles" / str(spec.code.bundle) / "bundle.pkl").is_file()


def test_a_script_of_evaluations_is_rendered_up_to_where_it_looks_at_their_results(
    workspace: Workspace, cli: Cli
) -> None:
    Path("evaluate.py").write_text(EVALUATE)
    answer = cli("render", "evaluate.py", "--offline", "--output", "gitops")
    assert answer.returncode == 0, answer.stderr
    assert "rendered my-evals-1.yaml" in answer.stderr
    assert "the results of run_evals(): nothing has run, the script was only rendered" in answer.stderr
    assert "never said" not in answer.stderr
    written = Path("gitops", "my-evals.yaml").read_text()
    variable = re.search(r"--from-literal=(RAPIDFIRE_KEY_[0-9a-f]{8})=KEY", written)
    assert variable is not None
    spec = ExperimentSpec.model_validate(yaml.safe_load(written)["spec"])
    assert (spec.mode, spec.shards, spec.seed) == ("evals", 2, 42)
    (variable_of_workers,) = spec.workers.template.spec.containers[0].env
    assert variable_of_workers.value_from == {"secretKeyRef": {"name": "my-evals-keys", "key": variable[1]}}
    leaf = expand(spec.configs, mode="evals")[0]
    assert leaf["api_config"]["client_config"]["api_key"] == {"$env": variable[1]}
    everything = [path for path in Path("gitops").rglob("*") if path.is_file()]
    assert not any(b"sk-never-to-be-seen" in path.read_bytes() for path in everything)
    assert "sk-never-to-be-seen" not in answer.stderr


def test_what_cannot_be_rendered_is_said_in_a_sentence(workspace: Workspace, cli: Cli) -> None:
    Path("broken.py").write_text("raise ValueError('of the user')")
    Path("empty.py").write_text("print('nothing')")
    asks = script(None, "print(experiment.workspace)")
    for words, sentence in (
        (["empty.py"], "empty.py called neither run_fit nor run_evals on an Experiment"),
        (["broken.py"], "ValueError: of the user\nerror: broken.py ended with code 1; nothing of it counts"),
        ([asks, "2"], "there is no cluster: run `rapidfireai start`"),
        ([asks, "--offline", "-o", "x", "--", "2"], "a script that asks the cluster cannot be rendered with --offline"),
    ):
        answer = cli("render", *words)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert sentence in answer.stderr


def test_what_cannot_even_be_begun_is_said_in_a_sentence(workspace: Workspace) -> None:
    Path("empty.py").touch()
    Path("nothing").mkdir()
    where = ["--namespace", workspace.namespace, "--kubeconfig", str(workspace.kubeconfig)]
    for words, sentence in (
        (["render", "missing.py"], "there is no script missing.py"),
        (["render", "a.ipynb"], "a.ipynb is a notebook; call experiment.to_yaml(...) in it, with the arguments of"),
        (["render", "empty.py", "--offline"], "say where with --output DIRECTORY"),
        (["upload", "nothing", *where], "nothing: has no code and no data"),
    ):
        answer = CliRunner().invoke(app, words)
        assert (answer.exit_code, answer.stdout) == (1, "")
        assert sentence in answer.stderr
