"""Quantised bases are shared like others, and what a GPU alone can do is the plain program there too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fit.cases import CHUNKS, config_of, write_sets
from tests.fit.reference import digest, train
from tests.support.lab import Lab, steady

from rapidfireai_worker.fit.engine import FitEngine

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.ml

FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def trained_beside(lab: Lab, config: dict[str, Any]) -> None:
    """Train a run in turns with one of another learning rate on the same base, one of them evicted on the way."""
    arguments = config["training_args"]
    configs = {"run": config, "beside": {**config, "training_args": {**arguments, "learning_rate": 5e-3}}}
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    for chunk in range(6):
        for name, each in configs.items():
            lab.chunk(engine, name, each, chunk)
        if chunk == 2:
            engine.evict("run-uid")
    run, beside = (engine.sessions[f"{name}-uid"] for name in configs)
    assert run.base is beside.base and not run.private and not beside.private
    own, others = ({p.data_ptr() for p in each.trainer.model.parameters()} for each in (run, beside))
    assert len(own & others) == len(list(run.base.model.parameters()))


@pytest.mark.parametrize(
    ("kwargs", "evaluated"),
    [
        ({"load_in_8bit": True}, True),
        ({"quantization_config": FOUR_BITS}, False),  # some CPUs repack what evaluates, and want larger layers for it
    ],
)
def test_runs_on_one_quantised_base_equal_plain_ones(
    kwargs: dict[str, Any], evaluated: bool, lab: Lab, tiny_model: Path
) -> None:
    rows: dict[str, Any] = write_sets(lab.root)
    lab.chunks, lab.evals = CHUNKS, evaluated
    config = {**config_of("SFT LoRA", tiny_model), "model_kwargs": kwargs}
    if not evaluated:
        config["training_args"] = {**config["training_args"], "eval_strategy": "no"}
        rows["eval"] = None
    trained_beside(lab, config)
    quantised = {"quantization_config": {"load_in_8bit": True}} if "load_in_8bit" in kwargs else kwargs
    spec = {"config": {**config, "model_kwargs": quantised}, "seed": 42, "output_dir": str(lab.root / "plain"), **rows}
    weights, history = train(spec)
    assert lab.history("run") == steady(history)
    assert digest(lab.model("run")) == weights


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("trainer", ["SFT", "DPO"])
@pytest.mark.parametrize(
    ("arguments", "kwargs"),
    [
        ({"fp16": True, "bf16": False}, {}),
        ({"bf16": True}, {}),
        ({"bf16": True}, {"dtype": "bfloat16", "device_map": "auto"}),
        ({"bf16": True}, {"quantization_config": {**FOUR_BITS, "bnb_4bit_compute_dtype": "bfloat16"}}),
        ({"bf16": True}, {"load_in_8bit": True}),
    ],
)
def test_precisions_of_a_gpu_train_like_the_plain_program(
    trainer: str, arguments: dict[str, Any], kwargs: dict[str, Any], lab: Lab, tiny_model: Path
) -> None:
    rows = write_sets(lab.root)
    lab.chunks = CHUNKS
    config = {**config_of(f"{trainer} LoRA", tiny_model), "model_kwargs": kwargs}
    config["training_args"] = {**config["training_args"], **arguments, "use_cpu": False}
    trained_beside(lab, config)
    plain = {key: value for key, value in kwargs.items() if key not in {"device_map", "load_in_8bit"}}
    plain |= {"dtype": getattr(torch, kwargs.get("dtype", "float32"))}
    if "load_in_8bit" in kwargs:
        plain["quantization_config"] = {"load_in_8bit": True}
    spec = {"config": {**config, "model_kwargs": plain}, "seed": 42, "output_dir": str(lab.root / "plain"), **rows}
    _, history = train(spec)
    for ours, theirs in zip(lab.history("run"), steady(history), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss", "eval_loss"):
            assert math.isclose(ours.get(name, 0.0), theirs.get(name, 0.0), rel_tol=1e-2, abs_tol=1e-3), (ours, theirs)
