"""Everything that a person needs to know of one experiment or run, as text. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from kubernetes.client import CoreV1Event, V1Pod

from rapidfireai.api import Experiment, ICOp, Run
from rapidfireai.api.base import Condition
from rapidfireai.api.code import Code
from rapidfireai.api.data import DataSource
from rapidfireai.api.experiment import ExperimentSpec, Objective, Retention
from rapidfireai.api.run import Estimate
from rapidfireai.expand import restore
from rapidfireai.progress.estimates import estimates_of
from rapidfireai.progress.picture import (
    chunks_done,
    differing_knobs,
    index_of,
    origin_of,
    person,
    problem_of,
    status_condition,
)
from rapidfireai.show.lineage import lineage
from rapidfireai.show.operations import audit, is_about
from rapidfireai.show.tables import age, aligned, runs_table
from rapidfireai.words import WORDS

_WIDTH = 110
_MOST_EVENTS = 12


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of an experiment or run besides its own resource.

    Attributes:
        now: The time.
        events: What the cluster still remembers.
        icops: The IC Ops of the experiment.
        pods: The worker pods of the experiment.
        volume: Where the volume is mounted.
        mlflow_url: MLflow, or empty.
        kubectl: How this person calls kubectl, namespace included.
        options: What this person's `rapidfireai` commands end in, such as ` -n team-a`.
    """

    now: datetime
    events: Sequence[CoreV1Event] = ()
    icops: Sequence[ICOp] = ()
    pods: Sequence[V1Pod] = ()
    volume: str = ""
    mlflow_url: str = ""
    kubectl: str = "kubectl"
    options: str = ""

    def command(self, words: str) -> str:
        """Return a command of `rapidfireai` as this person types it."""
        return f"rapidfireai {words}{self.options}"


def describe_experiment(experiment: Experiment, runs: Sequence[Run], around: Surroundings) -> str:
    """Return what there is to say of an experiment."""
    spec, status, name = experiment.spec, experiment.status, experiment.metadata.name
    unranked = spec.mode == "evals" and spec.objective == Objective()
    facts = {
        "Experiment": name,
        "Called": spec.display_name if spec.display_name != name else "",
        "Namespace": experiment.metadata.namespace,
        "State": status.state or "Pending",
        "Age": age(experiment.metadata.creation_timestamp, around.now),
        "Left": f"about {status.eta}" if status.eta else "",
        "Best": status.best.summary if status.best else "",
        "Mode": "" if spec.mode == "fit" else spec.mode,
        "Objective": "" if unranked else f"{spec.objective.direction} {spec.objective.metric}",
        **_cut(spec, status.chunks.summary or "0"),
        "Seed": str(spec.seed),
        "Train data": _data(spec.data.train) if spec.data.train else "",
        "Eval data": _data(spec.data.eval) if spec.data.eval else "none",
        "Documents": _data(spec.data.documents) if spec.data.documents else "",
        "Code": _code(spec.code),
        "Workers": status.workers.summary or f"0/{spec.workers.replicas}",
        "Checkpoints": f"kept: {_kept(spec.retention)}" if spec.mode == "fit" else "",
        "Logs": around.command(f"logs {name}"),
        "Volume": f"{around.volume}/experiments/{experiment.volume_uid}" if around.volume else "",
        "MLflow": _mlflow(around, status.ml_flow_experiment_id),
    }
    sections = [
        _facts(facts),
        _section("Runs", runs_table(experiment, runs, around.now).lines() if runs else ["none yet"]),
        _section("Lineage", lineage(runs)),
        _section("Workers", _pods(around.pods, around.now)),
        _section("Conditions", _conditions(status.conditions)),
        _section("Operations", audit(around.icops, around.now)),
        _section("Events", _events(around.events, around.now)),
        _section("Next", _next_of_experiment(experiment, runs, around)),
    ]
    return "\n\n".join(filter(None, sections))


