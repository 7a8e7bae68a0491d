"""`rapidfireai get`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rapidfireai.cli.errors import fail, sentences
from rapidfireai.cli.options import Kubeconfig, Namespace

if TYPE_CHECKING:
    from rapidfireai.connection import Connection
    from rapidfireai.show.tables import Table


ICOPS = "icops"
"""What lists operations instead of runs; `kubectl get` knows them by the same name."""


class Output(StrEnum):
    """How rows are written."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def get(
    name: Annotated[
        str | None,
        typer.Argument(help="An experiment, or one run; all experiments if left out. `icops` lists operations."),
    ] = None,
    of: Annotated[str | None, typer.Argument(help="With icops: only those of this experiment.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to write it.")] = Output.TABLE,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show how an experiment goes on, until it is finished.")
    ] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """List experiments, the runs of one with the knobs in which they differ, or who steered them (`get icops`)."""
    with sentences():
        from rapidfireai.connection import Connection

        connection = Connection(namespace, kubeconfig)
        if watch:
            _watch(connection, name)
            return
        if of is not None and name != ICOPS:
            fail(f"get {name} {of}: name one experiment or run, or `get {ICOPS} {of}` for the operations on it")
        table = _icops(connection, of) if name == ICOPS else _table(connection, name, wide=output is Output.WIDE)
        if output is Output.JSON:
            import json

            typer.echo(json.dumps(table.records, indent=2))
        elif output is Output.YAML:
            import yaml

            typer.echo(yaml.safe_dump(list(table.records), sort_keys=False), nl=False)
        elif table.rows:
            typer.echo("\n".join(table.lines()))
        else:
            what = "operations" if name == ICOPS else f"runs of {name} yet" if name else "experiments"
            typer.echo(f"no {what} in namespace {namespace}", err=True)


def _icops(connection: Connection, experiment: str | None) -> Table:
    from datetime import UTC, datetime

    from rapidfireai.show.lookup import find
    from rapidfireai.show.operations import icops_table

    name = find(connection, experiment).experiment.metadata.name if experiment else None
    return icops_table(connection.icops(name), datetime.now(UTC))


def _table(connection: Connection, name: str | None, *, wide: bool) -> Table:
    from datetime import UTC, datetime

    from rapidfireai.show.lookup import find
    from rapidfireai.show.tables import experiments_table, only, runs_table

    now = datetime.now(UTC)
    if name is None:
        return experiments_table(connection.experiments(), now)
    found = find(connection, name)
    table = runs_table(found.experiment, found.runs, now, wide=wide)
    return only(table, found.run.metadata.name) if found.run else table


def _watch(connection: Connection, name: str | None) -> None:
    if name is None:
        fail("--watch: name the experiment to watch")
    from contextlib import closing

    from rapidfireai.follow import follow
    from rapidfireai.progress import choose_view
    from rapidfireai.show.lookup import find

    experiment = find(connection, name).experiment.metadata.name
    with closing(choose_view()) as view:
        try:
            follow(connection, experiment, [view])
        except KeyboardInterrupt:
            raise typer.Exit(130) from None  # who stops watching changes nothing
