"""What a notebook writes: knobs, config classes and searches."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rapidfireai.automl import List, Range, RFGridSearch, RFLoraConfig, RFModelConfig, RFSFTConfig, get_runs
from rapidfireai.automl.search import groups_of
from rapidfireai.errors import ConfigError
from rapidfireai.expand import expand


def two_by_two() -> RFModelConfig:
    return RFModelConfig(
        model_name="m",
        peft_config=List([RFLoraConfig(r=8), RFLoraConfig(r=32)]),
        training_args=RFSFTConfig(learning_rate=List([1e-4, 1e-3])),
    )


def pairs(leaves: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(leaf["peft_params"]["r"], leaf["training_args"]["learning_rate"]) for leaf in leaves]


FOUR = [(8, 1e-4), (8, 1e-3), (32, 1e-4), (32, 1e-3)]


def no_objects(value: object, path: str) -> dict[str, Any]:
    raise AssertionError(f"{path}: {value!r} was lifted")


@pytest.mark.parametrize(
    ("config_group", "times"),
    [
        (lambda: RFGridSearch(two_by_two(), "SFT"), 1),
        (lambda: RFGridSearch(two_by_two(), trainer_type="sft"), 1),
        (lambda: RFGridSearch(two_by_two()), 1),
        (lambda: RFGridSearch([two_by_two(), two_by_two()]), 2),
        (lambda: RFGridSearch(List([two_by_two(), two_by_two()])), 2),
        (two_by_two, 1),
        (lambda: [two_by_two(), [RFGridSearch(two_by_two()), dict(two_by_two().given())]], 3),
    ],
)
def test_whatever_holds_configs_is_a_config_group(config_group: Callable[[], Any], times: int) -> None:
    assert pairs(get_runs(config_group())) == FOUR * times


def test_a_run_shown_by_get_runs_info_is_a_config_group_too() -> None:
    shown = RFGridSearch(two_by_two()).get_runs()[2]
    assert get_runs(shown) == [shown]


def test_python_and_yaml_write_the_same_resource() -> None:
    (written,) = groups_of(RFGridSearch(two_by_two(), "SFT"), no_objects)
    config = yaml.safe_load("""
        model_name: m
        model_type: causal_lm
        peft_config: {$list: [{r: 8}, {r: 32}]}
        training_args: {learning_rate: {$list: [1.0e-4, 1.0e-3]}}
        """)
    assert written.to_wire() == {"strategy": "grid", "trainer": "SFT", "config": config}


class Schedule(enum.Enum):
    COSINE = "cosine"


def test_python_values_become_json() -> None:
    group = {
        "trainer_type": "SFT",
        "model_name": Path("/models/m"),
        "peft_config": {"r": np.int64(4), "target_modules": {"v_proj", "q_proj"}, "lora_dropout": np.float32(0.5)},
        "training_args": RFSFTConfig(lr_scheduler_type=Schedule.COSINE, max_length=None, label_names=("a",)),
        "model_kwargs": {"flag": True, "none": None, "many": [1, None]},
    }
    (written,) = groups_of(group, no_objects)
    assert json.loads(json.dumps(written.config)) == {
        "model_name": "/models/m",
        "peft_config": {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5},
        "training_args": {"lr_scheduler_type": "cosine", "max_length": {"$none": True}, "label_names": ["a"]},
        "model_kwargs": {"flag": True, "none": {"$none": True}, "many": [1, None]},
    }
    (leaf,) = expand([written])
    assert leaf["training_args"]["max_length"] is None
    assert leaf["model_kwargs"] == {"flag": True, "none": None, "many": [1, None]}


def test_functions_may_be_knobs_and_come_back_as_themselves() -> None:
    config = RFModelConfig(formatting_func=List([len, sorted]), training_args=RFSFTConfig())
    assert [leaf["additional_kwargs"]["formatting_func"] for leaf in get_runs(config)] == [len, sorted]


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (lambda: RFSFTConfig(learning_rte=1), TypeError, "has no argument learning_rte; did you mean learning_rate?"),
        (lambda: RFSFTConfig(learning_rate="fast"), ValueError, "learning_rate: must be a number, not 'fast'"),
        (lambda: RFSFTConfig(max_steps=List([1, 1.5])), ValueError, "max_steps[1]: must be a whole number"),
        (lambda: RFSFTConfig(max_steps=Range(0.5, 1.5)), ValueError, "max_steps: must be a whole number"),
        (lambda: RFSFTConfig(warmup_ratio=1.0), ValueError, "warmup_ratio: must be a number below 1, not 1.0"),
        (lambda: RFLoraConfig(lora_alpa=1), TypeError, "did you mean lora_alpha?"),
        (lambda: RFLoraConfig(8), TypeError, "positional"),
        (lambda: RFModelConfig(model_nam="m"), TypeError, "no argument model_nam; did you mean model_name?"),
        (lambda: RFGridSearch(two_by_two(), trainer="SFT"), TypeError, "did you mean trainer_type?"),
        (lambda: RFGridSearch(two_by_two(), "PPO"), ValueError, "must be one of SFT, DPO, GRPO, not 'PPO'"),
        (lambda: RFGridSearch(RFModelConfig("m")), ValueError, 'write RFGridSearch(config, "SFT")'),
        (lambda: RFGridSearch("m"), TypeError, "config_group must be RFGridSearch(...)"),
        (lambda: RFGridSearch([RFGridSearch(two_by_two())]), TypeError, "a search within a search"),
        (lambda: RFGridSearch(two_by_two()).get_runs(seed=-1), ValueError, "seed must be a whole number"),
        (lambda: get_runs([]), ValueError, "has no config"),
        (lambda: RFSFTConfig(lr_scheduler_kwargs={1: 2}), ValueError, "keys must be strings, not 1"),
        (lambda: RFSFTConfig(learning_rate=float("nan")), ValueError, "must be a finite number, not nan"),
        (lambda: List(3), ValueError, "List takes a Python list"),
        (lambda: Range("a", 2), ValueError, "start must be a number, not 'a'"),
        (lambda: Range(2, 1), ValueError, "start 2 is greater than end 1"),
        (lambda: Range(0, 1, log=True), ValueError, "log needs bounds above 0"),
        (lambda: Range(1, 2, log=True, step=1), ValueError, "log and step exclude each other"),
        (lambda: Range(1, 2, step=0), ValueError, "step must be above 0"),
        (lambda: Range(1, 2, dtype="str"), ValueError, "dtype must be 'int' or 'float'"),
        (lambda: Range(0.5, 2, dtype="int"), ValueError, "needs whole numbers as bounds"),
    ],
)  # fmt: skip
def test_mistakes_are_named_where_they_are_written(write: Callable[[], Any], kind: type, words: str) -> None:
    with pytest.raises(kind) as caught:
        write()
    assert words in str(caught.value)


def test_a_range_in_a_grid_is_refused_with_the_knobs_path() -> None:
    config = RFModelConfig(training_args=RFSFTConfig(learning_rate=Range(1e-5, 1e-3)))
    with pytest.raises(ConfigError) as caught:
        RFGridSearch([two_by_two(), config], "SFT")
    assert caught.value.path == "configs[1].training_args.learning_rate"
    assert "List([...])" in caught.value.message


def test_a_range_knows_its_type() -> None:
    assert Range(1, 8).to_wire() == {"start": 1, "end": 8, "dtype": "int"}
    assert Range(1, 8.0).to_wire() == {"start": 1, "end": 8.0, "dtype": "float"}
    assert Range(1e-5, 1e-3, log=True).to_wire() == {"start": 1e-5, "end": 1e-3, "dtype": "float", "log": True}


def test_what_a_script_for_one_process_carries_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="output_dir is not needed"):
        config = RFSFTConfig(output_dir="x", max_steps=1)
    assert dict(config.given()) == {"max_steps": 1}


def test_config_classes_keep_what_was_given_and_can_be_changed_and_copied() -> None:
    config = RFSFTConfig(max_steps=3, lr_scheduler_kwargs={"num_cycles": 1})
    other = config.copy()
    other.max_steps = 4
    other.lr_scheduler_kwargs["num_cycles"] = 2
    assert (config.max_steps, config.lr_scheduler_kwargs) == (3, {"num_cycles": 1})
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert repr(other) == "RFSFTConfig(max_steps=4, lr_scheduler_kwargs={'num_cycles': 2})"
    with pytest.raises(AttributeError, match="learning_rate was not given"):
        _ = config.learning_rate
    with pytest.raises(TypeError, match="did you mean max_steps"):
        config.max_step = 4
    assert "learning_rate" in inspect.signature(RFSFTConfig).parameters
