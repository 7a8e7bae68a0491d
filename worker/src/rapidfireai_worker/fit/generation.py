"""Metrics of what a model generates: prompts and references out of the eval set, and what the user's function says."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, Trainer, set_seed
from transformers.trainer_utils import denumpify_detensorize
from trl.data_utils import maybe_extract_prompt

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.rng import untouched_rng

_FIELDS = (
    ("prompt", "completion"),
    ("prompt", "chosen"),
    ("input", "output"),
    ("text", "response"),
    ("text", "instruction"),
    ("instruction", "response"),
    ("prompt", "answer"),
)
"""Columns that hold a prompt and its reference; of several the first counts, which is what a trainer reads."""
_RESERVED = frozenset({"loss", "learning_rate", "grad_norm", "epoch", "step"})
"""What the trainer logs under these names is something else."""
_CLOCK = "max_time"


@dataclass(frozen=True)
class Example:
    """A prompt of the eval set, as text or as a chat, and the answer that is hoped for."""

    prompt: str | Sequence[Mapping[str, Any]]
    reference: str
    template_kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class GenerationMetrics:
    """Generates on the eval set and has the user's function judge it.

    Attributes:
        examples: The prompts and their references.
        compute: The user's function, from (predictions, references) to metrics.
        arguments: Those of `generate`.
        longest: Tokens of a prompt that are kept; None keeps all.
        cut: The side of a prompt on which longer ones are cut.
        opens_answer: Whether a chat's prompt ends with what begins the assistant's turn.
    """

    examples: Sequence[Example]
    compute: Callable[..., Any]
    arguments: Mapping[str, Any]
    longest: int | None = None
    cut: Literal["left", "right"] = "left"
    opens_answer: bool = True

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Return the function's metrics for a trainer's model as it is now, which must be in evaluation mode.

        The random generators are seeded with the run's seed before, and put back to where they stood after.

        Raises:
            RunFailure: If the function raises, or returns what is no mapping of names to numbers.
        """
        with untouched_rng():
            set_seed(trainer.args.seed)
            predictions: list[str] = []
            for examples in _batches(self.examples, trainer.args.per_device_eval_batch_size):
                predictions += self._generate(trainer, examples)
            return _checked(self.compute((predictions, [example.reference for example in self.examples])))

    def _generate(self, trainer: Trainer, examples: Iterable[Example]) -> list[str]:
        tokenizer = trainer.processing_class
        prompts = {"input_ids": [self._tokens(tokenizer, example) for example in examples]}
        batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(trainer.args.device)
        with torch.no_grad(), trainer.accelerator.autocast():
            made = trainer.model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **self.arguments)
        answers: list[str] = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    def _tokens(self, tokenizer: Any, example: Example) -> list[int]:
        if isinstance(example.prompt, str):
            tokens: list[int] = tokenizer(example.prompt)["input_ids"]
        else:
            options = {"add_generation_prompt": self.opens_answer, **example.template_kwargs}
            text = tokenizer.apply_chat_template(example.prompt, tokenize=False, **options)
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.longest is None:
            return tokens
        return tokens[-self.longest :] if self.cut == "left" else tokens[: self.longest]


def generation_metrics(
    given: Mapping[str, Any] | None, compute: Guarded | None, rows: Iterable[Mapping[str, Any]] | None
) -> GenerationMetrics | None:
    """Return the metrics of generation that a config asks for, or None if it asks for none.

    Args:
        given: `generation_config`.
        compute: `compute_metrics`.
        rows: The eval set as the trainer gets it.

    Raises:
        RunFailure: If an argument is unknown or wrong, or if there is nothing to generate from or no one to judge it.
    """
    if given is None:
        return None
    if compute is None:
        raise _invalid("is for compute_metrics, which gets what is generated; add compute_metrics, or leave it out")
    if rows is None:
        raise _invalid("generates on the eval set, and there is none; give an eval data set, or leave it out")
    arguments = dict(given)
    longest = arguments.pop("max_input_length", None)
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 1):
        raise _invalid(f"must be a whole number from 1 up, not {longest!r}", ".max_input_length")
    cut = arguments.pop("truncation_side", "left")
    if cut not in {"left", "right"}:
        raise _invalid(f"must be left or right, not {cut!r}", ".truncation_side")
    opens_answer = arguments.pop("add_generation_prompt", True)
    if not isinstance(opens_answer, bool):
        raise _invalid(f"must be true or false, not {opens_answer!r}", ".add_generation_prompt")
    arguments.pop("use_cache", None)  # it changes no token
    _check(arguments)
    examples = [_example(index, row) for index, row in enumerate(rows)]
    return GenerationMetrics(examples, compute, arguments, longest, cut, opens_answer)


def _check(arguments: Mapping[str, Any]) -> None:
    known = GenerationConfig().to_dict().keys() | {"max_input_length", "truncation_side", "add_generation_prompt"}
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise _invalid(f"unknown{f'; did you mean {near[0]}?' if near else ''}", f".{name}")
    if arguments.get(_CLOCK) is not None:
        raise _invalid("ends by the clock, so that no run could be repeated; write max_new_tokens", f".{_CLOCK}")
    if arguments.get("num_return_sequences") not in {None, 1}:
        raise _invalid("compute_metrics gets one prediction for each reference; leave it out", ".num_return_sequences")
    try:
        GenerationConfig(**arguments)
    except (TypeError, ValueError) as error:
        raise _invalid(str(error)) from error


def _example(index: int, row: Mapping[str, Any]) -> Example:
    row = maybe_extract_prompt(dict(row)) if row.get("chosen") and row.get("rejected") else row
    template_kwargs = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
    if row.get("messages"):
        *turns, last = row["messages"]
        prompt, reference = turns, last["content"]
    else:
        names = next((names for names in _FIELDS if all(row.get(name) is not None for name in names)), None)
        if names is None:
            fields = "; ".join(f"{prompt} and {reference}" for prompt, reference in _FIELDS)
            raise RunFailure(
                "DatasetUnreadable",
                f"data.eval: generation_config needs rows with {fields}; or messages. Row {index} has "
                f"{sorted(row)}; write a formatting_func that returns them",
            )
        prompt, reference = (row[name] for name in names)
    if not prompt:
        message = f"data.eval: row {index} has an empty prompt, and generation_config needs something to go on from"
        raise RunFailure("DatasetUnreadable", f"{message}; leave such rows out")
    if not isinstance(reference, str):
        reference = reference[-1]["content"] if isinstance(reference, list) else str(reference)
    return Example(prompt, reference, template_kwargs)


def _checked(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise _wrong(f"returned {type(metrics).__name__}")
    numbers = {
        str(name): value
        for name, value in denumpify_detensorize(dict(metrics)).items()
        if isinstance(value, int | float)
    }
    if not numbers:
        raise _wrong("returned no number")
    for name in sorted(_RESERVED & numbers.keys()):
        raise _wrong(f"named a metric {name}, which is what the trainer logs for itself")
    return numbers


def _batches(examples: Sequence[Example], size: int) -> Iterable[list[Example]]:
    ahead = iter(examples)
    while batch := list(itertools.islice(ahead, size)):
        yield batch


def _wrong(fault: str) -> RunFailure:
    return RunFailure("UserCodeError", f"compute_metrics {fault}; return a mapping of names to numbers")


def _invalid(fault: str, field: str = "") -> RunFailure:
    return RunFailure("InvalidConfig", f"generation_config{field}: {fault}")
