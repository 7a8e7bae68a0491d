"""Resources as the API server would return them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kubernetes import client

from rapidfireai.api import Experiment, ICOp, Run
from rapidfireai.clone import cloned
from rapidfireai.volume import MetricLine

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
CREATED = "2026-01-01T11:00:00Z"


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": CREATED}


def experiment(name: str = "sft", spec: dict[str, Any] | None = None, **status: Any) -> Experiment:
    usual = {
        "displayName": "SFT of SmolLM2",
        "configs": [{"trainer": "SFT", "config": {}}],
        "data": {"train": {"uri": "hf://team/chats"}, "eval": {"uri": "pvc://data/eval.jsonl"}},
        "workers": {"replicas": 2},
    }
    metadata = {"name": name, "namespace": "team-a", "uid": f"uid-of-{name}", "creationTimestamp": CREATED}
    return Experiment.from_body({"metadata": metadata, "spec": usual | (spec or {}), "status": status})


def run(index: int, rate: float, state: str, step: int = 0, **status: Any) -> Run:
    """Return a run of four chunks of twelve steps."""
    name = f"sft-r{index}"
    done = step // 12
    checkpoint = {"path": f"experiments/uid-of-sft/runs/u{index}/checkpoints/{12 * done}-3", "digest": "ab" * 32}
    progress: dict[str, Any] = {"attempt": 3, "chunk": done, "step": step, "loss": "1.934", "seconds": 60.0}
    progress["metrics"] = {"loss": 1.934, "boundary/eval_loss": 1.951}
    if done:
        progress["checkpoint"] = {**checkpoint, "step": 12 * done}
    known = {
        "prepared": {"totalSteps": 48, "boundaries": [12, 24, 36, 48], "bytes": 1},
        "progress": progress,
        "attempt": 3,
        "display": {"objective": "1.951" if done else ""},
        "objective": [{"chunk": i, "step": 12 * (i + 1), "value": 2.0 - i / 100} for i in range(done)],
        "objectiveMetric": "boundary/eval_loss",
    }
    config = {
        "trainer_type": "SFT",
        "model_name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "training_args": {"learning_rate": rate, "num_train_epochs": 1},
        "peft_params": {"r": 8 * index, "target_modules": ["q_proj"]},
    }
    return Run.from_body(
        {
            "metadata": {"name": name, "namespace": "team-a", "uid": f"u{index}", "creationTimestamp": CREATED},
            "spec": {"experimentRef": "sft", "index": index, "config": config},
            "status": {"state": state, **(known if step else {}), **status},
        }
    )


def midway() -> tuple[Experiment, list[Run]]:
    """An experiment with a run in every state."""
    assignment = {"worker": "sft-w-0", "pod": "sft-w-0-abcde", "podUID": "u", "process": "sft-w-0-abcde/1"}
    given = {**assignment, "attempt": 3, "task": "chunk", "chunk": 2, "grantedAt": NOW.timestamp() - 90}
    why = "formatting_func: KeyError: 'text'; the rows have question and answer. " * 3
    return experiment(
        state="Running",
        runs={"total": 4, "active": 2, "running": 1, "pending": 1, "succeeded": 1, "failed": 1},
        chunks={"done": 7, "total": 16, "summary": "7/16"},
        workers={"summary": "1/2"},
        best={"run": "sft-r1", "metric": "boundary/eval_loss", "value": 1.951, "summary": "sft-r1 (1.951)"},
        eta="4m",
        mlflowExperimentID="7",
        conditions=[
            condition("Accepted", "True", "Valid"),
            condition("WorkersReady", "False", "Waiting", "Waiting for 1 of 2 workers: no node has a free slot."),
        ],
    ), [
        run(1, 1e-4, "Running", 30, assignment=given, mlflowRunID="f00"),
        run(2, 1e-3, "Failed", 12, conditions=[condition("Succeeded", "False", "UserCodeError", why)]),
        run(3, 1e-4, "Succeeded", 48),
        run(4, 1e-3, "Pending"),
    ]


def icop(op: str, *runs: str, **spec: Any) -> ICOp:
    """Return an operation that was carried out for all runs but the last."""
    results = [{"run": name, "outcome": "Applied"} for name in runs[:-1]]
    refused = {"run": runs[-1], "outcome": "Refused", "message": "it has ended"}
    asked = {"requestedBy": "system:serviceaccount:team-a:rapidfire-user", **spec}
    return ICOp.from_body(
        {
            "metadata": {"name": "op-1", "creationTimestamp": CREATED},
            "spec": {"experimentRef": "sft", "op": op, "runs": list(runs), **asked},
            "status": {
                "results": [*results, refused],
                "summary": "1 stopped, 1 refused",
                "conditions": [condition("Complete", "True", "PartlyApplied")],
            },
        }
    )


def clone(index: int, parent: Run, *, warm: bool = False, state: str = "Running", **training_args: Any) -> Run:
    """Return a clone, warm from its parent's twelfth step."""
    checkpoint = {"path": "experiments/e/runs/u/checkpoints/12-1", "digest": "ab" * 32, "step": 12}
    reference = {
        "name": parent.metadata.name,
        "uid": parent.metadata.uid,
        "index": parent.spec.index,
        "warmStart": warm,
    }
    return Run.from_body(
        {
            "metadata": {
                "name": f"sft-r{index}",
                "namespace": "team-a",
                "uid": f"u{index}",
                "creationTimestamp": CREATED,
            },
            "spec": {
                "experimentRef": "sft",
                "index": index,
                "config": cloned(parent.spec.config, {"training_args": training_args}),
                "parentRef": {**reference, **({"checkpoint": checkpoint} if warm else {})},
            },
            "status": {"state": state},
        }
    )


