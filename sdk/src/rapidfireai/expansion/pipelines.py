"""What a decided pipeline says, in the leaf's names: newer spellings taken apart, defaults filled in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rapidfireai.config_fields import CLASS
from rapidfireai.errors import ConfigError

DEFAULT_SEARCH = "similarity"
"""How documents are searched if nobody says."""
SEARCH_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "similarity": {"k": 5},
    "similarity_score_threshold": {"k": 5, "score_threshold": 0.5},
    "mmr": {"k": 5, "fetch_k": 20, "lambda_mult": 0.5},
}
"""The arguments of each search, and what they are if nobody says."""
OF_ONE_SEARCH = frozenset({"fetch_k", "lambda_mult", "score_threshold"})
"""Arguments that one search alone takes; a filter needs `fetch_k` with every one."""
DEFAULT_EXAMPLES = 3
"""How many examples a prompt gets if nobody says."""
_SELECTORS = ("SemanticSimilarityExampleSelector", "MaxMarginalRelevanceExampleSelector")
_IN_PROCESS = ("mp", "uni")


def vllm_leaf(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a decided `vllm_config` as the leaf has it.

    Raises:
        ConfigError: If values do not go together, or the model is missing.
    """
    engine = _with_model(given, path)
    parallel, backend = engine.get("tensor_parallel_size") or 1, engine.get("distributed_executor_backend")
    here = f"{path}.model_config.distributed_executor_backend"
    if backend is not None and backend not in _IN_PROCESS:
        raise ConfigError(here, f"must be mp, not {backend!r}: an engine runs in one worker, on the GPUs of its pod")
    if backend == "uni" and parallel > 1:
        raise ConfigError(here, f"uni is one process, and tensor_parallel_size is {parallel}; write mp")
    return {**_context(given, path), "model_config": engine}


