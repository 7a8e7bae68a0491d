"""Knobs in every documented spelling, wherever they may stand: Python and YAML make the same runs in the same order."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.test_expand import through_the_api_server

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
from rapidfireai.automl import get_runs as runs_of
from rapidfireai.automl.search import groups_of
from rapidfireai.errors import ConfigError
from rapidfireai.expand import expand


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return row


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    return row


def accuracy(_: Any) -> dict[str, float]:
    return {}


def short(completions: list[str]) -> list[float]:
    return [-float(len(each)) for each in completions]


def polite(completions: list[str]) -> list[float]:
    return [float("please" in each) for each in completions]


def sft(**arguments: Any) -> RFModelConfig:
    return RFModelConfig("m", training_args=RFSFTConfig(**arguments))


def steps(runs: list[dict[str, Any]]) -> list[Any]:
    return [leaf["training_args"].get("max_steps") for leaf in runs]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (lambda: sft(max_steps=1), [1]),
        (lambda: sft(max_steps=List([1, 2])), [1, 2]),
        (lambda: {"trainer_type": "SFT", "model_name": "m", "training_args": {"max_steps": List([1, 2])}}, [1, 2]),
        (lambda: {"trainer_type": "sft", "training_args": {"max_steps": 1}}, [1]),
        (lambda: {"training_args": RFSFTConfig(max_steps=List([1, 2]))}, [1, 2]),
        (lambda: RFGridSearch(sft(max_steps=List([1, 2])), "SFT"), [1, 2]),
        (lambda: RFGridSearch(sft(max_steps=1), trainer_type="sft"), [1]),
        (lambda: RFGridSearch(configs=List([sft(max_steps=1), sft(max_steps=2)]), trainer_type="SFT"), [1, 2]),
        (lambda: RFGridSearch({"training_args": {"max_steps": List([1, 2])}}, "SFT"), [1, 2]),
        (lambda: RFGridSearch([sft(max_steps=2), {"training_args": {"max_steps": 1}}], "SFT"), [2, 1]),
        (lambda: [sft(max_steps=1), [sft(max_steps=List([2, 3])), [RFGridSearch(sft(max_steps=4))]]], [1, 2, 3, 4]),
        (lambda: (List([sft(max_steps=1), [sft(max_steps=2)]]), sft(max_steps=1)), [1, 2, 1]),
        (lambda: [RFRandomSearch(sft(max_steps=List([5])), "SFT", 1), sft(max_steps=1)], [5, 1]),
        (lambda: runs_of(sft(max_steps=List([1, 2]))), [1, 2]),
    ],
)  # fmt: skip
def test_every_spelling_of_a_config_group_makes_its_runs_in_order(written: Callable[[], Any], expected: Any) -> None:
    assert steps(runs_of(written())) == expected


def test_trainers_may_be_mixed() -> None:
    dpo = RFModelConfig("m", training_args=RFDPOConfig(beta=List([0.1, 0.5])))
    grpo = RFModelConfig("m", training_args=RFGRPOConfig(), reward_funcs=short)
    runs = runs_of([RFGridSearch(sft(), "SFT"), [RFGridSearch(dpo, "DPO"), grpo]])
    assert [leaf["trainer_type"] for leaf in runs] == ["SFT", "DPO", "DPO", "GRPO"]


COMMON = {
    "peft_config": List([RFLoraConfig(r=List([8, 16]), lora_dropout=List([0.0, 0.1])), None]),
    "model_kwargs": {"dtype": List(["float32", "bfloat16"]), "attn_implementation": List(["eager", "sdpa"])},
    "formatting_func": List([as_chat, as_text]),
}
GENERATED = {"compute_metrics": List([accuracy, polite]), "generation_config": List([{"top_p": 0.9}, {"top_k": 5}])}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (
            RFModelConfig("m", training_args=RFSFTConfig(learning_rate=List([1e-4, 1e-3])), **COMMON, **GENERATED),
            5 * 2 * 4 * 2 * 2 * 2,
        ),
        (
            RFModelConfig(
                "m",
                training_args=RFDPOConfig(beta=List([0.1, 0.5]), loss_type=List(["sigmoid", ["sigmoid", "sft"]])),
                ref_model_name="r",
                ref_model_kwargs={"dtype": List(["float32", "bfloat16"])},
                **COMMON,
            ),
            5 * 4 * 4 * 2 * 2,
        ),
        (
            RFModelConfig(
                "m",
                training_args=RFGRPOConfig(num_generations=List([2, 4])),
                reward_funcs=List([[short, polite], short, "judge"]),
                **COMMON,
                **GENERATED,
            ),
            5 * 2 * 4 * 2 * 2 * 2 * 3,
        ),
    ],
    ids=["SFT", "DPO", "GRPO"],
)
def test_knobs_may_stand_anywhere(config: RFModelConfig, count: int) -> None:
    runs = RFGridSearch(config).get_runs()
    assert len(runs) == count
    assert len({repr(leaf) for leaf in runs}) == count
    assert runs == RFGridSearch(config.copy()).get_runs()


functions = st.sampled_from([as_chat, as_text, accuracy])
scalars = {
    "learning_rate": st.floats(1e-6, 1.0),
    "max_steps": st.integers(1, 99),
    "bf16": st.booleans() | st.none(),
    "optim": st.sampled_from(["adamw_torch", "sgd"]),
    "label_names": st.lists(st.sampled_from("abc"), max_size=2),
    "lr_scheduler_kwargs": st.fixed_dictionaries({}, optional={"num_cycles": st.integers(1, 3)}),
}


def knobbed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    once = inner | st.lists(inner, min_size=1, max_size=2).map(List)
    return inner | st.lists(once, min_size=1, max_size=2).map(List)


def some(each: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: knobbed(inner) for name, inner in each.items()})


adapters = some({"r": st.integers(1, 64), "target_modules": st.just("all-linear") | st.just(["q", "v"])})
python_configs = st.fixed_dictionaries(
    {"training_args": some(scalars).map(lambda given: RFSFTConfig(**given))},
    optional={
        "model_name": st.just("m"),
        "peft_config": st.lists(adapters.map(lambda given: RFLoraConfig(**given)) | st.none(), min_size=1, max_size=2)
        .map(List),
        "model_kwargs": some({"a": st.just("float32"), "nested": st.just({"a": 1}), "x": st.integers() | st.none()}),
        "formatting_func": knobbed(functions),
    },
)  # fmt: skip


def members(value: Any) -> Iterator[Any]:
    """Every combination of a Python value's knobs, in the documented order."""
    if isinstance(value, List):
        for member in value.values:
            yield from members(member)
    elif isinstance(value, RFLoraConfig | RFSFTConfig):
        yield from members(dict(value.given()))
    elif isinstance(value, dict):
        keys = sorted(value)
        for chosen in itertools.product(*(list(members(value[key])) for key in keys)):
            yield dict(zip(keys, chosen, strict=True))
    else:
        yield value


