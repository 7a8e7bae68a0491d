"""Runs of evaluations as the original system's pipelines: their configs there and back, and their contexts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rapidfireai.config_fields import CLASS, name_of
from rapidfireai.errors import ConfigError

Body = Mapping[str, Any]
_TYPES: Mapping[str, str] = {"vllm_config": "vllm", "api_config": "api"}
_ALIASES = {"openai": "api"}
_OF_THE_MODEL = (
    "model_config",
    "sampling_params",
    "client_config",
    "rpm_limit",
    "tpm_limit",
    "max_completion_tokens",
)
"""What both systems keep with the model, under the same names."""
_OF_THE_RUN = ("batch_size", "online_strategy_kwargs")
_RAG = "rag_config"


def is_evaluation(config: Body) -> bool:
    """Return whether a run's config is one of an evaluation."""
    return any(section in config for section in _TYPES)


def pipeline_config(config: Body) -> dict[str, Any]:
    """Return a run's config as `get-pipeline-config-json` shows it.

    Args:
        config: The run's config.
    """
    section = _section(config)
    model = config[section]
    shown: dict[str, Any] = {"pipeline_type": _TYPES[section]}
    shown |= {key: model[key] for key in _OF_THE_MODEL if key in model}
    shown |= {key: config[key] for key in _OF_THE_RUN if key in config}
    rag = model.get("rag") or {}
    search = {key: rag[key] for key in ("search_type", "search_kwargs") if key in rag}
    if search:
        shown[_RAG] = {"search_cfg": {"type": rag.get("search_type", "similarity"), **(rag.get("search_kwargs") or {})}}
    if "reranker_cls" in rag:
        reranker = {"class": _class_name(rag["reranker_cls"]), **(rag.get("reranker_kwargs") or {})}
        shown.setdefault(_RAG, {})["reranker_cfg"] = reranker
    return shown


def pipeline_patch(parent: Body, config: Body) -> dict[str, Any]:
    """Return the patch that a clone with this change of a pipeline's config means; an empty one changes nothing.

    Args:
        parent: The parent's config.
        config: What differs, in the shape of `pipeline_config`.

    Raises:
        ConfigError: If it says something that a clone cannot change; `.path` names it.
    """
    section = _section(parent)
    wanted = config.get("pipeline_type", _TYPES[section])
    if _ALIASES.get(wanted, wanted) != _TYPES[section]:
        message = f"a clone keeps what answers its parent's rows, {_TYPES[section]}; make a new experiment for {wanted}"
        raise ConfigError("pipeline_type", message)
    known = {"pipeline_type", _RAG, *_OF_THE_MODEL, *_OF_THE_RUN}
    for key in config:
        if key not in known:
            raise ConfigError(str(key), f"is nothing that a clone of a pipeline changes; write one of {sorted(known)}")
    model: dict[str, Any] = {key: config[key] for key in _OF_THE_MODEL if key in config}
    rag = _rag_patch((parent[section].get("rag") or {}), config.get(_RAG) or {})
    if rag:
        model["rag"] = rag
    patch: dict[str, Any] = {key: config[key] for key in _OF_THE_RUN if key in config}
    return {**patch, section: model} if model else patch


def contexts(runs: Iterable[Body]) -> list[dict[str, Any]]:
    """Return the RAG indexes of an experiment as contexts, in the order in which runs name them."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        prepared = (run.get("status") or {}).get("prepared") or {}
        digest = prepared.get("index")
        if not digest:
            continue
        context = found.setdefault(
            digest, {"context_id": digest, "status": "new", "pipeline_ids": [], "vector_store": _store(run)}
        )
        context["pipeline_ids"].append(run["spec"]["index"])
        assignment = (run.get("status") or {}).get("assignment") or {}
        if prepared.get("indexBuilt"):
            context["status"] = "completed"
        elif assignment.get("task") == "index" and context["status"] != "completed":
            context["status"] = "ongoing"
    return list(found.values())


def _section(config: Body) -> str:
    for section in _TYPES:
        if section in config:
            return section
    raise ConfigError("run_id", "the run fine-tunes, and this is for evaluations; use /dispatcher/clone-modify-run")


def _rag_patch(rag: Body, config: Body) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for key in config:
        if key not in {"search_cfg", "reranker_cfg"}:
            raise ConfigError(f"{_RAG}.{key}", "is nothing that a clone changes here; write search_cfg or reranker_cfg")
    search = dict(config.get("search_cfg") or {})
    if "type" in search:
        patch["search_type"] = search.pop("type")
    if search:
        patch["search_kwargs"] = search
    reranker = dict(config.get("reranker_cfg") or {})
    named = reranker.pop("class", None)
    if named is not None and named != _class_name(rag.get("reranker_cls")):
        if ":" not in str(named):
            raise ConfigError(f"{_RAG}.reranker_cfg.class", f"must be written module:Name, not {named!r}")
        patch["reranker_cls"] = {CLASS: str(named)}
    if reranker:
        patch["reranker_kwargs"] = reranker
    return patch


def _class_name(value: Any) -> str | None:
    if isinstance(value, Mapping) and isinstance(value.get(CLASS), str):
        return str(value[CLASS]).rpartition(":")[2]
    return name_of(value)


def _store(run: Body) -> str:
    rag = (run["spec"]["config"].get("vllm_config") or run["spec"]["config"].get("api_config") or {}).get("rag") or {}
    return _class_name(rag.get("vector_store")) or "FAISS"
