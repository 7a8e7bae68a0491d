"""School mathematics with a real tokenizer: each trainer, chunk by chunk, is the plain program on the same rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fit.reference import digest, train
from tests.support.lab import Lab, steady, write_rows
from tests.support.tiny import real_tokenizer, write_model

from rapidfireai_worker.fit.engine import FitEngine

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
pytestmark = [
    pytest.mark.ml,
    pytest.mark.xdist_group("real-rows"),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there"),
]

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ARGUMENTS = {
    "max_steps": 3,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
}
MORE: dict[str, dict[str, Any]] = {
    "SFT": {"max_length": 160},
    "DPO": {"max_length": 96, "per_device_train_batch_size": 1},
    "GRPO": {"num_generations": 2, "per_device_eval_batch_size": 2, "max_completion_length": 8},
}
FILES = {"SFT": "train.jsonl", "DPO": "preferences.jsonl", "GRPO": "train.jsonl"}


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def right(completions: list[Any], answer: list[str], **more: Any) -> list[float]:
    """How many of the figures of the answer are in the completion."""
    said = [completion[0]["content"] for completion in completions]
    wanted = [text.rpartition("#### ")[2] for text in answer]
    return [
        sum(figure in text for figure in figures) + len(text) / 100 for text, figures in zip(said, wanted, strict=True)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), real_tokenizer())


@pytest.mark.parametrize("trainer", MORE)
def test_each_trainer_trains_on_real_rows_as_the_plain_program(trainer: str, lab: Lab, model: Path) -> None:
    with (DATA / FILES[trainer]).open() as lines:
        read = [json.loads(line) for line in itertools.islice(lines, 10)]
    rows = {
        name: str(write_rows(lab.root / f"{name}.jsonl", part))
        for name, part in (("train", read[:8]), ("eval", read[8:]))
    }
    config = {
        "trainer_type": trainer,
        "model_name": str(model),
        "peft_params": LORA,
        "training_args": {**ARGUMENTS, **MORE[trainer]},
    }
    functions = lab.put_bundle(formatting_func=as_chat, right=right)
    given: dict[str, Any] = dict(config)
    if trainer != "DPO":
        given["additional_kwargs"] = {"formatting_func": functions["formatting_func"]}
    if trainer == "GRPO":
        given["reward_funcs"] = functions["right"]
    lab.chunks = 2
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    for chunk in range(len(engine.prepare(lab.job("run", given)).boundaries)):
        lab.chunk(engine, "run", given, chunk)
        engine.evict("run-uid")
    weights, history = train(
        {"config": config, "seed": 42, "output_dir": str(lab.root / "plain"), **rows},
        formatting_func=None if trainer == "DPO" else as_chat,
        reward_funcs=[right] if trainer == "GRPO" else None,
    )
    assert lab.history("run") == steady(history)
    assert digest(lab.model("run")) == weights
