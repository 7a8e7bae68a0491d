"""Models that vLLM loads, and adapters for them, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tests.support.tiny import SERVED, write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def served_tiny_model(folder: Path, **shape: int) -> Path:
    """Write a tiny model that vLLM serves and whose answers vary with what it is asked, and return its folder."""
    # Weights this large make the likeliest token stand out, so that two programs agree on it.
    return write_tiny_model(folder, **{**SERVED, "initializer_range": 1.0, **shape})


def write_adapter(model: Path, folder: Path, *, seed: int, rank: int = 8) -> Path:
    """Write a LoRA adapter with random weights that are large enough to change what the model says."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        targets = ["q_proj", "v_proj", "down_proj"]
        adapted = get_peft_model(
            base, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM")
        )
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def greedy(
    model: Path, conversation: list[dict[str, str]], tokens: int, allowed: list[int], adapter: Path | None = None
) -> str:
    """Return what transformers answers to a conversation, greedily and with these tokens alone."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    prompt = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    others = sorted(set(range(len(tokenizer))) - set(allowed))
    with torch.inference_mode():
        made = loaded.generate(
            **prompt,
            max_new_tokens=tokens,
            do_sample=False,
            suppress_tokens=others,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
