"""`rapidfireai adopt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidfireai.cli.errors import fail, sentences
from rapidfireai.cli.options import Kubeconfig, Namespace

if TYPE_CHECKING:
    from rapidfireai.adoption import AdoptionPlan
    from rapidfireai.connection import Connection
    from rapidfireai.remains import ExperimentRemains
    from rapidfireai.volume import VolumeClient


def adopt(
    experiment: Annotated[
        list[str] | None,
        typer.Option("--experiment", "-e", help="Only this one, by name or UID; may be given several times."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="What to call the experiment, if its name is taken; for one at a time.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="The experiment's manifest, if the volume does not have it; for one at a time."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make experiments and runs again that lie on the volume and not in the cluster, after that was lost.

    Runs keep their numbers, configs and lineage. What had ended or was stopped stays so; the others go on from their
    last commit that is whole. Make sure that the cluster they come from does not run any more.
    """
    with sentences():
        from rapidfireai.adoption import chosen, orphans
        from rapidfireai.connection import Connection
        from rapidfireai.volume import VolumeClient

        connection = Connection(namespace, kubeconfig)
        volume = VolumeClient(connection.workspace().volume_url, connection.volume_token)
        found = orphans(volume.remains(), connection.experiments())
        if not found:
            typer.echo(f"all that lies on the volume of namespace {namespace} is in the cluster", err=True)
            return
        _show(found)
        meant = chosen(found, experiment or [])
        if len(meant) != 1 and (name or spec):
            fail("--as and --spec are of one experiment; name it with --experiment")
        plans = [plan for each in meant if (plan := _plan(volume, each, name, spec)) is not None]
        if not dry_run and plans and (yes or typer.confirm(_question(plans))):
            made = [_make(connection, plan) for plan in plans]
            plans = [plan for plan, done in zip(plans, made, strict=True) if done]
        if len(plans) < len(meant):
            raise typer.Exit(1)


def _show(found: list[ExperimentRemains]) -> None:
    from datetime import UTC, datetime

    from rapidfireai.show.tables import age, aligned

    now = datetime.now(UTC)
    rows = [("NAME", "RUNS", "LAST WRITTEN", "UID", "")]
    for each in found:
        about = f"deleted {_day(each.deleted_at)}" if each.deleted_at is not None else each.problem
        written = f"{_day(each.changed_at)} ({age(datetime.fromtimestamp(each.changed_at, UTC), now)} ago)"
        rows.append((each.name or "?", str(len(each.runs)), written if each.changed_at else "", each.uid, about))
    typer.echo("\n".join(aligned(rows)))


def _day(seconds: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _plan(volume: VolumeClient, each: ExperimentRemains, name: str | None, spec: Path | None) -> AdoptionPlan | None:
    """Read a directory and show what is to be made of it; None if nothing can."""
    from rapidfireai.adoption import planned
    from rapidfireai.errors import ExperimentError

    try:
        found = volume.experiment_remains(each.uid)
        runs = [volume.run_remains(each.uid, uid) for uid in found.runs]
        plan = planned(found, runs, name or found.name, _spec_in(spec) if spec else None)
    except ExperimentError as error:
        typer.echo(f"\n{error}", err=True)
        return None
    _show_plan(plan)
    return plan


def _spec_in(path: Path) -> dict[str, Any]:
    """Return the spec of the Experiment in a manifest."""
    import yaml

    from rapidfireai.errors import ExperimentError

    try:
        bodies = [each for each in yaml.safe_load_all(path.read_text()) if isinstance(each, dict)]
    except (OSError, yaml.YAMLError) as error:
        raise ExperimentError(f"--spec {path}: cannot be read: {error}") from error
    found = [each["spec"] for each in bodies if each.get("kind") == "Experiment" and isinstance(each.get("spec"), dict)]
    if len(found) != 1:
        raise ExperimentError(f"--spec {path}: has {len(found)} Experiments; give a manifest of one")
    return dict(found[0])


def _show_plan(plan: AdoptionPlan) -> None:
    from rapidfireai.show.tables import aligned

    rows = [("RUN", "COMMITTED", "WILL")]
    for each in plan.runs:
        last = each.entry.adopted.checkpoint
        done = f"{last.step if last else 0}/{'?' if each.total is None else each.total}"
        rows.append((f"{plan.name}-r{each.entry.index}", done, each.fate))
    typer.echo(f"\n{plan.name}, of {plan.uid}:\n" + "\n".join(f"  {line}" for line in aligned(rows)))
    remarks = [f"{each.name}: {remark}" for each in plan.runs for remark in each.remarks]
    for sentence in (*remarks, *(f"passed over: {why}" for why in plan.lost.values())):
        typer.echo(f"  {sentence}")
    if plan.needs:
        typer.echo("  It refers to what is not on the volume; make it again before workers start:")
        for need in plan.needs:
            typer.echo(f"    {need}")


def _question(plans: list[AdoptionPlan]) -> str:
    runs = sum(len(plan.runs) for plan in plans)
    return f"\nMake {', '.join(plan.name for plan in plans)} with {runs} run{'' if runs == 1 else 's'}?"


def _make(connection: Connection, plan: AdoptionPlan) -> bool:
    """Make an experiment; return whether the API server took it."""
    from rapidfireai.connection import NameTakenError
    from rapidfireai.errors import ExperimentError

    try:
        connection.create_experiment(plan.name, plan.spec)
    except NameTakenError:
        how = f"--experiment {plan.uid} --as NAME"
        typer.echo(f"{plan.name}: there is an experiment of this name already; adopt it under another: {how}", err=True)
        return False
    except ExperimentError as error:
        typer.echo(f"{plan.name}: {error}", err=True)
        return False
    typer.echo(f"{plan.name} is adopted; see it with: rapidfireai get {plan.name}")
    return True
