"""A clone's config is its parent's with a patch merged in; what cannot run is refused before anything does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.clone import changes, cloned, patch_between, warm_start_obstacle
from rapidfireai.errors import ConfigError
from rapidfireai.expand import expand


def ref(key: str, bundle: str = "0" * 64) -> dict[str, Any]:
    return {"$ref": {"bundle": bundle, "key": key, "label": key}}


SFT: dict[str, Any] = {
    "trainer_type": "SFT",
    "model_name": "m",
    "model_type": "causal_lm",
    "model_kwargs": {"torch_dtype": "bfloat16"},
    "tokenizer": "t",
    "tokenizer_kwargs": {"padding_side": "left"},
    "peft_params": {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": ["q", "v"],
        "task_type": "CAUSAL_LM",
    },
    "training_args": {
        "learning_rate": 1.0,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "max_length": None,
        "max_steps": 8,
    },
    "additional_kwargs": {
        "compute_metrics": ref("measure"),
        "formatting_func": ref("format"),
        "generation_config": {"max_new_tokens": 4, "temperature": 1.0},
    },
}
DPO: dict[str, Any] = {
    "trainer_type": "DPO",
    "model_name": "m",
    "training_args": {"beta": 0.5},
    "compat": {"max_prompt_length": 32},
    "ref_model_config": {"model_name": "n", "model_kwargs": {"dtype": "float32"}},
}
GRPO: dict[str, Any] = {
    "trainer_type": "GRPO",
    "model_name": "m",
    "training_args": {"num_generations": 2},
    "reward_funcs": [ref("short"), {"$function": "polite"}],
}


def through_the_api_server(value: Any) -> Any:
    """Keys sorted, and whole floats as whole numbers: what a Go server makes of JSON."""
    if isinstance(value, dict):
        return {key: through_the_api_server(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [through_the_api_server(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("parent", [SFT, DPO, GRPO], ids=["SFT", "DPO", "GRPO"])
def test_a_clone_without_a_change_is_its_parent_and_nothing_of_it_is_lost(parent: dict[str, Any]) -> None:
    assert cloned(parent, {}) == parent
    again = cloned(through_the_api_server(parent), {})
    assert json.dumps(again, sort_keys=True) == json.dumps(parent, sort_keys=True)


def test_a_patch_leaves_its_parent_and_itself_as_they_were() -> None:
    patch = {"training_args": {"learning_rate": 0.5}, "peft_config.r": 4}
    before = copy.deepcopy((SFT, patch))
    cloned(SFT, patch)
    assert (SFT, patch) == before


@pytest.mark.parametrize(
    ("patch", "path", "value"),
    [
        ({"training_args": {"learning_rate": 1}}, ("training_args", "learning_rate"), 1.0),
        ({"training_args.learning_rate": "1e-4"}, ("training_args", "learning_rate"), 1e-4),
        ({"training_args": {"max_length": 64}}, ("training_args", "max_length"), 64),
        ({"training_args": {"max_seq_length": 64}}, ("training_args", "max_length"), 64),
        ({"training_args.lr_scheduler_kwargs.num_cycles": 3},
         ("training_args", "lr_scheduler_kwargs", "num_cycles"), 3),
        ({"peft_config": {"r": 16}}, ("peft_params",), {**SFT["peft_params"], "r": 16}),
        ({"peft_params": {"r": 16}}, ("peft_params",), {**SFT["peft_params"], "r": 16}),
        ({"peft_params.target_modules": ["q"]}, ("peft_params", "target_modules"), ["q"]),
        ({"peft_config.rank_pattern.layers.0.q": 4}, ("peft_params", "rank_pattern"), {"layers.0.q": 4}),
        ({"model_kwargs": {"torch_dtype": "float32"}}, ("model_kwargs",), {"torch_dtype": "float32"}),
        ({"model_kwargs": {"x": {"$none": True}}}, ("model_kwargs",), {"torch_dtype": "bfloat16", "x": None}),
        ({"formatting_func": ref("other", "1" * 64)}, ("additional_kwargs", "formatting_func"), ref("other", "1" * 64)),
        ({"formatting_func": {"$function": "f"}}, ("additional_kwargs", "formatting_func"), {"$function": "f"}),
        ({"additional_kwargs.generation_config.top_p": 1}, ("additional_kwargs", "generation_config"),
         {"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0}),
        ({"num_gpus": 1}, ("model_name",), "m"),
    ],
)  # fmt: skip
def test_a_patch_changes_what_it_names_and_nothing_else(
    patch: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    clone, expected = cloned(SFT, patch), copy.deepcopy(SFT)
    place = expected
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert clone == expected
    assert repr(clone["training_args"]["learning_rate"]) == repr(expected["training_args"]["learning_rate"])


@pytest.mark.parametrize(
    ("patch", "gone"),
    [
        ({"peft_config": None}, "peft_params"),
        ({"peft_config": {"$none": True}}, "peft_params"),
        ({"model_kwargs": None}, "model_kwargs"),
        ({"model_kwargs": {"torch_dtype": None}}, "model_kwargs"),
        ({"additional_kwargs": None}, "additional_kwargs"),
        ({"tokenizer": None}, "tokenizer"),
    ],
)
def test_null_takes_away(patch: dict[str, Any], gone: str) -> None:
    assert cloned(SFT, patch) == {key: value for key, value in SFT.items() if key != gone}


def test_null_gives_an_argument_the_librarys_default_and_none_is_a_value() -> None:
    assert "max_length" not in cloned(SFT, {"training_args": {"max_length": None}})["training_args"]
    assert cloned(SFT, {"training_args": {"max_length": {"$none": True}}})["training_args"]["max_length"] is None


def test_arguments_that_trl_no_longer_has_and_the_reference_are_patched_under_either_name() -> None:
    either = ({"training_args": {"max_prompt_length": 16}}, {"compat": {"max_prompt_length": 16}})
    for patch in either:
        assert cloned(DPO, patch) == {**DPO, "compat": {"max_prompt_length": 16}}
    assert cloned(DPO, {"ref_model_name": "o"}) == cloned(DPO, {"ref_model_config": {"model_name": "o"}})
    assert "ref_model_config" not in cloned(DPO, {"ref_model_config": None})


def test_rewards_are_inherited_or_replaced_as_a_whole() -> None:
    assert cloned(GRPO, {"training_args.beta": 0})["reward_funcs"] == GRPO["reward_funcs"]
    assert cloned(GRPO, {"reward_funcs": ref("long")})["reward_funcs"] == ref("long")


@pytest.mark.parametrize(
    ("patch", "path", "words"),
    [
        ({"training_args": {"learning_rte": 1}}, "training_args.learning_rte", "did you mean learning_rate?"),
        ({"training_args.learning_rte": 1}, "training_args.learning_rte", "did you mean learning_rate?"),
        ({"training_args": {"learning_rte": None}}, "training_args.learning_rte", "did you mean learning_rate?"),
        ({"training_args": {"learning_rate": "fast"}}, "training_args.learning_rate", "must be a number, not 'fast'"),
        ({"training_args": {"max_steps": {"$none": True}}}, "training_args.max_steps", "the library's default"),
        ({"training_args": {"learning_rate": {"$list": [1, 2]}}}, "training_args.learning_rate", "several values"),
        ({"model_kwargs": {"x": [{"$range": {}}]}}, "model_kwargs.x[0]", "several values"),
        ({"peft_config": [{"r": 1}, {"r": 2}]}, "peft_config", "a clone is one run"),
        ({"peft_config": {"rank": 4}}, "peft_config.rank", "write r"),
        ({"peft_config": {"rank": None}}, "peft_config.rank", "write r"),
        ({"peft_config": 8}, "peft_config", "must be a mapping"),
        ({"peft_config": {"r": 1}, "peft_params.r": 1}, "peft_config.r", "given twice"),
        ({"training_args": 3}, "training_args", "must be a mapping"),
        ({"training_arg": {}}, "training_arg", "did you mean training_args?"),
        ({"learning_rate": 1}, "learning_rate", "unknown field of a config"),
        ({"additional_kwargs": {"formating_func": None}}, "additional_kwargs.formating_func", "did you mean"),
        ({"formatting_func": "mine"}, "formatting_func", "must be a function"),
        ({"compute_metrics": None}, "generation_config", "add compute_metrics"),
        ({"trainer_type": "DPO"}, "trainer_type", "a clone keeps the trainer of its parent, SFT"),
        ({"reward_funcs": ref("x")}, "reward_funcs", "goes with GRPO only"),
        ({"model_kwargs": {"token": "hf_123"}}, "model_kwargs.token", "looks like a secret"),
        ({"num_gpus": 2}, "num_gpus", "must be 1"),
        ([], "patch", "must be a mapping"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_naming_the_knob_and_the_fix(patch: Any, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloned(SFT, patch)
    assert caught.value.path == path
    assert words in caught.value.message
    assert "hf_123" not in str(caught.value)


def test_the_difference_names_each_knob_as_a_patch_would() -> None:
    clone = cloned(
        SFT,
        {"training_args": {"learning_rate": 0.5, "max_length": None}, "peft_config.r": 4, "model_kwargs.x": True,
         "formatting_func": ref("other", "1" * 64)},
    )  # fmt: skip
    assert [str(change) for change in changes(SFT, clone)] == [
        "formatting_func: format -> other",
        "model_kwargs.x: - -> true",
        "peft_config.r: 8 -> 4",
        "training_args.learning_rate: 1 -> 0.5",
        "training_args.max_length: null -> -",
    ]
    assert changes(SFT, through_the_api_server(SFT)) == []


@pytest.mark.parametrize(
    ("patch", "knob"),
    [
        ({"training_args.learning_rate": 0.5}, None),
        ({"peft_config": {"lora_alpha": 32, "lora_dropout": 0.5}}, None),
        ({"peft_config.target_modules": ["v", "q"]}, None),
        ({"peft_config.bias": "none"}, None),
        ({"peft_config.use_dora": False}, None),
        ({"peft_config.init_lora_weights": "gaussian"}, None),
        ({"model_kwargs.torch_dtype": "float32"}, None),
        ({"model_kwargs.load_in_4bit": True}, None),
        ({"model_type": None}, None),
        ({"formatting_func": ref("other")}, None),
        ({"model_name": "n"}, "model_name"),
        ({"model_type": "seq_cls"}, "model_type"),
        ({"model_kwargs.num_labels": 3}, "model_kwargs.num_labels"),
        ({"peft_config": None}, "peft_config"),
        ({"peft_config.r": 16}, "peft_config.r"),
        ({"peft_config.target_modules": ["q"]}, "peft_config.target_modules"),
        ({"peft_config.modules_to_save": ["head"]}, "peft_config.modules_to_save"),
        ({"peft_config.use_dora": True}, "peft_config.use_dora"),
        ({"peft_config.bias": "all"}, "peft_config.bias"),
        ({"peft_config.rank_pattern": {"q": 4}}, "peft_config.rank_pattern"),
        ({"peft_config.layers_to_transform": 1}, "peft_config.layers_to_transform"),
        ({"peft_config.init_lora_weights": "pissa"}, "peft_config.init_lora_weights"),
        ({"training_args.chat_template_path": "t"}, "training_args.chat_template_path"),
    ],
)
def test_a_warm_start_needs_the_same_shapes(patch: dict[str, Any], knob: str | None) -> None:
    obstacle = warm_start_obstacle(SFT, cloned(SFT, patch))
    assert (obstacle is None) == (knob is None), obstacle
    if obstacle is not None:
        assert obstacle.startswith(f"{knob}: changes from ")
        assert "clone it cold" in obstacle


def test_what_quantises_the_base_stands_in_the_way_where_the_base_is_trained() -> None:
    full = cloned(SFT, {"peft_config": None})
    assert "model_kwargs.load_in_4bit" in str(
        warm_start_obstacle(full, cloned(full, {"model_kwargs.load_in_4bit": True}))
    )


floats = st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda value: value + 0.0)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": floats,
        "weight_decay": floats,
        "max_steps": st.integers(1, 10_000),
        "bf16": st.booleans() | st.none(),
        "optim": st.sampled_from(["adamw_torch", "sgd"]),
        "label_names": st.lists(st.text(max_size=3), max_size=2),
        "lr_scheduler_kwargs": st.dictionaries(st.sampled_from(["a", "b.c"]), st.integers() | st.none(), max_size=2),
        "max_prompt_length": st.integers(1, 99),
    },
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "model_name": st.sampled_from(["m", "n"]),
        "training_args": arguments,
        "peft_config": st.fixed_dictionaries({}, optional={"r": st.integers(1, 64), "lora_dropout": floats}),
        "model_kwargs": st.dictionaries(st.sampled_from("abc"), floats | st.none() | st.booleans(), max_size=2),
        "formatting_func": st.sampled_from([ref("a"), ref("b"), {"$function": "c"}]),
        "ref_model_name": st.sampled_from(["o", "p"]),
    },
)
leaves = configs.map(lambda config: expand([ConfigGroup(trainer="DPO", config=config)])[0])


@settings(max_examples=300, deadline=None)
@given(leaves)
def test_every_config_clones_to_itself_with_its_types(leaf: dict[str, Any]) -> None:
    assert cloned(leaf, {}) == leaf
    returned = cloned(json.loads(json.dumps(through_the_api_server(leaf))), {})
    assert repr(sorted(returned["training_args"].items())) == repr(sorted(leaf["training_args"].items()))
    assert changes(leaf, returned) == []
    assert warm_start_obstacle(leaf, returned) is None


@settings(max_examples=300, deadline=None)
@given(leaves, leaves)
def test_the_differences_of_two_configs_are_a_patch_from_one_to_the_other(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    clone = cloned(one, patch_between(one, other))
    assert clone == other
    assert cloned(clone, patch_between(one, other)) == clone, "merging once more changes nothing"


@settings(max_examples=200, deadline=None)
@given(
    leaves,
    st.dictionaries(st.text(max_size=8), st.recursive(st.none() | floats | st.text(max_size=3), st.lists), max_size=2),
)
def test_any_patch_makes_a_clone_or_a_sentence(leaf: dict[str, Any], patch: dict[str, Any]) -> None:
    try:
        cloned(leaf, patch)
    except ConfigError as error:
        assert error.path or any("" in key.split(".") for key in patch), "nothing to name but what has no name"
        assert error.message
