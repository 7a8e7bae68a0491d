"""Adapters that begin by changing the base: no other run notices, and what is exported is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tests.fit.cases import CHUNKS, LORA, config_of, write_sets
from tests.fit.reference import digest, train
from tests.support.lab import Lab, steady

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = pytest.mark.ml

INITIAL = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "random": {"init_lora_weights": False},
}


def test_no_initialisation_leaks_into_the_base_and_each_run_is_the_plain_one(lab: Lab, tiny_model: Path) -> None:
    rows = write_sets(lab.root)
    lab.chunks = CHUNKS
    plain = config_of("SFT LoRA", tiny_model)
    configs: dict[str, dict[str, Any]] = {"ordinary": plain}
    configs |= {name: {**plain, "peft_params": {**LORA, **change}} for name, change in INITIAL.items()}
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    for chunk in range(6):
        for index, (name, config) in enumerate(configs.items()):
            lab.chunk(engine, name, config, chunk)
            if (chunk + index) % 3 == 0 and chunk < 5:
                engine.evict(f"{name}-uid")
    tokens = torch.arange(20, 40).reshape(2, 10)
    for name, config in configs.items():
        weights, history = train({"config": config, "seed": 42, "output_dir": str(lab.root / name), **rows})
        assert (digest(lab.model(name)), lab.history(name)) == (weights, steady(history)), name
        trained = engine.sessions[f"{name}-uid"].trainer.model.eval()
        exported = AutoPeftModelForCausalLM.from_pretrained(lab.model(name), dtype=torch.float32).eval()
        with torch.no_grad():
            difference = (trained(tokens).logits - exported(tokens).logits).abs().max().item()
        assert difference < 1e-5, (name, difference)


@pytest.mark.parametrize(
    ("initial", "message"),
    [("pissa_niter_4", "pissa_niter_4 is drawn at random, anew whenever"), ("loftq", "loftq needs a GPU")],
)
def test_what_would_export_another_model_is_refused(initial: str, message: str, lab: Lab, tiny_model: Path) -> None:
    write_sets(lab.root)
    config = {**config_of("SFT LoRA", tiny_model), "peft_params": {**LORA, "init_lora_weights": initial}}
    with pytest.raises(RunFailure, match=f"peft_params.init_lora_weights: {message}"):
        FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("run", config))


def test_a_named_reference_adapter_must_begin_as_the_base(lab: Lab, tiny_model: Path) -> None:
    write_sets(lab.root)
    config = {**config_of("DPO LoRA", tiny_model), "peft_params": {**LORA, "init_lora_weights": "pissa"}}
    with pytest.raises(RunFailure) as failure:
        engine = FitEngine(lab.volume, lab.claims, threads=1)
        engine.prepare(lab.job("run", {**config, "compat": {"ref_adapter_name": "reference"}}))
    assert "with init_lora_weights 'pissa'" in failure.value.message
    assert "write force_use_ref_model: true" in failure.value.message
