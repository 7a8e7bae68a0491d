"""What cannot be trained is named, with the field and the fix, before or at the step where it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.cases import ARGUMENTS, config_of, write_sets
from tests.support.lab import Lab, write_rows
from tests.support.tiny import write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = pytest.mark.ml


@pytest.fixture(autouse=True)
def chunks(lab: Lab) -> None:
    lab.chunks = 1
    write_sets(lab.root)


@pytest.fixture
def engine(lab: Lab) -> FitEngine:
    return FitEngine(lab.volume, lab.claims, threads=1)


def failure_of(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> RunFailure:
    with pytest.raises(RunFailure) as failure:
        engine.prepare(lab.job("run", config))
    assert failure.value.blame == "Run"
    return failure.value


def with_arguments(config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return {**config, "training_args": {**config["training_args"], **arguments}}


@pytest.mark.parametrize(
    ("trainer", "row", "message"),
    [
        (
            "SFT",
            {"left": 1},
            "data.train: rows have the columns ['left']; without a formatting_func they need",
        ),
        ("DPO", {"prompt": "a"}, "data.train: DPO needs rows with chosen and rejected, and these have the columns"),
        ("GRPO", {"question": "a"}, "data.train: GRPO needs rows with prompt, and these have the columns ['question']"),
    ],
)
def test_rows_of_the_wrong_shape_are_refused_with_the_columns_that_are_needed(
    trainer: str, row: dict[str, Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    write_rows(lab.root / "train.jsonl", [row] * 8)
    config = config_of(f"{trainer} LoRA", tiny_model)
    if trainer == "GRPO":
        config["reward_funcs"] = lab.put_bundle(letters=user_code.letters)["letters"]
    failure = failure_of(engine, lab, with_arguments(config, reward_weights=None) if trainer == "GRPO" else config)
    assert (failure.reason, message in failure.message) == ("DatasetUnreadable", True), failure.message


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda row: {"left": 1},
            "data.train: SFT needs rows with messages, prompt and completion, or text",
        ),
        (lambda row: None, "formatting_func returned NoneType, not a row; return a dict of columns"),
        (lambda row: "text", "formatting_func returned str, not a row; return a dict of columns"),
    ],
)
def test_a_formatting_function_that_makes_no_rows_is_named(
    function: Callable[..., Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    write_rows(lab.root / "train.jsonl", [{"number": 1}] * 8)
    functions = lab.put_bundle(formatting_func=function)
    failure = failure_of(engine, lab, {**config_of("SFT LoRA", tiny_model), "additional_kwargs": functions})
    assert message in failure.message


def test_another_text_column_may_be_named(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    for name in ("train", "eval"):
        write_rows(lab.root / f"{name}.jsonl", [{"story": "one two three"}] * 8)
    engine.prepare(lab.job("run", with_arguments(config_of("SFT LoRA", tiny_model), dataset_text_field="story")))


def folder_without(tokens: list[str], root: Path) -> Path:
    folder = write_tiny_model(root)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in tokens:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(engine: FitEngine, lab: Lab) -> None:
    config = config_of("SFT LoRA", folder_without(["pad_token"], lab.root / "model"))
    engine.prepare(lab.job("run", config))
    tokenizer = engine.sessions["run-uid"].trainer.processing_class
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_a_tokenizer_with_nothing_to_pad_with_says_so(engine: FitEngine, lab: Lab) -> None:
    folder = folder_without(["pad_token", "eos_token"], lab.root / "model")
    config = config_of("DPO LoRA", folder)
    assert "tokenizer: it has no pad token, and no end token" in failure_of(engine, lab, config).message
    lab.put_bundle(create_model_fn=plain_loading)
    assert "set tokenizer.pad_token in create_model_fn" in failure_of(engine, lab, config).message


def plain_loading(config: dict[str, Any]) -> tuple[Any, Any]:
    name = config["model_name"]
    return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda config: None, "create_model_fn returned NoneType; return a transformers model and its tokenizer"),
        (lambda config: plain_loading(config)[0], "create_model_fn returned LlamaForCausalLM; return"),
        (lambda config: plain_loading(config)[::-1], "create_model_fn returned (TokenizersBackend, LlamaForCausalLM);"),
        (lambda config: ("model", "tokenizer"), "create_model_fn returned (str, str); return"),
    ],
)
def test_a_create_model_fn_that_returns_something_else_is_named(
    create: Callable[..., Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    lab.put_bundle(create_model_fn=create)
    failure = failure_of(engine, lab, config_of("SFT LoRA", tiny_model))
    assert (failure.reason, message in failure.message) == ("UserCodeError", True), failure.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_generations": 3}, "Write a num_generations that divides per_device_train_batch_size x"),
        (
            {"per_device_eval_batch_size": 6, "eval_strategy": "no"},
            "training_args.per_device_eval_batch_size: 6 is",
        ),
        ({"per_device_train_batch_size": 64}, "data.train: 11 rows are too few: GRPO takes 32 prompts at a time"),
    ],
)
def test_groups_that_do_not_come_out_even_are_named(
    arguments: dict[str, Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    rewards = lab.put_bundle(letters=user_code.letters, length=user_code.length)
    config = {**config_of("GRPO LoRA", tiny_model), "reward_funcs": list(rewards.values())}
    assert message in failure_of(engine, lab, with_arguments(config, **arguments)).message


def test_rows_that_make_no_batch_are_refused_and_fewer_than_a_batch_train(
    engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    few = with_arguments(config_of("SFT LoRA", tiny_model), per_device_train_batch_size=16, max_steps=-1)
    failure = failure_of(engine, lab, with_arguments(few, dataloader_drop_last=True))
    assert failure.message.startswith("data.train: 11 rows make no batch of 16")
    lab.finish(engine, "run", with_arguments(few, num_train_epochs=1))
    assert lab.checkpoints["run"].step == 1


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions, **more: [1.0], "reward function <lambda> returned 1 rewards for 8 completions"),
        (lambda completions, **more: None, "reward function <lambda> returned NoneType, not a list"),
        (
            lambda completions, **more: [None] * len(completions),
            "returned None for a completion that no other",
        ),
    ],
)
def test_rewards_that_are_no_number_for_each_completion_end_the_run(
    reward: Callable[..., Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    config = {**config_of("GRPO LoRA", tiny_model), "reward_funcs": lab.put_bundle(reward=reward)["reward"]}
    with pytest.raises(RunFailure) as failure:
        lab.chunk(engine, "run", with_arguments(config, reward_weights=None, max_completion_length=2), 0)
    assert (failure.value.reason, message in failure.value.message) == ("UserCodeError", True), failure.value.message


@pytest.mark.parametrize("trainer", ARGUMENTS)
def test_a_loss_that_is_lost_ends_the_run_at_that_step(
    trainer: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    config = config_of(f"{trainer} full", tiny_model)
    if trainer == "GRPO":
        rewards = lab.put_bundle(letters=user_code.letters, length=user_code.length)
        config["reward_funcs"] = list(rewards.values())
    wild = {"learning_rate": 1e30, "max_grad_norm": 0.0, "optim": "sgd", "warmup_steps": 0, "logging_steps": 100}
    with pytest.raises(RunFailure) as failure:
        lab.chunk(engine, "run", with_arguments(config, **wild), 0)
    assert failure.value.reason == "NonFiniteLoss"
    step = 2 if trainer == "GRPO" else 3  # GRPO fails before, as it generates
    assert f"the weights are not finite any more at step {step} (learning_rate 1e+30)" in failure.value.message
    assert trainer == "GRPO" or "the loss was not finite for the first time at step 3" in failure.value.message
    assert engine.holdings().residents == {}


def test_a_trainer_that_stops_by_itself_is_no_chunk_that_ended(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    config = config_of("SFT LoRA", tiny_model)
    engine.prepare(lab.job("run", config))
    trainer = engine.sessions["run-uid"].trainer

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_training_stop = state.global_step >= 2

    trainer.add_callback(Stop())
    with pytest.raises(RunFailure, match="training ended by itself at step 2 of 8"):
        lab.chunk(engine, "run", config, 0)
