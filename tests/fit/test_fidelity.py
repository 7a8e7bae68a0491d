"""A run that was chunked, parked, thrown away or restored is the plain TRL run, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.reference import digest, train
from tests.support.lab import Lab, chat_rows, steady, write_rows

from rapidfireai_worker.engine import Discarded
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("fidelity")]  # the plain runs are computed once

LORA = {"lora_alpha": 16, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}
COMMON = {"num_train_epochs": 2, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 5}
CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {
        "peft_params": {**LORA, "r": 8, "target_modules": ["q_proj", "v_proj"]},
        "training_args": {**COMMON, "learning_rate": 1e-2, "per_device_train_batch_size": 4},
    },
    "accumulating": {
        "peft_params": {**LORA, "r": 4, "target_modules": ["q_proj", "v_proj"]},
        "training_args": {
            **COMMON,
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
        },
    },
    "stopping-inside-an-epoch": {
        "peft_params": {**LORA, "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "training_args": {
            "learning_rate": 2e-2,
            "per_device_train_batch_size": 8,
            "max_steps": 14,
            "logging_steps": 1,
            "weight_decay": 0.1,
            "seed": 7,
            "eval_on_start": True,
        },
    },
    "evaluated-and-saved-by-epoch": {
        "peft_params": {**LORA, "r": 4, "target_modules": "all-linear"},
        "training_args": {
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 3,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "logging_strategy": "epoch",
            "save_total_limit": 1,
            "load_best_model_at_end": True,
        },
    },
    "drawing-its-order-of-rows": {
        "peft_params": {**LORA, "r": 4, "target_modules": ["q_proj"]},
        "training_args": {
            **COMMON,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "train_sampling_strategy": "group_by_length",
            "neftune_noise_alpha": 5.0,
        },
    },
    "more-than-an-adapter": {
        "peft_params": {**LORA, "r": 4, "target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["norm"]},
        "training_args": {
            **COMMON,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "optim": "adafactor",
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "metric_for_best_model": "loss",
            "include_num_input_tokens_seen": "all",
            "packing": True,
            "packing_strategy": "wrapped",
            "max_length": 64,
        },
    },
    "mixed-precision": {
        "peft_params": {**LORA, "r": 4, "target_modules": ["q_proj"]},
        "training_args": {**COMMON, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "bf16": True},
    },
    "full": {"training_args": {**COMMON, "learning_rate": 1e-3, "per_device_train_batch_size": 8}},
}

Plain = Callable[[str], tuple[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Plain:
    """What the reference program makes of a config; computed once."""
    root = tmp_path_factory.mktemp("plain")
    rows = {
        "train": str(write_rows(root / "train.jsonl", chat_rows(49)[:41])),
        "eval": str(write_rows(root / "eval.jsonl", chat_rows(49)[41:])),
    }
    known: dict[str, tuple[str, list[dict[str, Any]]]] = {}

    def run(name: str) -> tuple[str, list[dict[str, Any]]]:
        if name not in known:
            config = {"model_name": str(tiny_model), **CONFIGS[name]}
            spec = {"config": config, "seed": 42, "output_dir": str(root / name), **rows}
            weights, history = train(spec)
            known[name] = weights, steady(history)
        return known[name]

    return run


def config_of(name: str, tiny_model: Path) -> dict[str, Any]:
    return {"trainer_type": "SFT", "model_name": str(tiny_model), **CONFIGS[name]}


Compare = Callable[[Lab, str, str], None]


@pytest.fixture
def compare(plain: Plain, show: Callable[[str], None]) -> Compare:
    """Compare a finished run with the plain one: every tensor of its model, every line of its history."""

    def compare(lab: Lab, name: str, how: str) -> None:
        weights, history = plain(name)
        ours = digest(lab.model(name))
        show(f"{name:<30} plain {weights[:16]}   {how:<12} {ours[:16]}")
        assert lab.history(name) == history
        assert ours == weights

    return compare


def test_interleaved_runs_equal_plain_ones(lab: Lab, tiny_model: Path, compare: Compare) -> None:
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    boundaries = {name: engine.prepare(lab.job(name, config_of(name, tiny_model))).boundaries for name in CONFIGS}
    for chunk in range(max(map(len, boundaries.values()))):
        for name in CONFIGS:
            if chunk < len(boundaries[name]):
                outcome = lab.chunk(engine, name, config_of(name, tiny_model), chunk)
                assert outcome.step == boundaries[name][chunk]
    for name in CONFIGS:
        compare(lab, name, "interleaved")


@pytest.mark.parametrize("name", CONFIGS)
def test_runs_restored_at_every_chunk_equal_plain_ones(name: str, lab: Lab, tiny_model: Path, compare: Compare) -> None:
    config = config_of(name, tiny_model)
    chunks = len(FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job(name, config)).boundaries)
    for chunk in range(chunks):
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), name, config, chunk)
    compare(lab, name, "restored")


@pytest.mark.parametrize("name", ["lora", "drawing-its-order-of-rows"])
def test_a_run_parked_after_each_log_and_restored_equals_the_plain_one(
    name: str, lab: Lab, tiny_model: Path, compare: Compare
) -> None:
    config, engine = config_of(name, tiny_model), FitEngine(lab.volume, lab.claims, threads=1)
    boundaries = engine.prepare(lab.job(name, config)).boundaries
    parked = []
    for chunk, boundary in enumerate(boundaries):
        step = -1
        while step < boundary:
            outcome = lab.chunk(engine, name, config, chunk, lambda control, step: control.park.set())
            engine.evict(f"{name}-uid")
            step = outcome.step
            if step < boundary:
                parked.append(step)
                assert not any(key.startswith(("chunk/", "boundary/")) for key in outcome.metrics)
    assert len(parked) >= 3, parked
    compare(lab, name, "parked")


def test_a_discarded_chunk_leaves_nothing_and_replays_the_same(lab: Lab, tiny_model: Path, compare: Compare) -> None:
    config, engine = config_of("lora", tiny_model), FitEngine(lab.volume, lab.claims, threads=1)
    chunks = len(engine.prepare(lab.job("lora", config)).boundaries)
    for chunk in range(chunks):
        files = sorted(lab.volume.root.rglob("checkpoints/*"))
        control = lab.control("lora", lambda control, step: control.discard.set())
        with pytest.raises(Discarded):
            engine.run_chunk(lab.job("lora", config), chunk, control)
        assert engine.holdings().residents == {}
        assert sorted(lab.volume.root.rglob("checkpoints/*")) == files
        lab.chunk(engine, "lora", config, chunk)
    compare(lab, "lora", "discarded")


def test_the_chunk_loss_does_not_depend_on_where_the_chunk_was_parked(lab: Lab, tiny_model: Path) -> None:
    config, engine = config_of("lora", tiny_model), FitEngine(lab.volume, lab.claims, threads=1)
    lab.finish(engine, "lora", config)
    lab.checkpoints.clear()
    lab.chunk(engine, "lora", config, 0, lambda control, step: control.park.set())
    lab.finish(engine, "lora", config)  # `Lab.control` compares each line with the first time


def test_what_the_trainer_saves_and_when_is_what_the_plain_program_saves(lab: Lab, tiny_model: Path) -> None:
    config = config_of("lora", tiny_model)
    config["training_args"] = {**config["training_args"], "num_train_epochs": 1, "save_strategy": "steps"}
    config["training_args"] |= {"save_steps": 3, "save_total_limit": 2, "eval_steps": 2, "logging_steps": 5}
    boundaries = FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("run", config)).boundaries
    assert boundaries == [4, 8, 11]
    for chunk in range(3):
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), "run", config, chunk)
    rows = {name: str(lab.root / f"{name}.jsonl") for name in ("train", "eval")}
    weights, history = train({"config": config, "seed": 42, "output_dir": str(lab.root / "plain"), **rows})
    assert (digest(lab.model("run")), lab.history("run")) == (weights, steady(history))
    evaluated = [line["step"] for line in lab.history("run") if "eval_loss" in line]
    assert evaluated == [2, 4, 6, 8, 10, 11]
    ours = lab.volume.run("lab-uid", "run-uid").root / "trainer"
    saved = {path.name: digest(path) for path in (lab.root / "plain").glob("checkpoint-*")}
    assert {path.name: digest(path) for path in ours.glob("checkpoint-*")} == saved
    assert saved.keys() == {"checkpoint-9", "checkpoint-11"}


@pytest.mark.parametrize("formatting", [user_code.as_chat, user_code.with_noise])
def test_runs_of_user_code_equal_the_same_code_in_a_plain_program(
    formatting: Callable[..., Any], lab: Lab, tiny_model: Path
) -> None:
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in (lab.root / f"{name}.jsonl").read_text().splitlines()]
        pairs = [{"asked": row["prompt"][0]["content"], "answered": row["completion"][0]["content"]} for row in rows]
        write_rows(lab.root / f"{name}.jsonl", pairs)
    functions = lab.put_bundle(
        create_model_fn=user_code.create_model_fn, formatting_func=formatting, metrics=user_code.token_accuracy
    )
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    configs = {
        f"scale-{scale}": {
            **config_of("lora", tiny_model),
            "model_kwargs": {"scale": scale},
            "additional_kwargs": {
                "formatting_func": functions["formatting_func"],
                "compute_metrics": functions["metrics"],
            },
        }
        for scale in (0.5, 2.0)
    }
    for chunk in range(6):
        for name, config in configs.items():
            outcome = lab.chunk(engine, name, config, chunk)
            assert outcome.metrics["boundary/eval_hits"] >= 0
    for name, config in configs.items():
        sets = {split: str(lab.root / f"{split}.jsonl") for split in ("train", "eval")}
        weights, history = train(
            {"config": config, "seed": 42, "output_dir": str(lab.root / name), **sets},
            user_code.create_model_fn,
            formatting,
            user_code.token_accuracy,
        )
        assert (digest(lab.model(name)), lab.history(name)) == (weights, steady(history))
