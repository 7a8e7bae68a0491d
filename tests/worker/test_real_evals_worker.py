"""Worker processes that evaluate, on a real API server: shards, a reclaimed node, a stop at once, bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from tests.support.chat_server import ChatServer, chat_server
from tests.support.lab import write_rows

if TYPE_CHECKING:
    from conftest import Process, Workspace

pytestmark = pytest.mark.integration
ROWS, SHARDS = 24, 2
SOURCE = """
def preprocess(batch):
    return {**batch, "prompts": [[{"role": "user", "content": question}] for question in batch["question"]]}


def score(batch):
    pairs = zip(batch["generated_text"], batch["answer"])
    return {"Accuracy": {"value": sum(said == right for said, right in pairs) / len(batch["answer"]),
                         "is_algebraic": True, "value_range": (0, 1)}}


def words(batch):
    return {"Accuracy": {"value": "high"}}
"""


def says(text: str) -> str:
    number = int(text.rpartition(" ")[2])
    return str(number * number if number % 3 else 0)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(says) as running:
        yield running


def config(server: ChatServer, **more: Any) -> dict[str, Any]:
    client = {"base_url": server.url, "api_key": {"$env": "THE_API_KEY"}}
    return {
        "api_config": {"client_config": client, "model_config": {"model": "function"}},
        "batch_size": 4,
        "preprocess_fn": {"$function": "preprocess"},
        "compute_metrics_fn": {"$function": "score"},
        **more,
    }


def describe_anew(workspace: Workspace, server: ChatServer, count: int = ROWS) -> None:
    """Replace the experiment by one that evaluates."""
    rows = [{"question": f"What is the square of {n}", "answer": str(n * n)} for n in range(count)]
    write_rows(workspace.directory / "eval.jsonl", rows)
    spec = {
        "mode": "evals",
        "shards": SHARDS,
        "configs": [{"config": config(server)}],
        "data": {"eval": {"uri": "pvc://data/eval.jsonl"}},
        "code": {"source": SOURCE},
    }
    assert workspace.admin.delete(workspace.path("experiments", "e")).is_success
    workspace.wait("deletion", lambda: workspace.admin.get(workspace.path("experiments", "e")).status_code == 404)
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "metadata": {"name": "e"}, "spec": spec}
    workspace.experiment = workspace.post(workspace.path("experiments"), body)


def start(workspace: Workspace, **environment: str) -> Process:
    claims = json.dumps({"data": str(workspace.directory)})
    key = {"THE_API_KEY": "a-key-of-an-api", "RAPIDFIRE_SECRET_VARIABLES": "THE_API_KEY"}
    return workspace.real_worker(RAPIDFIRE_CLAIMS=claims, RAPIDFIRE_MODE="evals", **key, **environment)


def rows_of(workspace: Workspace, progress: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the committed chain."""
    rows: list[dict[str, Any]] = []
    link: dict[str, str] | None = progress["checkpoint"]
    while link is not None:
        directory: Path = workspace.volume / link["path"]
        rows = [*pq.read_table(directory / "rows.parquet").to_pylist(), *rows]
        link = json.loads((directory / "manifest.json").read_text())["previous"]
    return rows


def test_shards_are_answered_estimated_and_go_on_in_another_process(workspace: Workspace, server: ChatServer) -> None:
    describe_anew(workspace, server)
    run = workspace.create_run(**config(server))
    worker = start(workspace)
    prepared = workspace.committed(run, workspace.assign(run, workspace.holder(), chunk=-1), seconds=120)["prepared"]
    assert (prepared["totalSteps"], prepared["boundaries"]) == (ROWS, [12, 24])
    first = workspace.committed(run, workspace.assign(run, workspace.holder()), seconds=120)
    assert first.get("error") is None, first
    assert (first["step"], first["checkpoint"]["step"]) == (12, 12)
    accuracy = first["estimates"]["Accuracy"]
    assert 0 <= accuracy["lower"] < accuracy["value"] < accuracy["upper"] <= 1
    assert first["metrics"]["Samples Processed"] == 12
    assert first["metrics"]["system/total_tokens"] == 12 * 8
    assert server.keys == {"Bearer a-key-of-an-api"}

    server.gate.clear()  # the next shard is under way when the node is reclaimed
    attempt = workspace.assign(run, workspace.holder(), chunk=1)
    workspace.wait("requests", lambda: len(server.asked) > 12)
    worker.popen.kill()
    worker.end()
    server.gate.set()
    assert "a-key-of-an-api" not in worker.words
    start(workspace, POD_NAME="e-w-0-aaaaa")
    holder = workspace.wait(
        "new process", lambda: (now := workspace.holder()) != worker_of(workspace, run) and now, seconds=60
    )
    again = workspace.assign(run, holder, chunk=1)
    assert again == attempt + 1
    done = workspace.committed(run, again, seconds=120)
    assert done["step"] == ROWS
    places = [row["_row"] for row in rows_of(workspace, done)]
    assert sorted(places) == list(range(ROWS))
    truth = sum(n % 3 != 0 or n == 0 for n in range(ROWS)) / ROWS
    assert done["estimates"]["Accuracy"]["value"] == pytest.approx(truth)
    assert done["estimates"]["Accuracy"]["lower"] == pytest.approx(truth)
    lines = [line for line in workspace.metrics_log(run) if line["kind"] == "shard"]
    assert [(line["sequence"], line["step"]) for line in lines] == [(0, 12), (1, 24)]


def worker_of(workspace: Workspace, run: str) -> str:
    """Return the process that the run was assigned to last."""
    return str(workspace.run(run)["status"]["assignment"]["process"])


def test_a_stop_at_once_commits_the_batches_under_way(workspace: Workspace, server: ChatServer) -> None:
    describe_anew(workspace, server, 1000)  # more than are asked at once
    run = workspace.create_run(**config(server, batch_size=1))
    start(workspace)
    server.gate.clear()
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("requests", lambda: server.asked, seconds=120)
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    workspace.wait("the stop", lambda: "told to end" in workspace.processes[-1].words)
    server.gate.set()
    stopped = workspace.committed(run, attempt)
    assert 0 < stopped["step"] < 500
    assert len(rows_of(workspace, stopped)) == stopped["step"]
    assert workspace.processes[-1].terminate() == 0


def test_a_metric_that_is_no_number_fails_its_run_alone(workspace: Workspace, server: ChatServer) -> None:
    describe_anew(workspace, server)
    bad = workspace.create_run(**config(server, compute_metrics_fn={"$function": "words"}))
    good = workspace.create_run(**config(server))
    start(workspace)
    error = workspace.committed(bad, workspace.assign(bad, workspace.holder()), seconds=120)["error"]
    assert (error["reason"], error["retry"]) == ("InvalidMetric", False)
    assert "metric 'Accuracy' is str 'high'" in error["message"]
    assert workspace.committed(good, workspace.assign(good, workspace.holder()), seconds=60)["step"] == 12