def directly(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of a Python config, by nothing but loops."""
    parts = (config.get("peft_config"), config["training_args"], config.get("model_kwargs", {}))
    runs = []
    for peft, arguments, kwargs, formatting in itertools.product(
        *(list(members(part)) for part in (*parts, config.get("formatting_func")))
    ):
        leaf = {
            "trainer_type": "SFT",
            "model_name": config.get("model_name"),
            "peft_params": {"task_type": "CAUSAL_LM"} if peft == {} else peft,
            "training_args": arguments,
            "model_kwargs": kwargs or None,
            "additional_kwargs": {"formatting_func": formatting} if formatting is not None else None,
        }
        runs.append({key: value for key, value in leaf.items() if value is not None})
    return runs


@settings(max_examples=150, deadline=None)
@given(python_configs)
def test_python_and_yaml_make_the_runs_that_plain_loops_make(config: dict[str, Any]) -> None:
    expected = directly(config)
    same = len(expected) > 1 and all(leaf == expected[0] for leaf in expected)
    if same:
        with pytest.raises(ConfigError, match="all the same"):
            runs_of(config)
        return
    assert runs_of(config) == expected
    known: list[Any] = []

    def lift(value: object, _: str) -> dict[str, Any]:
        known.append(value)
        return {"$ref": {"bundle": "0" * 64, "key": str(len(known) - 1), "label": ""}}

    (group,) = groups_of(config, lift)
    manifest = yaml.safe_load(yaml.safe_dump(group.to_wire()))
    stored = ConfigGroup.model_validate(json.loads(json.dumps(through_the_api_server(manifest))))
    runs = expand([stored])
    for leaf in runs:
        reference = leaf.get("additional_kwargs", {}).get("formatting_func")
        if reference is not None:
            leaf["additional_kwargs"]["formatting_func"] = known[int(reference["$ref"]["key"])]
    assert runs == expected


def test_samples_are_values_of_the_knob() -> None:
    nested = List([1, List([2, 3]), Range(4, 6)])
    assert {nested.sample() for _ in range(300)} == {1, 2, 3, 4, 5, 6}
    span = Range(0.1, 0.5, step=0.2)
    assert {span.sample() for _ in range(100)} == {0.1, 0.3, 0.5}
    assert all(1e-5 <= Range(1e-5, 1e-3, log=True).sample() <= 1e-3 for _ in range(100))


def test_one_run_uses_one_gpu_whoever_says_so() -> None:
    assert runs_of(RFModelConfig("m", training_args=RFSFTConfig(), num_gpus=1)) == runs_of(sft())
    (leaf,) = expand([ConfigGroup(trainer="SFT", config={"num_gpus": 1})])
    assert "num_gpus" not in leaf
    with pytest.raises(ConfigError, match=r"RFModelConfig.num_gpus: must be 1, not 2: one run uses one GPU"):
        RFModelConfig("m", num_gpus=2)
    with pytest.raises(ConfigError, match=r"spec.configs\[0\].config.num_gpus: must be 1, not 2"):
        expand([ConfigGroup(trainer="SFT", config={"num_gpus": 2})])


def test_a_model_config_can_be_changed_copied_and_sent() -> None:
    config = RFModelConfig("m", peft_config=RFLoraConfig(r=8), training_args=RFSFTConfig(max_steps=1))
    other = config.copy()
    other.peft_config.r = List([8, 16])
    other.model_name = "n"
    other.training_args.max_steps = 2
    assert (config.model_name, config.peft_config.r, config.training_args.max_steps) == ("m", 8, 1)
    assert len(runs_of(other)) == 2
    for made in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        assert runs_of(made) == runs_of(other)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: RFModelConfig(model_name=3), "RFModelConfig.model_name: must be a string, not 3"),
        (lambda: RFModelConfig(model_name=List(["a", "b"])), "RFModelConfig.model_name: takes one value; write one"),
        (lambda: RFModelConfig(tokenizer_kwargs={"a": List([1])}), "RFModelConfig.tokenizer_kwargs.a: a knob inside"),
        (lambda: RFModelConfig(peft_config={"rr": 8}), "RFModelConfig.peft_config.rr: unknown field of LoraConfig"),
        (lambda: RFModelConfig(peft_config=[RFLoraConfig(), {"rank": 8}]), "peft_config[1].rank: unknown field"),
        (lambda: RFModelConfig(peft_config=RFSFTConfig()), "peft_config: must be RFLoraConfig(...), not a"),
        (lambda: RFModelConfig(training_args=RFLoraConfig()), "training_args: must be RFSFTConfig(...), RF"),
        (lambda: RFModelConfig(formatting_func="mine"), "RFModelConfig.formatting_func: must be a function"),
        (lambda: RFModelConfig(compute_metrics=List([len, object()])), "compute_metrics[1]: must be a function"),
        (lambda: RFModelConfig(reward_funcs=[]), "RFModelConfig.reward_funcs: is empty"),
        (lambda: RFModelConfig(reward_funcs=[len, 3]), "RFModelConfig.reward_funcs[1]: must be a reward function"),
        (lambda: RFModelConfig(generation_config={"top_p": "x"}), "generation_config.top_p: must be a number, not 'x'"),
        (lambda: RFModelConfig(model_kwargs={"a": float("nan")}), "model_kwargs.a: must be a finite number, not nan"),
        (lambda: setattr(RFModelConfig(), "model_nme", "m"), "no argument model_nme; did you mean model_name?"),
        (lambda: setattr(RFModelConfig(), "model_name", 3), "RFModelConfig.model_name: must be a string"),
        (lambda: List([]), "List has no value"),
        (lambda: RFGridSearch([], "SFT"), "has no config"),
    ],
)  # fmt: skip
def test_a_wrong_value_fails_where_it_is_written(write: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        write()
    assert words in str(caught.value)