def event(reason: str, message: str, count: int = 1) -> client.CoreV1Event:
    return client.CoreV1Event(
        metadata=client.V1ObjectMeta(name=reason),
        involved_object=client.V1ObjectReference(),
        type="Normal",
        reason=reason,
        message=message,
        count=count,
        last_timestamp=datetime(2026, 1, 1, 11, 50, tzinfo=UTC),
    )


def pod(name: str, phase: str, restarts: int = 0) -> client.V1Pod:
    status = client.V1ContainerStatus(
        name="worker", image="i", image_id="", ready=True, restart_count=restarts, started=True
    )
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, creation_timestamp=datetime(2026, 1, 1, 11, 58, tzinfo=UTC)),
        spec=client.V1PodSpec(containers=[], node_name="this-machine"),
        status=client.V1PodStatus(phase=phase, container_statuses=[status]),
    )


def series(*values: float | None, kind: str = "boundary", name: str = "boundary/eval_loss") -> list[MetricLine]:
    """Return a line for each chunk of twelve steps."""
    return [
        MetricLine(kind, i, 12 * i, float(i), {name: value, "boundary/epoch": i / 4})
        for i, value in enumerate(values, start=1)
    ]


def evals_experiment(**status: Any) -> Experiment:
    """Return an experiment of evaluations: 200 rows in four shards."""
    spec = {
        "displayName": "RAG",
        "mode": "evals",
        "configs": [{"config": {}}],
        "data": {"eval": {"uri": "pvc://data/questions.jsonl"}, "documents": {"uri": "hf://team/docs"}},
        "shards": 4,
        "objective": {"metric": "NDCG@5", "direction": "maximize"},
    }
    metadata = {"name": "rag", "namespace": "team-a", "uid": "uid-of-rag", "creationTimestamp": CREATED}
    return Experiment.from_body({"metadata": metadata, "spec": spec, "status": status})


