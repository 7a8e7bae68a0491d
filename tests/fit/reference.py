"""The plain program that every run has to equal: what a user would write with TRL, and nothing of ours.

`python reference.py SPECS.json` trains what each of SPECS describes and prints a line of JSON for each, with its digest
and its history.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from tests.fit import user_code
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

TRAINERS: dict[str, tuple[Any, Any]] = {
    "SFT": (SFTTrainer, SFTConfig),
    "DPO": (DPOTrainer, DPOConfig),
    "GRPO": (GRPOTrainer, GRPOConfig),
}


def load(config: dict[str, Any]) -> tuple[Any, Any]:
    """Load the model and tokenizer by name, as a plain YAML experiment does."""
    kwargs = {"dtype": torch.float32, **config.get("model_kwargs", {})}
    model = AutoModelForCausalLM.from_pretrained(config["model_name"], **kwargs)
    return model, AutoTokenizer.from_pretrained(config["model_name"])


def train(
    spec: dict[str, Any],
    create_model_fn: Callable[[dict[str, Any]], tuple[Any, Any]] = load,
    formatting_func: Callable[..., Any] | None = None,
    compute_metrics: Callable[..., Any] | None = None,
    reward_funcs: list[Callable[..., Any]] | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """Train one config and return the digest of its weights and its history."""
    config, out = spec["config"], spec["output_dir"]
    seed = config["training_args"].get("seed", spec["seed"])
    train_dataset, eval_dataset = (
        spec[name] and datasets.load_dataset("json", data_files=spec[name], split="train") for name in ("train", "eval")
    )
    set_seed(seed)
    arguments = {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    arguments |= {"seed": seed, "output_dir": out, **config["training_args"]}
    model, tokenizer = create_model_fn(config)
    if formatting_func is not None:
        train_dataset = train_dataset.map(formatting_func)
        eval_dataset = eval_dataset and eval_dataset.map(formatting_func)
    own: dict[str, Any] = {} if reward_funcs is None else {"reward_funcs": list(reward_funcs)}
    if compute_metrics is not None:
        own["compute_metrics"] = compute_metrics
    if config.get("ref_model_config"):
        name = config["ref_model_config"]["model_name"]
        own["ref_model"] = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    trainer_class, config_class = TRAINERS[config.get("trainer_type", "SFT")]
    generation = (config.get("additional_kwargs") or {}).get("generation_config")
    if generation is not None:
        trainer_class = with_generation(trainer_class, eval_dataset, own.pop("compute_metrics"), generation)
    parent = spec.get("parent")
    if parent is not None:
        trainer_class = going_on(trainer_class, parent["row"])
    set_seed(seed)
    trainer = trainer_class(
        model=model,
        args=config_class(**arguments),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(**config["peft_params"]) if config.get("peft_params") else None,
        **own,
    )
    if parent is not None:
        take_weights(trainer.model, Path(parent["model"]))
    trainer.train()
    trainer.save_model(out)
    return digest(Path(out)), trainer.state.log_history


def take_weights(model: Any, folder: Path) -> None:
    """Put the weights that another run exported in the place of a model's, as docs/training.md has it."""
    adapter = folder / "adapter_model.safetensors"
    if adapter.exists():
        set_peft_model_state_dict(model, load_file(adapter))
    else:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)  # tied weights have one name


class Onward(torch.utils.data.Sampler):  # type: ignore[type-arg]
    """Yields a trainer's stream of rows from `start` on, as docs/training.md has it."""

    def __init__(self, trainer: Any, start: int) -> None:
        self.trainer, self.start, self.epoch = trainer, start, 0
        self.rows = len(trainer.train_dataset)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.arranged(list(range(self.rows))))

    def __iter__(self) -> Any:
        first = self.start + self.epoch * self.rows
        orders = self.orders(first // self.rows + 2)
        return iter(self.arranged([row for order in orders for row in order][first : first + self.rows]))

    def orders(self, epochs: int) -> list[list[int]]:
        """Return the order of rows in each epoch."""
        seed, generator = self.trainer.args.seed, torch.Generator()
        if isinstance(self.trainer, GRPOTrainer):
            generator.manual_seed(seed)
            return [torch.randperm(self.rows, generator=generator).tolist() for _ in range(epochs)]
        return [torch.randperm(self.rows, generator=generator.manual_seed(seed + e)).tolist() for e in range(epochs)]

    def arranged(self, rows: list[int]) -> list[int]:
        """Return an epoch's rows as the trainer draws them: GRPO uses each prompt several times."""
        if not isinstance(self.trainer, GRPOTrainer):
            return rows
        args = self.trainer.args
        size = args.generation_batch_size // args.num_generations
        whole = [rows[first : first + size] for first in range(0, len(rows) - size + 1, size)]
        uses = args.steps_per_generation * args.num_iterations
        return [row for group in whole for _ in range(uses) for row in group for _ in range(args.num_generations)]


def going_on(trainer_class: Any, start: int) -> Any:
    """Return the trainer that draws its rows from `start` on."""

    class GoingOn(trainer_class):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return Onward(self, start)

    return GoingOn


def with_generation(
    trainer_class: Any, rows: Any, compute_metrics: Callable[..., Any], generation_config: dict[str, Any]
) -> Any:
    """Return the trainer that also measures what it generates on the eval set, as docs/training.md has it."""

    class WithGeneration(trainer_class):  # type: ignore[misc]
        def evaluation_loop(self, *arguments: Any, **more: Any) -> Any:
            output = super().evaluation_loop(*arguments, **more)
            states = random.getstate(), np.random.get_state(), torch.get_rng_state()
            set_seed(self.args.seed)
            tokenizer, size, predictions = self.processing_class, self.args.per_device_eval_batch_size, []
            for first in range(0, len(rows), size):
                prompts = rows[first : first + size]["prompt"]
                texts = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
                padding = {"padding": True, "padding_side": "left", "add_special_tokens": False}
                batch = tokenizer(texts, return_tensors="pt", **padding).to(self.args.device)
                with torch.no_grad(), self.accelerator.autocast():
                    made = self.model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **generation_config)
                answers = made[:, batch["input_ids"].shape[1] :]
                predictions += tokenizer.batch_decode(answers, skip_special_tokens=True)
            references = [row.get("completion", row.get("chosen"))[-1]["content"] for row in rows]
            output.metrics.update(compute_metrics((predictions, references)))
            for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), states, strict=True):
                restore(state)
            return output

    return WithGeneration


def digest(folder: Path) -> str:
    """Return one digest over every tensor that a model folder holds: names, types, bits."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name)
                total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                total.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    for spec in json.loads(Path(sys.argv[1]).read_text()):
        rewards = [getattr(user_code, name) for name in spec.get("rewards", [])]
        weights, history = train(spec, reward_funcs=rewards or None)
        print(json.dumps({"digest": weights, "history": history}))


if __name__ == "__main__":
    main()
