"""`rapidfireai suspend` and `rapidfireai unsuspend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace

_Experiment = Annotated[str, typer.Argument(help="The experiment.")]


def suspend(experiment: _Experiment, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Let a whole experiment rest: its workers commit at their next step and leave, and give their GPUs back.

    `rapidfireai unsuspend` goes on from there, bit for bit. Runs can be stopped, cloned and deleted meanwhile.
    """
    with sentences():
        name = _suspend(experiment, namespace, kubeconfig, suspended=True)
        typer.echo(f"{name} is suspended; its workers commit and leave. Go on: rapidfireai unsuspend {name}")


def unsuspend(experiment: _Experiment, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Let a suspended experiment go on from its last commits."""
    with sentences():
        typer.echo(f"{_suspend(experiment, namespace, kubeconfig, suspended=False)} goes on")


def _suspend(experiment: str, namespace: str, kubeconfig: Path | None, *, suspended: bool) -> str:
    """Write it down and return the experiment's name."""
    from rapidfireai.connection import Connection
    from rapidfireai.show.lookup import find

    connection = Connection(namespace, kubeconfig)
    name = find(connection, experiment).experiment.metadata.name
    connection.change(name, {"suspend": suspended})
    return name
