"""What vLLM does on GPUs alone: engines that sleep, and models on more than one device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import smollm2

from rapidfireai_worker.evals.parts import Generation, Site
from rapidfireai_worker.layout import Volume

pytestmark = [pytest.mark.gpu, pytest.mark.ml, pytest.mark.xdist_group("vllm")]
DEVICES = torch.cuda.device_count()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return smollm2.served_tiny_model(tmp_path / "model", num_key_value_heads=2)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Any]:
    from rapidfireai_worker.evals.generators.vllm import VllmEngines

    engines = VllmEngines(Site(Volume(tmp_path), threads=1))
    yield engines
    engines.close()


def config(model: Path, **arguments: Any) -> dict[str, Any]:
    engine = {"model": str(model), "enforce_eager": True, "gpu_memory_utilization": 0.4, **arguments}
    return {"model_config": engine, "sampling_params": {"temperature": 0, "max_tokens": 8, "ignore_eos": True}}


def answer(generator: Any) -> Generation:
    (given,) = generator.submit([[{"role": "user", "content": "hi"}]]).result(timeout=300)
    assert given.error is None
    return Generation(given.text, None, given.prompt_tokens, given.completion_tokens)


@pytest.mark.skipif(DEVICES < 1, reason="needs a GPU")
def test_an_engine_sleeps_for_another_and_answers_alike_when_it_wakes(engines: Any, model: Path) -> None:
    first = engines.generator("first", config(model), None)
    before = answer(first)
    held = engines.used_bytes()
    second = engines.generator("second", config(model, max_model_len=128), None)
    answer(second)
    assert engines.used_bytes() == held  # the one that is asleep holds nothing
    assert answer(first) == before


@pytest.mark.skipif(DEVICES < 2, reason="needs two GPUs")
def test_a_model_on_two_devices_answers(engines: Any, model: Path) -> None:
    assert answer(engines.generator("run", config(model, tensor_parallel_size=2), None)).completion_tokens == 8
