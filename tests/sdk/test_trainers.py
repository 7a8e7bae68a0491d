"""The configs of DPO and GRPO: what goes with which trainer, and the shape in which the worker gets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.sdk.test_expand import through_the_api_server

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.arguments import TRAINER_CONFIGS
from rapidfireai.automl import List, RFDPOConfig, RFGridSearch, RFGRPOConfig, RFLoraConfig, RFModelConfig, RFSFTConfig
from rapidfireai.automl import get_runs as runs_of
from rapidfireai.expand import ConfigError, expand, restore


def short(completions: list[str]) -> list[float]:
    return [-float(len(each)) for each in completions]


def polite(completions: list[str]) -> list[float]:
    return [float("please" in each) for each in completions]


def metrics(_: object) -> dict[str, float]:
    return {}


def test_a_reference_model_and_dropped_arguments_reach_the_leaf() -> None:
    training_args = RFDPOConfig(
        beta=List([0.1, 0.5]), loss_type="sigmoid", force_use_ref_model=True, max_prompt_length=List([64, None])
    )
    config = RFModelConfig(
        "m",
        peft_config=RFLoraConfig(r=8),
        training_args=training_args,
        ref_model_name="r",
        ref_model_type="causal_lm",
        ref_model_kwargs={"dtype": List(["float32", "bfloat16"])},
    )
    leaves = RFGridSearch(config, "DPO").get_runs()
    seen = [
        (leaf["training_args"]["beta"], leaf["compat"]["max_prompt_length"], leaf["ref_model_config"]["model_kwargs"])
        for leaf in leaves
    ]
    assert seen == [
        (beta, length, {"dtype": dtype})
        for beta in (0.1, 0.5)
        for length in (64, None)
        for dtype in ("float32", "bfloat16")
    ]
    assert leaves[0] == {
        "trainer_type": "DPO",
        "model_name": "m",
        "model_type": "causal_lm",
        "peft_params": {"r": 8},
        "training_args": {"beta": 0.1, "loss_type": "sigmoid"},
        "compat": {"force_use_ref_model": True, "max_prompt_length": 64},
        "ref_model_config": {"model_name": "r", "model_type": "causal_lm", "model_kwargs": {"dtype": "float32"}},
    }
    assert runs_of(leaves[0]) == [leaves[0]]


def test_a_list_of_rewards_is_one_value_and_a_knob_of_lists_two() -> None:
    training_args = RFGRPOConfig(max_prompt_length=64, num_generations=4, scale_rewards=False)
    (leaf,) = runs_of(RFModelConfig("m", training_args=training_args, reward_funcs=[short, "judge"]))
    assert leaf["reward_funcs"] == [short, "judge"]
    assert leaf["compat"] == {"max_prompt_length": 64}
    assert leaf["training_args"] == {"num_generations": 4, "scale_rewards": False}
    knob = RFModelConfig("m", training_args=training_args, reward_funcs=List([[short, polite], short]))
    assert [leaf["reward_funcs"] for leaf in runs_of(knob)] == [[short, polite], short]


def test_generation_keeps_its_numbers_through_the_api_server() -> None:
    config = {
        "compute_metrics": {"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}},
        "generation_config": {"$list": [{"temperature": 1.0, "max_new_tokens": 8}, {"top_p": 1}]},
    }
    leaves = expand([ConfigGroup(trainer="SFT", config=config)])
    written = [leaf["additional_kwargs"]["generation_config"] for leaf in leaves]
    assert repr(written) == "[{'max_new_tokens': 8, 'temperature': 1.0}, {'top_p': 1.0}]"
    returned = [restore(json.loads(json.dumps(through_the_api_server(leaf)))) for leaf in leaves]
    assert [repr(leaf["additional_kwargs"]["generation_config"]) for leaf in returned] == [repr(w) for w in written]


@pytest.mark.parametrize(
    ("trainer", "config", "path", "words"),
    [
        ("SFT", {"ref_model_name": "r"}, "ref_model_name", "goes with DPO only, and the trainer is SFT"),
        ("DPO", {"reward_funcs": "r"}, "reward_funcs", "goes with GRPO only"),
        ("DPO", {"ref_model_kwargs": {}}, "ref_model_kwargs", "add ref_model_name"),
        ("GRPO", {}, "reward_funcs", "GRPO needs at least one reward function"),
        ("GRPO", {"reward_funcs": []}, "reward_funcs", "is empty"),
        ("GRPO", {"reward_funcs": ["a", 3]}, "reward_funcs[1]", "must be a reward function"),
        ("SFT", {"generation_config": {}}, "generation_config", "add compute_metrics"),
        ("DPO", {"training_args": {"bta": 1}}, "training_args.bta", "unknown field of DPOConfig; did you mean beta?"),
        ("DPO", {"training_args": {"rpo_alpha": 1}}, "training_args.rpo_alpha", "loss_weights"),
        ("DPO", {"training_args": {"ref_adapter_nam": "x"}}, "training_args.ref_adapter_nam", "mean ref_adapter_name?"),
        ("DPO", {"training_args": {"max_prompt_length": "x"}}, "training_args.max_prompt_length", "a whole number"),
        ("SFT", {"training_args": {"max_prompt_length": 3}}, "training_args.max_prompt_length", "unknown field"),
        (
            "GRPO",
            {"reward_funcs": "r", "training_args": {"num_generation": 1}},
            "training_args.num_generation",
            "did you mean num_generations?",
        ),
        (
            "GRPO",
            {"reward_funcs": "r", "compute_metrics": {"$ref": {"key": "f"}}},
            "compute_metrics",
            "needs generation_config with GRPO",
        ),
    ],
)
def test_what_does_not_go_together_is_named_with_the_fix(
    trainer: Any, config: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        expand([ConfigGroup(trainer=trainer, config=config)])
    assert caught.value.path == f"spec.configs[0].config.{path}"
    assert words in caught.value.message


def test_arguments_of_another_trainer_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="is a RFSFTConfig, and the trainer is DPO; write RFDPOConfig"):
        RFGridSearch(RFModelConfig("m", training_args=RFSFTConfig()), "DPO")
    with pytest.raises(TypeError, match="did you mean force_use_ref_model"):
        RFDPOConfig(force_ref_model=True)
    with pytest.raises(TypeError, match="did you mean reward_funcs"):
        RFModelConfig("m", reward_func=short)


@pytest.mark.parametrize("trainer", ["DPO", "GRPO"])
def test_every_dropped_argument_is_gone_from_trl_and_says_what_it_means(trainer: str) -> None:
    table = TRAINER_CONFIGS[trainer]
    for name, former in table.former.items():
        assert table.is_former(name), f"{name} is back: take it out of the compatibility table"
        assert former.meaning.endswith(".")
        assert former.equals
