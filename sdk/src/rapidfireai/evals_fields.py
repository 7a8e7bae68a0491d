"""What the config of an evaluation may say, in its JSON form: each field checked, knobs kept, values typed. Pure.

Names that belong to this system are all known, and another one is an error. Arguments that are handed to a library
(vLLM, an API's client, a search) may be any; a name that is nearly a known one is taken for a slip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidfireai.config_fields import LIST, free, marker_of, members
from rapidfireai.evals_checks import (
    Check,
    Number,
    arguments_of,
    class_of,
    examples,
    fields,
    function_of,
    object_of,
    of,
    refused,
)

SEARCH_TYPES = ("similarity", "similarity_score_threshold", "mmr")
"""How documents may be searched."""
STORES = ("faiss", "pgvector")
"""Vector stores that have a name; others are named by their class."""
STRATEGIES = ("normal", "wilson", "hoeffding")
"""How intervals may be computed."""

_TEXT = of("str")
_SWITCH = of("bool")
_COUNT = Number("int", least=1)
_ANY: Check = free

SAMPLING: Mapping[str, Check] = {
    "n": _COUNT,
    "temperature": Number("float", least=0),
    "top_p": Number("float", above=0, most=1),
    "top_k": Number("int", least=-1),
    "min_p": Number("float", least=0, most=1),
    "presence_penalty": Number("float", least=-2, most=2),
    "frequency_penalty": Number("float", least=-2, most=2),
    "repetition_penalty": Number("float", above=0),
    "seed": of("int"),
    "stop": of("str", "list"),
    "stop_token_ids": of("list"),
    "bad_words": of("list"),
    "allowed_token_ids": of("list"),
    "ignore_eos": _SWITCH,
    "max_tokens": _COUNT,
    "min_tokens": Number("int", least=0),
    "logprobs": Number("int", least=-1),
    "prompt_logprobs": Number("int", least=-1),
    "detokenize": refused("answers are texts here; leave it out"),
    "output_kind": refused("answers are read whole; leave it out"),
    "skip_special_tokens": _SWITCH,
    "spaces_between_special_tokens": _SWITCH,
    "include_stop_str_in_output": _SWITCH,
    "truncate_prompt_tokens": of("int"),
    "structured_outputs": _ANY,
    "logit_bias": of("dict"),
    "extra_args": of("dict"),
}
"""Arguments of vLLM's `SamplingParams`."""

_ENGINE: Mapping[str, Check] = {
    "model": _TEXT,
    "tokenizer": _TEXT,
    "tokenizer_mode": _TEXT,
    "tokenizer_revision": _TEXT,
    "revision": _TEXT,
    "dtype": _TEXT,
    "quantization": _TEXT,
    "kv_cache_dtype": _TEXT,
    "load_format": _TEXT,
    "trust_remote_code": _SWITCH,
    "enforce_eager": _SWITCH,
    "enable_lora": _SWITCH,
    "enable_prefix_caching": _SWITCH,
    "enable_chunked_prefill": _SWITCH,
    "max_model_len": of("int", "str"),
    "max_num_seqs": _COUNT,
    "max_num_batched_tokens": _COUNT,
    "max_lora_rank": _COUNT,
    "max_loras": _COUNT,
    "block_size": _COUNT,
    "seed": of("int"),
    "gpu_memory_utilization": Number("float", above=0, most=1),
    "cpu_offload_gb": Number("float", least=0),
    "swap_space": Number("float", least=0),
    "tensor_parallel_size": _COUNT,
    "pipeline_parallel_size": _COUNT,
    "data_parallel_size": of("int"),
    "distributed_executor_backend": _TEXT,
    "hf_overrides": _ANY,
    "limit_mm_per_prompt": _ANY,
    "hf_token": _ANY,
}
"""Arguments of vLLM's engine whose types are known."""

_CLIENT: Mapping[str, Check] = {
    "base_url": _TEXT,
    "api_key": _TEXT,
    "organization": _TEXT,
    "project": _TEXT,
    "timeout": Number("float", above=0),
    "max_retries": Number("int", least=0),
    "default_headers": _ANY,
    "default_query": _ANY,
}
"""Arguments of the API's client."""

_ASKED: Mapping[str, Check] = {
    "model": _TEXT,
    "temperature": Number("float", least=0),
    "top_p": Number("float", above=0, most=1),
    "presence_penalty": Number("float", least=-2, most=2),
    "frequency_penalty": Number("float", least=-2, most=2),
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "n": _COUNT,
    "seed": of("int"),
    "stop": of("str", "list"),
    "logprobs": _SWITCH,
    "top_logprobs": Number("int", least=0),
    "logit_bias": of("dict"),
    "response_format": _ANY,
    "reasoning_effort": _TEXT,
    "user": _TEXT,
    "tools": _ANY,
    "tool_choice": _ANY,
    "extra_body": of("dict"),
    "extra_headers": of("dict"),
    "extra_query": of("dict"),
    "messages": refused("is what preprocess_fn returns as prompts; leave it out"),
    "stream": refused("answers are read whole; leave it out"),
}
"""Arguments of a chat completion."""

