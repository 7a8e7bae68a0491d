"""Configs with knobs become runs: the same ones, in the same order, wherever they are expanded."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rapidfireai.api.experiment import MAX_RUNS, ConfigGroup
from rapidfireai.expand import ConfigError, expand, restore


def group(config: dict[str, Any]) -> ConfigGroup:
    return ConfigGroup(trainer="SFT", config=config)


def from_yaml(text: str) -> list[ConfigGroup]:
    return [group(yaml.safe_load(text))]


def through_the_api_server(value: Any) -> Any:
    """Keys sorted, and whole floats as whole numbers: what a Go server makes of JSON."""
    if isinstance(value, dict):
        return {key: through_the_api_server(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [through_the_api_server(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def test_two_adapters_and_two_rates_give_four_runs_with_the_rate_fastest() -> None:
    leaves = expand(
        from_yaml("""
        model_name: m
        peft_config:
          $list:
          - {r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}
          - {r: 32, lora_alpha: 64, target_modules: [q_proj]}
        training_args: {learning_rate: {$list: [1.0e-4, 1.0e-3]}, per_device_train_batch_size: 4}
        """)
    )
    assert [(leaf["peft_params"]["r"], leaf["training_args"]["learning_rate"]) for leaf in leaves] == [
        (8, 1e-4),
        (8, 1e-3),
        (32, 1e-4),
        (32, 1e-3),
    ]
    assert leaves[0] == {
        "trainer_type": "SFT",
        "model_name": "m",
        "peft_params": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "training_args": {"learning_rate": 1e-4, "per_device_train_batch_size": 4},
    }


def test_within_a_mapping_the_alphabetically_last_key_is_fastest_however_it_was_written() -> None:
    written = {"weight_decay": {"$list": [0.0, 0.1]}, "learning_rate": {"$list": [1e-4, 1e-3]}}
    pairs = [
        (leaf["training_args"]["learning_rate"], leaf["training_args"]["weight_decay"])
        for leaf in expand([group({"training_args": written})])
    ]
    assert pairs == [(1e-4, 0.0), (1e-4, 0.1), (1e-3, 0.0), (1e-3, 0.1)]


def test_loops_nest_from_adapters_over_arguments_and_model_to_functions() -> None:
    first, second = ({"$ref": {"bundle": "0" * 64, "key": key, "label": key}} for key in "ab")
    leaves = expand(
        [
            group(
                {
                    "formatting_func": {"$list": [first, second]},
                    "model_kwargs": {"dtype": {"$list": ["float32", "bfloat16"]}},
                    "training_args": {"max_steps": {"$list": [1, 2]}},
                    "peft_config": [{"r": {"$list": [1, 2]}}, None],
                }
            )
        ]
    )
    seen = [
        (
            leaf.get("peft_params", {}).get("r"),
            leaf["training_args"]["max_steps"],
            leaf["model_kwargs"]["dtype"],
            leaf["additional_kwargs"]["formatting_func"]["$ref"]["key"],
        )
        for leaf in leaves
    ]
    assert seen == list(itertools.product([1, 2, None], [1, 2], ["float32", "bfloat16"], ["a", "b"]))


def test_knobs_nest_and_plain_lists_are_one_value() -> None:
    leaves = expand(
        [
            group(
                {
                    "peft_config": {"target_modules": {"$list": [["q_proj"], {"$list": [["k_proj"], "all-linear"]}]}},
                    "training_args": {
                        "lr_scheduler_kwargs": {"num_cycles": {"$list": [1, 2]}},
                        "label_names": ["a", "b"],
                    },
                }
            )
        ]
    )
    seen = [
        (leaf["peft_params"]["target_modules"], leaf["training_args"]["lr_scheduler_kwargs"]["num_cycles"])
        for leaf in leaves
    ]
    assert seen == list(itertools.product([["q_proj"], ["k_proj"], "all-linear"], [1, 2]))
    assert all(leaf["training_args"]["label_names"] == ["a", "b"] for leaf in leaves)


def test_an_adapter_with_nothing_but_defaults_is_an_adapter() -> None:
    (leaf,) = expand([group({"peft_config": {}})])
    assert leaf["peft_params"] == {"task_type": "CAUSAL_LM"}


def test_leaves_share_no_mutable_values() -> None:
    first, second = expand([group({"training_args": {"label_names": ["a"], "max_steps": {"$list": [1, 2]}}})])
    first["training_args"]["label_names"].append("b")
    assert second["training_args"]["label_names"] == ["a"]


@pytest.mark.parametrize(
    ("argument", "written", "meant"),
    [
        ("learning_rate", 1, 1.0),
        ("learning_rate", "1e-4", 1e-4),
        ("num_train_epochs", 2, 2.0),
        ("max_steps", 8.0, 8),
        ("eval_strategy", False, "no"),
        ("save_strategy", "chunk", "no"),
        ("max_length", {"$none": True}, None),
        ("max_length", None, None),
        ("pad_to_multiple_of", 8, 8),
        ("pad_to_multiple_of", "auto", "auto"),
        ("bf16", True, True),
    ],
)
def test_values_get_the_type_of_their_argument(argument: str, written: Any, meant: Any) -> None:
    (leaf,) = expand([group({"training_args": {argument: written}})])
    value = leaf["training_args"][argument]
    assert value == meant
    assert type(value) is type(meant)


def test_earlier_names_are_taken_for_the_ones_of_now() -> None:
    written = {
        "evaluation_strategy": "steps",
        "max_seq_length": {"$list": [64, 128]},
        "no_cuda": True,
        "per_gpu_train_batch_size": 2,
        "warmup_ratio": 0.25,
    }
    first, second = expand([group({"training_args": written})])
    now = {"eval_strategy": "steps", "use_cpu": True, "per_device_train_batch_size": 2, "warmup_steps": 0.25}
    assert first["training_args"] == {**now, "max_length": 64}
    assert second["training_args"] == {**now, "max_length": 128}


@pytest.mark.parametrize(
    ("config", "path", "words"),
    [
        ("training_args: {learning_rte: 1}", "training_args.learning_rte", "did you mean learning_rate?"),
        ("training_args: {warmup_ratio: 1}", "training_args.warmup_ratio", "must be a number below 1, not 1"),
        ("training_args: {warmup_ratio: 0.1, warmup_steps: 3}", "training_args.warmup_ratio", "leave one of them out"),
        ("training_args: {output_dir: x}", "training_args.output_dir", "leave it out"),
        ("training_args: {report_to: mlflow}", "training_args.report_to", "leave it out"),
        ("training_args: {optim: adamw_trch}", "training_args.optim", "did you mean adamw_torch?"),
        ("training_args: {eval_strategy: sometimes}", "training_args.eval_strategy", "must be one of no, steps, epoch"),
        ("training_args: {learning_rate: fast}", "training_args.learning_rate", "must be a number, not 'fast'"),
        ("training_args: {learning_rate: .inf}", "training_args.learning_rate", "must be a number, not inf"),
        ("training_args: {learning_rate: .nan}", "training_args.learning_rate", "must be a number, not nan"),
        ("training_args: {learning_rate: true}", "training_args.learning_rate", "must be a number, not True"),
        ("training_args: {max_steps: 1.5}", "training_args.max_steps", "must be a whole number, not 1.5"),
        ("training_args: {max_steps: null}", "training_args.max_steps", "leave it out for the library's default"),
        ("training_args: {fp16: 'true'}", "training_args.fp16", "must be true or false, not 'true'"),
        ("training_args: {max_steps: {$list: [1, x]}}", "training_args.max_steps[1]", "must be a whole number"),
        ("training_args: {max_steps: {$list: []}}", "training_args.max_steps", "list at least one value"),
        ("training_args: {max_steps: {$list: 3}}", "training_args.max_steps", "must hold a list of values, not 3"),
        ("training_args: {max_steps: {$lst: [3]}}", "training_args.max_steps", "keys that begin with $ are markers"),
        ("training_args: {max_steps: {$range: {start: 0, end: 2}}}", "training_args.max_steps", '{"$list": [...]}'),
        ("training_args: {label_names: [{$list: [a]}]}", "training_args.label_names[0]", "a knob inside a value"),
        ("training_args: {$list: [{max_steps: 1}]}", "training_args", "put the $list inside"),
        ("training_args: 3", "training_args", "must be a mapping of arguments, not 3"),
        ("training_arg: {}", "training_arg", "did you mean training_args?"),
        ("peft_config: {rr: 8}", "peft_config.rr", "unknown field of LoraConfig; did you mean r?"),
        ("peft_config: {$list: [{r: 8}, {rank: 8}]}", "peft_config[1].rank", "write r"),
        ("peft_config: []", "peft_config", "list at least one mapping"),
        ("peft_config: lora", "peft_config", "must be a mapping"),
        ("peft_config: {eva_config: {}}", "peft_config.eva_config", "must be a Python object"),
        ("model_kwargs: {x: {y: {$range: {start: 0, end: 0.5}}}}", "model_kwargs.x.y", "a range has no list of values"),
        ("model_kwargs: {x: {y: {$range: {}}}}", "model_kwargs.x.y", "start is required"),
        ("model_name: {$list: [a, b]}", "model_name", "write one config for each"),
        ("model_name: 3", "model_name", "must be a string, not 3"),
        ("formatting_func: mine", "formatting_func", "must be a function"),
    ],
)  # fmt: skip
def test_bad_configs_name_the_field_and_the_fix(config: str, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand([group({}), *from_yaml(config)])
    assert caught.value.path == f"spec.configs[1].config.{path}"
    assert words in caught.value.message
    assert str(caught.value) == f"{caught.value.path}: {caught.value.message}"


def test_too_many_runs_are_refused_before_they_are_made_and_may_be_allowed() -> None:
    many = {"$list": list(range(1, 1001))}
    with pytest.raises(ConfigError, match=rf"make 1000000000 runs, and spec.maxRuns allows {MAX_RUNS};.*max_runs"):
        expand([group({"training_args": {"max_steps": many, "seed": many, "data_seed": many}})])
    hundred = [group({"training_args": {"max_steps": {"$list": list(range(1, 101))}}})]
    with pytest.raises(ConfigError, match=r"make 100 runs, and spec.maxRuns allows 99;.*over 2 experiments"):
        expand(hundred, limit=99)
    assert len(expand(hundred, limit=100)) == 100


floats = st.floats(allow_nan=False, allow_infinity=False, width=32).map(
    lambda value: value + 0.0
)  # -0.0 does not survive JSON
values: dict[str, st.SearchStrategy[Any]] = {
    "learning_rate": floats,
    "weight_decay": floats,
    "max_steps": st.integers(1, 10_000),
    "bf16": st.booleans() | st.none(),
    "optim": st.sampled_from(["adamw_torch", "sgd"]),
    "label_names": st.lists(st.text(max_size=3), max_size=2),
}


def knob(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    one = st.lists(inner, min_size=1, max_size=3).map(lambda members: {"$list": members})
    nested = st.lists(inner | one, min_size=1, max_size=2).map(lambda members: {"$list": members})
    return inner | one | nested


training_args = st.fixed_dictionaries({}, optional={name: knob(each) for name, each in values.items()})
lora = st.fixed_dictionaries(
    {}, optional={"r": knob(st.integers(1, 64)), "lora_dropout": knob(st.floats(0, 1, width=32))}
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "model_name": st.just("m"),
        "training_args": training_args,
        "peft_config": lora | st.lists(lora | st.none(), min_size=1, max_size=2),
        "model_kwargs": st.dictionaries(st.sampled_from("abc"), knob(floats | st.none()), max_size=2),
    },
)


def product(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(product, value["$list"])) if "$list" in value else math.prod(map(product, value.values()))
    return 1


def runs_of(config: dict[str, Any]) -> int:
    peft = config.get("peft_config")
    alternatives = sum(map(product, peft)) if isinstance(peft, list) else product(peft)
    return alternatives * product(config.get("training_args")) * product(config.get("model_kwargs"))


@settings(max_examples=300, deadline=None)
@given(st.lists(configs, min_size=1, max_size=2))
def test_sdk_and_operator_expand_alike_and_the_count_is_the_product(written: list[dict[str, Any]]) -> None:
    assume(sum(map(runs_of, written)) <= MAX_RUNS)
    try:
        here = expand([group(config) for config in written])
    except ConfigError as error:
        assume("all the same" not in error.message)
        raise
    there = expand([group(json.loads(json.dumps(through_the_api_server(config)))) for config in written])
    assert len(here) == sum(map(runs_of, written))
    typed = [(leaf["training_args"], leaf.get("peft_params")) for leaf in here]
    assert repr(typed) == repr([(leaf["training_args"], leaf.get("peft_params")) for leaf in there])
    assert here == there
    returned = [restore(json.loads(json.dumps(through_the_api_server(leaf)))) for leaf in here]
    assert repr([leaf["training_args"] for leaf in returned]) == repr([leaf["training_args"] for leaf in here])
    assert returned == here
