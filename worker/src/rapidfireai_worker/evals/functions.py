"""The user's batch functions: called with what they declare, their failures and odd answers explained."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import numbers
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure

Columns = dict[str, list[Any]]
"""A batch: its columns, each with a value a row."""
PROMPTS = "prompts"
TEXT = "generated_text"
_SHOWN = 80
_UNNAMED = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


class Declared:
    """A function that gets, of the arguments there are, those that it declares: by name, else by place.

    Args:
        function: The user's function.
        role: What it is to the run, such as preprocess_fn.
        arguments: The names of the arguments there are, in the documented order.

    Raises:
        RunFailure: If it is no function, or wants more than there is.
    """

    def __init__(self, function: Callable[..., Any], role: str, arguments: tuple[str, ...]) -> None:
        if not callable(function):
            raise RunFailure("InvalidConfig", f"{role}: must be a function, not {_short(function)}")
        self._guarded = Guarded(function, role)
        self._places, self._names = _taken(function, role, arguments)

    def __call__(self, **arguments: Any) -> Any:
        """Call the function.

        Raises:
            RunFailure: If it raises, naming the user's line.
        """
        placed = [arguments[name] for name in self._places]
        return self._guarded(*placed, **{name: arguments[argument] for name, argument in self._names.items()})


def _taken(
    function: Callable[..., Any], role: str, arguments: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return which arguments a function takes by place, and which parameter of it takes which by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that does not tell
        return arguments, {}
    free = [name for name in arguments if name not in parameters or parameters[name].kind in _UNNAMED]
    places: list[str] = []
    names: dict[str, str] = {}
    for name, each in parameters.items():
        if each.kind is each.VAR_POSITIONAL:
            if not names:
                places, free = [*places, *free], []
        elif each.kind is each.VAR_KEYWORD:
            names |= {argument: argument for argument in free}
        elif name in arguments and each.kind not in _UNNAMED:
            names[name] = name
        elif each.default is each.empty:
            if not free:
                offered = ", ".join(arguments)
                message = f"{role}: its argument {name!r} is none that there is; it is called with ({offered})"
                raise RunFailure("InvalidConfig", message)
            if each.kind is each.POSITIONAL_ONLY:
                places.append(free.pop(0))
            else:
                names[name] = free.pop(0)
    return tuple(places), names


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions of a run; each but the first may be missing.

    Attributes:
        preprocess: Makes prompts of rows; without it rows have them.
        postprocess: Changes what was generated.
        compute: Scores a batch.
        accumulate: Puts the scores of all batches together.
        seed: With the batch, decides on the random numbers that they draw: a batch that is done again draws the same.
    """

    preprocess: Declared | None
    postprocess: Declared | None
    compute: Declared | None
    accumulate: Declared | None
    seed: int

    @classmethod
    def of(cls, leaf: Mapping[str, Any], seed: int) -> Functions:
        """Return the functions that a leaf names, its markers resolved.

        Raises:
            RunFailure: If one is no function, or declares an argument that there is not.
        """

        def declared(role: str, *arguments: str) -> Declared | None:
            function = leaf.get(role)
            return None if function is None else Declared(function, role, arguments)

        found = cls(
            preprocess=declared("preprocess_fn", "batch", "rag", "prompt_manager"),
            postprocess=declared("postprocess_fn", "batch"),
            compute=declared("compute_metrics_fn", "batch"),
            accumulate=declared("accumulate_metrics_fn", "metrics"),
            seed=seed,
        )
        if found.accumulate is not None and found.compute is None:
            raise RunFailure(
                "InvalidConfig",
                "compute_metrics_fn: is missing, and accumulate_metrics_fn has nothing to put together; write one, or "
                "leave both out",
            )
        return found

    def prompts(self, batch: Columns, rag: Any, prompt_manager: Any, batch_name: str) -> Columns:
        """Return the batch with `prompts`.

        Raises:
            RunFailure: If the function raises or returns something else; it says what came back.
        """
        rows = _length(batch)
        if self.preprocess is None:
            return {**batch, PROMPTS: [_conversation(each, "prompts") for each in _own_prompts(batch)]}
        with self._drawing(batch_name, "preprocess_fn"):
            made = self.preprocess(batch=_copy(batch), rag=rag, prompt_manager=prompt_manager)
        if not isinstance(made, Mapping) or PROMPTS not in made:
            found = f"a mapping with the keys {sorted(map(str, made))}" if isinstance(made, Mapping) else _short(made)
            message = (
                f"preprocess_fn: returned {found}; return the batch with `prompts`, a list of {rows} chat messages"
            )
            raise RunFailure("InvalidBatch", message)
        columns = _columns(made, rows, "preprocess_fn")
        return {**columns, PROMPTS: [_conversation(each, "preprocess_fn: prompts") for each in columns[PROMPTS]]}

    def finished(self, batch: Columns, batch_name: str) -> Columns:
        """Return the batch as `postprocess_fn` makes it.

        Raises:
            RunFailure: If the function raises, or returns something that is not the rows it got.
        """
        if self.postprocess is None:
            return batch
        with self._drawing(batch_name, "postprocess_fn"):
            made = self.postprocess(batch=_copy(batch))
        if not isinstance(made, Mapping):
            raise RunFailure("InvalidBatch", f"postprocess_fn: returned {_short(made)}; return the batch, a mapping")
        return {**batch, **_columns(made, _length(batch), "postprocess_fn")}

    def scores(self, batch: Columns, batch_name: str) -> dict[str, dict[str, Any]]:
        """Return the metrics of the batch, as JSON holds them: `{name: {"value": number, ...}}`.

        Raises:
            RunFailure: If the function raises, or a metric is not a number.
        """
        if self.compute is None:
            return {}
        with self._drawing(batch_name, "compute_metrics_fn"):
            made = self.compute(batch=_copy(batch))
        if not isinstance(made, Mapping):
            raise RunFailure(
                "InvalidMetric", f'compute_metrics_fn: returned {_short(made)}; return {{"a name": {{"value": 0.5}}}}'
            )
        return {str(name): _metric(str(name), metric) for name, metric in made.items()}

    @contextmanager
    def _drawing(self, batch_name: str, role: str) -> Iterator[None]:
        """Let random numbers of Python and NumPy follow from the seed, the batch and the function."""
        digest = hashlib.sha256(f"{self.seed}/{batch_name}/{role}".encode()).digest()
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(digest)
        np.random.seed(int.from_bytes(digest[:4]))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def check_columns(columns: list[str], functions: Functions) -> None:
    """Check that rows have prompts if nobody makes any.

    Raises:
        RunFailure: If not.
    """
    if functions.preprocess is None and not {PROMPTS, "prompt"} & set(columns):
        raise RunFailure(
            "InvalidConfig",
            f"preprocess_fn: is missing, and the rows of data.eval have neither prompts nor prompt but "
            f"{', '.join(sorted(columns))}; write a function that returns the batch with prompts",
        )


