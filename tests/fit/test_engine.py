"""What the worker asks of the engine, and what it is told when a run cannot go on."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fit import user_code
from tests.support.lab import Lab, chat_rows, write_rows

from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = pytest.mark.ml

ADAPTER = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def engine(lab: Lab) -> FitEngine:
    return FitEngine(lab.volume, lab.claims, threads=1)


@pytest.fixture
def config(tiny_model: Path) -> dict[str, Any]:
    return config_with(tiny_model)


def config_with(model: Path, **arguments: Any) -> dict[str, Any]:
    given = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "num_train_epochs": 2, "logging_steps": 2}
    return {
        "trainer_type": "SFT",
        "model_name": str(model),
        "peft_params": ADAPTER,
        "training_args": {**given, **arguments},
    }


def failure_of(engine: FitEngine, lab: Lab, config: Mapping[str, Any]) -> RunFailure:
    with pytest.raises(RunFailure) as failure:
        engine.prepare(lab.job("run", config))
    return failure.value


def test_preparing_tells_steps_boundaries_and_memory(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    prepared = engine.prepare(lab.job("run", config))
    assert prepared.total_steps == 12  # 41 rows, batches of 8, 2 epochs
    assert prepared.boundaries == [2, 4, 6, 8, 10, 12]
    assert engine.holdings().residents == {"run-uid": prepared.bytes}
    adapter = 4 * (16 + 16) + 4 * (16 + 8)  # rank times what goes in and out of both projections
    assert prepared.bytes == 2 * adapter * 4 * 3  # two layers, four bytes, the weight and what AdamW keeps of it
    full = engine.prepare(lab.job("full", {**config, "peft_params": None}))
    assert full.bytes > 10 * prepared.bytes


def test_more_chunks_than_steps_are_refused(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.chunks = 7
    assert "write 6 or less" in failure_of(engine, lab, config).message


def test_a_commit_carries_the_metrics_of_its_chunk(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.chunks = 2
    outcome = lab.chunk(engine, "run", config, 0)
    losses = [line[3]["loss"] for line in lab.lines["run"] if "loss" in line[3]]
    assert outcome.loss == outcome.metrics["loss"] == losses[-1]
    assert {"learning_rate", "chunk/loss", "boundary/eval_loss", "boundary/epoch"} <= outcome.metrics.keys()
    assert min(losses) - 1 < outcome.metrics["chunk/loss"] < max(losses) + 1
    assert outcome.metrics["boundary/epoch"] == 0.5
    assert len(outcome.metrics) <= 32
    assert outcome.seconds > 0
    boundaries = [line for line in lab.lines["run"] if line[0] == "boundary"]
    assert [(line[1], line[2]) for line in boundaries] == [(0, 3)]


def test_without_an_eval_set_the_chunk_loss_stands_alone(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.evals = False
    outcome = lab.chunk(engine, "run", config, 0)
    assert "chunk/loss" in outcome.metrics
    assert not any("eval" in name for name in outcome.metrics)


def test_the_chunk_loss_is_the_mean_of_the_steps_losses(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    lab.chunks = 1
    outcome = lab.chunk(engine, "run", config_with(tiny_model, logging_steps=1, num_train_epochs=1), 0)
    losses = [line[3]["loss"] for line in lab.lines["run"] if "loss" in line[3]]
    assert len(losses) == 6
    assert math.isclose(outcome.metrics["chunk/loss"], sum(losses) / 6, rel_tol=1e-6)


def test_progress_is_reported_while_a_chunk_runs(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.chunks = 1
    seen: list[tuple[int, Mapping[str, float]]] = []
    control = ChunkControl(report=lambda step, metrics: seen.append((step, dict(metrics))))
    engine.run_chunk(lab.job("run", config), 0, control)
    steps = [step for step, _ in seen]
    assert steps == sorted(steps)
    assert {2, 4, 6} <= set(steps)
    assert all("loss" in metrics for step, metrics in seen if step >= 2)


def test_a_run_can_be_evicted_at_any_time_and_its_thread_ends(
    engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    before = set(threading.enumerate())
    engine.evict("unknown")
    engine.prepare(lab.job("run", config))
    engine.evict("run-uid")
    lab.chunk(engine, "run", config, 0)
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"train run"}
    engine.evict("run-uid")
    assert engine.holdings().residents == {}
    assert set(threading.enumerate()) <= before


def test_a_session_that_is_ahead_of_the_commit_is_not_used(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    first = engine.run_chunk(lab.job("run", config), 0, lab.control("run"))
    again = engine.run_chunk(lab.job("run", config), 0, lab.control("run"))
    assert (first.step, again.step) == (2, 2)
    lab.checkpoints["run"] = again.persist()
    assert lab.chunk(engine, "run", config, 1).step == 4


def test_a_chunk_that_is_committed_already_is_not_run_again(
    engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    lab.finish(engine, "run", config)
    for again in (engine, FitEngine(lab.volume, lab.claims, threads=1)):
        with pytest.raises(RunFailure, match="chunk 5 ends at step 12, and step 12 is committed already"):
            again.run_chunk(lab.job("run", config), 5, lab.control("run"))


def test_a_discarded_run_is_forgotten(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    control = ChunkControl()
    control.discard.set()
    with pytest.raises(Discarded):
        engine.run_chunk(lab.job("run", config), 0, control)
    assert engine.holdings().residents == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rte": 1}, "learning_rte"),
        ({"dataloader_num_workers": 2}, "training_args.dataloader_num_workers: 2 cannot work"),
        ({"dataset_num_proc": 4}, "training_args.dataset_num_proc: 4 cannot work"),
        ({"auto_find_batch_size": True}, "training_args.auto_find_batch_size: would restart the training loop"),
        ({"eval_strategy": "often"}, "often"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        ({"padding_free": True}, "max_length"),
        ({"max_length": 4}, "training_args.max_length: with 4 tokens no row has anything left to train on"),
    ],
)
def test_arguments_that_cannot_work_are_named(
    arguments: dict[str, Any], message: str, engine: FitEngine, lab: Lab, tiny_model: Path
) -> None:
    failure = failure_of(engine, lab, config_with(tiny_model, **arguments))
    assert failure.reason in {"InvalidConfig", "UnsupportedArgument", "DatasetEmpty"}
    assert message in failure.message
    assert failure.blame == "Run"
    assert engine.holdings().residents == {}


def test_target_modules_that_the_model_lacks_are_named(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    failure = failure_of(engine, lab, {**config, "peft_params": {"r": 4, "target_modules": ["no_proj"]}})
    assert failure.reason == "InvalidConfig"
    assert "no_proj" in failure.message


def test_a_missing_model_or_data_set_is_named(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    assert "model_name: /none is not a folder" in failure_of(engine, lab, {**config, "model_name": "/none"}).message
    (lab.root / "train.jsonl").unlink()
    failure = failure_of(engine, lab, config)
    assert failure.reason == "DatasetNotFound"
    assert "data.train.uri: pvc://data/train.jsonl does not exist" in failure.message


def test_models_may_lie_on_a_claim(engine: FitEngine, lab: Lab, tiny_model: Path, config: dict[str, Any]) -> None:
    (lab.root / "model").mkdir()
    for file in tiny_model.iterdir():
        (lab.root / "model" / file.name).write_bytes(file.read_bytes())
    prepared = engine.prepare(lab.job("run", {**config, "model_name": "pvc://data/model"}))
    assert prepared.total_steps == 12


def test_one_runs_failing_function_fails_that_run_alone(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.chunk(engine, "good", config, 0)
    functions = lab.put_bundle(formatting_func=user_code.raising)
    failure = failure_of(engine, lab, {**config, "additional_kwargs": functions})
    assert failure.reason == "UserCodeError"
    assert "formatting_func raised KeyError: 'no such column' at" in failure.message
    assert failure.message.splitlines()[-1] == "KeyError: 'no such column'"
    assert lab.chunk(engine, "good", config, 1).step == 4


def test_a_failing_metric_fails_the_chunk(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    functions = lab.put_bundle(compute_metrics=user_code.raising)
    with pytest.raises(RunFailure) as failure:
        lab.chunk(engine, "run", {**config, "additional_kwargs": functions}, 0)
    assert failure.value.reason == "UserCodeError"
    assert "compute_metrics raised" in failure.value.message
    assert engine.holdings().residents == {}


def test_weights_that_are_not_finite_end_the_run(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    config = {**config_with(tiny_model, learning_rate=1e30, max_grad_norm=0.0, optim="sgd"), "peft_params": None}
    with pytest.raises(RunFailure) as failure:
        lab.finish(engine, "run", config)
    assert failure.value.reason == "NonFiniteLoss"
    assert "learning_rate 1e+30" in failure.value.message
    assert "was not finite for the first time at step 2" in failure.value.message
    assert not failure.value.retry


def test_numbers_have_the_types_that_they_had_before_json(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    engine.prepare(lab.job("run", config_with(tiny_model, learning_rate=1, weight_decay=0)))
    arguments = engine.sessions["run-uid"].trainer.args
    assert isinstance(arguments.learning_rate, float)
    assert isinstance(arguments.weight_decay, float)


def test_what_a_save_strategy_wrote_after_the_commit_is_removed(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    config = config_with(tiny_model, save_strategy="steps", save_steps=1, num_train_epochs=1)
    lab.chunk(engine, "run", config, 0)
    engine.run_chunk(lab.job("run", config), 1, lab.control("run"))
    trainer = lab.volume.run("lab-uid", "run-uid").root / "trainer"
    assert {path.name for path in trainer.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("run", config))
    assert {path.name for path in trainer.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


def test_runs_with_equal_preprocessing_share_their_rows(engine: FitEngine, lab: Lab, tiny_model: Path) -> None:
    for name, rate in (("a", 1e-2), ("b", 1e-3)):
        engine.prepare(lab.job(name, config_with(tiny_model, learning_rate=rate)))
    engine.prepare(lab.job("c", config_with(tiny_model, max_length=64)))
    rows = {name: engine.sessions[f"{name}-uid"].trainer.train_dataset for name in "abc"}
    assert rows["a"] is rows["b"]
    assert rows["a"] is not rows["c"]


def test_plain_questions_train_without_any_code(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    pairs = [
        {"question": row["prompt"][0]["content"], "answer": row["completion"][0]["content"]} for row in chat_rows(16)
    ]
    write_rows(lab.root / "train.jsonl", pairs)
    write_rows(lab.root / "eval.jsonl", pairs[:4])
    lab.chunks = 2
    lab.finish(engine, "run", config)
    assert lab.checkpoints["run"].step == 4
