"""What a run asks of vLLM, before anything starts; no vLLM is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.vllm_spec import (
    Adapter,
    EngineSpec,
    engine_spec,
    read_adapter,
    sampling_arguments,
)

KNOWN = ("model", "max_model_len", "dtype", "enable_lora", "max_lora_rank", "max_loras", "tensor_parallel_size")
SAMPLING = ("temperature", "max_tokens", "logit_bias", "output_kind")


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def spec(adapter: Adapter | None = None, **arguments: Any) -> EngineSpec:
    return engine_spec({"model_config": arguments}, adapter, known=KNOWN, defaults={"dtype": "float32"})


def write_config(folder: Path, **config: Any) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, **config}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return str(folder)


def test_equal_engine_configs_are_one_engine_whatever_their_order(model: str) -> None:
    assert spec(model=model, max_model_len=64) == spec(max_model_len=64, model=model)
    assert spec(model=model) != spec(model=model, max_model_len=64)


def test_the_platform_decides_only_what_the_user_left_open(model: str) -> None:
    assert spec(model=model).engine_arguments()["dtype"] == "float32"
    assert spec(model=model, dtype="bfloat16").engine_arguments()["dtype"] == "bfloat16"


def test_more_than_one_device_gets_a_process_each(model: str) -> None:
    assert "distributed_executor_backend" not in spec(model=model).engine_arguments()
    assert spec(model=model, tensor_parallel_size=2).engine_arguments()["distributed_executor_backend"] == "mp"


def test_runs_with_different_adapters_share_an_engine(model: str, tmp_path: Path) -> None:
    first, second = (read_adapter(write_config(tmp_path / name)) for name in ("first", "second"))
    assert first.identity != second.identity
    assert spec(first, model=model) == spec(second, model=model)


def test_an_engine_for_adapters_serves_smaller_ones_and_runs_without_any(model: str) -> None:
    large, small = Adapter(Path("a"), 64, "a"), Adapter(Path("b"), 8, "b")
    assert spec(large, model=model).serves(spec(small, model=model))
    assert spec(large, model=model).serves(spec(model=model))
    assert not spec(small, model=model).serves(spec(large, model=model))
    assert not spec(model=model).serves(spec(small, model=model))
    assert not spec(large, model=model).serves(spec(model=model, max_model_len=64))


def test_the_rank_of_an_engine_is_one_that_vllm_knows(model: str) -> None:
    arguments = spec(Adapter(Path("a"), 20, "a"), model=model).engine_arguments()
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 32)
    with pytest.raises(RunFailure, match=r"vllm_config.adapter: rank 1024 is more than the 512 that vLLM serves"):
        spec(Adapter(Path("a"), 1024, "a"), model=model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"model_config\.model: missing; write a hub name"),
        ({"model": "/nowhere"}, r"model_config\.model: /nowhere does not exist"),
        (
            {"model": "m", "max_model_length": 5},
            r"model_config\.max_model_length: unknown .*did you mean max_model_len\?",
        ),
        ({"model": "m", "dtype": object()}, r"model_config: object is nothing that an engine argument may be"),
    ],
)
def test_what_no_engine_can_be_made_of_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RunFailure, match=message) as failure:
        spec(**arguments)
    assert not failure.value.retry or failure.value.reason == "ModelNotFound"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"has no config.json") as failure:
        spec(model=str(tmp_path))
    assert failure.value.reason == "ModelNotFound"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 1}, r"sampling_params\.temprature: unknown .*did you mean temperature\?"),
        ({"output_kind": 1}, r"sampling_params\.output_kind: answers are asked for as a whole"),
        ({"logit_bias": {"one": 1}}, r"sampling_params\.logit_bias: .*map token ids to numbers"),
        ([1], r"sampling_params: must be a mapping"),
    ],
)
def test_sampling_parameters_that_do_not_exist_are_refused(given: Any, message: str) -> None:
    with pytest.raises(RunFailure, match=message):
        sampling_arguments({"sampling_params": given}, SAMPLING)


def test_token_ids_are_numbers_again_after_json() -> None:
    assert sampling_arguments({"sampling_params": {"logit_bias": {"3": 1}}}, SAMPLING) == {"logit_bias": {3: 1.0}}


def test_no_sampling_parameters_are_none() -> None:
    assert sampling_arguments({}, SAMPLING) == {}


def test_a_directory_without_an_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailure, match=r"vllm_config.adapter: .* is no LoRA adapter .*name a run that was trained"
    ) as no:
        read_adapter(str(tmp_path))
    assert no.value.reason == "AdapterNotFound"


@pytest.mark.parametrize(
    ("config", "what"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules")]
)
def test_adapters_that_vllm_does_not_serve_are_refused(tmp_path: Path, config: dict[str, Any], what: str) -> None:
    with pytest.raises(RunFailure, match=what):
        read_adapter(write_config(tmp_path / "adapter", **config))


def test_the_largest_rank_of_an_adapter_counts(tmp_path: Path) -> None:
    assert read_adapter(write_config(tmp_path / "adapter", rank_pattern={"layers.0.q_proj": 32})).rank == 32
