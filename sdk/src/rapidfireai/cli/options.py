"""The options and arguments that commands about experiments share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rapidfireai.steering import Steering

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The workspace.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="The cluster; by default what KUBECONFIG names, else the local one.")
]
Immediate = Annotated[
    bool,
    typer.Option(
        "--immediate", help="After the current optimizer step, not at the next chunk boundary. Nothing is lost."
    ),
]


def steered(
    experiment: str, runs: list[str], namespace: str, kubeconfig: Path | None, *, doing: str
) -> tuple[Steering, list[str]]:
    """Return how an experiment is steered, and the names of the runs that are meant.

    Args:
        experiment: The experiment, or the name of a run that says which one it is.
        runs: Runs by their numbers or names.
        namespace: The workspace.
        kubeconfig: The cluster.
        doing: The command, for the message if no run is named.

    Raises:
        ExperimentError: If there is no such experiment, or no run is named.
    """
    from rapidfireai.connection import Connection
    from rapidfireai.errors import ExperimentError
    from rapidfireai.show.lookup import few, find
    from rapidfireai.steering import Steering, names_of

    connection = Connection(namespace, kubeconfig)
    found = find(connection, experiment)
    name = found.experiment.metadata.name
    named = [*([found.run.metadata.name] if found.run else []), *runs]
    if not named:
        known = few(str(run.spec.index) for run in found.runs) or "none yet"
        raise ExperimentError(f"name the runs of {name} to {doing}, by number or name: {known}")
    return Steering(connection, name, typer.echo), names_of(name, named)