SEARCH_KWARGS: Mapping[str, Check] = {
    "k": _COUNT,
    "fetch_k": _COUNT,
    "lambda_mult": Number("float", least=0, most=1),
    "score_threshold": Number("float", least=0, most=1),
    "filter": _ANY,
}
"""Arguments of a search."""

_STORE = arguments_of("a vector store", {"type": of("str", one_of=STORES), "batch_size": _COUNT})
_RERANKER_KWARGS: Mapping[str, Check] = {"top_n": _COUNT}
_EMBEDDING_CFG = arguments_of("an embedding", {"class": class_of})


def vector_store(value: Any, path: str) -> Any:
    """Return a vector store: an object, a class, a mapping with `type` and arguments, or a knob of these."""
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [vector_store(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if marker is None and isinstance(value, dict):
        return _STORE(value, path)
    return object_of("a vector store, or a mapping with its type")(value, path)


RAG: Mapping[str, Check] = {
    "document_loader": object_of("a document loader"),
    "text_splitter": object_of("a text splitter"),
    "embedding_cls": class_of,
    "embedding_kwargs": arguments_of("an embedding", {}),
    "embedding_cfg": _EMBEDDING_CFG,
    "vector_store": vector_store,
    "vector_store_cfg": _STORE,
    "retriever": object_of("a retriever"),
    "search_type": of("str", one_of=SEARCH_TYPES),
    "search_kwargs": fields("a search", SEARCH_KWARGS),
    "search_cfg": fields("a search", {"type": of("str", one_of=SEARCH_TYPES), **SEARCH_KWARGS}),
    "reranker_cls": class_of,
    "reranker_kwargs": arguments_of("a reranker", _RERANKER_KWARGS),
    "reranker_cfg": arguments_of("a reranker", {"class": class_of, **_RERANKER_KWARGS}),
    "enable_gpu_search": _SWITCH,
    "document_template": function_of,
    "multimodal_processor": refused("is not there: documents are texts; leave it out"),
    "artifact_storage_cfg": refused("is not needed: indexes are kept on the workspace's volume; leave it out"),
}
"""The fields of `rag`, newer spellings (`*_cfg`) included."""

PROMPT_MANAGER: Mapping[str, Check] = {
    "instructions": _TEXT,
    "instructions_file_path": refused(
        "is a file of the user's machine, which the SDK reads there; in a manifest write its text as instructions"
    ),
    "examples": examples,
    "embedding_cls": class_of,
    "embedding_kwargs": arguments_of("an embedding", {}),
    "embedding_cfg": _EMBEDDING_CFG,
    "example_selector_cls": class_of,
    "example_prompt_template": object_of("a prompt template"),
    "k": _COUNT,
}
"""The fields of `prompt_manager`."""

_CONTEXT: Mapping[str, Check] = {
    "rag": fields("a rag", RAG),
    "prompt_manager": fields("a prompt manager", PROMPT_MANAGER),
}
_A_LIMIT = "leave it out if there is no limit"

VLLM: Mapping[str, Check] = {
    "model_config": arguments_of("vLLM's engine", _ENGINE),
    "sampling_params": arguments_of("vLLM's SamplingParams", SAMPLING),
    "adapter": _TEXT,
    **_CONTEXT,
}
"""The fields of `vllm_config`."""

API: Mapping[str, Check] = {
    "client_config": arguments_of("the API's client", _CLIENT),
    "model_config": arguments_of("a chat completion", _ASKED),
    "endpoint_config": fields(
        "an endpoint",
        {
            "provider": _TEXT,
            "api_key": _TEXT,
            "api_base_url": _TEXT,
            "endpoint": fields("an endpoint", {"name": _TEXT, "model": _TEXT}),
        },
    ),
    "rpm_limit": Number("int", least=1, hint=_A_LIMIT),
    "tpm_limit": Number("int", least=1, hint=_A_LIMIT),
    "itpm_limit": Number("int", least=1, hint=_A_LIMIT),
    "otpm_limit": Number("int", least=1, hint=_A_LIMIT),
    "max_completion_tokens": _COUNT,
    "input_price": Number("float", least=0),
    "output_price": Number("float", least=0),
    **_CONTEXT,
}
"""The fields of `api_config`."""

ONLINE: Mapping[str, Check] = {
    "strategy_name": of("str", one_of=STRATEGIES),
    "confidence_level": Number("float", above=0, below=1),
    "use_fpc": _SWITCH,
}
"""The fields of `online_strategy_kwargs`."""

RUN: Mapping[str, Check] = {
    "accumulate_metrics_fn": function_of,
    "batch_size": _COUNT,
    "compute_metrics_fn": function_of,
    "online_strategy_kwargs": fields("online_strategy_kwargs", ONLINE),
    "postprocess_fn": function_of,
    "preprocess_fn": function_of,
}
"""The fields of a config besides what answers the rows."""

SECTIONS: Mapping[str, Mapping[str, Check]] = {"vllm_config": VLLM, "api_config": API}
"""What may answer the rows, and the fields of each."""
OTHER_NAMES: Mapping[str, str] = {"openai_config": "api_config"}
"""Further names of sections."""
PIPELINE = "pipeline"
"""Stands for any of the sections: a mapping with the section's name as its only key."""
