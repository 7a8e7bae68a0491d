"""Whether an experiment can be run at all, and the runs that it makes. Never raises, whatever the manifest says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.data import DataSource
from rapidfireai.expand import ConfigError, expand
from rapidfireai.source import check_code
from rapidfireai_operator.core.adoption import configs_of

LONGEST_NAME = 51
"""Worker Jobs are called `<experiment>-w-<up to 255>`; in their pods' names Kubernetes cuts that at 57 characters."""
_CLAIM = re.compile(r"^pvc://([a-z0-9.-]+)/.+$")
_MANY = 5
"""So many mistakes are named at once."""
_LOSSES = frozenset({"eval_loss", "loss"})
_COMPARING = ("successive_halving", "stop_when_worse", "stop_when_beaten")
EVALUATES = ("vllm_config", "api_config")
"""What a leaf of an evaluation has: one of these."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The experiment can be run.

    Attributes:
        spec: The parsed spec.
        leaves: The configs of its runs, in the order of their indices; None for an index that is used up.
        claims: PersistentVolumeClaims that its data and models lie on.
    """

    spec: ExperimentSpec
    leaves: tuple[Mapping[str, Any] | None, ...]
    claims: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The experiment cannot be run; `message` names the field and the fix."""

    reason: str
    message: str


def unshared(modes: Mapping[str, Collection[str]], replicas: int) -> Refused | None:
    """Refuse claims that one pod alone may have: the workers share them, with each other and the volume service.

    Args:
        modes: The access modes of the claims that are there, by name.
        replicas: How many workers the experiment asks for.
    """
    alone = sorted(name for name, these in modes.items() if set(these) == {"ReadWriteOncePod"})
    if not alone:
        return None
    return Refused(
        "ClaimNotShared",
        f"spec.storage: the PersistentVolumeClaim {alone[0]} is ReadWriteOncePod, which one pod alone can have, and "
        f"{replicas} worker(s) and the volume service share it; name a claim that is ReadWriteMany (or ReadWriteOnce, "
        "if all of them run on one node).",
    )


def on_one_node(modes: Mapping[str, Collection[str]]) -> list[str]:
    """Return the claims that pods of one node alone can share."""
    return sorted(name for name, these in modes.items() if these and set(these) <= {"ReadWriteOnce"})


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
        # A field that the API server has kept and this operator does not know is a newer version's, during an upgrade.
        parsed = ExperimentSpec.model_validate(spec, extra="ignore")
    except ValidationError as error:
        return Refused("InvalidSpec", _explain(error))
    for check in (
        _check_mode(parsed),
        _check_data(parsed, allow_file_uris),
        _check_objective(parsed),
        _check_policies(parsed),
        _check_adopted(parsed),
    ):
        if check is not None:
            return check
    try:
        leaves = expand(parsed.configs, parsed.max_runs, mode=parsed.mode)
    except ConfigError as error:
        return Refused("InvalidConfig", _named(error))
    configs = configs_of(parsed, leaves)
    made = [each for each in configs if each is not None]
    for check in (_check_code(parsed), _check_generation(parsed, made)):
        if check is not None:
            return check
    return Accepted(parsed, configs, frozenset(_claims(parsed, made)))


def adopted_twice(adopted: str, other: str) -> Refused:
    """Refuse to adopt what another experiment has: two would write into one directory.

    Args:
        adopted: The directory's UID.
        other: The name of the experiment that has it.
    """
    message = f"spec.adopted.uid: experiment {other} has the directory {adopted} of the volume; delete this one"
    return Refused("AlreadyAdopted", message)


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


def ranked_by(spec: ExperimentSpec) -> str | None:
    """Return the metric that ranks the runs; None if nothing does: an evaluation has no loss."""
    unranked = spec.mode == "evals" and spec.objective.metric == "eval_loss"
    return None if unranked else spec.objective.metric


def _named(error: ConfigError) -> str:
    message = str(error)
    return message if message.startswith(error.path) else f"{error.path}: {message}"


def _check_mode(spec: ExperimentSpec) -> Refused | None:
    """Check what the schema checks too: the object may be older than it."""
    groups, data = list(enumerate(spec.configs)), spec.data
    if spec.mode == "fit":
        mistakes = [
            f"spec.configs[{i}].trainer: is required; write SFT, DPO or GRPO" for i, g in groups if not g.trainer
        ]
        if data.train is None:
            mistakes.append("spec.data.train: is required with mode fit: the rows to train on; add it")
        if data.documents is not None:
            mistakes.append("spec.data.documents: belongs to mode evals; leave it out")
    else:
        trains = "mode evals trains nothing; leave it out, or write mode: fit"
        mistakes = [f"spec.configs[{i}].trainer: {trains}" for i, g in groups if g.trainer]
        if data.eval is None:
            mistakes.append("spec.data.eval: is required with mode evals: the rows that runs answer; add it")
        if data.train is not None:
            mistakes.append(f"spec.data.train: {trains}")
    return Refused("InvalidSpec", "; ".join(mistakes[:_MANY])) if mistakes else None


def _sources(spec: ExperimentSpec) -> dict[str, DataSource]:
    """Return the data sets that the experiment has, by their fields."""
    named = {"train": spec.data.train, "eval": spec.data.eval, "documents": spec.data.documents}
    return {name: source for name, source in named.items() if source is not None}


def _check_policies(spec: ExperimentSpec) -> Refused | None:
    """Check that policies which compare runs have something to compare."""
    for index, policy in enumerate(spec.policies):
        name = next(iter(each for each in _COMPARING if getattr(policy, each) is not None), None)
        if name is None:
            continue
        field = f"spec.policies[{index}].{to_camel(name)}"
        if spec.mode == "fit" and name == "stop_when_beaten":
            message = f"{field}: compares the intervals of evaluations, and mode is fit; write stopWhenWorse instead"
            return Refused("InvalidPolicy", message)
        if ranked_by(spec) is None:
            message = (
                f"{field}: compares runs by spec.objective.metric, and eval_loss ranks no evaluation; "
                "name a metric that the runs report, such as Accuracy, and its direction"
            )
            return Refused("InvalidPolicy", message)
    return None


def _check_adopted(spec: ExperimentSpec) -> Refused | None:
    """Check that no two runs write into one directory."""
    directories = [each.adopted.run_uid for each in spec.adopted.runs] if spec.adopted is not None else []
    twice = [each for each, count in Counter(directories).items() if count > 1]
    if twice:
        return Refused("InvalidSpec", f"spec.adopted.runs: {twice[0]} is the directory of two runs; leave one out")
    return None


def _check_data(spec: ExperimentSpec, allow_file_uris: bool) -> Refused | None:
    for name, source in _sources(spec).items():
        field = f"spec.data.{name}.uri"
        if source.uri.startswith("file://") and not allow_file_uris:
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
    if (
        spec.mode == "fit"
        and spec.data.eval is None
        and any("generation_config" in leaf.get("additional_kwargs", {}) for leaf in leaves)
    ):
        message = "spec.data.eval: missing, and generation_config generates on the eval set; add it, or leave that out"
        return Refused("InvalidConfig", message)
    return None


def _check_objective(spec: ExperimentSpec) -> Refused | None:
    metric = spec.objective.metric
    if spec.mode == "evals":
        return None  # what a metric of the user's is called, and which way it is better, is the user's affair
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
    yield from _claims_in(source.uri for source in _sources(spec).values())
    yield from _model_claims(leaves)


def _model_claims(leaves: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    uris: list[str] = []
    for leaf in leaves:
        reference, rewards = leaf.get("ref_model_config") or {}, leaf.get("reward_funcs")
        models = (leaf.get("model_name"), leaf.get("tokenizer"), reference.get("model_name"))
        named = (*models, *(rewards if isinstance(rewards, list) else [rewards]))
        uris += [each for each in named if isinstance(each, str)]
        uris += [each for section in EVALUATES if section in leaf for each in _strings(leaf[section])]
    return _claims_in(uris)


def _strings(value: Any) -> Iterable[str]:
    """Yield every string of a JSON value: a model, documents, kwargs of an embedder may lie on a claim."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _claims_in(uris: Iterable[str]) -> Iterable[str]:
    return (found.group(1) for found in map(_CLAIM.match, uris) if found is not None)


def _explain(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_context=False, include_input=True)
    sentences = [_sentence(mistake["loc"], mistake["type"], mistake["msg"], mistake["input"]) for mistake in mistakes]
    more = f"; and {len(sentences) - _MANY} more" if len(sentences) > _MANY else ""
    return "; ".join(sentences[:_MANY]) + more


def _sentence(location: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    path = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    if kind == "missing":
        return f"{path}: is required; add it"
    shown = repr(value)
    return f"{path}: {message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"
