"""What a run asks of vLLM: which engine, which sampling parameters, which adapter; checked before anything starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfireai.arguments import did_you_mean
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.rows.permission import check_readable

ENGINE_FIELD = "vllm_config.model_config"
SAMPLING_FIELD = "vllm_config.sampling_params"
ADAPTER_FIELD = "vllm_config.adapter"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that an engine may be made for; each takes those below it."""
ADAPTERS_KEPT = 8
"""How many adapters an engine keeps in main memory, so that runs that take turns do not load theirs anew."""
_DEFAULT_RANK = 16
_OWNED_SAMPLING = {
    "output_kind": "answers are asked for as a whole; leave it out",
    "skip_clone": "each request gets parameters of its own; leave it out",
    "detokenize": "answers are texts; leave it out",
}
_ADAPTER_ARGUMENTS = frozenset({"enable_lora", "max_lora_rank", "max_loras", "max_cpu_loras"})


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine: two runs with equal ones share it.

    Attributes:
        arguments: vLLM's engine arguments as canonical JSON, but for those that adapters need.
        rank: The largest rank of an adapter that it takes; 0 if it takes none.
        adapters: How many adapters one step may mix.
        template: The chat template that replaces the model's own, as a text or a path.
    """

    arguments: str
    rank: int = 0
    adapters: int = 1
    template: str | None = None

    def serves(self, wanted: EngineSpec) -> bool:
        """Return whether an engine of this kind does for a run that wants another.

        One that takes adapters also answers without any, and takes smaller ones: a second start costs more than that.
        """
        same = (self.arguments, self.template) == (wanted.arguments, wanted.template)
        return same and self.rank >= wanted.rank and (not wanted.rank or self.adapters >= wanted.adapters)

    def engine_arguments(self) -> dict[str, Any]:
        """Return all of vLLM's engine arguments."""
        arguments: dict[str, Any] = json.loads(self.arguments)
        if self.rank:
            arguments.update(enable_lora=True, max_lora_rank=self.rank, max_loras=self.adapters)
            arguments["max_cpu_loras"] = max(ADAPTERS_KEPT, self.adapters)
        return arguments


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on the disk.

    Attributes:
        path: Its directory.
        rank: Its rank.
        identity: Names its weights: another file at the same place is another adapter.
    """

    path: Path
    rank: int
    identity: str


def engine_spec(
    config: Mapping[str, Any], adapter: Adapter | None, *, known: Iterable[str], defaults: Mapping[str, Any]
) -> EngineSpec:
    """Return the engine that a run wants.

    Args:
        config: The `vllm_config` of its leaf.
        adapter: The adapter that it evaluates.
        known: The names of vLLM's engine arguments.
        defaults: What holds on this platform unless the user says otherwise.

    Raises:
        RunFailure: If the model or an argument does not exist.
    """
    given = config.get("model_config")
    if not isinstance(given, Mapping) or not given.get("model"):
        raise RunFailure(
            "InvalidConfig", f"{ENGINE_FIELD}.model: missing; write a hub name, an absolute path or pvc://CLAIM/path"
        )
    arguments = dict(given)
    _check_names(arguments, {*known, "chat_template"}, ENGINE_FIELD, "vLLM's engine")
    _check_model(str(arguments["model"]))
    template = arguments.pop("chat_template", None)
    wanted = {name: arguments.pop(name) for name in _ADAPTER_ARGUMENTS & set(arguments)}
    rank = _rank(wanted, adapter)
    if int(arguments.get("tensor_parallel_size") or 1) > 1:
        arguments.setdefault("distributed_executor_backend", "mp")
    canonical = json.dumps({**defaults, **arguments}, sort_keys=True, default=_unwritable)
    return EngineSpec(canonical, rank, int(wanted.get("max_loras") or 1), None if template is None else str(template))


def read_adapter(directory: str) -> Adapter:
    """Return an adapter in PEFT's layout.

    Raises:
        RunFailure: If there is none, or one of a kind that vLLM does not take.
    """
    path = Path(directory)
    try:
        config = json.loads((path / "adapter_config.json").read_text())
        weights = (path / "adapter_model.safetensors").stat()
    except (OSError, ValueError) as error:
        raise RunFailure(
            "AdapterNotFound",
            f"{ADAPTER_FIELD}: {path} is no LoRA adapter ({error}); name a run that was trained with peft_config",
        ) from error
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    rank = max(value for value in ranks if isinstance(value, int))
    for name, what in (("use_dora", "a DoRA adapter"), ("modules_to_save", "an adapter with modules_to_save")):
        if config.get(name):
            raise RunFailure(
                "InvalidConfig", f"{ADAPTER_FIELD}: {path} is {what}, which vLLM does not serve; merge it into its base"
            )
    return Adapter(path, rank, f"{path.resolve()}:{weights.st_mtime_ns}:{weights.st_size}")


def sampling_arguments(config: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the sampling parameters that a run was given, with the types that JSON loses put right.

    Raises:
        RunFailure: If one does not exist.
    """
    given = config.get("sampling_params") or {}
    if not isinstance(given, Mapping):
        raise RunFailure("InvalidConfig", f"{SAMPLING_FIELD}: must be a mapping, not {given!r}")
    for name, fix in _OWNED_SAMPLING.items():
        if name in given:
            raise RunFailure("InvalidConfig", f"{SAMPLING_FIELD}.{name}: {fix}")
    arguments = dict(given)
    _check_names(arguments, known, SAMPLING_FIELD, "SamplingParams")
    if isinstance(bias := arguments.get("logit_bias"), Mapping):
        try:
            arguments["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
        except (TypeError, ValueError) as error:
            raise RunFailure(
                "InvalidConfig", f"{SAMPLING_FIELD}.logit_bias: {error}; map token ids to numbers"
            ) from error
    return arguments


def field_names(of: type[Any]) -> tuple[str, ...]:
    """Return the public fields of a dataclass or of a struct of msgspec."""
    if dataclasses.is_dataclass(of):
        names = tuple(field.name for field in dataclasses.fields(of) if field.init)
    else:
        names = tuple(getattr(of, "__struct_fields__", ()))
    return tuple(name for name in names if not name.startswith("_"))


def _check_names(given: Mapping[str, Any], known: Iterable[str], field: str, owner: str) -> None:
    names = set(known)
    for name in given:
        if name not in names:
            raise RunFailure("InvalidConfig", f"{field}.{name}: unknown argument of {owner}{did_you_mean(name, names)}")


def _check_model(model: str) -> None:
    path = Path(model)
    if path.is_absolute():
        check_readable(path, f"{ENGINE_FIELD}.model", model, model=True, files=True)
    if path.is_absolute() and not (path / "config.json").is_file() and not path.is_file():
        what = "has no config.json" if path.exists() else "does not exist"
        raise RunFailure(
            "ModelNotFound",
            f"{ENGINE_FIELD}.model: {model} {what}; name a model's folder, a hub name or pvc://CLAIM/path",
        )


def _rank(wanted: Mapping[str, Any], adapter: Adapter | None) -> int:
    """Return the largest rank that the engine has to take: one of those that vLLM knows."""
    if adapter is None and not wanted.get("enable_lora"):
        return 0
    least = max(adapter.rank if adapter else 0, int(wanted.get("max_lora_rank") or _DEFAULT_RANK))
    for rank in RANKS:
        if rank >= least:
            return rank
    raise RunFailure(
        "InvalidConfig",
        f"{ADAPTER_FIELD}: rank {least} is more than the {RANKS[-1]} that vLLM serves; train a smaller one",
    )


def _unwritable(value: Any) -> Any:
    raise RunFailure(
        "InvalidConfig",
        f"{ENGINE_FIELD}: {type(value).__name__} is nothing that an engine argument may be; write numbers, texts, "
        "lists and mappings",
    )
