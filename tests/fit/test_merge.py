"""An exported adapter, merged into its base by the program that `export --merge` starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rapidfireai.errors import ExperimentError
from rapidfireai.export.merging import merge_files
from rapidfireai_worker.merge import merge

pytestmark = pytest.mark.ml
TOKENS = torch.arange(20, 40).reshape(2, 10)


def trained_adapter(base: Path, folder: Path, **lora: object) -> torch.Tensor:
    """Write an adapter that does something, with its tokenizer; return what the model says with it."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **lora))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
        said = model.eval()(TOKENS).logits
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return torch.as_tensor(said)


@pytest.mark.parametrize("initial", [True, "pissa"])
def test_the_merged_model_says_what_the_run_said(initial: object, tiny_model: Path, tmp_path: Path) -> None:
    said = trained_adapter(tiny_model, tmp_path / "adapter", init_lora_weights=initial)
    merge(tmp_path / "adapter", tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(TOKENS).logits, said, atol=1e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_a_base_that_is_not_on_this_machine_is_named(tiny_model: Path, tmp_path: Path) -> None:
    trained_adapter(tiny_model, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/claims/models/base"}))
    with pytest.raises(ExperimentError, match="its base model lies at /claims/models/base on the cluster"):
        merge_files(tmp_path / "adapter", tmp_path / "merged", "auto")
    assert not (tmp_path / "merged").exists()
