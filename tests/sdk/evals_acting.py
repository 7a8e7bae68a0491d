"""What a notebook does in the tests of evaluations, and the parts of operator and worker that answer it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tests.support.waiting import wait_for

from rapidfireai import Experiment
from rapidfireai.api import Experiment as ExperimentResource
from rapidfireai.automl import List, RFGridSearch, RFOpenAIAPIModelConfig, RFvLLMModelConfig

from .acting import log_of
from .conftest import Workspace, condition

KEY = "sk-never-to-be-seen"
VARIABLE = f"RAPIDFIRE_KEY_{hashlib.sha256(KEY.encode()).hexdigest()[:8]}"
ROWS = 5
SHARDS = 2
BOUNDARIES = (3, 5)


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    raise NotImplementedError


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    raise NotImplementedError


def pipelines() -> RFGridSearch:
    """Two of them, which differ in their temperature."""
    model = RFvLLMModelConfig(model_config={"model": "m"}, sampling_params={"temperature": List([0.0, 0.5])})
    config = {"vllm_config": model, "preprocess_fn": preprocess, "compute_metrics_fn": compute_metrics}
    return RFGridSearch({**config, "batch_size": 2})


def behind_an_api() -> RFGridSearch:
    """Two of them, with a key."""
    client = {"base_url": "http://127.0.0.1:1/v1", "api_key": KEY}
    api = RFOpenAIAPIModelConfig(
        client_config=client, model_config={"model": "m"}, rpm_limit=List([10, 20]), tpm_limit=1000
    )
    return RFGridSearch({"openai_config": api, "preprocess_fn": preprocess, "batch_size": 2})


def questions(count: int = ROWS) -> Dataset:
    return Dataset.from_list([{"question": f"{i}?", "answer": str(i)} for i in range(count)])


def experiment(workspace: Workspace, name: str = "My Evals") -> Experiment:
    return Experiment(name, "eval", namespace=workspace.namespace, kubeconfig=workspace.kubeconfig)


def evaluate(made: Experiment, **more: Any) -> Any:
    asked = {"config_group": pipelines(), "dataset": questions(), "num_shards": SHARDS, "num_actors": 2, **more}
    return made.run_evals(**asked)


def commit_shard(
    workspace: Workspace,
    found: ExperimentResource,
    run: str,
    shard: int,
    rows: Sequence[dict[str, Any]],
    previous: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Commit a shard as a worker does, with what the operator makes of it; return its checkpoint."""
    uid, done = workspace.run(run)["metadata"]["uid"], BOUNDARIES[shard]
    path = f"experiments/{found.metadata.uid}/runs/{uid}/shards/{done}-{shard + 1}"
    directory = workspace.volume / path
    directory.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), directory / "rows.parquet")
    (directory / "batches.jsonl").write_text("{}\n")
    accuracy = {"value": 0.5, "lower": 0.25, "upper": 0.75, "level": 0.95, "method": "wilson"}
    bounds = {"lower_bound": 0.25, "upper_bound": 0.75, "margin_of_error": 0.25, "confidence_level": 0.95}
    written = {"Samples Processed": {"value": done}, "Accuracy": {"value": 0.5, **bounds, "ci_method": "wilson"}}
    (directory / "cumulative.json").write_text(json.dumps(written))
    files = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(directory.iterdir())}
    link = previous and {"path": previous["path"], "digest": previous["digest"]}
    manifest = json.dumps({"format": 1, "rows": done, "files": files, "previous": link, "code": None, "facts": {}})
    (directory / "manifest.json").write_text(manifest)
    checkpoint = {"path": path, "digest": hashlib.sha256(manifest.encode()).hexdigest(), "step": done}
    values = {"Samples Processed": done, "Throughput": 2.5, "Failed Rows": 0, "Accuracy": 0.5}
    log = directory.parents[1] / "logs" / "metrics.jsonl"
    log.parent.mkdir(exist_ok=True)
    line = {"Accuracy_lower_bound": 0.25, "Accuracy_upper_bound": 0.75, "Accuracy_confidence_interval": 0.25}
    with log.open("a") as file:
        record = {"kind": "shard", "sequence": shard, "step": done, "time": 1.0, "values": {**values, **line}}
        file.write(json.dumps(record) + "\n")
    progress = {"attempt": shard + 1, "chunk": shard, "step": done, "final": True, "seconds": 1.5}
    status = {
        "state": "Running",
        "prepared": {"totalSteps": ROWS, "boundaries": list(BOUNDARIES), "bytes": 1},
        "progress": {**progress, "checkpoint": checkpoint, "metrics": values, "estimates": {"Accuracy": accuracy}},
        "mlflowRunID": f"mlflow-{run}",
    }
    workspace._write("runs", run, status)
    return checkpoint


def answered(*places: int, text: str = "said") -> list[dict[str, Any]]:
    return [{"question": f"{i}?", "generated_text": f"{text} {i}", "error": None, "_row": i} for i in places]


def failed(place: int) -> dict[str, Any]:
    return {"question": f"{place}?", "generated_text": None, "error": "it refused", "_row": place}


def play(workspace: Workspace, name: str, *, fail: str = "never") -> Callable[[], None]:
    """Return the parts of operator and worker that answer all rows; in the first shard one of them fails at first."""

    def part() -> None:
        found = wait_for(f"experiment {name}", lambda: workspace.experiment(name))
        runs = workspace.create_runs(found)
        workspace.judge(name, "Running", condition("Accepted", "True"))
        good = [run for run in runs if not run.endswith(fail)]
        first = {run: commit_shard(workspace, found, run, 0, [*answered(4, 0), failed(2)]) for run in good}
        wait_for("line about the first shard", lambda: "shard 1/2" in log_of(found))
        for run in good:
            commit_shard(workspace, found, run, 1, answered(2, 1, 3), first[run])
        for run in runs:
            if run in good:
                workspace.end_run(run)
            else:
                workspace.end_run(run, "Failed", condition("Succeeded", "False", "UserCodeError", "it raised"))
        workspace.judge(name, "Succeeded", condition("Accepted", "True"), condition("Finished", "True"))

    return part