def evals_run(index: int, k: int, state: str, rows: int = 0, ndcg: float = 0.5, **status: Any) -> Run:
    """Return an evaluation that has answered so many rows."""
    done = rows // 50
    checkpoint = {"path": f"experiments/uid-of-rag/runs/u{index}/shards/{50 * done}-2", "digest": "cd" * 32}
    metrics = {"Samples Processed": 50.0 * done, "Throughput": 12.345, "Failed Rows": 3.0 if index == 1 else 0.0}
    estimates = {
        "NDCG@5": {"value": ndcg, "lower": ndcg - 0.1, "upper": ndcg + 0.1, "level": 0.95, "method": "wilson"},
        "Length": {"value": 123.456, "lower": 100.0, "upper": 150.25, "level": 0.95, "method": "normal"},
        "Model Calls": {"value": 2.0},
    }
    progress: dict[str, Any] = {"attempt": 3, "chunk": done, "step": rows, "seconds": 20.0, "metrics": metrics}
    if done:
        progress |= {"checkpoint": {**checkpoint, "step": 50 * done}, "estimates": estimates}
    points = [
        {"chunk": i, "step": 50 * (i + 1), "value": ndcg, "lower": ndcg - 0.2 / (i + 1), "upper": ndcg + 0.2 / (i + 1)}
        for i in range(done)
    ]
    prepared = {"totalSteps": 200, "boundaries": [50, 100, 150, 200], "bytes": 1, "index": "ef" * 32}
    known = {
        "prepared": {**prepared, "indexBuilt": True},
        "progress": progress,
        "attempt": 3,
        "objective": points,
        "objectiveMetric": "NDCG@5",
    }
    rag = {"search_type": "mmr", "search_kwargs": {"k": k}, "embedding_cls": {"$class": "embedders:MiniLM"}}
    config = {"vllm_config": {"model_config": {"model": "m"}, "sampling_params": {}, "rag": rag}, "batch_size": 8}
    return Run.from_body(
        {
            "metadata": {
                "name": f"rag-r{index}",
                "namespace": "team-a",
                "uid": f"u{index}",
                "creationTimestamp": CREATED,
            },
            "spec": {"experimentRef": "rag", "index": index, "config": config},
            "status": {"state": state, **(known if rows else {}), **status},
        }
    )


def evals_midway() -> tuple[Experiment, list[Run]]:
    """Evaluations: one under way, one done, one that builds an index, one that waits for it, one that failed."""
    given = {"worker": "rag-w-0", "pod": "rag-w-0-abcde", "podUID": "u", "process": "rag-w-0-abcde/1", "attempt": 2}
    building = {**given, "task": "index", "chunk": -1, "grantedAt": NOW.timestamp() - 90}
    indexed = {"attempt": 2, "chunk": -1, "step": 0, "metrics": {"Documents Indexed": 340, "Documents": 1400}}
    prepared = {"totalSteps": 200, "boundaries": [50, 100, 150, 200], "bytes": 1, "index": "ab" * 32}
    waits = condition("Progressing", "True", "WaitingForIndex", "waits for the index that rag-r3 builds")
    return evals_experiment(
        state="Running",
        chunks={"done": 6, "total": 16, "summary": "6/16"},
        workers={"summary": "1/1"},
        best={"run": "rag-r2", "metric": "NDCG@5", "value": 0.7, "summary": "rag-r2 (0.7)"},
    ), [
        evals_run(1, 1, "Running", 120, 0.523),
        evals_run(2, 5, "Succeeded", 200, 0.7),
        evals_run(3, 10, "Running", assignment=building, prepared=prepared, progress=indexed),
        evals_run(4, 20, "Pending", prepared=prepared, conditions=[waits]),
        evals_run(5, 30, "Failed", conditions=[condition("Succeeded", "False", "NotANumber", "Accuracy is 'x'")]),
    ]


def shard_series(*points: tuple[float, float, float]) -> list[MetricLine]:
    """Return the log of an evaluation: a line a shard with (estimate, lower, upper)."""
    return [
        MetricLine(
            "shard",
            number,
            50 * (number + 1),
            float(number),
            {
                "Throughput": 9.0,
                "NDCG@5": value,
                "NDCG@5_lower_bound": lower,
                "NDCG@5_upper_bound": upper,
                "NDCG@5_confidence_interval": (upper - lower) / 2,
            },
        )
        for number, (value, lower, upper) in enumerate(points)
    ]
