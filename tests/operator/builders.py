"""Resources for tests, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def experiment(name: str = "exp", runs: int = 4, replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """Return an Experiment whose grid makes `runs` runs."""
    rates = [round(0.001 * (index + 1), 6) for index in range(runs)]
    config = {"model_name": "tiny", "training_args": {"learning_rate": {"$list": rates}}}
    return {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "configs": [{"trainer": "SFT", "config": config}],
            "chunks": 4,
            "data": {"train": {"uri": "hf://owner/rows"}, "eval": {"uri": "hf://owner/rows"}},
            "workers": {"replicas": replicas},
            **spec,
        },
    }


def evaluation(name: str = "exp", runs: int = 4, replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """Return an Experiment that evaluates `runs` pipelines."""
    sampling = {"temperature": {"$list": [round(0.1 * (index + 1), 6) for index in range(runs)]}}
    config = {"vllm_config": {"model_config": {"model": "tiny"}, "sampling_params": sampling}, "batch_size": 2}
    return {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "mode": "evals",
            "configs": [{"config": config}],
            "shards": 4,
            "objective": {"metric": "Accuracy", "direction": "maximize"},
            "data": {"eval": {"uri": "hf://owner/questions"}},
            "workers": {"replicas": replicas},
            **spec,
        },
    }


def retrieval(splitters: int = 2, searches: int = 2, **spec: Any) -> dict[str, Any]:
    """Return an Experiment whose pipelines search in `splitters` indexes, each in `searches` ways."""
    splitter = "langchain_text_splitters:CharacterTextSplitter"
    rag = {
        "embedding_cls": {"$class": "langchain_huggingface:HuggingFaceEmbeddings"},
        "text_splitter": {
            "$list": [{"$class": splitter, "kwargs": {"chunk_size": 100 * (each + 1)}} for each in range(splitters)]
        },
        "search_kwargs": {"k": {"$list": list(range(1, searches + 1))}},
    }
    config = {"vllm_config": {"model_config": {"model": "tiny"}, "rag": rag}}
    data = {"eval": {"uri": "hf://owner/questions"}, "documents": {"uri": "hf://owner/documents"}}
    return evaluation(configs=[{"config": config}], data=data, **spec)


def icop(name: str, op: str, runs: list[str], experiment_ref: str = "exp") -> dict[str, Any]:
    """Return an IC Op."""
    return {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "ICOp",
        "metadata": {"name": name},
        "spec": {"experimentRef": experiment_ref, "op": op, "runs": runs},
    }


def condition(body: dict[str, Any], type_: str) -> dict[str, Any]:
    """Return one condition of an object, or nothing."""
    conditions = (body.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == type_), {})


def merged(target: Any, patch: Any) -> Any:
    """Return what a JSON merge patch makes of `target`."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
