"""Base models: each distinct one is loaded once, and its frozen weights are shared by all resident runs."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.memory import bytes_of
from rapidfireai_worker.fit.recorded import Recorded, value_at
from rapidfireai_worker.rng import Rng
from rapidfireai_worker.rows.permission import check_readable

Loader = Callable[[dict[str, Any]], tuple[Any, Any]]
"""From the config to (model, tokenizer): the user's create_model_fn, or `load_by_name`."""


@dataclass
class Base:
    """A loaded model whose frozen weights may be shared.

    Attributes:
        model: As it was loaded; never trained, only copied.
        tokenizer: Its tokenizer; every session gets a copy.
        identity: Names what was loaded, for caches of what is derived from it.
        drew: Where the random generators stood after loading, if loading drew from them.
        users: How many sessions were made of it and are not closed yet.
    """

    model: Any
    tokenizer: Any
    identity: str
    drew: Rng | None = None
    users: int = 0
    _versions: dict[str, int] = field(default_factory=dict)
    _contents: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._versions = {name: weight._version for name, weight in self.model.named_parameters()}
        self._contents = self._digest()

    @functools.cached_property
    def bytes(self) -> int:
        """The memory that leaves with it."""
        return bytes_of([*self.model.parameters(), *self.model.buffers()])

    def copy(self, *, share_all: bool, private: bool = False) -> tuple[Any, Any]:
        """Return a model and a tokenizer for one session.

        Each weight that is not trained gets a parameter of the session's own over the same storage, so that replacing
        its data changes nobody else's; writing into it does, which `intact` finds.

        Args:
            share_all: No weight of the base is trained (an adapter is), whatever its requires_grad says.
            private: Share nothing.
        """
        memo: dict[int, Any] = {}
        for weight in self.model.parameters():
            if not private and (share_all or not weight.requires_grad):
                memo[id(weight)] = alias = _alias(weight)
                if getattr(weight, "quant_state", None) is not None:
                    memo[id(weight.quant_state)] = alias.quant_state  # modules refer to it too
        return copy.deepcopy(self.model, memo), copy.deepcopy(self.tokenizer)

    def contents(self) -> dict[int, tuple[int, str]]:
        """Return the digests of the weights as they were loaded, by where each one lies in memory."""
        return {weight.data_ptr(): self._contents[name] for name, weight in self.model.named_parameters()}

    def intact(self, *, thorough: bool) -> bool:
        """Return whether the weights are as they were loaded.

        Args:
            thorough: Compare the contents too, which also finds writes through `.data`.
        """
        if any(weight._version != self._versions[name] for name, weight in self.model.named_parameters()):
            return False
        return not thorough or self._digest() == self._contents

    def _digest(self) -> dict[str, tuple[int, str]]:
        return {name: content_of(weight) for name, weight in self.model.named_parameters()}


def content_of(tensor: torch.Tensor) -> tuple[int, str]:
    """Return a cheap digest of a tensor's values.

    The hash is an exclusive or: changing an even number of equal values in the same way escapes it, not the sum.
    """
    flat = tensor.detach().reshape(-1)
    return int(torch.hash_tensor(flat).item()), str(flat.sum().item())


def _alias(weight: Any) -> Any:
    """Return a parameter over the same storage; what belongs to a quantised one beside its data is the alias's own.

    bitsandbytes' modules change that: with 8 bits they take it away from their weight, with 4 they may repack it.
    """
    if type(weight) is nn.Parameter:
        return nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if hasattr(weight, "SCB"):
        kept = {name: getattr(weight, name) for name in ("requires_grad", "has_fp16_weights", "CB", "SCB")}
        return type(weight)(weight.data, **kept)
    if hasattr(weight, "quant_state"):
        alias = copy.copy(weight)
        alias.quant_state = copy.copy(weight.quant_state)
        return alias
    return weight


@dataclass
class _Entry:
    code: str | None
    seed: int | None
    reads: dict[tuple[str, ...], str]
    base: Base


