"""`rapidfireai describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


def describe(
    name: Annotated[str, typer.Argument(help="An experiment or a run.")],
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say all that is known of an experiment or run: config, conditions, checkpoints, events, what to do next."""
    with sentences():
        from datetime import UTC, datetime

        from rapidfireai.connection import Connection
        from rapidfireai.show.describe import Surroundings, describe_experiment, describe_run
        from rapidfireai.show.lookup import find

        connection = Connection(namespace, kubeconfig)
        workspace = connection.workspace()
        found = find(connection, name)
        experiment = found.experiment.metadata.name
        around = Surroundings(
            now=datetime.now(UTC),
            events=connection.events(found.run.metadata.name if found.run else experiment),
            icops=connection.icops(experiment),
            pods=connection.worker_pods(experiment),
            volume=str(workspace.mount_path),
            mlflow_url=workspace.mlflow_url,
            kubectl=connection.kubectl,
            options=_options(namespace, kubeconfig),
        )
        if found.run:
            typer.echo(describe_run(found.run, found.experiment, found.runs, around))
        else:
            typer.echo(describe_experiment(found.experiment, found.runs, around))


def _options(namespace: str, kubeconfig: Path | None) -> str:
    """Return what commands about the same workspace end in."""
    words = [] if namespace == "default" else ["-n", namespace]
    words += ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    return " ".join(["", *words])
