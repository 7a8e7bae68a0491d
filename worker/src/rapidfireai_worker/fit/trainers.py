"""TRL's trainers as runs use them: parkable, and with what only one of them keeps or lacks."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import RepeatSampler

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.checkpoint import Restored
from rapidfireai_worker.fit.parkable import Parkable
from rapidfireai_worker.rng import untouched_rng


class ParkableSFTTrainer(Parkable, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer, parkable."""


class ParkableDPOTrainer(Parkable, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer, parkable.

    Args:
        longest_prompt: Tokens of a prompt that are kept, from its end; None keeps all.
        longest_completion: Tokens of an answer that are kept, from its beginning; None keeps all.
        arguments: Those of `Parkable`.
    """

    def __init__(self, *, longest_prompt: int | None, longest_completion: int | None, **arguments: Any) -> None:
        self._longest = (longest_prompt, longest_completion)
        super().__init__(**arguments)

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, *more: Any) -> Dataset:
        prepared = super()._prepare_dataset(dataset, processing_class, args, *more)
        if self._longest == (None, None):
            return prepared
        facts = json.dumps([prepared._fingerprint, *self._longest])
        prompt, completion = self._longest
        lengths = {"longest_prompt": prompt, "longest_completion": completion}
        key = hashlib.sha256(facts.encode()).hexdigest()
        return self._remember(key, lambda: prepared.map(_cut, fn_kwargs=lengths))

    def _precompute_ref_logps(self, *arguments: Any) -> Dataset:
        """Compute them or read them from the cache: what follows must not depend on which."""
        with untouched_rng():
            return super()._precompute_ref_logps(*arguments)


def _cut(row: Mapping[str, Any], longest_prompt: int | None, longest_completion: int | None) -> dict[str, Any]:
    prompt = row["prompt_ids"] if longest_prompt is None else row["prompt_ids"][-longest_prompt:]
    answers = {name: row[name][:longest_completion] for name in ("chosen_ids", "rejected_ids")}
    return {"prompt_ids": prompt, **answers}


class ParkableGRPOTrainer(Parkable, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer, parkable at every step: completions that are used again are part of its state.

    Args:
        longest_prompt: Tokens of a prompt that are kept, from its end; None keeps all.
        arguments: Those of `Parkable`.
    """

    _logs: dict[str, Any]

    def __init__(self, *, longest_prompt: int | None, **arguments: Any) -> None:
        self._longest_prompt = longest_prompt
        self._sampler: Any = None
        self._epoch_order: torch.Tensor | None = None
        super().__init__(**arguments)
        self._check_groups()

    def _check_groups(self) -> None:
        """Check that an evaluation at a boundary has whole groups; TRL checks only those that it makes itself."""
        size, group = self.args.per_device_eval_batch_size, self.num_generations_eval
        if self.eval_dataset is not None and size % group:
            name = "num_generations" if self.args.num_generations_eval is None else "num_generations_eval"
            raise RunFailure(
                "InvalidConfig",
                f"training_args.per_device_eval_batch_size: {size} is not divisible by {name} ({group}); write a "
                "multiple of it",
            )

    def _too_few(self) -> str:
        prompts = self.args.generation_batch_size // self.num_generations
        return (
            f"are too few: GRPO takes {prompts} prompts at a time (per_device_train_batch_size "
            f"{self.args.per_device_train_batch_size} x steps_per_generation {self.args.steps_per_generation} / "
            f"num_generations {self.num_generations}); give more rows, or lower one of the first two"
        )

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    @property
    def _order_state(self) -> torch.Tensor | None:
        """Where the generator stands that draws the epochs' orders; None if they follow from their numbers."""
        drawn = isinstance(self._sampler, RepeatSampler) and self._sampler.shuffle
        return self._sampler.generator.get_state() if drawn else None

    def _drawn(self, steps: int) -> int:
        """Return how many prompts the first steps of an epoch draw; each is used for several steps."""
        uses = self.args.steps_per_generation * self.num_iterations
        generations = math.ceil(steps * self.args.gradient_accumulation_steps / uses)
        prompts: int = generations * (self.args.generation_batch_size // self.num_generations)
        return prompts

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        ids, *more = super()._tokenize_prompts(prompts)
        return (ids if self._longest_prompt is None else [each[-self._longest_prompt :] for each in ids], *more)

    def _run_epoch(self, *arguments: Any, **more: Any) -> None:
        restored = self._restored
        if restored is not None and not self._recalled and self._order_state is not None:
            order = restored.state["orders"][0 if self._inside_epoch(restored) else 1]
            self._sampler.generator.set_state(order)
        self._epoch_order = self._order_state
        super()._run_epoch(*arguments, **more)

    def memory(self) -> dict[str, Any]:
        """Return the state of training, with the completions in use and the sampler's own generator."""
        state = super().memory()
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            state["memory"]["_buffered_inputs"] = None  # they are used up
        shown = {name: list(self._logs[name]) for name in ("prompt", "completion", "advantages")}
        nested = {kind: {name: list(each) for name, each in self._logs[kind].items()} for kind in ("rewards", "extra")}
        logs = {**shown, **nested} if self.log_completions else None
        return {**state, "orders": [self._epoch_order, self._order_state], "logs": logs}

    def _recall(self, restored: Restored) -> None:
        super()._recall(restored)
        for kind, kept in (restored.state["logs"] or {}).items():
            if isinstance(kept, Mapping):
                for name, values in kept.items():
                    self._logs[kind][name].extend(values)
            else:
                self._logs[kind].extend(kept)

    def evaluate_out_of_band(self) -> dict[str, float]:
        """Evaluate without a trace, in the table of completions neither."""
        kept = copy.deepcopy(self._logs)
        try:
            return super().evaluate_out_of_band()
        finally:
            self._logs = kept


TRAINERS: dict[str, tuple[type[Parkable], Callable[..., Any]]] = {
    "SFT": (ParkableSFTTrainer, SFTConfig),
    "DPO": (ParkableDPOTrainer, DPOConfig),
    "GRPO": (ParkableGRPOTrainer, GRPOConfig),
}
"""By `trainer_type`: the trainer and its config class."""
