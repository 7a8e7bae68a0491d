"""What went wrong for users of the original system, and must not here: defects and promises that concern fit.

Those that take a trainer to see are tested in `tests/fit`, those of the cluster's life in `tests/operator` and
`tests/e2e`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.test_expand import through_the_api_server

from rapidfireai.api import Run
from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.automl import (
    List,
    Range,
    RFDPOConfig,
    RFGridSearch,
    RFGRPOConfig,
    RFLoraConfig,
    RFModelConfig,
    RFRandomSearch,
    RFSFTConfig,
)
from rapidfireai.clone import changes, cloned, warm_start_obstacle
from rapidfireai.expand import ConfigError, expand, restore
from rapidfireai.fit_call import FitCall, prepare
from rapidfireai.records import run_record

TRAINERS: dict[str, RFModelConfig] = {
    "SFT": RFModelConfig("m", training_args=RFSFTConfig(learning_rate=Range(1e-5, 1e-3, log=True))),
    "DPO": RFModelConfig("m", training_args=RFDPOConfig(beta=Range(0.1, 0.5), max_prompt_length=64)),
    "GRPO": RFModelConfig("m", training_args=RFGRPOConfig(beta=Range(0.0, 0.1, step=0.01)), reward_funcs=len),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_random_search_works_for_every_trainer_and_has_a_seed(trainer: str) -> None:
    config = TRAINERS[trainer]
    first = RFRandomSearch(config, trainer, num_runs=8, seed=1).get_runs()
    assert len({repr(leaf) for leaf in first}) == 8
    assert first == RFRandomSearch(configs=config, trainer_type=trainer, num_runs=8, seed=1).get_runs()
    assert first != RFRandomSearch(config, trainer, num_runs=8, seed=2).get_runs()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_range_stays_in_the_runs_of_a_grid(trainer: str) -> None:
    with pytest.raises(ConfigError, match=r"configs\[0\].training_args.(learning_rate|beta): a range has no list"):
        RFGridSearch(TRAINERS[trainer], trainer)


def test_a_range_takes_the_documented_arguments() -> None:
    assert Range(1, 8).dtype == "int"
    assert Range(start=1, end=8, dtype="float").dtype == "float"
    assert {Range(start=4, end=16, dtype="int", step=4).sample() for _ in range(100)} == {4, 8, 12, 16}


def test_choices_may_be_mappings_and_none() -> None:
    schedules = List([{"num_cycles": 1}, {"num_cycles": 2}, None])
    config = RFModelConfig(
        "m",
        peft_config=List([RFLoraConfig(r=8), None]),
        training_args=RFSFTConfig(lr_scheduler_kwargs=schedules, max_length=List([None, 512])),
    )
    assert len(RFGridSearch(config, "SFT").get_runs()) == 12
    drawn = RFRandomSearch(config, "SFT", num_runs=12, seed=3).get_runs()
    assert {repr(leaf["training_args"]["max_length"]) for leaf in drawn} == {"None", "512"}
    assert sum("peft_params" in leaf for leaf in drawn) == 6


def test_the_names_of_every_version_are_taken(tmp_path: Path) -> None:
    arguments = [RFSFTConfig(save_strategy=each) for each in ("chunk", "shard")]
    config, rows = [RFModelConfig("m", training_args=each) for each in arguments], "hf://o/rows"
    call = FitCall(None, None, rows, None, None, 42, None)
    found = prepare(tmp_path, call, {"param_config": config, "num_shards": 4, "num_gpus": 1})
    assert (found.runs, found.pieces) == (2, 4)
    with pytest.raises(TypeError, match="did you mean num_chunks"):
        prepare(tmp_path, call, {"param_config": config, "num_shards": 4, "num_chunk": 4})
    with pytest.raises(TypeError, match="another name of num_chunks"):
        prepare(tmp_path, FitCall(config, None, rows, None, 4, 42, None), {"num_shards": 4})


def test_more_runs_than_usual_are_allowed_by_run_fit(tmp_path: Path) -> None:
    config = RFModelConfig("m", training_args=RFSFTConfig(seed=List(list(range(10_001)))))
    with pytest.raises(ConfigError, match=r"make 10001 runs, and spec.maxRuns allows 10000"):
        prepare(tmp_path, FitCall(config, None, "hf://o/rows", None, 1, 42, None), {})
    allowed = prepare(tmp_path, FitCall(config, None, "hf://o/rows", None, 1, 42, None, max_runs=10_001), {})
    assert allowed.spec(1).to_wire()["maxRuns"] == 10_001


def test_a_config_keeps_its_dtype_task_type_and_rewards_wherever_it_travels() -> None:
    written = {
        "model_name": "m",
        "model_kwargs": {"torch_dtype": "bfloat16"},
        "peft_config": {"r": 8, "task_type": "CAUSAL_LM"},
        "reward_funcs": [{"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}}, "judge"],
        "training_args": {"num_generations": 2, "learning_rate": 1.0},
    }
    (leaf,) = expand([ConfigGroup(trainer="GRPO", config=written)])
    travelled = restore(json.loads(json.dumps(through_the_api_server(leaf))))
    assert travelled == leaf
    assert travelled["model_kwargs"]["torch_dtype"] == "bfloat16"
    assert travelled["peft_params"]["task_type"] == "CAUSAL_LM"
    assert len(travelled["reward_funcs"]) == 2
    assert type(travelled["training_args"]["learning_rate"]) is float


def shown(leaf: dict[str, Any]) -> dict[str, Any]:
    """A config as tables and the original's clone editor show it: some of it is missing."""
    return {key: value for key, value in leaf.items() if key not in {"additional_kwargs", "reward_funcs"}}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_clone_loses_nothing_also_if_a_whole_config_is_sent_back(trainer: str) -> None:
    function = {"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}}
    written = {
        "model_name": "m",
        "model_kwargs": {"torch_dtype": "bfloat16"},
        "peft_config": {"r": 8, "task_type": "CAUSAL_LM"},
        "formatting_func": function,
        **({"reward_funcs": [function]} if trainer == "GRPO" else {}),
    }
    (parent,) = expand([ConfigGroup(trainer=trainer, config=written)])
    edited = json.loads(json.dumps(through_the_api_server(shown(parent))))
    edited["training_args"]["seed"] = 5
    for patch in (edited, {"training_args": {"seed": 5}}):
        clone = cloned(parent, patch)
        assert [str(each) for each in changes(parent, clone)] == ["training_args.seed: - -> 5"]
        assert clone["model_kwargs"] == {"torch_dtype": "bfloat16"}
        assert clone["peft_params"]["task_type"] == "CAUSAL_LM"
        assert clone.get("reward_funcs") == parent.get("reward_funcs")
        assert clone["additional_kwargs"] == parent["additional_kwargs"]


def test_a_clone_is_checked_as_a_new_config_is() -> None:
    (parent,) = RFGridSearch(RFModelConfig("m", training_args=RFSFTConfig()), "SFT").get_runs()
    for patch, words in (
        ({"training_args": {"learning_rte": 1}}, "did you mean learning_rate"),
        ({"training_args": {"learning_rate": "fast"}}, "must be a number"),
        ({"chunk_size": 64}, "unknown field"),
        ({"model_kwargs": {"api_key": "sk-1"}}, "looks like a secret"),
        ({"trainer_type": "DPO"}, "keeps the trainer"),
    ):
        with pytest.raises(ConfigError, match=words):
            cloned(parent, patch)


def test_a_warm_clone_of_other_shapes_is_refused_with_the_knob() -> None:
    config = RFModelConfig("m", peft_config=RFLoraConfig(r=8), training_args=RFSFTConfig(learning_rate=0.5))
    (parent,) = RFGridSearch(config, "SFT").get_runs()
    obstacle = warm_start_obstacle(parent, cloned(parent, {"peft_config.r": 16}))
    assert obstacle is not None
    assert obstacle.startswith("peft_config.r: changes from 8 to 16")
    assert warm_start_obstacle(parent, cloned(parent, {"training_args.learning_rate": 1e-4})) is None


@pytest.mark.parametrize("state", ["Pending", "Running", "Stopped", "Deleted", "Succeeded", "Failed"])
def test_the_table_of_runs_shows_the_knobs_of_every_run(state: str) -> None:
    (leaf,) = expand([ConfigGroup(trainer="SFT", config={"model_name": "m", "training_args": {"max_steps": 3}})])
    body = {"metadata": {"name": "e-r1"}, "spec": {"experimentRef": "e", "index": 1, "config": leaf}}
    row = run_record(Run.from_body({**body, "status": {"state": state}}), 4)
    assert row["config"] == leaf


@pytest.mark.parametrize("name", ["fsdp", "fsdp_config", "deepspeed", "parallelism_config"])
def test_several_gpus_for_one_run_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="one run uses one device; leave it out"):
        RFSFTConfig(**{name: "x"})


