"""`rapidfireai export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


def export(
    run: Annotated[str, typer.Argument(help="The run, such as sft-smollm2-r3.")],
    directory: Annotated[Path, typer.Argument(help="Where the files go; made if it is not there.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base model, on this machine; needs torch.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="The commit with the best objective, instead of the last one.")
    ] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Fetch the model or adapter of a run, with its tokenizer and a card that says how it came to be."""
    with sentences():
        from rapidfireai.connection import Connection
        from rapidfireai.export import export_run
        from rapidfireai.volume import VolumeClient

        connection = Connection(namespace, kubeconfig)
        volume = VolumeClient(connection.workspace().volume_url, connection.volume_token)
        done = export_run(connection, volume, run, directory, merge=merge, best=best)
        typer.echo(f"{run}: {done}")
