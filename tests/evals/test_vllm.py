"""A real vLLM engine with a tiny model: what runs get from it, how they share it, and what becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support import smollm2
from tests.support.waiting import wait_for
from transformers import AutoTokenizer

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.parts import Generation, Generator, Site
from rapidfireai_worker.layout import Volume

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("vllm")]

QUESTIONS = ["What is the sum of two and three?", "hi", "number equals", "the lazy dog", "0123"]
TOKENS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2.served_tiny_model(tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="module")
def adapters(model: Path) -> list[Path]:
    return [smollm2.write_adapter(model, model.parent / f"adapter-{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def readable(model: Path) -> list[int]:
    """Tokens that are whole characters: others are shown as they are cut."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = {token: tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))}
    return [token for token, text in texts.items() if text.isascii() and text.isprintable() and text]


@pytest.fixture(scope="module")
def killed(model: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which goes its way while the other tests run."""
    command = [sys.executable, "-m", "tests.support.vllm_worker", str(model)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "."}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        yield worker
        worker.kill()


@pytest.fixture(scope="module")
def engines(model: Path, killed: subprocess.Popen[str]) -> Iterator[Any]:
    from rapidfireai_worker.evals.generators.vllm import VllmEngines

    engines = VllmEngines(Site(Volume(model.parent), threads=1))
    yield engines
    engines.close()


@pytest.fixture(scope="module")
def config(model: Path, readable: list[int]) -> dict[str, Any]:
    return {
        "model_config": {"model": str(model), "max_model_len": 256, "enable_lora": True, "max_num_seqs": 32},
        "sampling_params": {"temperature": 0, "max_tokens": TOKENS, "allowed_token_ids": readable},
    }


def sampling(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**config, "sampling_params": {**config["sampling_params"], **changes}}


def asked(*questions: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": question}] for question in questions]


def answers(generator: Generator, *questions: str) -> list[Generation]:
    return generator.submit(asked(*questions)).result(timeout=300)


def texts(generator: Generator, *questions: str) -> list[str | None]:
    return [answer.text for answer in answers(generator, *questions)]


def engine_processes() -> set[int]:
    """Return the processes of the engines of this process, which that of the worker that is killed is not."""
    cores = [each for each in psutil.Process().children() if "EngineCore" in each.name()]
    return {each.pid for core in cores for each in (core, *core.children(recursive=True))}


def test_greedy_answers_are_those_of_transformers(
    engines: Any, config: dict[str, Any], model: Path, readable: list[int]
) -> None:
    environment, handlers = dict(os.environ), [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    generator = engines.generator("run", config, None)
    assert dict(os.environ) == environment
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    given = answers(generator, *QUESTIONS)
    assert [answer.text for answer in given] == [
        smollm2.greedy(model, conversation, TOKENS, readable) for conversation in asked(*QUESTIONS)
    ]
    tokenizer = AutoTokenizer.from_pretrained(model)
    for answer, conversation in zip(given, asked(*QUESTIONS), strict=True):
        prompt = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
        assert (answer.error, answer.prompt_tokens) == (None, len(prompt["input_ids"]))
        assert 0 < answer.completion_tokens <= TOKENS
        assert answer.seconds > 0
    assert engines.used_bytes() > 100 << 20


def test_runs_share_an_engine_and_keep_their_own_sampling_parameters(engines: Any, config: dict[str, Any]) -> None:
    short = engines.generator("short", sampling(config, max_tokens=3, ignore_eos=True), None)
    processes = engine_processes()
    long = engines.generator("long", sampling(config, max_tokens=9, ignore_eos=True), None)
    assert engine_processes() == processes
    batches = [generator.submit(asked(*QUESTIONS)) for generator in (short, long, short, long)]
    written = [{answer.completion_tokens for answer in batch.result(timeout=300)} for batch in batches]
    assert written == [{3}, {9}, {3}, {9}]


def test_a_seed_makes_sampling_reproducible(engines: Any, config: dict[str, Any]) -> None:
    seeded = [engines.generator("run", sampling(config, temperature=2.0, seed=seed), None) for seed in (1, 2)]
    first = texts(seeded[0], *QUESTIONS)
    assert texts(seeded[0], *reversed(QUESTIONS)) == first[::-1]
    assert texts(seeded[1], *QUESTIONS) != first


def test_prompts_may_be_texts_which_get_no_chat_template(engines: Any, config: dict[str, Any], model: Path) -> None:
    (answer,) = engines.generator("run", config, None).submit(["the lazy dog"]).result(timeout=300)
    assert answer.text
    assert answer.prompt_tokens == len(AutoTokenizer.from_pretrained(model)("the lazy dog")["input_ids"])


def test_a_prompt_that_is_too_long_fails_alone(engines: Any, config: dict[str, Any]) -> None:
    good, bad, last = answers(engines.generator("run", config, None), "hi", "number " * 400, "0123")
    assert good.text
    assert last.text
    assert bad.text is None
    assert bad.error is not None
    assert "tokens, and with its answer the model takes 256; shorten it, or raise" in bad.error


def test_what_is_no_conversation_fails_alone(engines: Any, config: dict[str, Any]) -> None:
    batch: Any = [*asked("hi"), [{"content": "no role"}], [], *asked("0123")]
    good, bad, _, last = engines.generator("run", config, None).submit(batch).result(timeout=300)
    assert good.text
    assert last.text
    assert bad.text is None
    assert bad.error


def test_batches_are_answered_side_by_side(engines: Any, config: dict[str, Any]) -> None:
    generator = engines.generator("run", sampling(config, max_tokens=200, ignore_eos=True), None)
    long = generator.submit(asked(*QUESTIONS))
    short = engines.generator("short", sampling(config, max_tokens=1), None).submit(asked("hi"))
    short.result(timeout=300)
    assert not long.done()
    assert generator.in_flight == -(-32 // len(QUESTIONS)) + 1  # as many batches as fill the engine, and one more
    long.result(timeout=300)


def test_closing_a_generator_gives_up_what_is_under_way(engines: Any, config: dict[str, Any]) -> None:
    generator = engines.generator("run", sampling(config, max_tokens=200, ignore_eos=True), None)
    future = generator.submit(asked(*QUESTIONS))
    generator.close()
    with pytest.raises(CancelledError):
        future.result(timeout=300)
    assert texts(engines.generator("next", config, None), "hi")


def test_adapters_answer_as_in_transformers_and_share_the_engine(
    engines: Any, config: dict[str, Any], model: Path, adapters: list[Path], readable: list[int]
) -> None:
    processes = engine_processes()
    base = texts(engines.generator("base", config, None), *QUESTIONS)
    generators = [engines.generator(f"run-{path.name}", config, str(path)) for path in adapters]
    batches = [generator.submit(asked(*QUESTIONS)) for generator in generators]
    given = [[answer.text for answer in batch.result(timeout=300)] for batch in batches]
    assert given == [
        [smollm2.greedy(model, conversation, TOKENS, readable, path) for conversation in asked(*QUESTIONS)]
        for path in adapters
    ]
    assert base != given[0] != given[1] != base
    assert engine_processes() == processes


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"sampling_params": {"temperature": -1}}, "InvalidConfig", r"sampling_params: vLLM refuses them: temperature"),
        ({"sampling_params": {"max_tokns": 1}}, "InvalidConfig", r"max_tokns: unknown .*; did you mean max_tokens\?"),
        ({"model_config": {"max_model_length": 1}}, "InvalidConfig", r"did you mean max_model_len\?"),
        ({"model_config": {"dtype": "float13"}}, "InvalidConfig", r"(?s)model_config: vLLM refuses it: .*dtype"),
    ],
)
def test_a_config_that_vllm_refuses_fails_its_run_and_no_other(
    engines: Any, config: dict[str, Any], changes: dict[str, Any], reason: str, message: str
) -> None:
    bad = {**config, **{name: {**config[name], **change} for name, change in changes.items()}}
    processes = engine_processes()
    with pytest.raises(RunFailure, match=message) as failure:
        engines.generator("bad", bad, None)
    assert failure.value.reason == reason
    assert engine_processes() == processes


def test_an_adapter_of_another_model_is_refused(
    engines: Any, config: dict[str, Any], tmp_path: Path, model: Path
) -> None:
    other = smollm2.served_tiny_model(tmp_path / "other", intermediate_size=64)
    adapter = smollm2.write_adapter(other, tmp_path / "adapter", seed=1)
    with pytest.raises(RunFailure, match=r"vllm_config.adapter: vLLM refuses") as failure:
        engines.generator("bad", config, str(adapter))
    assert failure.value.reason == "InvalidConfig"
    assert texts(engines.generator("next", config, None), "hi")


def test_another_engine_config_takes_the_place_of_the_first(engines: Any, config: dict[str, Any]) -> None:
    first = engine_processes()
    other = {**config, "model_config": {**config["model_config"], "max_model_len": 128, "enable_lora": False}}
    generator = engines.generator("other", other, None)
    _, bad = answers(generator, "hi", "number " * 40 + "0123456789" * 12)
    assert bad.error is not None
    assert "the model takes 128" in bad.error
    assert first
    assert not first & engine_processes()


def test_a_dead_engine_fails_its_run_and_a_killed_worker_leaves_no_orphans(killed: subprocess.Popen[str]) -> None:
    up = _said(killed, "up")
    died = _said(killed, "died")
    assert (died["reason"], died["blame"], died["retry"]) == ("EngineDied", "Run", True)
    assert "the next try gets a new one" in died["message"]
    again = _said(killed, "up again")
    assert (again["error"], again["tokens"]) == (None, 200)
    assert len(again["pids"]) == len(up["pids"]) == 3  # the engine, its device's process and Python's resource tracker
    killed.kill()
    wait_for("end of the engine", lambda: not any(_runs(pid) for pid in again["pids"]), 30)


def _said(worker: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            assert said["event"] == event
            return said
    raise AssertionError(f"the worker ended before it said {event!r}")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
