"""What a model generates on the eval set is measured at evaluations and at chunk boundaries, and disturbs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.cases import CHUNKS, config_of, write_sets
from tests.fit.reference import digest, train
from tests.support.lab import Lab, chat_rows, steady

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.fit.generation import GenerationMetrics, generation_metrics

pytestmark = pytest.mark.ml

SAMPLED = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 5}
OWN = ("exact", "text", "drawn")


def with_metrics(config: dict[str, Any], functions: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    more = {"compute_metrics": functions["compute_metrics"], "generation_config": generation}
    return {**config, "additional_kwargs": more}


@pytest.fixture(autouse=True)
def rows(lab: Lab) -> dict[str, str]:
    lab.chunks = CHUNKS
    return write_sets(lab.root)


@pytest.mark.parametrize("trainer", ["SFT", "DPO", "GRPO"])
def test_a_run_with_generated_metrics_equals_the_program_and_trains_as_without(
    trainer: str, lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    functions = lab.put_bundle(compute_metrics=user_code.answers, letters=user_code.letters)
    config = config_of(f"{trainer} LoRA", tiny_model)
    rewards = [user_code.letters] if trainer == "GRPO" else None
    if rewards:
        config["training_args"].pop("reward_weights")
    given = with_metrics(config, functions, SAMPLED) | ({"reward_funcs": functions["letters"]} if rewards else {})
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    boundaries = engine.prepare(lab.job("run", given)).boundaries
    for chunk in range(len(boundaries)):
        outcome = lab.chunk(engine, "run", given, chunk)
        assert {f"boundary/{name}" for name in OWN} <= outcome.metrics.keys()
        engine.evict("run-uid")

    spec = {"seed": 42, **rows}
    measured = {**config, "additional_kwargs": {"generation_config": SAMPLED}}
    weights, history = train(
        {**spec, "config": measured, "output_dir": str(lab.root / "measured")},
        compute_metrics=user_code.answers,
        reward_funcs=rewards,
    )
    assert lab.history("run") == steady(history)
    assert digest(lab.model("run")) == weights
    evaluated = [line for line in lab.history("run") if "eval_loss" in line]
    assert evaluated and all(name in line for name in OWN for line in evaluated)

    plain = train({**spec, "config": config, "output_dir": str(lab.root / "without")}, reward_funcs=rewards)
    without = [{name: value for name, value in line.items() if name not in OWN} for line in lab.history("run")]
    assert (without, digest(lab.model("run"))) == (steady(plain[1]), plain[0])


def test_a_boundary_that_is_an_evaluation_measures_the_same(lab: Lab, tiny_model: Path) -> None:
    functions = lab.put_bundle(compute_metrics=user_code.answers)
    config = with_metrics(config_of("SFT full", tiny_model), functions, SAMPLED)
    config["training_args"] = {**config["training_args"], "eval_steps": 1}
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    outcome = lab.chunk(engine, "run", config, 0)
    line = [line for line in lab.history("run") if "text" in line][-1]
    assert line["step"] == outcome.step
    assert {name: outcome.metrics[f"boundary/{name}"] for name in OWN} == {name: line[name] for name in OWN}


def test_a_metric_that_raises_fails_the_run_at_the_users_line(lab: Lab, tiny_model: Path) -> None:
    functions = lab.put_bundle(compute_metrics=user_code.raising)
    config = with_metrics(config_of("SFT LoRA", tiny_model), functions, {"max_new_tokens": 1})
    with pytest.raises(RunFailure) as failure:
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), "run", config, 0)
    assert failure.value.reason == "UserCodeError"
    assert "compute_metrics raised TypeError" in failure.value.message
    assert "user_code.py:" in failure.value.message


CHAT = [{"role": "user", "content": "1+1?"}]
ANSWER = [{"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("row", "prompt", "reference"),
    [
        ({"input": "a", "output": "b"}, "a", "b"),
        ({"prompt": "a", "completion": "b", "input": "", "output": "x"}, "a", "b"),
        ({"prompt": CHAT, "completion": ANSWER}, CHAT, "2"),
        ({"text": "a", "response": "b", "instruction": "c"}, "a", "b"),
        ({"text": "a", "instruction": "c"}, "a", "c"),
        ({"instruction": "a", "response": "b"}, "a", "b"),
        ({"prompt": CHAT, "chosen": ANSWER, "rejected": CHAT}, CHAT, "2"),
        ({"chosen": CHAT + ANSWER, "rejected": [*CHAT, {"role": "assistant", "content": "3"}]}, CHAT, "2"),
        ({"messages": CHAT + ANSWER}, CHAT, "2"),
        ({"prompt": "a", "answer": 5}, "a", "5"),
    ],
)
def test_each_documented_shape_of_rows_has_a_prompt_and_a_reference(
    row: dict[str, Any], prompt: Any, reference: str
) -> None:
    (example,) = made_of({"max_new_tokens": 2}, [row]).examples
    assert (example.prompt, example.reference) == (prompt, reference)


def made_of(given: dict[str, Any], rows: list[dict[str, Any]] | None) -> GenerationMetrics:
    made = generation_metrics(given, Guarded(user_code.answers, "compute_metrics"), rows)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("given", "rows", "message"),
    [
        ({"max_new_token": 3}, [], "generation_config.max_new_token: unknown; did you mean max_new_tokens?"),
        ({"max_time": 3.0}, [], "generation_config.max_time: ends by the clock"),
        ({"num_return_sequences": 2}, [], "generation_config.num_return_sequences: compute_metrics gets one"),
        ({"max_input_length": 0}, [], "generation_config.max_input_length: must be a whole number from 1 up, not 0"),
        ({"truncation_side": "top"}, [], "generation_config.truncation_side: must be left or right, not 'top'"),
        ({"add_generation_prompt": 1}, [], "generation_config.add_generation_prompt: must be true or false, not 1"),
        ({"max_new_tokens": -1}, [], "generation_config: "),
        ({}, None, "generation_config: generates on the eval set, and there is none; give an eval data set"),
        ({}, [{"text": "a"}], "data.eval: generation_config needs rows with prompt and completion; "),
        ({}, [{"input": "", "output": "a"}], "data.eval: row 0 has an empty prompt"),
    ],
)
def test_what_cannot_be_generated_is_named(
    given: dict[str, Any], rows: list[dict[str, Any]] | None, message: str
) -> None:
    with pytest.raises(RunFailure) as failure:
        made_of(given, rows)
    assert message in failure.value.message


def test_without_a_function_to_judge_it_nothing_is_generated() -> None:
    with pytest.raises(RunFailure, match="generation_config: is for compute_metrics"):
        generation_metrics({}, None, chat_rows(1))
    assert generation_metrics(None, None, None) is None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "returned float; return a mapping of names to numbers"),
        ({"texts": ["a"]}, "returned no number; return a mapping"),
        ({"loss": 1.0}, "named a metric loss, which is what the trainer logs for itself"),
    ],
)
def test_what_is_no_metric_is_named(returned: Any, message: str, lab: Lab, tiny_model: Path) -> None:
    functions = lab.put_bundle(compute_metrics=lambda pair: returned)
    config = with_metrics(config_of("SFT LoRA", tiny_model), functions, {"max_new_tokens": 1})
    config["training_args"] = {**config["training_args"], "eval_on_start": True}
    with pytest.raises(RunFailure) as failure:
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), "run", config, 0)
    assert f"compute_metrics {message}" in failure.value.message


def test_prompts_are_cut_and_opened_as_the_extra_keys_say(lab: Lab, tiny_model: Path) -> None:
    functions = lab.put_bundle(compute_metrics=user_code.answers)
    engine = FitEngine(lab.volume, lab.claims, threads=1)

    def tokens_with(**extra: Any) -> list[int]:
        config = with_metrics(config_of("SFT LoRA", tiny_model), functions, {"max_new_tokens": 1, **extra})
        engine.prepare(lab.job("run", config))
        trainer = engine.sessions["run-uid"].trainer
        engine.evict("run-uid")
        metrics = trainer._generation
        assert metrics is not None
        return metrics._tokens(trainer.processing_class, metrics.examples[0])

    whole, closed = tokens_with(), tokens_with(add_generation_prompt=False)
    assert closed == whole[: len(closed)] and len(closed) < len(whole)
    assert tokens_with(max_input_length=4) == whole[-4:]
    assert tokens_with(max_input_length=4, truncation_side="right") == whole[:4]
