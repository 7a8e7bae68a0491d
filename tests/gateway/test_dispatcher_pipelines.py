"""Runs of evaluations as the original system's pipelines."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai.errors import ConfigError
from rapidfireai_gateway.dispatcher import pipelines, rows

SPLITTER = {"$ref": {"bundle": "0" * 64, "key": "s", "label": "RecursiveCharacterTextSplitter(chunk_size=256)"}}
LEAF: dict[str, Any] = {
    "vllm_config": {
        "model_config": {"model": "m"},
        "sampling_params": {"temperature": 0.7, "max_tokens": 64},
        "rag": {
            "text_splitter": SPLITTER,
            "embedding_cls": {"$class": "langchain_huggingface:HuggingFaceEmbeddings"},
            "search_type": "mmr",
            "search_kwargs": {"k": 8, "fetch_k": 20},
            "reranker_cls": {"$class": "langchain_classic.retrievers.document_compressors:CrossEncoderReranker"},
            "reranker_kwargs": {"top_n": 3},
        },
    },
    "batch_size": 8,
}
API: dict[str, Any] = {
    "api_config": {
        "client_config": {"base_url": "http://127.0.0.1:1/v1", "api_key": {"$env": "OPENAI_API_KEY"}},
        "model_config": {"model": "gpt"},
        "rpm_limit": 100,
        "tpm_limit": 1000,
    },
    "batch_size": 4,
}
EXPERIMENT = {"metadata": {"name": "e", "uid": "u"}, "spec": {"mode": "evals", "shards": 5, "configs": [{}]}}


def run(index: int, digest: str = "", **prepared: Any) -> dict[str, Any]:
    known = {"totalSteps": 50, "boundaries": [10, 20, 30, 40, 50], **({"index": digest} if digest else {}), **prepared}
    return {
        "metadata": {"name": f"e-r{index}"},
        "spec": {"index": index, "config": LEAF},
        "status": {
            "state": "Running",
            "prepared": known,
            "progress": {"step": 23, "checkpoint": {"step": 20}},
        },
    }


def test_a_config_is_shown_as_pipelines_have_it() -> None:
    shown = pipelines.pipeline_config(LEAF)
    assert shown["pipeline_type"] == "vllm"
    assert shown["sampling_params"] == {"temperature": 0.7, "max_tokens": 64}
    assert shown["rag_config"] == {
        "search_cfg": {"type": "mmr", "k": 8, "fetch_k": 20},
        "reranker_cfg": {"class": "CrossEncoderReranker", "top_n": 3},
    }


def test_a_change_of_search_reranker_and_sampling_is_a_patch() -> None:
    config = {
        "pipeline_type": "vllm",
        "sampling_params": {"temperature": 0.0},
        "batch_size": 16,
        "rag_config": {
            "search_cfg": {"type": "similarity", "k": 4},
            "reranker_cfg": {"class": "CrossEncoderReranker", "top_n": 2},
        },
    }
    assert pipelines.pipeline_patch(LEAF, config) == {
        "batch_size": 16,
        "vllm_config": {
            "sampling_params": {"temperature": 0.0},
            "rag": {"search_type": "similarity", "search_kwargs": {"k": 4}, "reranker_kwargs": {"top_n": 2}},
        },
    }
    assert rows.clone_patch(LEAF, config) == pipelines.pipeline_patch(LEAF, config), "by clone-modify-run as well"
    assert rows.clone_patch(LEAF, {}) == {}


def test_the_config_that_is_shown_changes_nothing_but_says_all() -> None:
    patch = pipelines.pipeline_patch(API, pipelines.pipeline_config(API))
    assert patch == {"batch_size": 4, "api_config": API["api_config"]}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"pipeline_type": "openai"}, "pipeline_type"),
        ({"text_splitter": {}}, "text_splitter"),
        ({"rag_config": {"embedding_cfg": {}}}, "rag_config.embedding_cfg"),
        ({"rag_config": {"reranker_cfg": {"class": "CohereRerank"}}}, "rag_config.reranker_cfg.class"),
    ],
)
def test_what_a_clone_cannot_change_is_named(config: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        pipelines.pipeline_patch(LEAF, config)
    assert refusal.value.path == path


def test_rows_count_shards_and_samples() -> None:
    row = rows.run_row(run(1), EXPERIMENT)
    assert (row["num_chunks_visited"], row["total_shards"], row["total_samples_processed"]) == (2, 5, 20)
    flat = row["flattened_config"]
    assert flat["vllm_config.rag.text_splitter"] == "RecursiveCharacterTextSplitter(chunk_size=256)"
    assert flat["vllm_config.rag.embedding_cls"] == "langchain_huggingface:HuggingFaceEmbeddings"
    pipeline = rows.pipeline_row(run(1), EXPERIMENT)
    assert (pipeline["shards_completed"], pipeline["total_shards"], pipeline["total_samples_processed"]) == (2, 5, 20)
    keys = rows.run_row({**run(1), "spec": {"index": 1, "config": API}}, EXPERIMENT)["flattened_config"]
    assert not any("api_key" in key for key in keys)


def test_indexes_are_contexts() -> None:
    building = run(3, "c" * 64)
    building["status"]["assignment"] = {"task": "index"}
    found = pipelines.contexts([run(1, "a" * 64, indexBuilt=True), run(2, "a" * 64), building, run(4)])
    assert [(each["status"], each["pipeline_ids"]) for each in found] == [("completed", [1, 2]), ("ongoing", [3])]
    assert found[0]["context_id"] == "a" * 64
