"""The schema of forms agrees with what a run accepts."""

from __future__ import annotations

import jsonschema
import pytest

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.clone import written
from rapidfireai.expand import expand
from rapidfireai_gateway.config_schema import config_schema

REF = {"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}}


@pytest.mark.parametrize("trainer", ["SFT", "DPO", "GRPO"])
def test_every_schema_is_one(trainer: str) -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema(trainer))


def test_a_real_config_fits_and_a_misspelt_one_does_not() -> None:
    config = {
        "model_name": "m",
        "peft_config": {"r": 8, "target_modules": ["q_proj"]},
        "training_args": {"learning_rate": 0.001, "num_train_epochs": 1, "save_strategy": "no"},
        "model_kwargs": {"torch_dtype": "bfloat16"},
        "formatting_func": REF,
        "reward_funcs": [REF],
    }
    (leaf,) = expand([ConfigGroup(trainer="GRPO", config=config)])
    schema = config_schema("GRPO")
    jsonschema.validate(written(leaf), schema)
    with pytest.raises(jsonschema.ValidationError, match="learning_rte"):
        jsonschema.validate({"training_args": {"learning_rte": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"training_args": {"learning_rate": "fast"}}, schema)
