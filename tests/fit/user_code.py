"""What a user might have in a script: a model with a random part, a formatting function, metrics."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def create_model_fn(config: dict[str, Any]) -> tuple[Any, Any]:
    """Load a model and change it: one layer is drawn anew, one is scaled by a knob."""
    model = AutoModelForCausalLM.from_pretrained(config["model_name"], dtype=torch.float32)
    torch.nn.init.normal_(model.model.layers[1].mlp.up_proj.weight, std=0.05)
    model.model.layers[0].mlp.up_proj.weight.data.mul_(config["model_kwargs"]["scale"])
    return model, AutoTokenizer.from_pretrained(config["model_name"])


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["asked"]}],
        "completion": [{"role": "assistant", "content": row["answered"]}],
    }


def with_noise(row: dict[str, Any]) -> dict[str, Any]:
    """Format a row with a random number in it."""
    return as_chat({**row, "asked": f"{row['asked']} {np.random.randint(100)}"})


def raising(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["no such column"]}


def token_accuracy(prediction: Any) -> dict[str, float]:
    hits = prediction.predictions.argmax(-1)[:, :-1] == prediction.label_ids[:, 1:]
    return {"hits": float(hits.sum()), "loss_free": float((prediction.label_ids == -100).mean())}


def letters(completions: list[Any], **more: Any) -> list[float]:
    return [len(set(completion[0]["content"])) / 10 for completion in completions]


def length(completion_ids: list[list[int]], trainer_state: Any, **more: Any) -> list[float]:
    """A reward that looks at the step and draws a number."""
    return [len(ids) * 0.1 + trainer_state.global_step * 0.01 + random.random() for ids in completion_ids]


def answers(pair: tuple[list[str], list[str]]) -> dict[str, float]:
    """Metrics of generated texts that tell any two texts apart, and draw a number."""
    predictions, references = pair
    assert len(predictions) == len(references) == 3
    assert all(reference.startswith("It is ") for reference in references)
    bits = hashlib.sha256("|".join(predictions).encode()).digest()
    return {
        "exact": float(predictions == references),
        "text": float(int.from_bytes(bits[:6])),
        "drawn": random.random(),
    }


class Counting(torch.nn.Module):
    """Adds nothing, and counts in a buffer how often it was asked to while training."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return hidden


def create_counting_model(config: dict[str, Any]) -> tuple[Any, Any]:
    """Load a model with a buffer that training changes; `layers` of it."""
    layers = config["model_kwargs"].get("layers", 2)
    model = AutoModelForCausalLM.from_pretrained(config["model_name"], dtype=torch.float32, num_hidden_layers=layers)
    model.model.norm = torch.nn.Sequential(model.model.norm, Counting())
    return model, AutoTokenizer.from_pretrained(config["model_name"])
