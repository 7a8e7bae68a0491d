"""What the config of an evaluation may say, in its JSON form: each field checked, knobs kept, values typed. Pure.

Names that belong to this system are all known, and another one is an error. Arguments that are handed to a library
(vLLM, an API's client, a search) may be any; a name that is nearly a known one is taken for a slip.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rapidfireai.arguments import Argument, Kind, did_you_mean
from rapidfireai.config_fields import (
    CLASS,
    FUNCTION,
    KWARGS,
    LIST,
    NONE,
    REF,
    Drawn,
    free,
    mapping,
    marker_of,
    members,
    typed,
)
from rapidfireai.errors import ConfigError

Check = Callable[[Any, str], Any]
"""Takes a value and its path; returns it checked, with knobs kept."""
SEARCH_TYPES = ("similarity", "similarity_score_threshold", "mmr")
"""How documents may be searched."""
STORES = ("faiss", "pgvector")
"""Vector stores that have a name; others are named by their class."""
STRATEGIES = ("normal", "wilson", "hoeffding")
"""How intervals may be computed."""
_SLIP: Final = 0.85
"""From this likeness on an unknown name is taken for a known one that was mistyped."""


@dataclass(frozen=True, slots=True)
class Number:
    """Checks that a value, or every value of a knob, is a number within bounds.

    Attributes:
        kind: `int` or `float`.
        least: What it must be at least.
        above: What it must be above.
        most: What it may be at most.
        below: What it must be below.
        hint: What to do instead, as the end of a sentence.
    """

    kind: Kind
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    hint: str = ""

    def __call__(self, value: Any, path: str) -> Any:
        """Return the value with its type put right.

        Raises:
            ConfigError: If it is no such number.
        """
        checked = typed(value, Argument((self.kind, "null")), path)
        for number, where in _numbers(checked, path):
            if not self._takes(number):
                raise ConfigError(where, f"must be {self._words()}, not {number}{self.hint and f'; {self.hint}'}")
        return checked

    def _takes(self, number: float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def _words(self) -> str:
        noun = "a whole number" if self.kind == "int" else "a number"
        bounds = (("of at least", self.least), ("above", self.above), ("of at most", self.most), ("below", self.below))
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"{noun} {said}".rstrip()


def of(*kinds: Kind, one_of: tuple[str, ...] = ()) -> Check:
    """Return the check of values of these kinds.

    Args:
        kinds: The kinds; null is always one.
        one_of: If not empty, the only texts that may be written.
    """
    argument = Argument((*kinds, "null"), literals=one_of)
    return lambda value, path: typed(value, argument, path)


def refused(sentence: str) -> Check:
    """Return the check of a field that may not be written, with the reason and the fix."""

    def check(_: Any, path: str) -> Any:
        raise ConfigError(path, sentence)

    return check


def fields(owner: str, known: Mapping[str, Check]) -> Check:
    """Return the check of a mapping whose names are all known, or of a knob of such mappings.

    Args:
        owner: What it is, such as `a rag`.
        known: The check of each field.
    """

    def check(value: Any, path: str) -> Any:
        return _each(value, path, lambda given, here: _checked(given, known, here, owner))

    return check


def arguments_of(owner: str, known: Mapping[str, Check]) -> Check:
    """Return the check of the arguments of a library, or of a knob of such mappings.

    Args:
        owner: Who takes them, such as `vLLM's engine`.
        known: The checks of the arguments that are known; others may be anything.
    """

    def check(value: Any, path: str) -> Any:
        return _each(value, path, lambda given, here: _checked(given, known, here, owner, others=True))

    return check


def class_of(value: Any, path: str) -> Any:
    """Return a class, or a knob of classes.

    Raises:
        ConfigError: If it is something else, or an instance.
    """
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [class_of(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if marker == CLASS and value.get(KWARGS):
        stem = path.rpartition(".")[2].partition("[")[0].removesuffix("_cls")
        raise ConfigError(path, f"must be a class alone; its arguments go into {stem}_kwargs, not into {KWARGS}")
    if marker in {REF, FUNCTION, CLASS}:
        return value
    raise ConfigError(path, f'must be a class, in a manifest {{"{CLASS}": "module:Name"}}, not {_shown(value)}')


def object_of(what: str) -> Check:
    """Return the check of an object of the user's, or of a knob of them.

    Args:
        what: What it is, such as `a text splitter`.
    """

    def check(value: Any, path: str) -> Any:
        marker = marker_of(value, path)
        if marker == LIST:
            return {LIST: [check(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
        if value is None or marker == NONE:
            return None
        if marker in {REF, FUNCTION, CLASS}:
            return free(value, path)
        spelled = f'{{"{CLASS}": "module:Name", "{KWARGS}": {{...}}}}'
        raise ConfigError(path, f"must be {what}, in a manifest {spelled}, not {_shown(value)}")

    return check


def vector_store(value: Any, path: str) -> Any:
    """Return a vector store: an object, a class, a mapping with `type` and arguments, or a knob of these."""
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [vector_store(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if marker is None and isinstance(value, dict):
        return _STORE(value, path)
    return object_of("a vector store, or a mapping with its type")(value, path)


def function_of(value: Any, path: str) -> Any:
    """Return a function, or a knob of functions.

    Raises:
        ConfigError: If it is something else.
    """
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [function_of(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if marker in {REF, FUNCTION}:
        return value
    raise ConfigError(path, f'must be a function, in a manifest {{"{FUNCTION}": "name"}} of spec.code')


def examples(value: Any, path: str) -> Any:
    """Return the examples of a prompt manager: a list of mappings, or a knob of such lists."""
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [examples(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and each for each in value):
        raise ConfigError(path, "must be a list of mappings, such as {user_query: ..., answer: ...}")
    return free(value, path)


def _each(value: Any, path: str, check: Callable[[dict[str, Any], str], Any]) -> Any:
    """Check a mapping, or each of a knob's; None stays None."""
    marker = marker_of(value, path)
    if marker == LIST:
        alternatives = enumerate(members(value, path))
        return {LIST: [_each(member, f"{path}[{index}]", check) for index, member in alternatives]}
    if value is None or marker == NONE:
        return None
    if not isinstance(value, dict):
        raise ConfigError(path, f"must be a mapping, not a {type(value).__name__}")  # which may be a key
    return check(mapping(value, path), path)


def _checked(
    given: Mapping[str, Any], known: Mapping[str, Check], path: str, owner: str, others: bool = False
) -> dict[str, Any]:
    checked = {}
    for key, value in given.items():
        here, name = f"{path}.{key}", str(key)
        if name in known:
            if value is not None:
                checked[name] = known[name](value, here)
        elif not others:
            raise ConfigError(here, f"unknown field of {owner}{did_you_mean(name, known)}")
        elif near := difflib.get_close_matches(name, list(known), n=1, cutoff=_SLIP):
            raise ConfigError(here, f"{owner} takes no such argument; did you mean {near[0]}?")
        else:
            checked[name] = free(value, here)
    return checked


def _numbers(value: Any, path: str) -> Iterator[tuple[float, str]]:
    """Yield the numbers that a checked value may come to, and where each stands."""
    if isinstance(value, Drawn):
        yield value.range.start, path
        yield value.range.end, path
    elif isinstance(value, dict) and LIST in value:
        for index, each in enumerate(value[LIST]):
            yield from _numbers(each, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value, path


def _shown(value: Any) -> str:
    """Return a wrong value as a message shows it: it may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
