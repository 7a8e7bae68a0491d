"""Six small programs: each trainer with an adapter and without. Between them they use all that a park could spoil.

Each has dropout, gradient accumulation, more than one epoch, and a `max_steps` that ends inside an epoch; it evaluates
at steps that are no chunk's end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.lab import chat_rows, write_rows

CHUNKS = 2
"""Chunks an epoch: six in all, GRPO four."""
LORA = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
COMMON = {
    "learning_rate": 1e-2,
    "max_steps": 8,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 5,
}
GROUPS = {
    "max_steps": 14,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "num_iterations": 2,
    "beta": 0.04,
    "reward_weights": [1.0, 0.5],
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SFT": COMMON,
    "DPO": {**COMMON, "disable_dropout": False, "beta": 0.2},
    "GRPO": {**COMMON, **GROUPS},
}
TUNED: dict[str, dict[str, Any]] = {"LoRA": {"peft_params": LORA}, "full": {"model_kwargs": {"attention_dropout": 0.1}}}
NAMES = [f"{trainer} {how}" for trainer in ARGUMENTS for how in TUNED]


def config_of(name: str, model: Path) -> dict[str, Any]:
    """Return the config of a case, without what only a code bundle can carry."""
    trainer, how = name.split()
    return {
        "trainer_type": trainer,
        "model_name": str(model),
        "training_args": {**ARGUMENTS[trainer], **({"learning_rate": 1e-3} if how == "full" else {})},
        **TUNED[how],
    }


def write_sets(root: Path) -> dict[str, str]:
    """Write rows that every trainer can read; return the paths by the name of the set."""
    wrong = [{"role": "assistant", "content": "I do not know."}]
    rows = [{**row, "chosen": row["completion"], "rejected": wrong} for row in chat_rows(14)]
    sets = {"train": rows[:11], "eval": rows[11:]}
    return {name: str(write_rows(root / f"{name}.jsonl", part)) for name, part in sets.items()}