def describe_run(run: Run, experiment: Experiment, runs: Sequence[Run], around: Surroundings) -> str:
    """Return what there is to say of a run.

    Args:
        run: The run.
        experiment: Its experiment.
        runs: All runs of that: the knobs that are named are those in which they differ.
        around: What else is known.
    """
    status, name = run.status, run.metadata.name
    knobs = dict(
        zip((each.metadata.name for each in runs), differing_knobs([r.spec.config for r in runs]), strict=True)
    )
    prepared, progress, assignment = status.prepared, status.progress, status.assignment
    checkpoint = run.status.committed
    failures = status.failures
    words, evaluates = WORDS[experiment.spec.mode], experiment.spec.mode == "evals"
    facts = {
        "Run": name,
        "Lineage": f"run {run.spec.index} of experiment {experiment.metadata.name}, "
        + (origin_of(run) or "made from its configs"),
        "Namespace": run.metadata.namespace,
        "State": status.state or "Pending",
        "Wanted": _wanted(run),
        "Age": age(run.metadata.creation_timestamp, around.now),
        "Knobs": knobs.get(name, ""),
        f"{words.piece.title()}s": f"{chunks_done(run)}/{len(prepared.boundaries)}" if prepared else "not known yet",
        f"{words.unit.title()}{'s' if evaluates else ''}": f"{status.step}/{prepared.total_steps}" if prepared else "",
        "Index": _index(run),
        "Loss": (progress.loss if progress else None) or "",
        "Worker": f"{assignment.worker}, since {_moment(assignment.granted_at, around.now)}" if assignment else "",
        "Attempts": f"{status.attempt}, of which {failures.errors} raised and {failures.crashes} crashed"
        if status.attempt
        else "",
        "Answers" if evaluates else "Checkpoint": f"{around.volume}/{checkpoint.path} ({words.unit} {checkpoint.step})"
        if checkpoint
        else "none yet",
        "Digest": f"sha256 {checkpoint.digest}" if checkpoint else "",
        "Seed": str(_seed(run, experiment)),
        "Logs": around.command(f"logs {name}"),
        "MLflow": _mlflow(around, experiment.status.ml_flow_experiment_id, status.mlflow_run_id),
    }
    metric = status.objective_metric or experiment.spec.objective.metric
    points = [[words.piece.upper(), words.unit.upper(), metric, *(["LOWER", "UPPER"] if evaluates else [])]]
    points += [
        [str(p.chunk + 1), str(p.step), f"{p.value:.6g}", *([_number(p.lower), _number(p.upper)] if evaluates else [])]
        for p in status.objective
    ]
    about = [each for each in around.icops if is_about(each, name)]
    sections = [
        _facts(facts),
        _section("Problem", _wrapped(problem_of(run))),
        _section("Objective", aligned(points) if status.objective else []),
        _section("Estimates", _estimates(estimates_of(run))),
        _section("Metrics", _metrics(progress.metrics if progress else {})),
        _section("Config", _yaml(restore(run.spec.config))),
        _section("Conditions", _conditions(status.conditions)),
        _section("Operations", audit(about, around.now)),
        _section("Events", _events(around.events, around.now)),
        _section("Next", _next_of_run(run, around)),
    ]
    return "\n\n".join(filter(None, sections))


def _facts(facts: Mapping[str, str | None]) -> str:
    return "\n".join(f"{key + ':':13} {value}" for key, value in facts.items() if value)


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(f"  {line}".rstrip() for line in lines)
    return f"{title}:\n{body}" if body else ""


def _wrapped(text: str) -> Iterator[str]:
    """Yield a message in lines that are not too long; a traceback keeps its own."""
    for line in text.splitlines():
        yield from textwrap.wrap(line, _WIDTH, subsequent_indent=" " * (len(line) - len(line.lstrip())))


def _data(source: DataSource) -> str:
    return f"{source.uri} ({source.split})" if source.uri.startswith("hf://") else source.uri


def _kept(retention: Retention) -> str:
    last = "the last one" if retention.keep_last == 1 else f"the last {retention.keep_last}"
    return f"{last} and the best one" if retention.keep_best else last


def _code(code: Code | None) -> str:
    if code is None:
        return ""
    if code.bundle:
        return f"bundle {code.bundle[:12]}, made with Python {code.python}"
    return f"source in the ConfigMap {code.config_map.name}" if code.config_map else "source in the experiment itself"


def _cut(spec: ExperimentSpec, done: str) -> dict[str, str]:
    """Return into how many pieces the data is cut."""
    if spec.mode == "evals":
        return {"Shards": f"{spec.shards} a run, {done} done in all"}
    return {"Chunks": f"{spec.chunks} an epoch, {done} done in all"}


def _index(run: Run) -> str:
    """Return what is known of the index that a run searches."""
    prepared = run.status.prepared
    if prepared is None or prepared.index is None:
        return ""
    return f"{prepared.index[:12]}, {'built' if prepared.index_built else str(index_of(run) or 'not built yet')}"


def _wanted(run: Run) -> str:
    """Return what somebody asked for, when it takes effect and who asked."""
    if run.spec.desired_state == "Running":
        return ""
    when = "at the next chunk boundary" if run.spec.when == "Boundary" else "after the current step"
    taken = run.status.state == run.spec.desired_state or run.status.state in {"Succeeded", "Failed"}
    who = person(run.spec.requested_by)
    return run.spec.desired_state + ("" if taken else f" {when}") + (f", by {who}" if who else "")


def _seed(run: Run, experiment: Experiment) -> int:
    """Return the seed that counts: the config's own, else the experiment's."""
    own = run.spec.config.get("training_args", {}).get("seed")
    return experiment.spec.seed if own is None else int(own)


