"""Each row of the table of arguments that TRL no longer has equals its program, and precomputed references do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.fit import reference
from tests.fit.cases import CHUNKS, LORA, config_of, write_sets
from tests.fit.reference import digest, train
from tests.support.lab import Lab, steady, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from rapidfireai.arguments.compatibility import DPO_FORMER, GRPO_FORMER
from rapidfireai_worker.fit.engine import FitEngine

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("references")]

Result = tuple[str, list[dict[str, Any]]]


def trained(lab: Lab, config: dict[str, Any]) -> Result:
    """Train with a worker of its own for each chunk."""
    chunks = len(FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("run", config)).boundaries)
    for chunk in range(chunks):
        lab.chunk(FitEngine(lab.volume, lab.claims, threads=1), "run", config, chunk)
    return digest(lab.model("run")), lab.history("run")


def plain(lab: Lab, config: dict[str, Any], rows: dict[str, str], **more: Any) -> Result:
    weights, history = train({"config": config, "seed": 42, "output_dir": str(lab.root / "plain"), **rows}, **more)
    return weights, steady(history)


@pytest.fixture
def rows(lab: Lab) -> dict[str, str]:
    lab.chunks = CHUNKS
    return write_sets(lab.root)


def test_every_row_of_the_table_is_tested_here() -> None:
    assert set(DPO_FORMER) == {"force_use_ref_model", "model_adapter_name", "ref_adapter_name", *LENGTHS["DPO"]}
    assert set(GRPO_FORMER) == set(LENGTHS["GRPO"])


@pytest.mark.parametrize("change", [{}, {"init_lora_weights": "olora"}])
def test_force_use_ref_model_is_the_program_with_the_model_as_it_was_loaded(
    change: dict[str, Any], lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    config = config_of("DPO LoRA", tiny_model)
    config["peft_params"] = {**LORA, **change}
    ours = trained(lab, {**config, "compat": {"force_use_ref_model": True}})
    assert ours == plain(lab, {**config, "ref_model_config": {"model_name": str(tiny_model)}}, rows)


def test_adapter_names_are_the_program_with_a_frozen_copy_of_the_first_adapter(
    lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    adapter = {**LORA, "lora_dropout": 0.0}  # with it, the copy draws random numbers of its own
    config = {**config_of("DPO LoRA", tiny_model), "peft_params": adapter}
    ours = trained(lab, {**config, "compat": {"model_adapter_name": "policy", "ref_adapter_name": "reference"}})

    def with_adapter(given: dict[str, Any]) -> tuple[Any, Any]:
        model, tokenizer = reference.load(given)
        torch.manual_seed(42)
        return get_peft_model(model, LoraConfig(**adapter)), tokenizer  # TRL then makes the copy

    without = {name: value for name, value in config.items() if name != "peft_params"}
    theirs = plain(lab, without, rows, create_model_fn=with_adapter)
    for _, history in (ours, theirs):
        history[-1].pop("total_flos")  # it counts the copy's parameters
    assert ours == theirs


LENGTHS = {"DPO": {"max_prompt_length": 5, "max_completion_length": 3}, "GRPO": {"max_prompt_length": 4}}


def cut(row: dict[str, Any]) -> dict[str, Any]:
    prompt, answers = LENGTHS["DPO"]["max_prompt_length"], LENGTHS["DPO"]["max_completion_length"]
    shorter = {name: row[name][:answers] for name in ("chosen_ids", "rejected_ids")}
    return {"prompt_ids": row["prompt_ids"][-prompt:], **shorter}


def test_lengths_of_dpo_are_the_program_on_rows_that_were_cut_before(
    lab: Lab, tiny_model: Path, rows: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCutRows(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return super()._prepare_dataset(dataset, *arguments).map(cut)

    config = config_of("DPO LoRA", tiny_model)
    ours = trained(lab, {**config, "compat": LENGTHS["DPO"]})
    monkeypatch.setitem(reference.TRAINERS, "DPO", (OnCutRows, DPOConfig))
    assert ours == plain(lab, config, rows)


def count(completion_ids: list[list[int]], **more: Any) -> list[float]:
    return [float(sum(ids) % 7) for ids in completion_ids]


def test_the_length_of_grpos_prompts_is_the_program_on_prompts_that_were_cut_before(
    lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    tokenizer, length = AutoTokenizer.from_pretrained(tiny_model), LENGTHS["GRPO"]["max_prompt_length"]
    prompts = [f"What is the sum of {a} and {b}?" for a in range(4) for b in range(3)]
    ends = [tokenizer.decode(tokenizer(prompt)["input_ids"][-length:]) for prompt in prompts]
    assert all(len(tokenizer(end)["input_ids"]) == length for end in ends)
    for folder, texts in ((lab.root, prompts), (lab.root / "ends", ends)):
        folder.mkdir(exist_ok=True)
        write_rows(folder / "train.jsonl", [{"prompt": text} for text in texts[:11]])
        write_rows(folder / "eval.jsonl", [{"prompt": text} for text in texts[11:]])
    config = config_of("GRPO LoRA", tiny_model)
    config["training_args"] = {**config["training_args"], "reward_weights": None}
    reward = lab.put_bundle(count=count)["count"]
    ours = trained(lab, {**config, "compat": LENGTHS["GRPO"], "reward_funcs": reward})
    before = {name: str(lab.root / "ends" / f"{name}.jsonl") for name in ("train", "eval")}
    assert ours == plain(lab, config, before, reward_funcs=[count])


@pytest.mark.parametrize("how", ["LoRA", "full"])
def test_precomputed_references_are_the_program_that_finds_them_in_its_cache(
    how: str, lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    config = config_of(f"DPO {how}", tiny_model)
    config["training_args"] = {**config["training_args"], "precompute_ref_log_probs": True}
    ours = trained(lab, config)
    plain(lab, config, rows)  # fills the cache, for which TRL draws random numbers
    assert ours == plain(lab, config, rows)
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    engine.prepare(lab.job("run", config))
    assert engine.sessions["run-uid"].trainer.ref_model is None


Given = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("given", "extra"),
    [
        (lambda model: config_of("DPO LoRA", model), 0),
        (lambda model: {**config_of("DPO LoRA", model), "compat": {"force_use_ref_model": True}}, 0),
        (lambda model: {**config_of("DPO LoRA", model), "ref_model_config": {"model_name": str(model)}}, 0),
        (lambda model: config_of("DPO full", model), 1),
    ],
)
def test_what_leaves_with_a_session_is_counted_a_reference_of_its_own_too(
    given: Given, extra: int, lab: Lab, tiny_model: Path, rows: dict[str, str]
) -> None:
    engine, config = FitEngine(lab.volume, lab.claims, threads=1), given(tiny_model)
    held = engine.prepare(lab.job("run", config)).bytes
    whole = sum(weight.numel() * 4 for weight in AutoModelForCausalLM.from_pretrained(tiny_model).parameters())
    model = engine.sessions["run-uid"].trainer.model
    own = sum(weight.numel() * 4 for weight in model.parameters() if weight.requires_grad)
    assert held == 3 * own + extra * whole