def api_leaf(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a decided `api_config` as the leaf has it.

    Raises:
        ConfigError: If values do not go together, or the model is missing.
    """
    made = _context(given, path)
    _take_endpoint(made, path)
    limits = [made.pop(name, None) for name in ("itpm_limit", "otpm_limit")]
    if any(limit is not None for limit in limits):
        if "tpm_limit" in made:
            message = "limits tokens of both kinds; leave it out beside itpm_limit and otpm_limit, or leave these out"
            raise ConfigError(f"{path}.tpm_limit", message)
        if None in limits:
            missing = "itpm_limit" if limits[0] is None else "otpm_limit"
            message = "is missing: the two are one limit here, their sum; add it, or write tpm_limit alone"
            raise ConfigError(f"{path}.{missing}", message)
        made["tpm_limit"] = sum(limits)
    made["model_config"] = _with_model(made, path)
    return made


LEAVES: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "vllm_config": vllm_leaf,
    "api_config": api_leaf,
}
"""What makes the leaf of each section."""


def reranks_more_than_it_finds(section: Mapping[str, Any]) -> bool:
    """Return whether the reranker would keep more documents than the search finds.

    Args:
        section: A section of the leaf.
    """
    rag = section.get("rag") or {}
    kept, found = (rag.get("reranker_kwargs") or {}).get("top_n"), (rag.get("search_kwargs") or {}).get("k")
    return "reranker_cls" in rag and isinstance(kept, int) and isinstance(found, int) and kept > found


def in_the_leafs_names(rag: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the fields of a rag, or of a patch on one, with the newer spellings taken apart.

    Args:
        rag: Its fields.
        path: Where it stands.

    Raises:
        ConfigError: If something is said in both spellings.
    """
    made = dict(rag)
    for stem, name in (("embedding", "class"), ("reranker", "class"), ("search", "type")):
        first = "search_type" if stem == "search" else f"{stem}_cls"
        _take_apart(made, f"{stem}_cfg", name, first, f"{stem}_kwargs", path)
    store = made.pop("vector_store_cfg", None)
    if store is not None:
        _refuse_both(made, "vector_store_cfg", ("vector_store",), path)
        made["vector_store"] = store
    return made


def _take_apart(made: dict[str, Any], cfg: str, key: str, first: str, rest: str, path: str) -> None:
    """Take a newer dictionary apart into what names the thing and its arguments."""
    value = made.pop(cfg, None)
    if value is None:
        return
    _refuse_both(made, cfg, (first, rest), path)
    arguments = dict(value)
    if key in arguments:
        made[first] = arguments.pop(key)
    if arguments:
        made[rest] = arguments


def _refuse_both(made: Mapping[str, Any], cfg: str, names: tuple[str, ...], path: str) -> None:
    for name in names:
        if made.get(name) is not None:
            raise ConfigError(f"{path}.{cfg}", f"says what {name} says too; leave one of them out")


def _check_store(store: Mapping[str, Any], path: str) -> None:
    """Check a vector store that is named by its type."""
    kind = store.get("type")
    if kind == "faiss":
        for key in store:
            if key not in {"type", "batch_size"}:
                raise ConfigError(
                    f"{path}.{key}", "is no argument of the FAISS index, which takes batch_size; leave it out"
                )
    elif kind == "pgvector" and not store.get("connection"):
        message = (
            'is missing; write {"$env": "NAME"} of a variable with postgresql+psycopg://USER:PASSWORD@HOST/DATABASE'
        )
        raise ConfigError(f"{path}.connection", message)
    elif kind is None:
        raise ConfigError(f"{path}.type", "is missing; write faiss or pgvector, or name another store by its class")


def _context(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a section without what has no value, its rag and prompt manager as the leaf has them."""
    made = _present(given)
    if "rag" in made:
        made["rag"] = _rag(made["rag"], f"{path}.rag")
    if "prompt_manager" in made:
        made["prompt_manager"] = _prompt_manager(made["prompt_manager"], f"{path}.prompt_manager")
    return made


def _rag(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    made = _present(in_the_leafs_names(_present(given), path))
    store = made.get("vector_store") or {}
    if not any(key.startswith("$") for key in store) and store:
        _check_store(store, f"{path}.vector_store")
    if "retriever" not in made:
        if "embedding_cls" not in made and "vector_store" not in made:
            raise ConfigError(f"{path}.embedding_cls", "is missing; add it, or a retriever that finds by itself")
        made["search_type"] = kind = made.get("search_type") or DEFAULT_SEARCH
        made["search_kwargs"] = _search_kwargs(kind, made.get("search_kwargs") or {}, f"{path}.search_kwargs")
    if "embedding_cls" not in made:
        made.pop("embedding_kwargs", None)
    if "reranker_cls" not in made:
        made.pop("reranker_kwargs", None)
    return made


def _search_kwargs(kind: str, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the arguments of one search: its defaults, and without those of another one."""
    taken = {*SEARCH_DEFAULTS[kind], *(("fetch_k",) if given.get("filter") is not None else ())}
    kept = {key: value for key, value in given.items() if value is not None and key not in OF_ONE_SEARCH - taken}
    made = {**SEARCH_DEFAULTS[kind], **kept}
    if kind == "mmr" and made["fetch_k"] < made["k"]:
        if "fetch_k" in kept:
            message = f"must be at least k, which is {made['k']}, not {made['fetch_k']}: mmr chooses k of fetch_k"
            raise ConfigError(f"{path}.fetch_k", message)
        made["fetch_k"] = made["k"]
    return made


def _prompt_manager(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    made = _present(given)
    _take_apart(made, "embedding_cfg", "class", "embedding_cls", "embedding_kwargs", path)
    made = _present(made)
    if not made.get("instructions") and not made.get("examples"):
        raise ConfigError(path, "says nothing; give it instructions, or examples")
    if not made.get("examples"):
        return {"instructions": made["instructions"]}
    for name in ("embedding_cls", "example_selector_cls", "example_prompt_template"):
        if name not in made:
            raise ConfigError(f"{path}.{name}", "is missing, and examples are chosen with it; add it")
    selector = made["example_selector_cls"]
    if CLASS in selector and selector[CLASS].rpartition(":")[2] not in _SELECTORS:
        raise ConfigError(f"{path}.example_selector_cls", f"must be {' or '.join(_SELECTORS)}, not {selector[CLASS]}")
    made.setdefault("k", DEFAULT_EXAMPLES)
    return made


def _with_model(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    engine = _present(given.get("model_config") or {})
    if not engine.get("model"):
        raise ConfigError(f"{path}.model_config.model", "is missing; write the model's name")
    return engine


def _take_endpoint(made: dict[str, Any], path: str) -> None:
    """Take an `endpoint_config` apart into the client's and the model's arguments."""
    endpoint = made.pop("endpoint_config", None)
    if endpoint is None:
        return
    client, model = dict(made.get("client_config") or {}), dict(made.get("model_config") or {})
    provider, url = endpoint.get("provider", "openai"), endpoint.get("api_base_url")
    if provider != "openai" and url is None:
        message = (
            f"the API of {provider} is not OpenAI's; give api_base_url, an address of it that speaks OpenAI's, or take "
            "a proxy that does"
        )
        raise ConfigError(f"{path}.endpoint_config.provider", message)
    for target, key, value, said in (
        (client, "base_url", url, "api_base_url"),
        (client, "api_key", endpoint.get("api_key"), "api_key"),
        (model, "model", (endpoint.get("endpoint") or {}).get("model"), "endpoint.model"),
    ):
        if value is not None and target.setdefault(key, value) != value:
            raise ConfigError(
                f"{path}.endpoint_config.{said}", f"says something else than {key}; leave one of them out"
            )
    made |= {"client_config": client, "model_config": model}
    if not client:
        del made["client_config"]


def _present(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}
