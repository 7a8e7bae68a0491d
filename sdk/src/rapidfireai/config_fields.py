"""What a config may say, in its JSON form: each field checked, markers understood, values with the types meant."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rapidfireai.api.code import FUNCTION_PATTERN
from rapidfireai.arguments import LORA_CONFIG, Argument, ArgumentTable, coerce
from rapidfireai.errors import ConfigError
from rapidfireai.ranges import Dtype, Range

LIST = "$list"
"""Marks a knob: a mapping with this key alone, whose value lists the alternatives."""
RANGE = "$range"
"""Marks a range of values to draw from."""
NONE = "$none"
"""`{"$none": true}` is None where a plain null may be lost: `kubectl apply` drops null values of mappings."""
REF = "$ref"
"""Marks a Python object that lies in the experiment's code bundle."""
FUNCTION = "$function"
"""Names a function of the experiment's own source (`name`), or of an installed module (`module:name`)."""
CLASS = "$class"
"""Names a class that the worker's image has (`module:Name`); with KWARGS beside it, an instance made with these."""
KWARGS = "kwargs"
"""The arguments of an instance, beside CLASS."""
ENV = "$env"
"""Names a variable of the worker's environment: how a config says a key without having it."""
MARKERS = (LIST, RANGE, NONE, REF, FUNCTION, CLASS, ENV)
"""All of them."""
_NAMES: Mapping[str, tuple[str, str]] = {
    FUNCTION: (FUNCTION_PATTERN, "the name of a function, `name` or `module:name`"),
    CLASS: (r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", "the name of a class that workers have, `module:Name`"),
    ENV: (r"^[A-Za-z_]\w*$", "the name of a variable of the workers' environment"),
}
"""What stands behind a marker that names something, and that in words."""

GENERATION_FLOATS = frozenset(
    {
        "assistant_confidence_threshold",
        "diversity_penalty",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "guidance_scale",
        "length_penalty",
        "max_time",
        "min_p",
        "repetition_penalty",
        "temperature",
        "top_h",
        "top_p",
        "typical_p",
    }
)
"""What `generate` wants as floats: it refuses the 1 that JSON makes of 1.0."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A checked range in the place of a value.

    Attributes:
        range: What to draw from.
        argument: The argument that the value is for, if its type is known.
        path: Where it stands.
    """

    range: Range
    argument: Argument | None
    path: str

    def at(self, unit: float) -> Any:
        """Return the value for a number of [0, 1), with the type of its argument."""
        value = self.range.at(unit)
        return value if self.argument is None else coerce(value, self.argument, self.path)


def check_fields(values: Mapping[str, Any], table: ArgumentTable, path: str) -> dict[str, Any]:
    """Return the arguments of one config class with their types put right; knobs stay knobs.

    Raises:
        ConfigError: If a name is unknown or a value is not what the argument takes.
    """
    checked = {}
    for name, value in values.items():
        here, current = f"{path}.{name}", table.current(name)
        if current != name and current in values:
            raise ConfigError(here, f"is an earlier name of {current}, which is given too; leave one of them out")
        checked[current] = typed(value, table.argument(name, here), here)
    return checked


def text(value: Any, path: str) -> str:
    """Return a name that the runs of a config share: no knob."""
    _no_knob(value, path)
    if not isinstance(value, str) or not value:
        raise ConfigError(path, f"must be a string, not {value!r}")
    return value


def shared(value: Any, path: str) -> Any:
    """Return arguments that the runs of a config share: no knob in them."""
    _no_knob(value, path)
    return _plain(mapping(value, path), path)


def _no_knob(value: Any, path: str) -> None:
    if marker_of(value, path) in {LIST, RANGE}:
        raise ConfigError(path, "takes one value; write one config for each")


def arguments(value: Any, path: str) -> Any:
    """Return arguments whose types nobody knows; any of them may be a knob."""
    return free(mapping(value, path), path)


def one_gpu(value: Any, path: str) -> None:
    """Check how many GPUs a run asks for: one, whether it says so or not.

    Raises:
        ConfigError: If it asks for another number.
    """
    if value is not None and (isinstance(value, bool) or value != 1):
        raise ConfigError(
            path, f"must be 1, not {value!r}: one run uses one GPU, and more workers train more runs side by side"
        )


def peft(value: Any, path: str) -> Any:
    """Return the alternatives as one knob; a plain list lists alternatives too."""
    if value is None:
        return None
    match marker_of(value, path):
        case "$list":
            each = members(value, path)
        case "$none":
            return None
        case None if isinstance(value, list):
            each = list(value)
        case None:
            # An adapter with nothing but defaults is still an adapter, and must not look like none.
            return check_fields(mapping(value, path), LORA_CONFIG, path) or {"task_type": "CAUSAL_LM"}
        case _:
            raise ConfigError(path, "must be a mapping of LoRA arguments, or a list of such mappings to try each")
    if not each:
        raise ConfigError(path, "an empty list gives no run; list at least one mapping, or leave peft_config out")
    return {LIST: [peft(member, f"{path}[{index}]") for index, member in enumerate(each)]}


def function(value: Any, path: str) -> Any:
    """Return the reference to a function of the code bundle, or a knob of them."""
    match marker_of(value, path):
        case "$ref" | "$function":
            return value
        case "$list":
            return {LIST: [function(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
        case _:
            raise ConfigError(
                path,
                f'must be a function, in a manifest {{"{FUNCTION}": "name"}} of spec.code; or leave it out: rows with '
                "messages, prompt and completion, or text need none",
            )


def rewards(value: Any, path: str) -> Any:
    """Return reward functions: one, a plain list of them that count together, or a knob of either."""
    if marker_of(value, path) == LIST:
        return {LIST: [rewards(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if isinstance(value, list):
        if not value:
            raise ConfigError(path, "is empty; GRPO needs at least one reward function")
        return [_reward(each, f"{path}[{index}]") for index, each in enumerate(value)]
    return _reward(value, path)


def _reward(value: Any, path: str) -> Any:
    if marker_of(value, path) in {REF, FUNCTION} or (isinstance(value, str) and value):
        return value
    raise ConfigError(
        path,
        f'must be a reward function, in a manifest {{"{FUNCTION}": "name"}} of spec.code, or the name or path of a '
        f'reward model; several that count together are a plain list, several to try are {{"{LIST}": [...]}}, '
        f"not {value!r}",
    )


def generation(value: Any, path: str) -> Any:
    """Return the arguments of `generate`, or a knob of such mappings."""
    if isinstance(value, dict) and marker_of(value, path) == LIST:
        return {LIST: [generation(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    floats = Argument(("float", "null"))
    return {
        name: typed(each, floats, f"{path}.{name}") if name in GENERATION_FLOATS else free(each, f"{path}.{name}")
        for name, each in mapping(value, path).items()
    }


def typed(value: Any, argument: Argument, path: str) -> Any:
    """Return the value of a known argument with its type put right, knobs kept.

    Raises:
        ConfigError: If the argument does not take it.
    """
    match marker_of(value, path):
        case "$list":
            return {LIST: [typed(v, argument, f"{path}[{i}]") for i, v in enumerate(members(value, path))]}
        case "$range":
            return _range(value, argument, path)
        case "$none":
            return coerce(None, argument, path)
        case "$ref" | "$function" | "$class" if "object" in argument.kinds:
            return free(value, path)
        case "$env" if "str" in argument.kinds:
            return value
        case "$env":
            raise ConfigError(path, f"must be {argument.expected()}, and a variable is text; write the value itself")
        case "$ref" | "$function" | "$class":
            raise ConfigError(path, f"must be {argument.expected()}, not a Python object")
    coerced = coerce(value, argument, path)
    return free(coerced, path) if isinstance(coerced, dict | list) else coerced


def _range(value: dict[str, Any], argument: Argument | None, path: str) -> Drawn:
    """Return a range whose every value is one that the argument takes."""
    kinds = {"int", "float"} & set(argument.kinds) if argument else set()
    hint: Dtype | None = None if len(kinds) != 1 else "int" if "int" in kinds else "float"
    try:
        drawn = Drawn(Range.from_wire(value[RANGE], hint), argument, path)
    except ValueError as error:
        raise ConfigError(path, str(error).removeprefix("Range: ")) from error
    if argument is not None:
        for bound in (drawn.range.start, drawn.range.end):
            coerce(bound, argument, path)
        if "float" not in kinds and not drawn.range.whole:
            raise ConfigError(path, "must be a whole number, and this range has others; give it dtype 'int'")
    return drawn


def free(value: Any, path: str) -> Any:
    """Return a value whose type nobody knows: only knobs, None and what JSON cannot hold are looked at."""
    match marker_of(value, path):
        case "$list":
            return {LIST: [free(v, f"{path}[{i}]") for i, v in enumerate(members(value, path))]}
        case "$range":
            return _range(value, None, path)
        case "$class":
            return _instance(value, free, path)
        case None if isinstance(value, dict):
            return {str(key): free(each, f"{path}.{key}") for key, each in value.items()}
    return _plain(value, path)


def _instance(value: dict[str, Any], check: Callable[[Any, str], Any], path: str) -> dict[str, Any]:
    """Return a class, or an instance of it with its arguments checked."""
    made = {CLASS: value[CLASS]}
    if value.get(KWARGS):
        given = mapping(value[KWARGS], f"{path}.{KWARGS}")
        made[KWARGS] = {str(key): check(each, f"{path}.{KWARGS}.{key}") for key, each in given.items()}
    return made


def _plain(value: Any, path: str) -> Any:
    """Return a value in which no knob may be."""
    marker = marker_of(value, path)
    if marker in {LIST, RANGE}:
        raise ConfigError(
            path,
            f'a knob inside a value is not expanded; write the whole value as {{"{LIST}": [...]}} (List in Python)',
        )
    if marker == NONE:
        return None
    if marker in {REF, FUNCTION, ENV}:
        return value
    if marker == CLASS:
        return _instance(value, _plain, path)
    if isinstance(value, dict):
        return {str(key): _plain(each, f"{path}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, f"{path}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(path, f"must be a finite number, not {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(path, f"must be a string, number, true, false, list or mapping, not {type(value).__name__}")


def mapping(value: Any, path: str) -> dict[str, Any]:
    """Return a mapping that is no marker itself; nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(path, f"must be a mapping of arguments, not {value!r}")
    marker = marker_of(value, path)
    if marker is not None:
        raise ConfigError(path, f"must be a mapping of arguments; put the {marker} inside, on single arguments")
    return value


def marker_of(value: Any, path: str) -> str | None:
    """Return which marker a mapping is, or None for a plain value.

    Raises:
        ConfigError: If it is no marker that exists.
    """
    if not isinstance(value, dict):
        return None
    marked = [key for key in value if isinstance(key, str) and key.startswith("$")]
    if not marked:
        return None
    marker = marked[0]
    beside = set(value) - {marker, *((KWARGS,) if marker == CLASS else ())}
    if beside or marker not in MARKERS:
        raise ConfigError(
            path,
            f"keys that begin with $ are markers and stand alone ({CLASS} may have {KWARGS} beside it): one of "
            f"{', '.join(MARKERS)}, not {sorted(map(str, value))}",
        )
    if marker in _NAMES:
        pattern, words = _NAMES[marker]
        if not isinstance(value[marker], str) or not re.fullmatch(pattern, value[marker]):
            raise ConfigError(path, f"{marker} takes {words}, not {value[marker]!r}")
    return marker


def name_of(value: Any) -> str | None:
    """Return what people call the object that a marker stands for, or None for any other value."""
    if not isinstance(value, Mapping):
        return None
    reference = value.get(REF)
    if isinstance(reference, Mapping):
        return str(reference.get("label") or reference.get("key") or "")
    if isinstance(value.get(CLASS), str):
        name, given = value[CLASS].rpartition(":")[2], value.get(KWARGS)
        said = [f"{key}={name_of(each) or repr(each)}" for key, each in sorted(given.items())] if given else []
        return f"{name}({', '.join(said)})" if KWARGS in value else str(name)
    if isinstance(value.get(ENV), str):
        return f"${value[ENV]}"
    return value[FUNCTION] if isinstance(value.get(FUNCTION), str) else None


def members(value: dict[str, Any], path: str) -> list[Any]:
    """Return the alternatives of a knob, of which there is at least one."""
    listed = value[LIST]
    if not isinstance(listed, list):
        raise ConfigError(path, f"{LIST} must hold a list of values, not {listed!r}")
    if not listed:
        raise ConfigError(path, "an empty list gives no run; list at least one value")
    return listed


PARTS: Mapping[str, Callable[[Any, str], Any]] = {
    "model_name": text,
    "model_type": text,
    "model_kwargs": arguments,
    "tokenizer": text,
    "tokenizer_kwargs": shared,
    "peft_config": peft,
    "training_args": mapping,
    "formatting_func": function,
    "compute_metrics": function,
    "generation_config": generation,
    "ref_model_name": text,
    "ref_model_type": text,
    "ref_model_kwargs": arguments,
    "reward_funcs": rewards,
    "num_gpus": one_gpu,
}
"""The fields of a config, each with what can be said of it alone; the trainer knows its training_args."""
