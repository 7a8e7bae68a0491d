"""From what a lost cluster has left on the volume to the Experiment that goes on with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rapidfireai.api import Experiment, ExperimentSpec, Run
from rapidfireai.api.adoption import MOST_ADOPTED, AdoptedRun, Adoption
from rapidfireai.api.run import ENDED, Adopted, Checkpoint
from rapidfireai.errors import ExperimentError
from rapidfireai.expand import ConfigError, expand
from rapidfireai.remains import ExperimentRemains, RunRemains

MOST_BYTES = 1_200_000
"""What an Experiment may be large: the API server takes some more."""
_OPTIONS: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True, "exclude_defaults": True}


@dataclass(frozen=True, slots=True)
class Prospect:
    """A run as it will be.

    Attributes:
        entry: What the Experiment brings along for it.
        name: What it was called.
        total: Its steps or rows in all, if they are known.
        fate: What becomes of it, in a few words.
        remarks: What is not as it should be, a sentence each.
    """

    entry: AdoptedRun
    name: str
    total: int | None
    fate: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """What is to be made of a directory.

    Attributes:
        uid: The directory.
        name: What the experiment is to be called.
        spec: Its spec as JSON.
        runs: Its runs, by number.
        lost: Directories of runs that cannot be made again, and why.
        needs: Secrets and ConfigMaps that must be there, a sentence each.
    """

    uid: str
    name: str
    spec: Mapping[str, Any]
    runs: tuple[Prospect, ...]
    lost: Mapping[str, str]
    needs: tuple[str, ...]


def orphans(remains: Iterable[ExperimentRemains], experiments: Iterable[Experiment]) -> list[ExperimentRemains]:
    """Return the directories that no experiment of the cluster has, the latest last.

    Args:
        remains: Everything that lies on the volume.
        experiments: Every experiment of the workspace.
    """
    taken = {each.volume_uid for each in experiments} | {each.metadata.uid for each in experiments}
    return sorted((each for each in remains if each.uid not in taken), key=lambda each: (each.changed_at, each.uid))


def chosen(found: Sequence[ExperimentRemains], words: Sequence[str]) -> list[ExperimentRemains]:
    """Return the directories that somebody means.

    Args:
        found: What can be adopted.
        words: Names or UIDs; without any, all are meant but those of experiments that were deleted.

    Raises:
        ExperimentError: If nothing or more than one has a name.
    """
    if not words:
        return [each for each in found if each.deleted_at is None]
    return [_named(found, word) for word in dict.fromkeys(words)]


def _named(found: Sequence[ExperimentRemains], word: str) -> ExperimentRemains:
    by_uid = [each for each in found if each.uid == word]
    by_name = by_uid or [each for each in found if each.name == word]
    if not by_name:
        known = ", ".join(dict.fromkeys(each.name or each.uid for each in found)) or "none"
        raise ExperimentError(f"--experiment {word}: nothing on the volume waits to be adopted by that name; {known}")
    if len(by_name) > 1:
        uids = ", ".join(each.uid for each in by_name)
        raise ExperimentError(f"--experiment {word}: {len(by_name)} directories are of that name; give a UID: {uids}")
    return by_name[0]


def planned(
    found: ExperimentRemains, runs: Iterable[RunRemains], name: str, spec: Mapping[str, Any] | None = None
) -> AdoptionPlan:
    """Return what is to be made of a directory.

    Args:
        found: The directory, with its record.
        runs: The runs in it.
        name: What the experiment is to be called.
        spec: Its spec, where the volume does not have it.

    Raises:
        ExperimentError: If it cannot be adopted; the message says why, and what to do.
    """
    if not name:
        also = f"; {found.problem}" if found.problem and spec is None else ""
        raise ExperimentError(
            f"{found.uid}: nothing tells what it was called; give --experiment {found.uid} --as NAME{also}"
        )
    raw, parsed, next_index = _spec_of(found, spec)
    leaves = _leaves(parsed)
    prospects, lost = _prospects(found.uid, runs, leaves)
    if not prospects:
        raise ExperimentError(
            f"{found.uid}: no run of it can be made again; {'; '.join(lost.values()) or 'it has none'}"
        )
    if len(prospects) > MOST_ADOPTED:
        raise ExperimentError(f"{name}: it has {len(prospects)} runs, and at most {MOST_ADOPTED} can be adopted")
    highest = max(each.entry.index for each in prospects)
    whole = Adoption(
        uid=found.uid, next_index=max(next_index, highest + 1), runs=[each.entry for each in prospects]
    ).model_dump(**_OPTIONS)
    wire = {**raw, "adopted": _light(raw, whole)}
    return AdoptionPlan(found.uid, name, wire, tuple(prospects), lost, tuple(needs_of(parsed)))


def _spec_of(
    found: ExperimentRemains, given: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], ExperimentSpec, int]:
    """Return the spec of the experiment as it was written and as it is read, and its next index if that is known."""
    record = found.record or {}
    there = given if given is not None else record.get("spec")
    if not isinstance(there, Mapping):
        raise ExperimentError(f"{found.name or found.uid}: {found.problem or 'its spec is not on the volume'}")
    raw = {key: value for key, value in there.items() if key != "adopted"}
    try:
        spec = ExperimentSpec.model_validate(raw, extra="ignore")
    except ValidationError as error:
        raise ExperimentError(
            f"{found.name or found.uid}: its spec is none that this version knows: {error}"
        ) from error
    before = max(_whole((record.get("status") or {}).get("nextIndex")), 1)
    return raw, spec, before


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _leaves(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """Return what the configs expand into; nothing if this version refuses them, as the operator will say."""
    try:
        return expand(spec.configs, spec.max_runs, mode=spec.mode)
    except ConfigError:
        return []


def _prospects(
    uid: str, runs: Iterable[RunRemains], leaves: Sequence[Mapping[str, Any]]
) -> tuple[list[Prospect], dict[str, str]]:
    """Return the runs by number, and those that cannot be made again."""
    prospects: dict[int, Prospect] = {}
    lost = {}
    for each in runs:
        try:
            prospect = prospect_of(uid, each, leaves)
        except (ValidationError, ValueError) as error:
            lost[each.uid] = f"runs/{each.uid}: {each.problem or f'its record cannot be understood: {error}'}"
            continue
        other = prospects.get(prospect.entry.index)
        if other is not None:
            lost[each.uid] = f"runs/{each.uid}: run {prospect.entry.index} is in runs/{other.entry.adopted.run_uid} too"
            continue
        prospects[prospect.entry.index] = prospect
    return [prospects[index] for index in sorted(prospects)], lost


def prospect_of(experiment_uid: str, found: RunRemains, leaves: Sequence[Mapping[str, Any]]) -> Prospect:
    """Return a run as it will be.

    Args:
        experiment_uid: The experiment's directory.
        found: The run's directory.
        leaves: What the experiment's configs expand into: a config that is among them is not written again.

    Raises:
        ValueError: If there is no record of it.
        pydantic.ValidationError: If its record is none of a run.
    """
    if found.record is None:
        raise ValueError(found.problem)
    run = Run.from_body(dict(found.record))
    state, fate = _future(run, found.checkpoint)
    index, config = run.spec.index, run.spec.config
    is_leaf = index <= len(leaves) and leaves[index - 1] == config
    entry = AdoptedRun(
        index=index,
        config=None if is_leaf else config,
        desired_state=run.spec.desired_state,
        when=run.spec.when,
        priority=run.spec.priority,
        parent_ref=run.spec.parent_ref,
        adopted=_adopted(experiment_uid, found, run, state),
    )
    total = run.status.prepared.total_steps if run.status.prepared else None
    return Prospect(entry, run.metadata.name, total, fate, found.remarks)


def _future(run: Run, checkpoint: Checkpoint | None) -> tuple[Any, str]:
    """Return the state that an ended run keeps, and what becomes of the run in a few words."""
    state, step = run.status.state, checkpoint.step if checkpoint is not None else 0
    total = run.status.prepared.total_steps if run.status.prepared else None
    if run.spec.desired_state == "Deleted":
        return "Deleted", "stays deleted"
    if state == "Succeeded" and total is not None and step < total:
        state = None  # its last commit is not whole
    if state not in ENDED and total is not None and step >= total:
        state = "Succeeded"  # its operator had not seen its last commit yet
    if state in ENDED:
        return state, f"stays {state.lower()}" if state else ""
    if run.spec.desired_state == "Stopped":
        return None, "stays stopped"
    unit = "row" if "vllm_config" in run.spec.config or "api_config" in run.spec.config else "step"
    return None, f"goes on from {unit} {step}" if step else "begins anew"


def _adopted(experiment_uid: str, found: RunRemains, run: Run, state: Any) -> Adopted:
    status, step = run.status, found.checkpoint.step if found.checkpoint is not None else 0
    error = status.progress.error if status.progress is not None else None
    return Adopted(
        experiment_uid=experiment_uid,
        run_uid=found.uid,
        attempt=found.attempt,
        checkpoint=found.checkpoint,
        state=state,
        error=error if state == "Failed" else None,
        prepared=status.prepared,
        objective=[point for point in status.objective if point.step <= step],
        objective_metric=status.objective_metric,
        pinned=status.pinned,
        head_start=status.head_start,
        failures=status.failures if state == "Failed" else None,
        stopped_by=status.stopped_by,
    )


def _light(spec: Mapping[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return the adoption so that an Experiment has room for it: of long curves the ends alone stay, if they must.

    Raises:
        ExperimentError: If it has no room even then.
    """
    room = MOST_BYTES - len(json.dumps(spec))
    if len(json.dumps(whole)) <= room:
        return whole
    for each in whole["runs"]:
        curve = each["adopted"].get("objective", [])
        if len(curve) > 1:
            each["adopted"]["objective"] = [curve[0], curve[-1]]
    if len(json.dumps(whole)) > room:
        raise ExperimentError(
            f"{whole['uid']}: its {len(whole['runs'])} runs are more than one Experiment has room for; weights can be "
            "had from the volume, see docs/backup.md"
        )
    return whole


def needs_of(spec: ExperimentSpec) -> Iterator[str]:
    """Yield the Secrets and ConfigMaps that the experiment refers to and that the volume does not have."""
    code, pod = spec.code, spec.workers.template.spec
    if code is not None and code.config_map is not None:
        yield f"ConfigMap {code.config_map.name}, key {code.config_map.key}: the same source as before"
    for secret in pod.image_pull_secrets:
        yield f"Secret {secret.get('name')}: pulls the image"
    for variable in (each for container in pod.containers for each in container.env):
        for kind, word in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            reference = (variable.value_from or {}).get(kind)
            if reference:
                yield f"{word} {reference.get('name')}, key {reference.get('key')}: variable {variable.name} of workers"
