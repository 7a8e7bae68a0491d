"""`rapidfireai logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


def logs(
    name: Annotated[str, typer.Argument(help="A run, or an experiment for all that its workers wrote.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    worker: Annotated[
        str | None, typer.Option(help="Only what this worker wrote, such as 0 or sft-smollm2-w-0.")
    ] = None,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what workers wrote about a run: when its chunks began and ended, warnings, errors and their tracebacks."""
    with sentences():
        from rapidfireai.connection import Connection
        from rapidfireai.show.lookup import find
        from rapidfireai.show.pods import PodLogs

        connection = Connection(namespace, kubeconfig)
        found = find(connection, name)
        pods = PodLogs(connection, found.experiment, found.run.metadata.name if found.run else "", worker)
        try:
            for entry in pods.follow() if follow else pods.until_now():
                typer.echo(entry.line())
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
