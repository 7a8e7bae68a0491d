"""Batch functions get what they declare, and what they return is looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.functions import Declared, Functions

ARGUMENTS = ("batch", "rag", "prompt_manager")


class Callable3:
    def __call__(self, batch: Any, *, rag: Any) -> Any:
        return batch, rag


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda batch, rag, prompt_manager: (batch, rag, prompt_manager), (1, 2, 3)),
        (lambda prompt_manager, batch: (prompt_manager, batch), (3, 1)),
        (lambda rows: rows, 1),
        (lambda b, r: (b, r), (1, 2)),
        (lambda b, rag: (b, rag), (1, 2)),
        (lambda rag, b: (rag, b), (2, 1)),
        (lambda b, /, rag: (b, rag), (1, 2)),
        (lambda batch, temperature=0.5: (batch, temperature), (1, 0.5)),
        (lambda *everything: everything, (1, 2, 3)),
        (lambda **named: sorted(named.items()), [("batch", 1), ("prompt_manager", 3), ("rag", 2)]),
        (lambda batch, **named: (batch, sorted(named)), (1, ["prompt_manager", "rag"])),
        (functools.partial(lambda scale, batch: scale * batch, 10), 10),
        (Callable3(), (1, 2)),
    ],
)
def test_a_function_gets_the_arguments_that_it_declares(function: Callable[..., Any], got: Any) -> None:
    assert Declared(function, "preprocess_fn", ARGUMENTS)(batch=1, rag=2, prompt_manager=3) == got


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(RunFailure, match="preprocess_fn: must be a function, not str 'square'"):
        Declared("square", "preprocess_fn", ARGUMENTS)  # type: ignore[arg-type]
    with pytest.raises(RunFailure, match="its argument 'd' is none that there is"):
        Declared(lambda a, b, c, d: None, "preprocess_fn", ARGUMENTS)


@pytest.mark.parametrize(
    ("metric", "kept"),
    [
        (3, {"value": 3}),
        (True, {"value": 1}),
        (np.float32(0.5), {"value": 0.5}),
        ({"value": np.int64(4), "value_range": (0, np.float64(5))}, {"value": 4, "value_range": [0, 5.0]}),
    ],
)
def test_numbers_of_every_kind_are_kept_as_json_holds_them(metric: Any, kept: dict[str, Any]) -> None:
    functions = Functions.of({"compute_metrics_fn": lambda batch: {"M": metric}}, 42)
    assert functions.scores({"a": [1]}, "0+1") == {"M": kept}


def test_functions_change_nobody_elses_batch_and_draw_the_same_numbers_each_time() -> None:
    def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
        batch["prompts"] = [f"{np.random.rand()}" for _ in batch["q"]]
        batch["q"].clear()
        return {"prompts": batch["prompts"]}

    functions = Functions.of({"preprocess_fn": preprocess}, 42)
    batch = {"q": ["a", "b"]}
    first = functions.prompts(batch, None, None, "0+2")
    assert batch == {"q": ["a", "b"]}
    assert functions.prompts(batch, None, None, "0+2") == first
    assert functions.prompts(batch, None, None, "2+2") != first
