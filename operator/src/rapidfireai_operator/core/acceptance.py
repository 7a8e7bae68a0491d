"""Whether an experiment can be run at all, and the runs that it makes. Never raises, whatever the manifest says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from rapidfireai.api import ExperimentSpec
from rapidfireai.expand import ConfigError, expand
from rapidfireai.source import check_code

LONGEST_NAME = 51
"""Worker Jobs are called `<experiment>-w-<up to 255>`; in their pods' names Kubernetes cuts that at 57 characters."""
_CLAIM = re.compile(r"^pvc://([a-z0-9.-]+)/.+$")
_MANY = 5
"""So many mistakes are named at once."""
_LOSSES = frozenset({"eval_loss", "loss"})


@dataclass(frozen=True, slots=True)
class Accepted:
    """The experiment can be run.

    Attributes:
        spec: The parsed spec.
        leaves: The configs of its runs, in the order of their indices.
        claims: PersistentVolumeClaims that its data and models lie on.
    """

    spec: ExperimentSpec
    leaves: tuple[Mapping[str, Any], ...]
    claims: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The experiment cannot be run; `message` names the field and the fix."""

    reason: str
    message: str


def judge(name: str, spec: object, *, allow_file_uris: bool) -> Accepted | Refused:
    """Judge the spec of an experiment.

    Args:
        name: The experiment's name.
        spec: What the API server has under `spec`: anything at all.
        allow_file_uris: Whether workers and users share a disk.
    """
    if len(name) > LONGEST_NAME:
        message = f"metadata.name has {len(name)} characters; write at most {LONGEST_NAME}: workers are named after it"
        return Refused("NameTooLong", message)
    try:
        parsed = ExperimentSpec.model_validate(spec)
    except ValidationError as error:
        return Refused("InvalidSpec", _explain(error))
    for check in (_check_data(parsed, allow_file_uris), _check_objective(parsed)):
        if check is not None:
            return check
    try:
        leaves = expand(parsed.configs, parsed.max_runs)
    except ConfigError as error:
        return Refused("InvalidConfig", _named(error))
    for check in (_check_code(parsed), _check_generation(parsed, leaves)):
        if check is not None:
            return check
    return Accepted(parsed, tuple(leaves), frozenset(_claims(parsed, leaves)))


def clone_obstacle(
    accepted: Accepted, mounted: Collection[str], patch: Mapping[str, Any], config: Mapping[str, Any]
) -> str | None:
    """Return why the experiment cannot run a clone, or None if it can.

    Args:
        accepted: The experiment.
        mounted: The claims that its workers mount.
        patch: What the clone changes.
        config: The clone's config.
    """
    spec = accepted.spec
    named = spec.configs[0].model_copy(update={"config": dict(patch)})
    try:
        check_code(spec.model_copy(update={"configs": [named]}))
    except ConfigError as error:
        return _named(error).replace("spec.configs[0].config", "clone.patch", 1)
    foreign = sorted(set(_model_claims([config])) - set(mounted))
    if foreign:
        return f"clone.patch: no worker of the experiment mounts the claim {foreign[0]}; write one of {sorted(mounted)}"
    generation = _check_generation(spec, [config])
    return generation.message if generation is not None else None


def _named(error: ConfigError) -> str:
    message = str(error)
    return message if message.startswith(error.path) else f"{error.path}: {message}"


def _check_data(spec: ExperimentSpec, allow_file_uris: bool) -> Refused | None:
    sources = {"spec.data.train.uri": spec.data.train, "spec.data.eval.uri": spec.data.eval}
    for field, source in sources.items():
        if source is not None and source.uri.startswith("file://") and not allow_file_uris:
            message = (
                f"{field}: {source.uri} lies on a disk that the workers do not share with you; "
                "write pvc://CLAIM/path, or let the SDK upload it (blob://)"
            )
            return Refused("FileUriRefused", message)
    return None


def _check_code(spec: ExperimentSpec) -> Refused | None:
    try:
        check_code(spec)
    except ConfigError as error:
        return Refused("InvalidCode", _named(error))
    return None


def _check_generation(spec: ExperimentSpec, leaves: Iterable[Mapping[str, Any]]) -> Refused | None:
    if spec.data.eval is None and any("generation_config" in leaf.get("additional_kwargs", {}) for leaf in leaves):
        message = "spec.data.eval: missing, and generation_config generates on the eval set; add it, or leave that out"
        return Refused("InvalidConfig", message)
    return None


def _check_objective(spec: ExperimentSpec) -> Refused | None:
    metric = spec.objective.metric
    if metric in _LOSSES and spec.objective.direction == "maximize":
        message = f"spec.objective.direction: {metric} is better when it is smaller; write minimize, or another metric"
        return Refused("InvalidObjective", message)
    evaluated = spec.data.eval is not None and spec.evaluate_at_boundaries
    if metric not in _LOSSES and not evaluated:
        message = (
            f"spec.objective.metric: {metric} is measured on the eval set at chunk boundaries, and there is none; "
            "set spec.data.eval and spec.evaluateAtBoundaries: true, or write eval_loss (then the training loss counts)"
        )
        return Refused("InvalidObjective", message)
    return None


def _claims(spec: ExperimentSpec, leaves: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    uris = [source.uri for source in (spec.data.train, spec.data.eval) if source is not None]
    yield from _claims_in(uris)
    yield from _model_claims(leaves)


def _model_claims(leaves: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    uris: list[str] = []
    for leaf in leaves:
        reference, rewards = leaf.get("ref_model_config") or {}, leaf.get("reward_funcs")
        models = (leaf.get("model_name"), leaf.get("tokenizer"), reference.get("model_name"))
        named = (*models, *(rewards if isinstance(rewards, list) else [rewards]))
        uris += [each for each in named if isinstance(each, str)]
    return _claims_in(uris)


def _claims_in(uris: Iterable[str]) -> Iterable[str]:
    return (found.group(1) for found in map(_CLAIM.match, uris) if found is not None)


def _explain(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_context=False, include_input=True)
    sentences = [_sentence(mistake["loc"], mistake["type"], mistake["msg"], mistake["input"]) for mistake in mistakes]
    more = f"; and {len(sentences) - _MANY} more" if len(sentences) > _MANY else ""
    return "; ".join(sentences[:_MANY]) + more


def _sentence(location: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    path = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    if kind == "extra_forbidden":
        return f"{path}: unknown field{_hint(location)}; take it away or correct it"
    if kind == "missing":
        return f"{path}: is required; add it"
    shown = repr(value)
    return f"{path}: {message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _hint(location: tuple[int | str, ...]) -> str:
    """Return the nearest known field beside an unknown one."""
    model: type[BaseModel] | None = ExperimentSpec
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _field_model(model, part)
    if model is None:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" of {model.__name__}" + (f"; did you mean {near[0]}?" if near else f" (known: {', '.join(known)})")


def _field_model(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    """Return the model of a field's value, through lists and unions."""
    field = next((f for name, f in model.model_fields.items() if alias in {f.alias, name}), None)
    options = [field.annotation] if field is not None else []
    while options:
        option = options.pop()
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
        options.extend(getattr(option, "__args__", ()))
    return None
