"""Clients against vLLM's own server in OpenAI's style, directly and through a proxy that adds faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.fault_proxy import Asked, Fault, fault_proxy
from tests.support.openai_server import OpenAiServer, served

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.api import ApiClients, Patience
from rapidfireai_worker.evals.parts import Conversation, Site
from rapidfireai_worker.layout import Volume

__all__ = ["served"]
pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("openai_server")]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[ApiClients]:
    made = ApiClients(Site(Volume(tmp_path)), Patience(attempts=4, first=0.05, longest=0.2))
    yield made
    made.close()


def config(url: str, server: OpenAiServer, **model_config: Any) -> dict[str, Any]:
    return {
        "client_config": {"base_url": url, "api_key": server.key},
        "model_config": {"model": server.model, "temperature": 0, **model_config},
        "max_completion_tokens": 8,
    }


def rows(count: int) -> list[Conversation]:
    return [[{"role": "user", "content": f"What is the sum of {index} and three?"}] for index in range(count)]


def directly(server: OpenAiServer, conversation: Conversation) -> dict[str, Any]:
    body = {"model": server.model, "messages": conversation, "temperature": 0, "max_completion_tokens": 8}
    headers = {"Authorization": f"Bearer {server.key}"}
    answer = httpx.post(f"{server.url}/chat/completions", json=body, headers=headers, trust_env=False, timeout=60)
    found: dict[str, Any] = answer.json()
    return found


def test_answers_and_tokens_are_the_servers(clients: ApiClients, served: OpenAiServer) -> None:
    answers = clients.generator("r1", config(served.url, served), None).submit(rows(6)).result(120)
    for conversation, answer in zip(rows(6), answers, strict=True):
        plain = directly(served, conversation)
        assert answer.text == plain["choices"][0]["message"]["content"]
        assert (answer.prompt_tokens, answer.completion_tokens) == (
            plain["usage"]["prompt_tokens"],
            plain["usage"]["completion_tokens"],
        )


def test_faults_on_the_way_change_no_answer(clients: ApiClients, served: OpenAiServer) -> None:
    faults = [Fault(429, retry_after="0.2"), Fault(503), Fault(cut=True), Fault(seconds=0.3)]

    def script(number: int, asked: Asked) -> Fault:
        return faults[number // 2 % len(faults)] if number % 2 else Fault()

    plain = clients.generator("r1", config(served.url, served), None).submit(rows(8)).result(120)
    with fault_proxy(script, upstream=served.address) as proxy:
        faulty = clients.generator("r2", {**config(proxy.url, served), "rpm_limit": 1000}, None)
        answers = faulty.submit(rows(8)).result(120)
    assert [answer.text for answer in answers] == [answer.text for answer in plain]
    assert len(proxy.asked) > 8


def test_a_prompt_longer_than_the_model_takes_fails_its_row(clients: ApiClients, served: OpenAiServer) -> None:
    long: Conversation = [{"role": "user", "content": "seven " * 1000}]
    answers = clients.generator("r1", config(served.url, served), None).submit([*rows(1), long]).result(120)
    assert (answers[0].error, answers[1].text) == (None, None)
    assert "longer than tiny-llama takes" in (answers[1].error or "")


@pytest.mark.parametrize(
    ("more", "reason", "words"),
    [
        ({"model_config": {"model": "other"}}, "ModelNotFound", "it has tiny-llama"),
        ({"client_config": {"api_key": "sk-wrong-0123456789"}}, "ApiKeyRefused", "client_config.api_key"),
        ({"model_config": {"model": "tiny-llama", "temperature": -1}}, "InvalidConfig", "model_config.temperature"),
    ],
    ids=["model", "key", "field"],
)
def test_what_no_row_escapes_fails_the_run(
    clients: ApiClients, served: OpenAiServer, more: dict[str, Any], reason: str, words: str
) -> None:
    whole = config(served.url, served)
    changed = {**whole, **{part: {**whole[part], **change} for part, change in more.items()}}
    with pytest.raises(RunFailure) as caught:
        clients.generator("r1", changed, None).submit(rows(10)).result(120)
    assert (caught.value.reason, words in caught.value.message, caught.value.retry) == (reason, True, False)
    assert "0123456789" not in caught.value.message
