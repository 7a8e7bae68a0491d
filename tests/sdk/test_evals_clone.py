"""Clones of evaluations: every knob can change, functions are inherited, what cannot run is refused before it does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.test_expand import through_the_api_server

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.clone import changes, cloned, patch_between, spelled, warm_start_obstacle, written
from rapidfireai.errors import ConfigError
from rapidfireai.expand import expand

SPLITTER = "langchain_text_splitters:RecursiveCharacterTextSplitter"
MMR = {"k": 4, "fetch_k": 30, "lambda_mult": 0.25}


def ref(key: str) -> dict[str, Any]:
    return {"$ref": {"bundle": "0" * 64, "key": key, "label": key, "digest": "1" * 64}}


def leaf(config: dict[str, Any]) -> dict[str, Any]:
    (made,) = expand([ConfigGroup(config=config)], mode="evals")
    return made


VLLM = leaf(
    {
        "vllm_config": {
            "model_config": {"model": "m", "gpu_memory_utilization": 1.0},
            "sampling_params": {"temperature": 1.0, "max_tokens": 8},
            "rag": {
                "document_loader": ref("loader"),
                "text_splitter": {"$class": SPLITTER, "kwargs": {"chunk_size": 64, "chunk_overlap": 8}},
                "embedding_cls": {"$class": "langchain_huggingface:HuggingFaceEmbeddings"},
                "embedding_kwargs": {"model_name": "d"},
                "search_type": "mmr",
                "search_kwargs": MMR,
                "reranker_cls": {"$class": "a:Reranker"},
                "reranker_kwargs": {"top_n": 2},
            },
            "prompt_manager": {
                "instructions": "Answer.",
                "examples": [{"user_query": "q", "answer": "a"}],
                "embedding_cls": ref("embedder"),
                "example_selector_cls": {
                    "$class": "langchain_core.example_selectors:MaxMarginalRelevanceExampleSelector"
                },
                "example_prompt_template": ref("template"),
            },
        },
        "batch_size": 4,
        "preprocess_fn": ref("preprocess"),
        "compute_metrics_fn": {"$function": "score"},
        "online_strategy_kwargs": {"strategy_name": "wilson"},
    }
)
API = leaf(
    {
        "api_config": {
            "client_config": {"base_url": "http://s/v1", "api_key": {"$env": "RAPIDFIRE_KEY_00000000"}},
            "model_config": {"model": "m", "temperature": 0.5},
            "rpm_limit": 60,
        },
        "preprocess_fn": ref("preprocess"),
    }
)


@pytest.mark.parametrize("parent", [VLLM, API], ids=["vllm", "api"])
def test_a_clone_without_a_change_is_its_parent_whatever_the_api_server_made_of_it(parent: dict[str, Any]) -> None:
    again = cloned(through_the_api_server(parent), {})
    assert json.dumps(again, sort_keys=True) == json.dumps(parent, sort_keys=True)
    assert written(parent) == parent


@pytest.mark.parametrize(
    ("patch", "path", "value"),
    [
        ({"vllm_config": {"rag": {"search_kwargs": {"k": 9}}}}, "rag.search_kwargs.k", 9),
        ({"rag.search_kwargs.k": 9}, "rag.search_kwargs.k", 9),
        ({"vllm_config.sampling_params.temperature": 0}, "sampling_params.temperature", 0.0),
        ({"sampling_params": {"top_p": 1}}, "sampling_params.top_p", 1.0),
        ({"rag": {"reranker_cfg": {"top_n": 1}}}, "rag.reranker_kwargs.top_n", 1),
        ({"rag.reranker_cls": {"$class": "b:Other"}}, "rag.reranker_cls", {"$class": "b:Other"}),
        ({"rag": {"text_splitter": {"kwargs": {"chunk_size": 128}}}}, "rag.text_splitter.kwargs.chunk_size", 128),
        ({"rag.text_splitter": ref("other")}, "rag.text_splitter", ref("other")),
        ({"rag.embedding_kwargs": {"model_name": "e"}}, "rag.embedding_kwargs.model_name", "e"),
        ({"prompt_manager.k": 1}, "prompt_manager.k", 1),
        ({"prompt_manager.instructions": "Think."}, "prompt_manager.instructions", "Think."),
        ({"model_config.model": "n"}, "model_config.model", "n"),
        ({"adapter": "sft-r3"}, "adapter", "sft-r3"),
        ({"pipeline": {"vllm_config": {"adapter": "sft-r3"}}}, "adapter", "sft-r3"),
    ],
)
def test_every_knob_can_change_and_nothing_else_does(patch: dict[str, Any], path: str, value: Any) -> None:
    before = copy.deepcopy((VLLM, patch))
    made = cloned(VLLM, patch)
    (change,) = changes(VLLM, made)
    assert change.path == f"vllm_config.{path}"
    assert json.dumps(change.after) == json.dumps(value)
    assert made["preprocess_fn"] == VLLM["preprocess_fn"]
    assert (VLLM, patch) == before
    assert cloned(VLLM, patch_between(VLLM, made)) == made


def test_another_search_begins_with_its_own_defaults() -> None:
    similar = cloned(VLLM, {"rag": {"search_type": "similarity"}})
    assert similar["vllm_config"]["rag"]["search_kwargs"] == {"k": 4}
    back = cloned(similar, {"rag.search_type": "mmr", "rag.search_kwargs.lambda_mult": 1})
    assert back["vllm_config"]["rag"]["search_kwargs"] == {"k": 4, "fetch_k": 20, "lambda_mult": 1.0}
    newer = cloned(VLLM, {"rag": {"search_cfg": {"type": "similarity_score_threshold", "k": 3}}})
    assert newer["vllm_config"]["rag"]["search_kwargs"] == {"k": 3, "score_threshold": 0.5}
    assert cloned(VLLM, {"rag.search_type": "mmr"}) == VLLM


def test_parts_can_be_taken_away_and_added() -> None:
    bare = cloned(VLLM, {"vllm_config": {"rag": None, "prompt_manager": None}, "online_strategy_kwargs": None})
    assert "rag" not in bare["vllm_config"]
    assert "prompt_manager" not in bare["vllm_config"]
    assert "online_strategy_kwargs" not in bare
    again = cloned(bare, {"prompt_manager": {"instructions": "Answer."}, "batch_size": 16})
    assert again["vllm_config"]["prompt_manager"] == {"instructions": "Answer."}
    assert again["batch_size"] == 16
    assert "reranker_kwargs" not in cloned(VLLM, {"rag": {"reranker_cls": None}})["vllm_config"]["rag"]


def test_an_api_pipeline_keeps_its_key_and_changes_its_limits() -> None:
    made = cloned(API, {"openai_config": {"rpm_limit": 30, "tpm_limit": 1000}, "model_config.temperature": 1})
    assert made["api_config"]["client_config"] == API["api_config"]["client_config"]
    assert (made["api_config"]["rpm_limit"], made["api_config"]["tpm_limit"]) == (30, 1000)
    assert made["api_config"]["model_config"]["temperature"] == 1.0


@pytest.mark.parametrize(
    ("parent", "patch", "path", "words"),
    [
        (VLLM, {"sampling_parms": {}}, "sampling_parms", "did you mean sampling_params?"),
        (VLLM, {"rag.search_kwargs.kk": 1}, "vllm_config.rag.search_kwargs.kk", "did you mean k?"),
        (VLLM, {"rag": {"chunk_size": None}}, "vllm_config.rag.chunk_size", "unknown field of rag"),
        (VLLM, {"rag": {"search_type": "best"}}, "vllm_config.rag.search_type", "must be one of similarity"),
        (VLLM, {"rag.search_kwargs.k": 1}, "", "the reranker's top_n is greater than the search's k"),
        (VLLM, {"batch_size": 0}, "batch_size", "of at least 1, not 0"),
        (VLLM, {"batch_size": {"$list": [1, 2]}}, "batch_size", "a clone is one run"),
        (VLLM, {"api_config": {"model_config": {"model": "n"}}}, "api_config", "a clone keeps what answers"),
        (VLLM, {"vllm_config": None}, "vllm_config", "must be a mapping of what changes"),
        (VLLM, {"vllm_config.adapter": "a", "adapter": "b"}, "adapter", "is given twice"),
        (VLLM, {"model_config.model": None}, "vllm_config.model_config.model", "is missing"),
        (VLLM, {"training_args": {"max_steps": 1}}, "training_args", "unknown field of an evaluation's config"),
        (API, {"rpm_limit": 0}, "api_config.rpm_limit", "of at least 1, not 0"),
        (API, {"client_config.api_key": "sk-2"}, "api_config.client_config.api_key", "looks like a secret"),
    ],
)
def test_what_cannot_run_is_refused_with_the_knob(
    parent: dict[str, Any], patch: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        cloned(parent, patch)
    assert caught.value.path == path
    assert words in caught.value.message
    assert "sk-2" not in str(caught.value)


def test_there_are_no_weights_to_begin_with() -> None:
    obstacle = warm_start_obstacle(VLLM, cloned(VLLM, {"batch_size": 2}))
    assert obstacle is not None
    assert "clone it cold" in obstacle


def test_people_read_classes_and_variables_by_their_names() -> None:
    assert spelled(VLLM["vllm_config"]["rag"]["text_splitter"]) == (
        "RecursiveCharacterTextSplitter(chunk_overlap=8, chunk_size=64)"
    )
    assert spelled({"$class": "a.b:Name"}) == "Name"
    assert spelled({"$env": "MY_KEY"}) == "$MY_KEY"


rag = st.fixed_dictionaries(
    {"embedding_cls": st.just({"$class": "a:B"}), "search_type": st.sampled_from(["similarity", "mmr"])},
    optional={
        "search_kwargs": st.fixed_dictionaries({"k": st.integers(3, 9)}, optional={"lambda_mult": st.just(1.0)}),
        "text_splitter": st.builds(lambda size: {"$class": "a:S", "kwargs": {"chunk_size": size}}, st.integers(1, 3)),
        "reranker_cls": st.just({"$class": "a:R"}),
        "reranker_kwargs": st.just({"top_n": 2}),
    },
)
configs = st.fixed_dictionaries(
    {"vllm_config": st.fixed_dictionaries({"model_config": st.just({"model": "m"})}, optional={"rag": rag})},
    optional={"batch_size": st.integers(1, 4), "preprocess_fn": st.sampled_from([ref("a"), ref("b")])},
)


@settings(max_examples=150, deadline=None)
@given(configs, configs)
def test_the_patch_between_two_configs_makes_the_one_of_the_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = leaf(one), leaf(other)
    assert cloned(through_the_api_server(before), patch_between(before, after)) == after
