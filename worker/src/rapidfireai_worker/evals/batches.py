"""A batch on its way: rows in, prompts out to who generates, answers back, scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import Answered, RunFailure
from rapidfireai_worker.evals.functions import PROMPTS, TEXT, Columns, Functions
from rapidfireai_worker.evals.parts import Generation, Generator
from rapidfireai_worker.failures import last_lines

ROW, ERROR = "_row", "error"
"""The column of a row's place in the data set, and that of why it has no answer."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A batch that was answered.

    Attributes:
        places: The places of its rows in the data set.
        failed: Those of them that have no answer.
        columns: All that is kept of its rows, in the order of `places`.
        metrics: What `compute_metrics_fn` made of the answered ones.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        latency: The sum of what each row took, in seconds.
        seconds: From asking to the last answer.
    """

    places: tuple[int, ...]
    failed: tuple[int, ...]
    columns: Columns
    metrics: Mapping[str, Any]
    prompt_tokens: int
    completion_tokens: int
    latency: float
    seconds: float

    @property
    def account(self) -> Answered:
        """What is counted of it."""
        tokens = self.prompt_tokens, self.completion_tokens
        return Answered(len(self.places), len(self.failed), *tokens, self.seconds)


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch that was asked for.

    Attributes:
        places: The places of its rows in the data set.
        columns: Its rows, with prompts.
        future: Its answers.
        begun: When they were asked for.
        ended: Holds when they came.
    """

    places: tuple[int, ...]
    columns: Columns
    future: Future[list[Generation]]
    begun: float = field(default_factory=time.monotonic)
    ended: list[float] = field(default_factory=list)

    @classmethod
    def ask(cls, places: tuple[int, ...], columns: Columns, generator: Generator) -> Asked:
        """Ask for the answers to a batch whose prompts are made.

        Raises:
            RunFailure: If it cannot be asked.
        """
        try:
            asked = cls(places, columns, generator.submit(columns[PROMPTS]))
        except Exception as error:
            raise generation_failure(error) from error
        asked.future.add_done_callback(lambda _: asked.ended.append(time.monotonic()))
        return asked

    @property
    def name(self) -> str:
        """What names the batch for ever."""
        return f"{self.places[0]}+{len(self.places)}"

    def concluded(self, functions: Functions) -> BatchResult:
        """Return the batch with its answers and scores; its future is done.

        Raises:
            RunFailure: If generating failed for all rows, or a function of the user's did.
        """
        try:
            answers = self.future.result(timeout=0)
        except (Exception, CancelledError) as error:
            raise generation_failure(error) from error
        if len(answers) != len(self.places):
            raise RunFailure("GenerationError", f"{len(answers)} answers came to {len(self.places)} prompts")
        good = [position for position, answer in enumerate(answers) if answer.text is not None]
        columns, metrics = self._scored(functions, answers, good)
        return BatchResult(
            places=self.places,
            failed=tuple(place for place, answer in zip(self.places, answers, strict=True) if answer.text is None),
            columns={**columns, ROW: list(self.places)},
            metrics=metrics,
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            latency=sum(answer.seconds for answer in answers),
            seconds=(self.ended or [time.monotonic()])[0] - self.begun,
        )

    def _scored(
        self, functions: Functions, answers: Sequence[Generation], good: Sequence[int]
    ) -> tuple[Columns, Mapping[str, Any]]:
        texts = [answer.text for answer in answers]
        if len(good) == len(answers):
            done = functions.finished({**self.columns, TEXT: texts}, self.name)
            return done, functions.scores(done, self.name)
        columns: Columns = {**self.columns, TEXT: texts}
        metrics: Mapping[str, Any] = {}
        if good:
            answered = {name: [values[position] for position in good] for name, values in columns.items()}
            done = functions.finished(answered, self.name)
            metrics = functions.scores(done, self.name)
            nothing: list[Any] = [None] * len(answers)
            columns |= {name: _spread(values, good, columns.get(name, nothing)) for name, values in done.items()}
        columns[ERROR] = _errors(columns.get(ERROR), answers)
        return columns, metrics


def _spread(values: Sequence[Any], positions: Sequence[int], others: Sequence[Any]) -> list[Any]:
    """Return the values of the answered rows in their places among all rows."""
    spread = list(others)
    for position, value in zip(positions, values, strict=True):
        spread[position] = value
    return spread


def _errors(own: Sequence[Any] | None, answers: Sequence[Generation]) -> list[Any]:
    """Return why rows failed; a column of the user's by that name keeps the values of the others."""
    before = own or [None] * len(answers)
    return [
        before[position] if answer.text is not None else (answer.error or "no answer came")
        for position, answer in enumerate(answers)
    ]


def generation_failure(error: BaseException) -> RunFailure:
    """Return what stopped a generator as the failure of the attempt.

    Raises:
        BaseException: `error` itself, if it is about memory, disk or device.
    """
    if isinstance(error, RunFailure):
        return error
    if is_of_the_machine(error):
        raise error
    return RunFailure("GenerationError", f"generating failed: {last_lines(error)}"[-4096:])
