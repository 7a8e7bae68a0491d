"""What a warm clone takes over of its parent, what is its own, and what cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs
from tests.fit import user_code
from tests.fit.reference import digest
from tests.support.lab import Lab

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = pytest.mark.ml

ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
ARGUMENTS = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1}
FULL: dict[str, Any] = {"peft_params": None}


@pytest.fixture
def engine(lab: Lab) -> FitEngine:
    return FitEngine(lab.volume, lab.claims, threads=1)


@pytest.fixture
def config(tiny_model: Path) -> dict[str, Any]:
    return {"trainer_type": "SFT", "model_name": str(tiny_model), "peft_params": ADAPTER, "training_args": ARGUMENTS}


def patched(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with a merge patch in it."""
    merged = dict(config)
    for key, value in patch.items():
        old = merged.get(key)
        merged[key] = patched(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return {key: value for key, value in merged.items() if value is not None}


def train_parent(engine: FitEngine, lab: Lab, config: Mapping[str, Any]) -> None:
    """Commit a parent's first chunk and let a run be its clone."""
    lab.chunk(engine, "parent", config, 0)
    lab.clone("parent", "clone")


def refused(engine: FitEngine, lab: Lab, config: Mapping[str, Any]) -> RunFailure:
    with pytest.raises(RunFailure) as failure:
        engine.prepare(lab.job("clone", config))
    assert engine.holdings().residents.keys() <= {"parent-uid"}
    return failure.value


def exported(engine: FitEngine, lab: Lab, run: str = "clone") -> str:
    """Return the digest of a resident run's model as it is now."""
    folder = lab.root / f"now {run}"
    engine.sessions[f"{run}-uid"].trainer.model.save_pretrained(folder)
    return digest(folder)


def beginning(lab: Lab) -> dict[str, float]:
    (line,) = [line for line in lab.lines["clone"] if line[:3] == ("boundary", -1, 0)]
    return line[3]


def test_a_clones_optimizer_and_schedule_are_its_own(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    train_parent(engine, lab, config)
    own = {"learning_rate": 3e-3, "weight_decay": 0.2, "lr_scheduler_type": "constant", "adam_beta1": 0.7}
    lab.chunk(engine, "clone", patched(config, {"training_args": own}), 0)
    trainer = engine.sessions["clone-uid"].trainer
    assert trainer.lr_scheduler.base_lrs == [3e-3, 3e-3]
    for group, decay in zip(trainer.optimizer.param_groups, (0.2, 0.0), strict=True):
        assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (3e-3, 3e-3, decay)
        assert group["betas"][0] == 0.7
    assert {step: lab.history("clone")[step - 1]["learning_rate"] for step in (1, 2)} == {1: 3e-3, 2: 3e-3}
    assert all(int(state["step"]) == 2 for state in trainer.optimizer.state.values())


@pytest.mark.parametrize("patch", [{}, FULL])
def test_a_clone_of_a_completed_run_begins_after_its_last_chunk(
    patch: dict[str, Any], engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    config = patched(config, patch)
    lab.finish(engine, "parent", config)
    lab.clone("parent", "clone")
    prepared = engine.prepare(lab.job("clone", config))
    assert exported(engine, lab) == digest(lab.model("parent"))
    assert prepared.total_steps == 6
    lab.finish(engine, "clone", config)
    manifest = json.loads((lab.volume.root / lab.checkpoints["clone"].path / "manifest.json").read_text())
    assert manifest["position"] == {"row": 82, "epoch": 41}
    assert lab.checkpoints["clone"].step == 6


def test_a_clones_curve_begins_where_its_parents_stood(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    train_parent(engine, lab, config)
    outcome = lab.chunk(engine, "clone", config, 0)
    ends = [line for line in lab.lines["parent"] if line[0] == "boundary"]
    assert beginning(lab)["boundary/eval_loss"] == ends[0][3]["boundary/eval_loss"]
    assert outcome.metrics["boundary/eval_loss"] != ends[0][3]["boundary/eval_loss"]
    assert [line[1] for line in lab.lines["clone"] if line[0] == "boundary"] == [-1, 0]


@pytest.mark.parametrize("how", ["no eval set", "a clone with a commit", "a cold clone"])
def test_nothing_is_measured_at_step_0_otherwise(how: str, engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.evals = how != "no eval set"
    train_parent(engine, lab, config)
    if how == "a cold clone":
        lab.parents["clone"] = lab.parents["clone"].model_copy(update={"warm_start": False})
    if how == "a clone with a commit":
        lab.chunk(engine, "clone", config, 0)
        lab.lines["clone"].clear()
        engine.evict("clone-uid")
    lab.chunk(engine, "clone", config, 1 if how == "a clone with a commit" else 0)
    assert not [line for line in lab.lines["clone"] if line[1] == -1]


def test_a_parent_with_one_single_chunk_can_be_cloned(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    lab.chunks = 1
    train_parent(engine, lab, config)
    lab.finish(engine, "clone", config)
    assert lab.checkpoints["clone"].step == 6


def test_what_a_parent_never_had_is_not_taken_from_it_once_the_clone_has_committed(
    engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    train_parent(engine, lab, config)
    lab.chunk(engine, "clone", config, 0)
    shutil.rmtree(lab.volume.run("lab-uid", "parent-uid").root)
    lab.finish(FitEngine(lab.volume, lab.claims, threads=1), "clone", config)
    assert lab.checkpoints["clone"].step == 6


def test_a_clone_keeps_dtype_and_task_type(engine: FitEngine, lab: Lab, config: dict[str, Any]) -> None:
    config = patched(config, {"model_kwargs": {"torch_dtype": "bfloat16"}})
    train_parent(engine, lab, config)
    engine.prepare(lab.job("clone", patched(config, {"training_args": {"learning_rate": 1e-3}})))
    model = engine.sessions["clone-uid"].trainer.model
    assert model.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert model.peft_config["default"].task_type == "CAUSAL_LM"
    assert exported(engine, lab) == digest(lab.model("parent"))


@pytest.mark.parametrize(
    ("parent", "clone"),
    [
        ({}, {"model_kwargs": {"dtype": "bfloat16"}}),
        (FULL, {**FULL, "model_kwargs": {"dtype": "bfloat16"}}),
        ({"model_kwargs": {"dtype": "bfloat16"}}, {"model_kwargs": {"dtype": "float32"}}),
    ],
)
def test_weights_of_another_type_are_converted_and_that_is_said(
    parent: dict[str, Any], clone: dict[str, Any], engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    train_parent(engine, lab, patched(config, parent))
    with capture_logs() as logged:
        lab.chunk(engine, "clone", patched(config, clone), 0)
    (line,) = [each for each in logged if "are converted" in each["event"]]
    assert "weight" in line["tensors"]


@pytest.mark.parametrize(
    ("parent", "clone", "knob", "tensor"),
    [
        ({}, {"peft_params": {"r": 8}}, "peft_config.r:", "q_proj.lora_A.default.weight (4,16) -> (8,16)"),
        ({}, {"peft_params": {"target_modules": ["q_proj", "v_proj"]}}, "target_modules", "absent -> (4,16)"),
        ({}, {"peft_params": {"target_modules": ["v_proj"]}}, "target_modules", "(4,16) -> absent"),
        ({}, {"peft_params": {"use_dora": True}}, "use_dora", "lora_magnitude_vector"),
        ({}, {"peft_params": {"modules_to_save": ["norm"]}}, "peft_config.modules_to_save:", "absent -> (16)"),
        ({}, FULL, "having one at all", "lora_A"),
        (FULL, {}, "having one at all", "-> absent"),
    ],
)
def test_shapes_that_differ_are_refused_at_once_by_their_knob(
    parent: dict[str, Any],
    clone: dict[str, Any],
    knob: str,
    tensor: str,
    engine: FitEngine,
    lab: Lab,
    config: dict[str, Any],
) -> None:
    train_parent(engine, lab, patched(config, parent))
    failure = refused(engine, lab, patched(config, clone))
    assert (failure.reason, failure.retry) == ("ShapesDiffer", False)
    assert knob in failure.message.partition(": ")[0] + ":"
    assert tensor in failure.message.replace(",)", ")")
    assert "parent" in failure.message


def test_shapes_that_only_the_users_code_knows_of_are_refused_too(
    engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    lab.put_bundle(create_model_fn=user_code.create_counting_model)
    config = patched(config, FULL)
    train_parent(engine, lab, config)
    failure = refused(engine, lab, patched(config, {"model_kwargs": {"layers": 1}}))
    assert failure.reason == "ShapesDiffer"
    assert failure.message.startswith("model_name, model_kwargs or what create_model_fn makes: ")
    assert "model.layers.1." in failure.message


@pytest.mark.parametrize("patch", [{"peft_params": {"modules_to_save": ["embed_tokens"]}}, FULL])
def test_what_lies_outside_of_an_adapter_is_taken_over_too(
    patch: dict[str, Any], engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    """A module that is saved whole, embeddings, and a buffer of the user's model that training counts in."""
    lab.put_bundle(create_model_fn=user_code.create_counting_model)
    config = patched(config, patch)
    train_parent(engine, lab, config)
    engine.prepare(lab.job("clone", config))
    buffers = dict(engine.sessions["clone-uid"].trainer.model.named_buffers())
    (seen,) = [tensor for name, tensor in buffers.items() if name.endswith("seen")]
    assert seen.item() == 2
    assert exported(engine, lab) == digest(lab.model("parent"))
    lab.chunk(engine, "clone", config, 0)
    engine.evict("clone-uid")
    lab.chunk(engine, "clone", config, 1)
    kept = load_file(lab.volume.root / lab.checkpoints["clone"].path / "state" / "state.safetensors")
    (seen,) = [tensor for name, tensor in kept.items() if name.endswith("seen")]
    assert seen.item() == 6


@pytest.mark.parametrize("patch", [{"peft_params": {"init_lora_weights": "pissa"}}, {"model_kwargs": {"scale": 2.0}}])
def test_an_adapter_is_not_put_on_top_of_other_weights(
    patch: dict[str, Any], engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    lab.put_bundle(create_model_fn=user_code.create_model_fn)
    config = patched(config, {"model_kwargs": {"scale": 1.0}})
    train_parent(engine, lab, config)
    failure = refused(engine, lab, patched(config, patch))
    assert (failure.reason, failure.retry) == ("BaseDiffers", False)
    assert "model_name, model_kwargs, create_model_fn or peft_config.init_lora_weights: " in failure.message
    engine.prepare(lab.job("clone", patched(config, {"training_args": {"learning_rate": 1e-3}})))


@pytest.mark.parametrize("damage", ["gone", "changed", "never there"])
def test_a_parents_checkpoint_that_cannot_be_read_is_named(
    damage: str, engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    train_parent(engine, lab, config)
    folder = lab.volume.root / lab.checkpoints["parent"].path
    if damage == "gone":
        shutil.rmtree(folder)
    if damage == "changed":
        weights = folder / "state" / "state.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    if damage == "never there":
        lab.parents["clone"] = lab.parents["clone"].model_copy(update={"checkpoint": None})
    failure = refused(engine, lab, config)
    assert failure.message.startswith("spec.parentRef.checkpoint: ")
    assert "parent" in failure.message
    assert failure.reason == ("InvalidConfig" if damage == "never there" else "CheckpointUnreadable")


def test_the_engine_asks_at_the_end_of_a_chunk_what_is_pinned(
    engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    """A clone is accepted while the parent's chunk runs: what it begins with survives that chunk and the next."""
    lab.chunk(engine, "parent", config, 0)
    begin = lab.checkpoints["parent"]
    outcome = engine.run_chunk(lab.job("parent", config), 1, lab.control("parent"))
    lab.clone("parent", "clone")
    lab.checkpoints["parent"] = outcome.persist()
    lab.chunk(engine, "parent", config, 2)
    assert (lab.volume.root / begin.path).is_dir()
    lab.finish(engine, "clone", config)


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "sequential", "dataloader_drop_last": True},
        {"packing": True, "packing_strategy": "wrapped", "max_length": 64},
        {"data_seed": 5, "seed": 11},
    ],
)
def test_a_clone_that_is_evicted_at_every_chunk_is_the_one_that_is_not(
    arguments: dict[str, Any], engine: FitEngine, lab: Lab, config: dict[str, Any]
) -> None:
    config = patched(config, {"training_args": {"num_train_epochs": 2}})
    train_parent(engine, lab, config)
    lab.parents["evicted"] = lab.parents["clone"]
    changed = patched(config, {"training_args": arguments})
    boundaries = engine.prepare(lab.job("clone", changed)).boundaries
    lab.finish(engine, "clone", changed)
    for chunk in range(len(boundaries)):
        lab.chunk(engine, "evicted", changed, chunk)
        engine.evict("evicted-uid")
    assert lab.history("evicted") == lab.history("clone")
    assert digest(lab.model("evicted")) == digest(lab.model("clone"))