class BaseCache:
    """The loaded bases, found again by what loading them depended on.

    A base that no session uses stays until another one has to be loaded.

    Args:
        device: Where weights that may be shared are put.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._entries: list[_Entry] = []

    def get(
        self, raw: Mapping[str, Any], resolved: Mapping[str, Any], seed: int, code: str | None, load: Loader
    ) -> Base:
        """Return the base for a config, loading it if no equal one is there.

        Equal means: the same code, equal values wherever loading looked at the config, and the same seed if loading
        drew random numbers. The generators are left as loading leaves them.

        Args:
            raw: The config as it is in the resource; compared.
            resolved: The config with objects in place of references; given to `load`.
            seed: The seed that was set just before.
            code: The digest of the code bundle.
            load: Loads (model, tokenizer).
        """
        for entry in self._entries:
            if entry.code != code or (entry.seed is not None and entry.seed != seed):
                continue
            if all(value_at(raw, path) == value for path, value in entry.reads.items()):
                if entry.base.drew is not None:
                    entry.base.drew.install()
                return entry.base
        return self._load(raw, resolved, seed, code, load)

    def loaded(self) -> list[Base]:
        """Return the bases in memory."""
        return [entry.base for entry in self._entries]

    def forget(self, base: Base) -> None:
        """Drop a base that somebody changed, or that is in the way; the next run that needs it loads it anew."""
        self._entries = [entry for entry in self._entries if entry.base is not base]

    def _load(
        self, raw: Mapping[str, Any], resolved: Mapping[str, Any], seed: int, code: str | None, load: Loader
    ) -> Base:
        self._entries = [entry for entry in self._entries if entry.base.users > 0]
        reads: set[tuple[str, ...]] = set()
        before = Rng.capture()
        model, tokenizer = load(Recorded(resolved, reads))
        after = Rng.capture()
        drew = None if after.same(before) else after
        values = {path: value_at(raw, path) for path in sorted(reads)}
        identity = json.dumps([code, None if drew is None else seed, sorted((list(p), v) for p, v in values.items())])
        if self._device.type != "cpu" and getattr(model, "quantization_method", None) is None:
            model = model.to(self._device)
        base = Base(model, tokenizer, identity, drew)
        self._entries.append(_Entry(code, None if drew is None else seed, values, base))
        return base


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as loading functions expect it: every key there, torch's dtypes in place of their names.

    `load_in_4bit` and `load_in_8bit` become a `quantization_config`.

    Raises:
        RunFailure: If a name is no dtype.
    """
    kwargs = dict(config.get("model_kwargs") or {})
    for key in ("dtype", "torch_dtype"):
        name = kwargs.get(key)
        if isinstance(name, str) and name != "auto":
            dtype = getattr(torch, name.removeprefix("torch."), None)
            if not isinstance(dtype, torch.dtype):
                raise RunFailure(
                    "InvalidConfig", f"model_kwargs.{key}: {name!r} is no dtype; write float32 or bfloat16"
                )
            kwargs[key] = dtype
    quantised = {key: True for key in ("load_in_4bit", "load_in_8bit") if kwargs.pop(key, False)}
    if quantised:  # how earlier versions of transformers spelled it
        kwargs.setdefault("quantization_config", quantised)
    defaults: dict[str, Any] = {"model_type": "causal_lm", "tokenizer": None, "tokenizer_kwargs": {}, "peft_params": {}}
    return {**defaults, **config, "model_kwargs": kwargs}


def load_by_name(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Load the model and tokenizer that a plain config names.

    Args:
        config: What `complete` returned; names are hub names or paths.

    Raises:
        RunFailure: If they cannot be loaded, naming the field.
    """
    if config["model_type"] != "causal_lm":
        raise RunFailure(
            "InvalidConfig",
            f"model_type: {config['model_type']!r} is not built in; write causal_lm or a create_model_fn",
        )
    name = config.get("model_name")
    if not name:
        raise RunFailure("InvalidConfig", "model_name: missing; write a hub name, an absolute path or pvc://CLAIM/path")
    kwargs = dict(config["model_kwargs"])
    old_name = kwargs.pop("torch_dtype", None)
    kwargs.setdefault("dtype", old_name or ("auto" if torch.cuda.is_available() else torch.float32))
    kwargs.pop("device_map", None)  # the worker's one device, always
    model = _pretrained(AutoModelForCausalLM, name, "model_name", kwargs)
    source = config["tokenizer"]
    options = dict(config["tokenizer_kwargs"])
    tokenizer = _pretrained(AutoTokenizer, source or name, "tokenizer" if source else "model_name", options)
    return model, with_pad_token(tokenizer)


def checked_pair(made: Any) -> tuple[Any, Any]:
    """Return what a create_model_fn returned, if it is a model and its tokenizer.

    Raises:
        RunFailure: If it is something else, or if the tokenizer has nothing to pad with.
    """
    pair = tuple(made) if isinstance(made, (tuple, list)) else (made,)
    kinds = (isinstance(pair[0], nn.Module), isinstance(pair[-1], (PreTrainedTokenizerBase, ProcessorMixin)))
    if len(pair) != 2 or not all(kinds) or not hasattr(pair[0], "config"):
        names = ", ".join(type(each).__name__ for each in pair)
        shape = f"({names})" if isinstance(made, (tuple, list)) else names
        fix = "return a transformers model and its tokenizer: (model, tokenizer)"
        raise RunFailure("UserCodeError", f"create_model_fn returned {shape}; {fix}")
    return pair[0], with_pad_token(pair[1])


def with_pad_token(tokenizer: Any) -> Any:
    """Return the tokenizer with a pad token: its end token, if it has none.

    Raises:
        RunFailure: If it has neither.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    if inner.pad_token is None:
        if inner.eos_token is None:
            raise RunFailure(
                "InvalidConfig",
                "tokenizer: it has no pad token, and no end token to take in its place; write tokenizer_kwargs: "
                "{pad_token: ...} with one of its tokens, or set tokenizer.pad_token in create_model_fn",
            )
        inner.pad_token = inner.eos_token
    return tokenizer


def _pretrained(auto: Any, name: str, field_name: str, kwargs: dict[str, Any]) -> Any:
    if name.startswith("/"):
        check_readable(Path(name), field_name, name, model=True, files=True)
    if name.startswith("/") and not Path(name).is_dir():
        raise RunFailure("ModelNotFound", f"{field_name}: {name} is not a folder that this worker sees")
    try:
        return auto.from_pretrained(name, **kwargs)
    except Exception as error:
        if is_of_the_machine(error):
            raise
        message = f"{field_name}: {name!r} cannot be loaded: {type(error).__name__}: {error}"
        raise RunFailure("ModelNotFound", message[:4096]) from error