def _own_prompts(batch: Columns) -> list[Any]:
    return batch[PROMPTS] if PROMPTS in batch else batch["prompt"]


def _copy(batch: Columns) -> Columns:
    """Return the batch in lists of its own: what a function does to them is nobody else's."""
    return {name: list(values) for name, values in batch.items()}


def _length(batch: Columns) -> int:
    return max((len(values) for values in batch.values()), default=0)


def _columns(made: Mapping[Any, Any], rows: int, role: str) -> Columns:
    """Return the columns of a batch as lists, checked to have a value for each row."""
    columns: Columns = {}
    for name, values in made.items():
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            raise RunFailure(
                "InvalidBatch",
                f"{role}: {name} is {_short(values)}; return a list with a value for each of {rows} rows",
            )
        if len(values) != rows:
            raise RunFailure(
                "InvalidBatch", f"{role}: {name} has {len(values)} values and the batch {rows} rows; return one a row"
            )
        columns[str(name)] = values.tolist() if hasattr(values, "tolist") else list(values)
    return columns


def _conversation(prompt: Any, field: str) -> list[dict[str, Any]]:
    """Return a prompt as chat messages; a plain text is what the user says."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if (
        isinstance(prompt, list | tuple)
        and prompt
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    ):
        return [dict(message) for message in prompt]
    raise RunFailure(
        "InvalidBatch",
        f'{field}: each must be chat messages, [{{"role": "user", "content": "..."}}], or a text, not {_short(prompt)}',
    )


def _metric(name: str, metric: Any) -> dict[str, Any]:
    """Return a metric as JSON holds it."""
    fields = dict(metric) if isinstance(metric, Mapping) else {"value": metric}
    fields["value"] = _number(name, fields.get("value"))
    try:
        plain: dict[str, Any] = json.loads(json.dumps(fields, default=_item))
    except (TypeError, ValueError) as error:
        message = f"compute_metrics_fn: metric {name!r}: {error}; beside its value only plain data can be kept"
        raise RunFailure("InvalidMetric", message) from error
    return plain


def _number(name: str, value: Any) -> float | int:
    number = _item(value) if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if not isinstance(number, numbers.Real) or not math.isfinite(number):
        raise RunFailure(
            "InvalidMetric",
            f"compute_metrics_fn: metric {name!r} is {_short(value)}, not a finite number; return "
            f'{{"{name}": {{"value": a number}}}}',
        )
    return int(number) if isinstance(number, numbers.Integral) else float(number)


def _item(value: Any) -> Any:
    """Return a number of NumPy or torch as Python's."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain data")


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}" if value is not None else "None"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
