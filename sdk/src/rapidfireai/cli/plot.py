"""`rapidfireai plot`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


class Axis(StrEnum):
    """What stands on the horizontal axis."""

    DATA = "data"
    STEP = "step"


def plot(
    name: Annotated[str, typer.Argument(help="An experiment, or one run of it.")],
    metric: Annotated[
        str | None, typer.Option("--metric", "-m", help="What to show; by default what ranks the runs.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a picture (png, svg, pdf) instead of drawing here.")
    ] = None,
    x: Annotated[
        Axis, typer.Option(help="What stands below: passes over the data (the share of rows), or steps (rows).")
    ] = Axis.DATA,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Draw the curves of all runs in one picture, here or into a file."""
    with sentences():
        import shutil
        import sys

        from rapidfireai.connection import Connection
        from rapidfireai.show.curves import figure_of
        from rapidfireai.show.draw import in_characters, save
        from rapidfireai.show.lookup import find
        from rapidfireai.volume import VolumeClient

        connection = Connection(namespace, kubeconfig)
        found = find(connection, name)
        volume = VolumeClient(connection.workspace().volume_url, connection.volume_token)
        uid = found.experiment.volume_uid
        shown = [found.run] if found.run else found.runs
        lines = {run.metadata.name: volume.metrics(uid, run.volume_uid) for run in shown}
        figure = figure_of(found.experiment, found.runs, lines, metric, x.value)
        if output is not None:
            save(figure, output)
            typer.echo(f"{figure.metric} of {len(figure.curves)} runs: {output.resolve()}")
            return
        width, height = shutil.get_terminal_size((100, 30))
        typer.echo(in_characters(figure, min(width, 160), min(max(height - 2, 15), 40), colours=sys.stdout.isatty()))