def _mlflow(around: Surroundings, experiment: str | None, run: str | None = "") -> str:
    if not around.mlflow_url or not experiment or run is None:
        return ""
    page = f"{around.mlflow_url}/#/experiments/{experiment}"
    return f"{page}/runs/{run}" if run else page


def _metrics(metrics: Mapping[str, float]) -> list[str]:
    return aligned([[name, f"{value:.6g}"] for name, value in sorted(metrics.items())]) if metrics else []


def _estimates(estimates: Mapping[str, Estimate]) -> list[str]:
    rows = [["METRIC", "ESTIMATE", "LOWER", "UPPER", "LEVEL", "METHOD"]]
    for name, each in sorted(estimates.items()):
        numbers = map(_number, (each.value, each.lower, each.upper, each.level))
        rows.append([name, *numbers, each.method or ""])
    return aligned(rows) if estimates else []


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _yaml(config: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(config, sort_keys=False, width=_WIDTH).splitlines()


def _conditions(conditions: Sequence[Condition]) -> Iterator[str]:
    for each in conditions:
        yield f"{each.type}={each.status} ({each.reason})"
        yield from (f"  {line}" for line in _wrapped(each.message))


def _pods(pods: Sequence[V1Pod], now: datetime) -> list[str]:
    rows = [["POD", "PHASE", "NODE", "RESTARTS", "AGE"]]
    for pod in pods:
        states = (pod.status.container_statuses or []) if pod.status else []
        restarts = sum(each.restart_count for each in states)
        node = (pod.spec.node_name if pod.spec else None) or ""
        phase = (pod.status.phase if pod.status else None) or "Pending"
        rows.append([pod.metadata.name, phase, node, str(restarts), age(pod.metadata.creation_timestamp, now)])
    return aligned(rows) if pods else []


def _events(events: Sequence[CoreV1Event], now: datetime) -> list[str]:
    def when(event: CoreV1Event) -> datetime:
        return event.last_timestamp or event.event_time or event.metadata.creation_timestamp or now

    rows = []
    for event in sorted(events, key=when)[-_MOST_EVENTS:]:
        times = f" (x{event.count})" if (event.count or 1) > 1 else ""
        rows.append(
            [f"{age(when(event), now)} ago", event.type or "", event.reason or "", (event.message or "") + times]
        )
    return aligned(rows) if rows else []


def _moment(seconds: float, now: datetime) -> str:
    return f"{age(datetime.fromtimestamp(seconds, tz=now.tzinfo), now)} ago"


def _next_of_experiment(experiment: Experiment, runs: Sequence[Run], around: Surroundings) -> Iterator[str]:
    name, state, best = experiment.metadata.name, experiment.status.state, experiment.status.best
    failed = [run.metadata.name for run in runs if run.status.state == "Failed"]
    if state == "Refused":
        yield f"correct what the condition says and create it again: {around.kubectl} delete rfexp {name}"
        return
    if failed:
        yield f"why a run failed: {around.command(f'describe {failed[0]}')}"
    if state == "Suspended":
        yield f"go on with it: {around.command(f'unsuspend {name}')}"
    if state in {None, "Pending", "Running"}:
        if experiment.spec.workers.replicas == 0:
            yield f"it waits for workers: {around.kubectl} scale rfexp {name} --replicas=1"
        yield f"watch it: {around.command(f'get {name} --watch')}"
    if any(run.status.committed for run in runs):
        yield f"see the curves: {around.command(f'plot {name}')}"
    if (
        experiment.spec.mode == "fit"
        and best is not None
        and (finished := status_condition(experiment, "Finished"))
        and finished.status == "True"
    ):
        yield f"fetch the best model: {around.command(f'export {best.run} DIR')}"


def _next_of_run(run: Run, around: Surroundings) -> Iterator[str]:
    name, state = run.metadata.name, run.status.state
    committed = bool(run.status.committed)
    own = f"{run.spec.experiment_ref} {run.spec.index}"
    if state == "Stopped":
        yield f"go on with it: {around.command(f'resume {own}')}"
    elif state == "Failed" and around.pods:
        yield f"what its worker wrote: {around.command(f'logs {name}')}"
    elif state not in {"Failed", "Succeeded", "Deleted"}:
        yield f"stop it at the next boundary: {around.command(f'stop {own}')}"
    if "vllm_config" in run.spec.config or "api_config" in run.spec.config:
        change = "vllm_config.sampling_params.temperature=0.2" if "vllm_config" in run.spec.config else "batch_size=4"
        yield f"try a change: {around.command(f'clone {own} --set {change}')}"
    elif committed:
        clone = around.command(f"clone {own} --warm --set training_args.learning_rate=1e-4")
        yield f"try a change from its weights: {clone}"
        yield f"fetch its model: {around.command(f'export {name} DIR')}"
