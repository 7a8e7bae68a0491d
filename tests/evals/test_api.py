"""Clients of APIs in OpenAI's style, against one on loopback that fails as it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from tests.support.fault_proxy import KEY, Asked, Fault, FaultProxy, fault_proxy
from tests.support.waiting import wait_for

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.api import ApiClients, Patience
from rapidfireai_worker.evals.generators.api_config import budget_key
from rapidfireai_worker.evals.generators.api_errors import without_keys
from rapidfireai_worker.evals.generators.api_tokens import Estimator, surely
from rapidfireai_worker.evals.parts import Conversation, Site
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.budgets import Terms

QUICK = Patience(attempts=4, first=0.02, longest=0.1)


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[ApiClients]:
    made = ApiClients(Site(Volume(tmp_path)), QUICK)
    yield made
    made.close()


def config(proxy: FaultProxy, **more: Any) -> dict[str, Any]:
    client_config = {"base_url": proxy.url, "api_key": KEY, **more.pop("client_config", {})}
    model_config = {"model": "tiny", **more.pop("model_config", {})}
    return {"client_config": client_config, "model_config": model_config, **more}


def asks(*texts: str) -> list[Conversation]:
    return [[{"role": "system", "content": "echo"}, {"role": "user", "content": text}] for text in texts]


def rows(count: int) -> list[Conversation]:
    return asks(*(f"row {index}" for index in range(count)))


def first_time(number: int, asked: Asked, seen: set[str]) -> bool:
    new = asked.text not in seen
    seen.add(asked.text)
    return new


def test_answers_come_in_the_order_of_the_rows(clients: ApiClients) -> None:
    with fault_proxy(lambda number, asked: Fault(seconds=0.2 if asked.text == "row 1" else 0)) as proxy:
        generator = clients.generator("r1", config(proxy, model_config={"temperature": 0.5}), None)
        answers = generator.submit(rows(20)).result(30)
    assert [answer.text for answer in answers] == [f"echo: row {index}" for index in range(20)]
    assert {(answer.prompt_tokens, answer.completion_tokens, answer.error) for answer in answers} == {(3, 3, None)}
    assert all(answer.seconds > 0 for answer in answers)
    assert {(asked.body["temperature"], asked.body["max_completion_tokens"]) for asked in proxy.asked} == {(0.5, 150)}


def test_rows_are_asked_at_once_and_not_too_many(clients: ApiClients) -> None:
    with fault_proxy(lambda number, asked: Fault(seconds=0 if number == 0 else 2)) as proxy:
        generator = clients.generator("r1", config(proxy), None)
        batches = [generator.submit(rows(50)) for _ in range(2)]
        assert sum(len(batch.result(60)) for batch in batches) == 100
    assert 50 < proxy.most_under_way <= 64
    assert generator.in_flight == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(429), Fault(500), Fault(503), Fault(408), Fault(cut=True), Fault(seconds=3)],
    ids=["429", "500", "503", "408", "cut", "slow"],
)
def test_what_passes_is_tried_again(clients: ApiClients, fault: Fault) -> None:
    seen: set[str] = set()
    with fault_proxy(lambda number, asked: fault if first_time(number, asked, seen) else Fault()) as proxy:
        generator = clients.generator("r1", config(proxy, client_config={"timeout": 0.5}), None)
        answers = generator.submit(rows(4)).result(30)
    assert [answer.text for answer in answers] == [f"echo: row {index}" for index in range(4)]
    assert len(proxy.asked) == 8


def test_retry_after_is_honoured_by_all_rows(clients: ApiClients) -> None:
    def script(number: int, asked: Asked) -> Fault:
        return Fault(429, retry_after="1") if number == 1 else Fault(seconds=0.02)

    with fault_proxy(script) as proxy:
        generator = clients.generator("r1", config(proxy), None)
        assert generator.submit(asks("first")).result(30)[0].text == "echo: first"
        assert generator.submit(asks("second")).result(30)[0].text == "echo: second"
    assert proxy.texts() == ["first", "second", "second"]
    assert proxy.asked[2].at - proxy.asked[1].at >= 1


def test_a_row_that_fails_for_good_has_an_error_and_no_text(clients: ApiClients) -> None:
    def script(number: int, asked: Asked) -> Fault:
        return Fault(503, error={"message": "overloaded"}) if asked.text == "row 2" else Fault()

    with fault_proxy(script) as proxy:
        answers = clients.generator("r1", config(proxy), None).submit(rows(4)).result(30)
    assert [answer.text is None for answer in answers] == [False, False, True, False]
    error = answers[2].error or ""
    assert ("503: overloaded" in error, "tried 4 times" in error) == (True, True)


def test_an_api_that_is_away_fails_rows_and_not_the_run(clients: ApiClients) -> None:
    with fault_proxy() as proxy:
        gone = config(proxy)
    answers = clients.generator("r1", gone, None).submit(rows(8)).result(30)
    assert all(answer.text is None and "was refused" in (answer.error or "") for answer in answers)


def test_a_wrong_key_is_one_failure_of_the_run(clients: ApiClients) -> None:
    wrong = "sk-wrong-abcdefgh-12345678-ijklmnop"
    with fault_proxy() as proxy:
        generator = clients.generator("r1", config(proxy, client_config={"api_key": wrong}), None)
        batches = [generator.submit(rows(40)) for _ in range(3)]
        for batch in batches:
            with pytest.raises(RunFailure) as caught:
                batch.result(30)
            assert (caught.value.reason, caught.value.retry) == ("ApiKeyRefused", False)
            assert "api_config.client_config.api_key" in caught.value.message
            assert not any(part in caught.value.message for part in (wrong, "sk-wrong", wrong[-4:]))
            assert caught.value.__cause__ is None
    assert len(proxy.asked) == 1


def test_a_model_that_the_server_has_not_is_named_beside_those_it_has(clients: ApiClients) -> None:
    with fault_proxy() as proxy:
        generator = clients.generator("r1", config(proxy, model_config={"model": "huge"}), None)
        with pytest.raises(RunFailure, match=r"has no model huge .*it has small, tiny") as caught:
            generator.submit(rows(40)).result(30)
    assert (caught.value.retry, len(proxy.asked)) == (False, 1)


def test_a_quota_that_is_used_up_fails_the_run(clients: ApiClients) -> None:
    spent = Fault(429, error={"code": "insufficient_quota"})
    with fault_proxy(lambda number, asked: spent) as proxy, pytest.raises(RunFailure, match="no quota left"):
        clients.generator("r1", config(proxy), None).submit(rows(10)).result(30)
    assert len(proxy.asked) == 1


def test_a_prompt_that_is_too_long_fails_its_row(clients: ApiClients) -> None:
    error = {"message": "maximum context length is 5 tokens", "code": "context_length_exceeded"}

    def script(number: int, asked: Asked) -> Fault:
        return Fault(400, error=error) if asked.text == "row 1" else Fault()

    with fault_proxy(script) as proxy:
        answers = clients.generator("r1", config(proxy), None).submit(rows(3)).result(30)
    assert [answer.text for answer in answers] == ["echo: row 0", None, "echo: row 2"]
    assert "longer than tiny takes" in (answers[1].error or "")
    assert len(proxy.asked) == 3


def test_a_field_that_the_api_refuses_fails_the_run(clients: ApiClients) -> None:
    fault = Fault(400, error={"message": "must be positive", "param": "temperature"})
    with fault_proxy(lambda number, asked: fault) as proxy:
        generator = clients.generator("r1", config(proxy, model_config={"temperature": -1}), None)
        with pytest.raises(RunFailure, match=r"api_config.model_config.temperature: .*must be positive"):
            generator.submit(rows(4)).result(30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rpm_limit": 0}, "api_config.rpm_limit=0"),
        ({"tpm_limit": 0}, "api_config.tpm_limit=0"),
        ({"model_config": {"model": ""}}, "api_config.model_config.model"),
        ({"model_config": {"stream": True}}, "api_config.model_config.stream"),
        ({"client_config": {"base_urll": "x"}}, "base_urll"),
    ],
)
def test_a_config_of_no_use_is_refused_by_the_fields_name(
    clients: ApiClients, change: dict[str, Any], words: str
) -> None:
    with fault_proxy() as proxy, pytest.raises(RunFailure, match=words) as caught:
        clients.generator("r1", config(proxy, **change), None)
    assert not caught.value.retry


def test_an_argument_that_the_library_does_not_know_fails_the_run(clients: ApiClients) -> None:
    with fault_proxy() as proxy:
        generator = clients.generator("r1", config(proxy, model_config={"temprature": 1}), None)
        with pytest.raises(RunFailure, match="temprature"):
            generator.submit(rows(4)).result(30)
    assert proxy.asked == []


def test_without_a_key_the_field_is_named(clients: ApiClients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with fault_proxy() as proxy, pytest.raises(RunFailure, match=r"api_config\.client_config\.api_key"):
        clients.generator("r1", config(proxy, client_config={"api_key": None}), None)


def test_giving_a_batch_up_ends_its_requests(clients: ApiClients) -> None:
    with fault_proxy(seconds=20) as proxy:
        generator = clients.generator("r1", config(proxy), None)
        future = generator.submit(rows(5))
        wait_for("request under way", lambda: proxy.under_way)
        future.cancel()
        wait_for("end of the requests", lambda: not proxy.under_way)
        with pytest.raises(CancelledError):
            future.result(5)
        generator.close()
    assert len(proxy.asked) == 1


def test_closing_gives_up_what_is_under_way(clients: ApiClients) -> None:
    with fault_proxy(seconds=20) as proxy:
        generator = clients.generator("r1", config(proxy), None)
        future = generator.submit(rows(5))
        wait_for("request under way", lambda: proxy.under_way)
        generator.close()
        with pytest.raises(CancelledError):
            future.result(5)


def test_tries_count_as_requests(tmp_path: Path) -> None:
    """With 6 requests a window, 4 rows that fail once take two windows."""
    terms = Terms(window=2.0, lease=0.4, slack=1.0, portion=0.5)
    seen: set[str] = set()
    clients = ApiClients(Site(Volume(tmp_path)), QUICK, terms)
    with fault_proxy(lambda number, asked: Fault(500 if first_time(number, asked, seen) else 0)) as proxy:
        generator = clients.generator("r1", config(proxy, rpm_limit=6), None)
        answers = generator.submit(rows(4)).result(60)
        clients.close()
    assert all(answer.text for answer in answers)
    assert (len(proxy.asked), proxy.most_in(2.0) <= 6) == (8, True)
    assert proxy.asked[-1].at - proxy.asked[0].at >= 2


def test_a_row_larger_than_the_limit_of_tokens_fails_alone(clients: ApiClients) -> None:
    with fault_proxy() as proxy:
        generator = clients.generator("r1", config(proxy, tpm_limit=1000, max_completion_tokens=10), None)
        answers = generator.submit(asks("short", "word " * 2000)).result(30)
    assert (answers[0].text, answers[1].text) == ("echo: short", None)
    assert "tpm_limit is 1000" in (answers[1].error or "")


def test_runs_of_a_process_share_a_budget(tmp_path: Path) -> None:
    terms = Terms(window=2.0, lease=0.4, slack=1.0)
    clients = ApiClients(Site(Volume(tmp_path)), QUICK, terms)
    with fault_proxy() as proxy:
        generators = [clients.generator(f"r{i}", config(proxy, rpm_limit=20), None) for i in range(2)]
        begun = time.monotonic()
        batches = [generator.submit(rows(20)) for generator in generators]
        assert all(answer.text for batch in batches for answer in batch.result(60))
        clients.close()
    assert (len(proxy.asked), proxy.most_in(2.0) <= 20) == (40, True)
    assert time.monotonic() - begun >= 2


def test_an_estimate_is_a_bound_that_answers_narrow() -> None:
    estimator = Estimator()
    conversation = asks("a longer question of several words, some naïve")[0]
    size = len("echo") + len("a longer question of several words, some naïve".encode())
    assert size < estimator.estimate(conversation) <= size + 50
    estimator.learn(conversation, 20)
    assert 20 <= estimator.estimate(conversation) <= 23 + 48
    assert surely(conversation) <= 20
    assert estimator.estimate([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]) > 100


def test_budgets_are_told_apart_by_address_and_model() -> None:
    keys = {
        budget_key(url, model)
        for url in ("https://api.example.com/v1", "http://127.0.0.1:8000/v1")
        for model in ("org/Model-1", "org_model-1")
    }
    assert len(keys) == 4
    assert budget_key("https://api.example.com/v1/", "m") == budget_key("https://api.example.com/v1", "m")
    assert budget_key("https://api.example.com/v1", "org/Model-1").startswith("api.example.com-org-model-1-")


@pytest.mark.parametrize(
    "words",
    [
        "no key abcdefgh-secret-1234",
        "masked abcd****1234 here",
        "part fgh-secret of it",
        "Bearer eyJhbGciOi.eyJzdWIiOiJ",
    ],
)
def test_no_part_of_a_key_is_told(words: str) -> None:
    told = without_keys(words, ("abcdefgh-secret-1234",), {})
    assert not any(part in told for part in ("fgh-secret", "abcd", "1234"))
