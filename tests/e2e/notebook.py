"""What a user has in a notebook: a small grid over a model, from a plain script.

`python notebook.py NAME MODEL FOLDER [--slow SECONDS] [--epochs N] [--broken]` trains it and exports every run
into FOLDER.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

SEED = 7
TRAIN = 40
CHUNKS = 3
LORAS = ({"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}, {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0})
RATES = (1e-3, 1e-2)
ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 5,
    "warmup_steps": 2,
    "gradient_checkpointing": False,
}


def rows(first: int, count: int) -> list[dict[str, str]]:
    return [
        {"question": f"What is {i} plus {i % 7}?", "answer": f"It is {i + i % 7}."} for i in range(first, first + count)
    ]


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def leaves(model: str) -> list[dict[str, Any]]:
    """The configs of the grid, in the order of the runs, written out by hand."""
    return [
        {
            "model_name": model,
            "peft_params": {**lora, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"},
            "training_args": {**ARGUMENTS, "learning_rate": rate},
        }
        for lora in LORAS
        for rate in RATES
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=ARGUMENTS["num_train_epochs"])
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()

    from datasets import Dataset

    from rapidfireai import Experiment
    from rapidfireai.automl import List, RFGridSearch, RFLoraConfig, RFModelConfig, RFSFTConfig

    def create_model_fn(config: dict[str, Any]) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(config["model_name"], dtype=torch.float32)
        if options.slow:
            model.register_forward_pre_hook(lambda *_: time.sleep(options.slow))
        return model, AutoTokenizer.from_pretrained(config["model_name"])

    def stumbles(row: dict[str, Any]) -> dict[str, Any]:
        return as_chat({"question": row["question"], "answer": row["reply"]})

    config = RFModelConfig(
        model_name=options.model,
        formatting_func=List([as_chat, stumbles]) if options.broken else as_chat,
        peft_config=List(
            [RFLoraConfig(**lora, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") for lora in LORAS]
        ),
        training_args=RFSFTConfig(**{**ARGUMENTS, "num_train_epochs": options.epochs}, learning_rate=List(list(RATES))),
    )
    experiment = Experiment(options.name)
    experiment.run_fit(
        RFGridSearch(config, "SFT"),
        create_model_fn,
        Dataset.from_list(rows(0, TRAIN)),
        Dataset.from_list(rows(TRAIN, 8)),
        num_chunks=CHUNKS,
        seed=SEED,
        num_workers=2,
    )
    info = experiment.get_runs_info()
    for run_id, status in zip(info["run_id"], info["status"], strict=True):
        print(f"run {run_id}: {status}")
        if str(getattr(status, "value", status)) == "Completed":
            experiment.export(int(run_id), options.folder / str(run_id))
    experiment.get_results().to_csv(options.folder / "results.csv", index=False)
    experiment.end()


if __name__ == "__main__":
    main()
