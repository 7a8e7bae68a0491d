"""The config classes of a notebook: the arguments that the user gave, and nothing else."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

from rapidfireai.api.experiment import Trainer
from rapidfireai.arguments import DPO_CONFIG, GRPO_CONFIG, LORA_CONFIG, SFT_CONFIG, ArgumentTable, did_you_mean
from rapidfireai.arguments.owned import TRAINER_IGNORABLE
from rapidfireai.automl.knobs import List
from rapidfireai.automl.wire import to_wire
from rapidfireai.config_fields import PARTS, REF, check_fields
from rapidfireai.errors import ConfigError

FUNCTIONS = frozenset({"formatting_func", "compute_metrics", "reward_funcs"})
"""Arguments of a config that take functions."""


class ArgumentConfig:
    """Base of the classes that carry the arguments of one TRL or peft config class.

    Every argument is a keyword, is checked when it is written, and may be a knob. Only what was given is kept: the
    library's own defaults apply to the rest, on the worker.

    Raises:
        TypeError: If an argument does not exist; the nearest one is suggested.
        ConfigError: If a value is not what the argument takes.
    """

    table: ClassVar[ArgumentTable]
    ignorable: ClassVar[frozenset[str]] = frozenset()
    __signature__: ClassVar[inspect.Signature]
    _given: dict[str, Any]

    def __init_subclass__(cls) -> None:
        """Give help() and notebooks the names of the arguments."""
        names = cls.table.writable
        cls.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names])

    def __new__(cls, *_: object, **__: object) -> Self:
        """Make room for the arguments before any of them is looked up."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", {})
        return made

    def __init__(self, **arguments: Any) -> None:
        for name, value in arguments.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.ignorable:
            warnings.warn(f"{type(self).__name__}: {name} is not needed and is left out", UserWarning, stacklevel=3)
            return
        known = {*self.table.writable, *self.table.owned, *self.table.moved}
        if name not in known:
            near = did_you_mean(name, self.table.writable)
            raise TypeError(f"{type(self).__name__} has no argument {name}{near}")
        wire = to_wire(value, name, lambda _, path: {REF: {"key": path}})
        check_fields({name: wire}, self.table, type(self).__name__)
        self._given[name] = value

    def __getattr__(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        if name in self.table.writable:
            raise AttributeError(f"{name} was not given to {type(self).__name__}; {self.table.owner}'s default applies")
        raise AttributeError(f"{type(self).__name__} has no argument {name}{did_you_mean(name, self.table.writable)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, ArgumentConfig) and other._given == self._given

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __getstate__(self) -> dict[str, Any]:
        return self._given

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._given.update(state)

    def given(self) -> Mapping[str, Any]:
        """Return the arguments that the user gave."""
        return self._given

    def copy(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


class RFLoraConfig(ArgumentConfig):
    """Arguments of peft's `LoraConfig`; any of them may be a `List` or `Range`."""

    table = LORA_CONFIG


class TrainerConfig(ArgumentConfig):
    """Base of the arguments of a trainer."""

    table = SFT_CONFIG
    trainer: ClassVar[Trainer]
    ignorable = TRAINER_IGNORABLE


class RFSFTConfig(TrainerConfig):
    """Arguments of TRL's `SFTConfig`; any of them may be a `List` or `Range`."""

    table = SFT_CONFIG
    trainer = "SFT"


class RFDPOConfig(TrainerConfig):
    """Arguments of TRL's `DPOConfig`; any of them may be a `List` or `Range`."""

    table = DPO_CONFIG
    trainer = "DPO"


class RFGRPOConfig(TrainerConfig):
    """Arguments of TRL's `GRPOConfig`; any of them may be a `List` or `Range`."""

    table = GRPO_CONFIG
    trainer = "GRPO"


class RFModelConfig:
    """One model with everything that is to be tried on it.

    Args:
        model_name: A name on the Hugging Face hub, an absolute path, or `pvc://CLAIM/path`.
        tokenizer: The tokenizer, if it is not the model's.
        tokenizer_kwargs: Arguments of the tokenizer's `from_pretrained`.
        formatting_func: Turns one row into what the trainer takes; applied with `dataset.map`.
        compute_metrics: Given to the trainer; with generation_config, called with (generated texts, references).
        peft_config: LoRA arguments, or a list of them to try each; None trains all weights.
        training_args: The trainer's arguments, such as `RFSFTConfig(...)`.
        model_type: What kind of model it is.
        model_kwargs: Arguments of the model's `from_pretrained`.
        ref_model_name: DPO's reference model, if it is not the model as it began.
        ref_model_type: What kind of model the reference is.
        ref_model_kwargs: Arguments of the reference model's `from_pretrained`.
        reward_funcs: GRPO's reward function or the name of a reward model; a plain list holds several that count
            together, `List([...])` alternatives to try.
        generation_config: Arguments of `generate`, for compute_metrics.
        num_gpus: 1 or None: a run uses one GPU.

    Raises:
        TypeError: If an argument does not exist; the nearest one is suggested.
        ConfigError: If a value is not what the argument takes; what depends on the trainer is checked by the search.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter for each thing that a config has
        self,
        model_name: str | None = None,
        tokenizer: str | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        formatting_func: Callable[..., Any] | List | None = None,
        compute_metrics: Callable[..., Any] | List | None = None,
        peft_config: RFLoraConfig | List | Iterable[RFLoraConfig | None] | Mapping[str, Any] | None = None,
        training_args: TrainerConfig | Mapping[str, Any] | None = None,
        model_type: str = "causal_lm",
        model_kwargs: Mapping[str, Any] | None = None,
        ref_model_name: str | None = None,
        ref_model_type: str | None = None,
        ref_model_kwargs: Mapping[str, Any] | None = None,
        reward_funcs: Callable[..., Any] | str | List | Iterable[Callable[..., Any] | str] | None = None,
        generation_config: Mapping[str, Any] | List | None = None,
        num_gpus: int | None = None,
        **unknown: object,
    ) -> None:
        for name in unknown:
            raise TypeError(_no_such_field(name))
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.tokenizer_kwargs = tokenizer_kwargs
        self.formatting_func = formatting_func
        self.compute_metrics = compute_metrics
        self.peft_config = peft_config
        self.training_args = training_args
        self.model_type = model_type
        self.model_kwargs = model_kwargs
        self.ref_model_name = ref_model_name
        self.ref_model_type = ref_model_type
        self.ref_model_kwargs = ref_model_kwargs
        self.reward_funcs = reward_funcs
        self.generation_config = generation_config
        self.num_gpus = num_gpus

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in PARTS:
            raise TypeError(_no_such_field(name))
        if value is not None:
            _check_field(name, value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"RFModelConfig({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"

    def given(self) -> Mapping[str, Any]:
        """Return the arguments that have a value."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def copy(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


def _no_such_field(name: str) -> str:
    return f"RFModelConfig has no argument {name}{did_you_mean(name, PARTS)}"


def _check_field(name: str, value: Any) -> None:
    """Check as much of a value as can be said before the trainer is known."""
    path = f"RFModelConfig.{name}"
    if name == "training_args" and not isinstance(value, TrainerConfig | Mapping):
        raise ConfigError(path, f"must be RFSFTConfig(...), RFDPOConfig(...) or RFGRPOConfig(...), not {value!r}")
    if name == "peft_config" and isinstance(value, TrainerConfig):
        raise ConfigError(path, f"must be RFLoraConfig(...), not a {type(value).__name__}; that is training_args")

    def lift(lifted: object, where: str) -> dict[str, Any]:
        if name in FUNCTIONS and not callable(lifted):
            raise ConfigError(where, f"must be a function, not {lifted!r}")
        return {REF: {"key": where}}

    PARTS[name](to_wire(value, path, lift), path)


ModelConfig = RFModelConfig
"""The name that some notebooks use."""
