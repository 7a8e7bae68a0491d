"""DPO and GRPO runs that were chunked, parked and restored are the plain TRL runs, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fit.reference import digest, train
from tests.fit.user_code import length, letters
from tests.support.lab import Lab, chat_rows, steady, write_rows

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.fit.rewards import reward_functions

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("preferences")]

ADAPTER = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
PEFT = {**ADAPTER, "task_type": "CAUSAL_LM"}
PAIRS = {
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "disable_dropout": False,
}
GROUPS = {
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "num_iterations": 2,
    "gradient_accumulation_steps": 2,
    "beta": 0.04,
    "logging_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "dpo": {"trainer_type": "DPO", "peft_params": PEFT, "training_args": {**PAIRS, "beta": 0.1}},
    "dpo-beta": {"trainer_type": "DPO", "peft_params": PEFT, "training_args": {**PAIRS, "beta": 0.5}},
    "dpo-full": {"trainer_type": "DPO", "training_args": {**PAIRS, "learning_rate": 1e-3}},
    "grpo": {"trainer_type": "GRPO", "peft_params": PEFT, "training_args": {**GROUPS, "reward_weights": [1.0, 0.5]}},
    "grpo-larger-generations": {
        "trainer_type": "GRPO",
        "peft_params": PEFT,
        "training_args": {**GROUPS, "gradient_accumulation_steps": 1, "steps_per_generation": 4, "num_iterations": 1},
    },
}
Compare = Callable[[Lab, str], None]


def write_sets(root: Path, trainer_type: str) -> dict[str, str]:
    rows: list[dict[str, Any]] = chat_rows(14)
    if trainer_type == "DPO":
        wrong = [{"role": "assistant", "content": "I do not know."}]
        rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": wrong} for row in rows]
    else:
        rows = [{"prompt": row["prompt"]} for row in rows]
    return {
        "train": str(write_rows(root / "train.jsonl", rows[:11])),
        "eval": str(write_rows(root / "eval.jsonl", rows[11:])),
    }


def config_of(name: str, tiny_model: Path, lab: Lab) -> dict[str, Any]:
    config = {**CONFIGS[name], "model_name": str(tiny_model)}
    if config["trainer_type"] == "GRPO":
        config["reward_funcs"] = list(lab.put_bundle(letters=letters, length=length).values())
    return config


@pytest.fixture
def compare(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Compare:
    def compare(lab: Lab, name: str) -> None:
        config = {**CONFIGS[name], "model_name": str(tiny_model)}
        root = tmp_path_factory.mktemp("plain")
        spec = {
            "config": config,
            "seed": 42,
            "output_dir": str(root / name),
            **write_sets(root, config["trainer_type"]),
        }
        functions: list[Any] | None = [letters, length] if config["trainer_type"] == "GRPO" else None
        weights, history = train(spec, reward_funcs=functions)
        assert lab.history(name) == steady(history)
        assert digest(lab.model(name)) == weights

    return compare


@pytest.mark.parametrize("names", [("dpo", "dpo-beta", "dpo-full"), ("grpo", "grpo-larger-generations")])
def test_interleaved_runs_equal_plain_ones(
    names: tuple[str, ...], lab: Lab, tiny_model: Path, compare: Compare
) -> None:
    write_sets(lab.root, CONFIGS[names[0]]["trainer_type"])
    configs = {name: config_of(name, tiny_model, lab) for name in names}
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    for chunk in range(6):
        for name, config in configs.items():
            outcome = lab.chunk(engine, name, config, chunk)
            assert "boundary/eval_loss" in outcome.metrics
    for name in names:
        compare(lab, name)


@pytest.mark.parametrize("name", ["dpo-beta", "grpo-larger-generations"])
def test_runs_restored_at_every_chunk_equal_plain_ones(name: str, lab: Lab, tiny_model: Path, compare: Compare) -> None:
    write_sets(lab.root, CONFIGS[name]["trainer_type"])
    config = config_of(name, tiny_model, lab)
    for chunk in range(6):
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), name, config, chunk)
    compare(lab, name)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_a_run_parked_after_each_log_and_restored_equals_the_plain_one(
    name: str, lab: Lab, tiny_model: Path, compare: Compare
) -> None:
    write_sets(lab.root, CONFIGS[name]["trainer_type"])
    config, engine = config_of(name, tiny_model, lab), FitEngine(lab.volume, lab.claims, threads=1)
    parked = []
    for chunk, boundary in enumerate(engine.prepare(lab.job(name, config)).boundaries):
        step = -1
        while step < boundary:
            step = lab.chunk(engine, name, config, chunk, lambda control, step: control.park.set()).step
            engine.evict(f"{name}-uid")
            parked.append(step)
    assert any(step % 2 for step in parked), "GRPO's completions of two steps were never in use"
    compare(lab, name)


@pytest.mark.parametrize("compat", [None, {"force_use_ref_model": True}])
def test_a_reference_model_of_its_own_equals_the_plain_program_with_one(
    compat: dict[str, bool] | None, lab: Lab, tiny_model: Path, tmp_path: Path
) -> None:
    named = {"ref_model_config": {"model_name": str(tiny_model)}}
    config = {**CONFIGS["dpo"], "model_name": str(tiny_model)}
    rows = write_sets(lab.root, "DPO")
    given = {**config, **(named if compat is None else {"compat": compat})}
    for chunk in range(6):
        engine = FitEngine(lab.volume, lab.claims, threads=1)
        lab.chunk(engine, "dpo", given, chunk)
        trainer = engine.sessions["dpo-uid"].trainer
        assert trainer.ref_model is not None
        base = engine.sessions["dpo-uid"].base.model
        shared = {weight.data_ptr() for weight in base.parameters()}
        loaded = {weight.data_ptr() for weight in trainer.ref_model.parameters()}
        assert compat is None or loaded <= shared
    spec = {"config": {**config, **named}, "seed": 42, "output_dir": str(tmp_path / "plain"), **rows}
    weights, history = train(spec)
    assert (digest(lab.model("dpo")), lab.history("dpo")) == (weights, steady(history))


def test_lengths_that_trl_no_longer_has_cut_prompts_and_answers(lab: Lab, tiny_model: Path) -> None:
    compat = {"max_prompt_length": 5, "max_completion_length": 3, "ref_adapter_name": "reference"}
    config = {**CONFIGS["dpo"], "model_name": str(tiny_model)}
    write_sets(lab.root, "DPO")
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    engine.prepare(lab.job("whole", config))
    engine.prepare(lab.job("cut", {**config, "compat": compat}))
    whole, cut = (engine.sessions[f"{name}-uid"].trainer.train_dataset for name in ("whole", "cut"))
    for full, row in zip(whole, cut, strict=True):
        assert row["prompt_ids"] == full["prompt_ids"][-5:]
        assert row["chosen_ids"] == full["chosen_ids"][:3]
        assert row["rejected_ids"] == full["rejected_ids"][:3]


def test_a_longest_prompt_cuts_what_grpo_generates_from(lab: Lab, tiny_model: Path) -> None:
    write_sets(lab.root, "GRPO")
    config = {**config_of("grpo", tiny_model, lab), "compat": {"max_prompt_length": 4}}
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    lab.chunk(engine, "grpo", config, 0)
    (batch, *_) = engine.sessions["grpo-uid"].trainer._buffered_inputs
    assert batch["prompt_ids"].shape[1] == 4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dpo", {"training_args": {"sync_ref_model": True}}, "sync_ref_model"),
        ("dpo", {"compat": {"max_prompt_length": 0}}, "max_prompt_length: must be a whole number"),
        ("dpo-full", {"compat": {"ref_adapter_name": "reference"}}, "there is no adapter to name"),
        ("dpo", {"ref_model_config": {"model_name": "/none"}}, "/none is not a folder"),
        ("grpo", {"reward_funcs": None}, "reward_funcs: missing"),
        ("grpo", {"training_args": {"num_generations": 3}}, "divisible by"),
        ("dpo", {"trainer_type": "PPO"}, "'PPO' is unknown; write SFT, DPO, GRPO"),
    ],
)
def test_what_cannot_work_is_named(name: str, change: dict[str, Any], message: str, lab: Lab, tiny_model: Path) -> None:
    write_sets(lab.root, CONFIGS[name]["trainer_type"])
    config = {**config_of(name, tiny_model, lab), **change}
    with pytest.raises(RunFailure, match=message):
        FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("run", config))


def test_rows_without_what_the_trainer_needs_are_refused(lab: Lab, tiny_model: Path) -> None:
    config = {**CONFIGS["dpo"], "model_name": str(tiny_model)}
    with pytest.raises(RunFailure, match="DPO needs rows with chosen and rejected"):
        FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("dpo", config))


def test_reward_functions_are_called_with_both_spellings() -> None:
    def old(completions: list[str], completions_ids: list[list[int]]) -> list[int]:
        return [len(ids) for ids in completions_ids]

    def new(completion_ids: list[list[int]], **more: Any) -> list[int]:
        return [len(ids) for ids in completion_ids]

    rewards = reward_functions([old, new])
    assert [reward.__name__ for reward in rewards] == ["old", "new"]
    for reward in rewards:
        assert reward(prompts=["a", "b"], completions=["c", "d"], completion_ids=[[1], [1, 2]]) == [1, 2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "returned NoneType"), ([1.0], "returned 1 rewards for 2"), ([1.0, None], "returned None for a completion")],
)
def test_a_reward_that_is_no_number_for_each_completion_is_named(answer: Any, message: str) -> None:
    def mine(completions: list[str]) -> Any:
        return answer

    (reward,) = reward_functions(mine)
    with pytest.raises(RunFailure, match=f"reward function mine {message}"):
        reward(completions=["c", "d"], completion_ids=[[1], [1, 2]])


@pytest.mark.parametrize("given", [None, [], "some/model", [3]])
def test_what_is_no_reward_function_is_refused(given: Any) -> None:
    with pytest.raises(RunFailure, match="reward_funcs: "):
        reward_functions(given)
