"""Configs of evaluations become runs: knobs anywhere, the same runs wherever they are expanded, mistakes named."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.test_expand import through_the_api_server

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.errors import ConfigError
from rapidfireai.expand import expand, restore

SPLITTER = "langchain_text_splitters:RecursiveCharacterTextSplitter"
EMBEDDER = {"$class": "langchain_huggingface:HuggingFaceEmbeddings"}


def group(config: dict[str, Any], **search: Any) -> ConfigGroup:
    return ConfigGroup(config=config, **search)


def leaves(text: str, **search: Any) -> list[dict[str, Any]]:
    return expand([group(yaml.safe_load(text), **search)], mode="evals")


def with_rag(rag: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"vllm_config": {"model_config": {"model": "m"}, "rag": {"embedding_cls": EMBEDDER, **rag}}, **rest}


def rags(rag: dict[str, Any]) -> list[dict[str, Any]]:
    return [leaf["vllm_config"]["rag"] for leaf in expand([group(with_rag(rag))], mode="evals")]


def test_a_manifest_makes_a_run_of_every_combination_with_the_functions_fastest() -> None:
    runs = leaves("""
        vllm_config:
          model_config: {model: pvc://data/m, gpu_memory_utilization: 1}
          sampling_params: {temperature: {$list: [0, 1]}, max_tokens: 8}
          rag:
            text_splitter:
              $class: langchain_text_splitters:RecursiveCharacterTextSplitter
              kwargs: {chunk_size: {$list: [64, 256]}}
            embedding_cls: {$class: "langchain_huggingface:HuggingFaceEmbeddings"}
        batch_size: {$list: [4, 8]}
        preprocess_fn: {$function: preprocess}
    """)
    seen = [
        (
            run["vllm_config"]["rag"]["text_splitter"]["kwargs"]["chunk_size"],
            run["vllm_config"]["sampling_params"]["temperature"],
            run["batch_size"],
        )
        for run in runs
    ]
    assert seen == [(size, heat, batch) for size in (64, 256) for heat in (0.0, 1.0) for batch in (4, 8)]
    assert runs[0] == {
        "vllm_config": {
            "model_config": {"model": "pvc://data/m", "gpu_memory_utilization": 1.0},
            "sampling_params": {"temperature": 0.0, "max_tokens": 8},
            "rag": {
                "text_splitter": {"$class": SPLITTER, "kwargs": {"chunk_size": 64}},
                "embedding_cls": EMBEDDER,
                "search_type": "similarity",
                "search_kwargs": {"k": 5},
            },
        },
        "batch_size": 4,
        "preprocess_fn": {"$function": "preprocess"},
    }
    assert isinstance(runs[0]["vllm_config"]["sampling_params"]["temperature"], float)


@pytest.mark.parametrize(
    ("written", "sections"),
    [
        ("openai_config: {model_config: {model: m}}", ["api_config"]),
        ("vllm_config: [{model_config: {model: m}}, {model_config: {model: n}}]", ["vllm_config"] * 2),
        ("api_config: {$list: [{model_config: {model: m}}, {model_config: {model: n}}]}", ["api_config"] * 2),
        (
            "pipeline: [{vllm_config: {model_config: {model: m}}}, {openai_config: {model_config: {model: n}}}]",
            ["vllm_config", "api_config"],
        ),
    ],
)
def test_what_answers_may_be_said_under_every_name_and_in_alternatives(written: str, sections: list[str]) -> None:
    runs = leaves(written)
    assert [next(iter(run)) for run in runs] == sections
    assert all(run["batch_size"] == 8 for run in runs)


def test_each_search_has_its_own_defaults_and_arguments_of_another_make_no_run() -> None:
    searches = ["similarity", "similarity_score_threshold", "mmr"]
    runs = rags({"search_type": {"$list": searches}, "search_kwargs": {"lambda_mult": {"$list": [0.25, 1]}}})
    assert [(run["search_type"], run["search_kwargs"]) for run in runs] == [
        ("similarity", {"k": 5}),
        ("similarity_score_threshold", {"k": 5, "score_threshold": 0.5}),
        ("mmr", {"k": 5, "fetch_k": 20, "lambda_mult": 0.25}),
        ("mmr", {"k": 5, "fetch_k": 20, "lambda_mult": 1.0}),
    ]
    (many,) = rags({"search_type": "mmr", "search_kwargs": {"k": 50}})
    assert many["search_kwargs"]["fetch_k"] == 50


def test_newer_spellings_are_taken_apart_with_what_belongs_together() -> None:
    other = {"$class": "langchain_openai:OpenAIEmbeddings"}
    config = {
        "model_config": {"model": "m"},
        "rag": {
            "embedding_cfg": {"$list": [{"class": EMBEDDER, "model_name": "a"}, {"class": other, "model": "b"}]},
            "search_cfg": {"type": "mmr", "k": 3, "lambda_mult": 1},
            "reranker_cfg": {"class": {"$class": "my.package:Reranker"}, "top_n": 2},
            "vector_store_cfg": {"type": "faiss", "batch_size": 32},
        },
    }
    first, second = (run["vllm_config"]["rag"] for run in expand([group({"vllm_config": config})], mode="evals"))
    common = {
        "search_type": "mmr",
        "search_kwargs": {"k": 3, "fetch_k": 20, "lambda_mult": 1.0},
        "reranker_cls": {"$class": "my.package:Reranker"},
        "reranker_kwargs": {"top_n": 2},
        "vector_store": {"type": "faiss", "batch_size": 32},
    }
    assert first == {**common, "embedding_cls": EMBEDDER, "embedding_kwargs": {"model_name": "a"}}
    assert second == {**common, "embedding_cls": other, "embedding_kwargs": {"model": "b"}}


def test_an_endpoint_is_taken_apart_and_limits_of_both_kinds_of_tokens_are_one() -> None:
    (run,) = leaves("""
        api_config:
          endpoint_config:
            provider: openai
            api_key: {$env: MY_KEY}
            api_base_url: http://server/v1
            endpoint: {name: mine, model: m}
          model_config: {temperature: 1}
          itpm_limit: 1000
          otpm_limit: 500
          input_price: 1
    """)
    assert run["api_config"] == {
        "client_config": {"base_url": "http://server/v1", "api_key": {"$env": "MY_KEY"}},
        "model_config": {"model": "m", "temperature": 1.0},
        "tpm_limit": 1500,
        "input_price": 1.0,
    }


def test_rerankers_that_keep_more_than_is_found_make_no_run() -> None:
    reranker = {"reranker_cls": {"$class": "a:B"}}
    runs = rags(
        {**reranker, "reranker_kwargs": {"top_n": {"$list": [2, 4]}}, "search_kwargs": {"k": {"$list": [2, 4]}}}
    )
    pairs = [(run["reranker_kwargs"]["top_n"], run["search_kwargs"]["k"]) for run in runs]
    assert pairs == [(2, 2), (2, 4), (4, 4)]
    config = with_rag({**reranker, "reranker_kwargs": {"top_n": 4}, "search_kwargs": {"k": {"$list": [2, 3]}}})
    for search in ({}, {"strategy": "random", "num_runs": 1}):
        with pytest.raises(ConfigError, match=r"spec\.configs\[0\]: no run is left: the reranker's top_n is greater"):
            expand([group(config, **search)], mode="evals")


def test_runs_without_a_reranker_leave_its_arguments_out_and_are_one() -> None:
    runs = rags({"reranker_cls": {"$list": [{"$class": "a:B"}, None]}, "reranker_kwargs": {"top_n": {"$list": [1, 2]}}})
    assert [run.get("reranker_kwargs") for run in runs] == [{"top_n": 1}, {"top_n": 2}, None]


def test_a_random_search_draws_the_same_runs_everywhere() -> None:
    config = with_rag(
        {"search_kwargs": {"k": {"$range": {"start": 1, "end": 9, "dtype": "int"}}}}, batch_size={"$list": [1, 2]}
    )
    config["vllm_config"]["sampling_params"] = {"temperature": {"$range": {"start": 0, "end": 1}}}
    drawn = expand([group(config, strategy="random", num_runs=5, seed=3)], mode="evals")
    stored = through_the_api_server(json.loads(json.dumps(config)))
    assert expand([group(stored, strategy="random", num_runs=5, seed=3)], mode="evals") == drawn
    heats = [run["vllm_config"]["sampling_params"]["temperature"] for run in drawn]
    assert len(set(heats)) == 5
    assert all(isinstance(heat, float) and 0 <= heat <= 1 for heat in heats)


@pytest.mark.parametrize(
    ("written", "path", "words"),
    [
        ("{}", "", "says nothing that answers the rows; write one of vllm_config and api_config"),
        ("{vllm_config: M, api_config: M}", ".api_config", "stands beside vllm_config"),
        ("{vllm_confg: M}", ".vllm_confg", "did you mean vllm_config?"),
        ("{vllm_config: {}}", ".vllm_config.model_config.model", "is missing"),
        ("{vllm_config: {$list: []}}", ".vllm_config", "list at least one value"),
        ("{vllm_config: {sampling_param: {}}}", ".vllm_config.sampling_param", "did you mean sampling_params?"),
        (
            "{vllm_config: {sampling_params: {temprature: 1}}}",
            ".vllm_config.sampling_params.temprature",
            "did you mean temperature?",
        ),
        (
            "{vllm_config: {sampling_params: {temperature: -1}}}",
            ".vllm_config.sampling_params.temperature",
            "must be a number of at least 0, not -1",
        ),
        (
            "{vllm_config: {sampling_params: {top_p: {$list: [1, 2]}}}}",
            ".vllm_config.sampling_params.top_p[1]",
            "above 0 and of at most 1, not 2",
        ),
        (
            "{vllm_config: {sampling_params: {temperature: hot}}}",
            ".vllm_config.sampling_params.temperature",
            "must be a number, not 'hot'",
        ),
        (
            "{vllm_config: {model_config: {model: m, tensor_parallel_size: 0}}}",
            ".vllm_config.model_config.tensor_parallel_size",
            "at least 1, not 0",
        ),
        (
            "{vllm_config: {model_config: {model: m, distributed_executor_backend: ray}}}",
            ".vllm_config.model_config.distributed_executor_backend",
            "must be mp, not 'ray'",
        ),
        (
            "{vllm_config: {model_config: {model: m, max_model_length: 9}}}",
            ".vllm_config.model_config.max_model_length",
            "did you mean max_model_len?",
        ),
        ("{vllm_config: {rag: {chunk: 1}}}", ".vllm_config.rag.chunk", "unknown field of a rag"),
        ("{vllm_config: {model_config: {model: m}, rag: {}}}", ".vllm_config.rag.embedding_cls", "is missing"),
        ("{vllm_config: {rag: {search_type: mmx}}}", ".vllm_config.rag.search_type", "did you mean mmr?"),
        ("{vllm_config: {rag: {search_kwargs: {k: 0}}}}", ".vllm_config.rag.search_kwargs.k", "of at least 1, not 0"),
        ("{vllm_config: {rag: {search_kwargs: {kk: 1}}}}", ".vllm_config.rag.search_kwargs.kk", "did you mean k?"),
        (
            "{vllm_config: {rag: {embedding_cls: HuggingFace}}}",
            ".vllm_config.rag.embedding_cls",
            'must be a class, in a manifest {"$class"',
        ),
        (
            '{vllm_config: {rag: {embedding_cls: {$class: "a:B", kwargs: {c: 1}}}}}',
            ".vllm_config.rag.embedding_cls",
            "go into embedding_kwargs",
        ),
        (
            "{vllm_config: {rag: {text_splitter: {$class: Splitter}}}}",
            ".vllm_config.rag.text_splitter",
            "`module:Name`, not 'Splitter'",
        ),
        (
            "{vllm_config: {rag: {text_splitter: recursive}}}",
            ".vllm_config.rag.text_splitter",
            "must be a text splitter",
        ),
        ("{vllm_config: {rag: {artifact_storage_cfg: {}}}}", ".vllm_config.rag.artifact_storage_cfg", "leave it out"),
        ("{vllm_config: {prompt_manager: {k: 0}}}", ".vllm_config.prompt_manager.k", "of at least 1, not 0"),
        (
            "{vllm_config: {prompt_manager: {instructions_file_path: f}}}",
            ".vllm_config.prompt_manager.instructions_file_path",
            "write its text as instructions",
        ),
        (
            "{vllm_config: {model_config: {model: m}, prompt_manager: {examples: [{a: b}]}}}",
            ".vllm_config.prompt_manager.embedding_cls",
            "is missing",
        ),
        (
            "{vllm_config: {model_config: {model: m}, prompt_manager: {k: 3}}}",
            ".vllm_config.prompt_manager",
            "give it instructions",
        ),
        (
            "{api_config: {rpm_limit: 0}}",
            ".api_config.rpm_limit",
            "must be a whole number of at least 1, not 0; leave it out if there is no limit",
        ),
        ("{api_config: {tpm_limit: many}}", ".api_config.tpm_limit", "must be a whole number, not 'many'"),
        ("{api_config: {model_config: {model: m}, itpm_limit: 3}}", ".api_config.otpm_limit", "is missing"),
        (
            "{api_config: {client_config: {base_urls: x}}}",
            ".api_config.client_config.base_urls",
            "did you mean base_url?",
        ),
        ("{api_config: {client_config: {api_key: sk-1}}}", ".api_config.client_config.api_key", '{"$env": "'),
        (
            "{api_config: {endpoint_config: {provider: anthropic}}}",
            ".api_config.endpoint_config.provider",
            "give api_base_url",
        ),
        ("{api_config: {model_config: {stream: true}}}", ".api_config.model_config.stream", "leave it out"),
        ("{vllm_config: M, batch_size: 0}", ".batch_size", "of at least 1, not 0"),
        ("{vllm_config: M, batch_size: {$env: N}}", ".batch_size", "a variable is text"),
        ("{vllm_config: M, preprocess_fn: mine}", ".preprocess_fn", "must be a function"),
        (
            "{vllm_config: M, online_strategy_kwargs: {strategy_name: wilsn}}",
            ".online_strategy_kwargs.strategy_name",
            "did you mean wilson?",
        ),
        (
            "{vllm_config: M, online_strategy_kwargs: {confidence_level: 95}}",
            ".online_strategy_kwargs.confidence_level",
            "above 0 and below 1, not 95",
        ),
        (
            "{vllm_config: M, online_strategy_kwargs: {use_fpc: maybe}}",
            ".online_strategy_kwargs.use_fpc",
            "must be true or false",
        ),
        (
            "{vllm_config: M, online_strategy_kwargs: {confidence: 1}}",
            ".online_strategy_kwargs.confidence",
            "did you mean confidence_level?",
        ),
        ("{pipeline: {model_config: {model: m}}}", ".pipeline", "must say which kind it is"),
    ],
)
def test_bad_configs_name_the_field_and_the_fix(written: str, path: str, words: str) -> None:
    text = written.replace(" M", " {model_config: {model: m}}")
    with pytest.raises(ConfigError) as caught:
        leaves(text)
    assert caught.value.path == f"spec.configs[0].config{path}"
    assert words in caught.value.message
    assert "sk-1" not in str(caught.value)


def test_a_grid_refuses_ranges_and_a_fine_tuning_refuses_configs_of_evaluations() -> None:
    with pytest.raises(ConfigError, match=r"config\.batch_size: a range has no list of values"):
        leaves("{vllm_config: {model_config: {model: m}}, batch_size: {$range: {start: 1, end: 3}}}")
    with pytest.raises(ConfigError, match="trainer: is missing"):
        expand([group({"vllm_config": {}})])
    with pytest.raises(ConfigError, match="mode evals trains nothing"):
        expand([ConfigGroup(trainer="SFT", config={})], mode="evals")


knob = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(lambda values: {"$list": values})
configs = st.fixed_dictionaries(
    {"model_config": st.just({"model": "m", "gpu_memory_utilization": 1.0})},
    optional={
        "sampling_params": st.fixed_dictionaries(
            {"temperature": st.floats(0, 2, width=32).map(abs), "max_tokens": knob}
        ),
        "adapter": st.just({"$list": ["a", None]}),
        "rag": st.fixed_dictionaries(
            {"embedding_cls": st.just(EMBEDDER), "search_type": st.just({"$list": ["mmr", "similarity"]})},
            optional={"search_kwargs": st.fixed_dictionaries({"k": knob, "lambda_mult": st.just(1.0)})},
        ),
        "prompt_manager": st.just({"instructions": {"$list": ["a", "b"]}}),
    },
)


@settings(max_examples=60, deadline=None)
@given(configs, knob)
def test_what_the_api_server_keeps_makes_the_same_runs_and_restores_to_them(
    config: dict[str, Any], batch: dict[str, Any]
) -> None:
    whole = {"vllm_config": config, "batch_size": batch, "online_strategy_kwargs": {"confidence_level": 0.5}}
    stored = through_the_api_server(json.loads(json.dumps(whole)))
    try:
        runs = expand([group(whole)], mode="evals")
    except ConfigError as error:
        assert "all the same" in error.message
        return
    again = expand([group(stored)], mode="evals")
    assert json.dumps(again, sort_keys=True) == json.dumps(runs, sort_keys=True)
    for run in runs:
        restored = restore(through_the_api_server(run))
        assert json.dumps(restored, sort_keys=True) == json.dumps(run, sort_keys=True)