SECRET = "hf_very_secret"
WITH_SECRETS: list[tuple[dict[str, Any], str]] = [
    ({"model_kwargs": {"token": SECRET}}, "model_kwargs.token"),
    ({"model_kwargs": {"use_auth_token": SECRET}}, "model_kwargs.use_auth_token"),
    ({"tokenizer_kwargs": {"hf_token": SECRET}}, "tokenizer_kwargs.hf_token"),
    ({"model_kwargs": {"api_key": {"$list": [SECRET]}}}, "model_kwargs.api_key[0]"),
    ({"model_kwargs": {"a": {"OPENAI_API_KEY": SECRET}}}, "model_kwargs.a.OPENAI_API_KEY"),
    ({"training_args": {"model_init_kwargs": {"token": SECRET}}}, "training_args.model_init_kwargs.token"),
    ({"model_kwargs": {"proxies": {"https": f"http://me:{SECRET}@proxy"}}}, "model_kwargs.proxies.https"),
]


@pytest.mark.parametrize(("config", "path"), WITH_SECRETS, ids=[path for _, path in WITH_SECRETS])
def test_a_secret_in_a_config_is_refused_by_its_place_and_shown_nowhere(config: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=r"looks like a secret.*secretKeyRef") as caught:
        expand([ConfigGroup(trainer="SFT", config=config)])
    assert caught.value.path == f"spec.configs[0].config.{path}"
    assert SECRET not in str(caught.value)


def test_tokens_of_a_tokenizer_are_no_secrets() -> None:
    config = {
        "model_name": "hf://owner/name@main",
        "tokenizer_kwargs": {"pad_token": "<pad>", "token_type_ids": "x"},
        "model_kwargs": {"token": True, "eos_token_id": 2, "max_new_tokens": 8},
        "training_args": {"eos_token": "</s>"},
    }
    assert len(expand([ConfigGroup(trainer="SFT", config=config)])) == 1


@pytest.mark.parametrize("words", [("version",), ("--help",), ("start", "--help")])
def test_asking_what_it_is_leaves_no_directories(words: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "RAPIDFIREAI_HOME": str(tmp_path / "home")}
    program = Path(sys.executable).with_name("rapidfireai")
    answer = subprocess.run([str(program), *words], env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []
