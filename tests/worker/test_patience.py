"""What is asked again, and what is an answer."""

from __future__ import annotations

import pytest

from rapidfireai_worker import patience
from rapidfireai_worker.kubeapi import Conflict, Forbidden, Refused, Unavailable
from rapidfireai_worker.patience import insist


class Answers:
    """Raises what it was given, one a question, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "yes"


async def test_an_api_server_that_has_just_started_is_asked_again() -> None:
    missed = []
    ask = Answers(Unavailable("no answer"), Forbidden(403, "role not found"), Conflict("changed"))
    assert await insist(ask, lambda: missed.append(1)) == "yes"
    assert len(missed) == 3


async def test_a_refusal_is_an_answer() -> None:
    with pytest.raises(Refused, match="the fence"):
        await insist(Answers(Refused(422, "the fence")))


async def test_a_right_that_stays_missing_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FORBIDDEN_SECONDS", 0.0)
    with pytest.raises(Forbidden, match="role not found"):
        await insist(Answers(Forbidden(403, "role not found")))
