"""The JSON schema of one run's config as users write it, for the forms of clones. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from rapidfireai.api.experiment import Trainer
from rapidfireai.arguments import LORA_CONFIG, TRAINER_CONFIGS
from rapidfireai.arguments.table import Argument, ArgumentTable, Kind
from rapidfireai.config_fields import FUNCTION, REF
from rapidfireai_gateway.errors import GatewayError

_TYPES: dict[Kind, str] = {
    "null": "null",
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "list": "array",
    "dict": "object",
    "object": "object",
}
_FREE = {"type": "object", "additionalProperties": True}
_MARKER = {
    "type": "object",
    "description": "A function: inherited from the parent unless replaced.",
    "properties": {REF: {"type": "object"}, FUNCTION: {"type": "string"}},
}


_MODELS = {
    "vllm_config": "The model in vLLM: model_config, sampling_params, rag, prompt_manager, adapter.",
    "api_config": "The model behind an API: client_config, model_config, limits, rag, prompt_manager.",
}
_FUNCTIONS = ("preprocess_fn", "postprocess_fn", "compute_metrics_fn", "accumulate_metrics_fn")


def schema_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema for clones of a run.

    Args:
        config: The run's `spec.config`.
    """
    named = next((key for key in _MODELS if key in config), None)
    return config_schema(named or str(config.get("trainer_type", "SFT")))


@cache
def config_schema(trainer: str) -> dict[str, Any]:
    """Return the schema of a config for one trainer, or for one kind of evaluation; every key may be left out.

    Args:
        trainer: A trainer, or `vllm_config` or `api_config`.

    Raises:
        GatewayError: With status 422, if there is no such trainer.
    """
    if trainer in _MODELS:
        return _evaluation(trainer)
    if trainer not in TRAINER_CONFIGS:
        raise GatewayError(422, f"trainer={trainer}: write one of {', '.join([*get_args(Trainer), *_MODELS])}")
    properties: dict[str, Any] = {
        "model_name": {"type": "string", "description": "The model: a hub name, a path, or pvc://."},
        "tokenizer": {"type": "string", "description": "The tokenizer; the model's by default."},
        "model_type": {"type": "string", "description": "Which of transformers' classes loads the model."},
        "peft_config": _section(LORA_CONFIG, "The adapter; without it the whole model is trained."),
        "training_args": _section(TRAINER_CONFIGS[trainer], "The trainer's arguments."),
        "model_kwargs": {**_FREE, "description": "Arguments of from_pretrained."},
        "tokenizer_kwargs": {**_FREE, "description": "Arguments of the tokenizer's from_pretrained."},
        "generation_config": {**_FREE, "description": "How texts for compute_metrics are generated."},
        "formatting_func": _MARKER,
        "compute_metrics": _MARKER,
    }
    if trainer == "DPO":
        properties |= {
            "ref_model_name": {"type": "string", "description": "The reference model, if it is another one."},
            "ref_model_type": {"type": "string"},
            "ref_model_kwargs": _FREE,
        }
    if trainer == "GRPO":
        properties["reward_funcs"] = {"anyOf": [_MARKER, {"type": "array", "items": _MARKER}, {"type": "string"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Config of one run, trainer {trainer}",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _evaluation(model: str) -> dict[str, Any]:
    strategies = {"type": "string", "enum": ["normal", "wilson", "hoeffding"]}
    level = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Config of one run of an evaluation, {model}",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            model: {**_FREE, "description": _MODELS[model]},
            "batch_size": {"type": "integer", "minimum": 1, "description": "Rows of a batch."},
            "online_strategy_kwargs": {
                "type": "object",
                "description": "How intervals are computed.",
                "additionalProperties": False,
                "properties": {
                    "strategy_name": strategies,
                    "confidence_level": level,
                    "use_fpc": {"type": "boolean", "description": "Whether they narrow as the rows run out."},
                },
            },
            **dict.fromkeys(_FUNCTIONS, _MARKER),
        },
    }


def _section(table: ArgumentTable, description: str) -> dict[str, Any]:
    names = [name for name in table.writable if table.current(name) == name]
    properties = {name: _argument(table.argument(name, name)) for name in names}
    return {
        "type": "object",
        "title": table.owner,
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }


def _argument(argument: Argument) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": list(dict.fromkeys(_TYPES[kind] for kind in argument.kinds))}
    if "number" in schema["type"] and "integer" in schema["type"]:
        schema["type"].remove("integer")  # every whole number is a number
    if argument.literals:
        schema["enum"] = [*argument.literals, *([None] if "null" in argument.kinds else [])]
    if argument.below is not None:
        schema["exclusiveMaximum"] = argument.below
    return schema
