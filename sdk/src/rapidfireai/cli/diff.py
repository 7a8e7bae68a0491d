"""`rapidfireai diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


def diff(
    experiment: Annotated[str, typer.Argument(help="The experiment.")],
    one: Annotated[str, typer.Argument(help="A run, by number or name.")],
    other: Annotated[str, typer.Argument(help="The run to compare it with.")],
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show in which knobs the configs of two runs differ."""
    with sentences():
        from rapidfireai.connection import Connection
        from rapidfireai.show.differences import differences_table
        from rapidfireai.show.lookup import find, find_run
        from rapidfireai.steering import names_of

        connection = Connection(namespace, kubeconfig)
        name = find(connection, experiment).experiment.metadata.name
        runs = [find_run(connection, each)[1] for each in (*names_of(name, one), *names_of(name, other))]
        table = differences_table(*runs)
        typer.echo("\n".join(table.lines()) if table.rows else f"{one} and {other} have the same config")
