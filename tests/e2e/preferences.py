"""What a user has in a notebook to compare DPO and GRPO: two groups over the same rows, from a plain script.

`python preferences.py NAME MODEL FOLDER` trains both and exports every run into FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datasets import Dataset

from rapidfireai import Experiment
from rapidfireai.automl import List, RFDPOConfig, RFGridSearch, RFGRPOConfig, RFLoraConfig, RFModelConfig

SEED = 7
LORA: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}
DPO: dict[str, Any] = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "logging_steps": 1}
GRPO: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 8,
    "max_steps": 6,
    "logging_steps": 1,
}
BETAS = (0.1, 0.5)


def rows(count: int) -> list[dict[str, Any]]:
    def said(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return [
        {
            "prompt": said("user", f"What is {i} plus {i % 7}?"),
            "chosen": said("assistant", f"It is {i + i % 7}."),
            "rejected": said("assistant", "I do not know."),
        }
        for i in range(count)
    ]


def variety(completions: list[Any], **_: Any) -> list[float]:
    return [len(set(completion[0]["content"])) / 10 for completion in completions]


def main() -> None:
    name, model, folder = sys.argv[1:]
    usual: dict[str, Any] = {"model_name": model, "peft_config": RFLoraConfig(**LORA)}
    dpo = RFModelConfig(**usual, training_args=RFDPOConfig(**DPO, beta=List(list(BETAS))))
    grpo = RFModelConfig(**usual, training_args=RFGRPOConfig(**GRPO), reward_funcs=variety)
    experiment = Experiment(name)
    experiment.run_fit(
        [RFGridSearch(dpo, "DPO"), RFGridSearch(grpo, "GRPO")],
        train_dataset=Dataset.from_list(rows(24)),
        num_chunks=2,
        seed=SEED,
        num_workers=2,
    )
    for run_id in experiment.get_runs_info()["run_id"]:
        experiment.export(int(run_id), Path(folder) / str(run_id))
    experiment.end()


if __name__ == "__main__":
    main()
