"""`rapidfireai start`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences


def start(
    kubelocal: Annotated[
        Path | None, typer.Option(help="A prebuilt control plane binary, instead of building one.")
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Install into the cluster that this kubeconfig names, instead of starting one here.",
        ),
    ] = None,
    values: Annotated[
        list[Path] | None,
        typer.Option("--values", "-f", exists=True, dir_okay=False, help="A YAML file with values of the chart."),
    ] = None,
) -> None:
    """Start the cluster of this machine and install everything on it; a second time it only checks."""
    with sentences():
        import logging

        import structlog

        # Progress is told in lines; logs are for the node's own file.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        from rapidfireai.cluster.binary import PREBUILT_ENV, find_binary

        if kubelocal:
            os.environ[PREBUILT_ENV] = str(kubelocal.absolute())
        if kubeconfig:
            from rapidfireai.cluster.home import default_home
            from rapidfireai.cluster.install import Helm

            helm = Helm(find_binary(typer.echo), kubeconfig.absolute(), default_home() / "helm")
            typer.echo(helm.install(files=values or ()))
            return
        from rapidfireai.cluster.local import LocalCluster

        LocalCluster().start(typer.echo, values=values or ())
        typer.echo('Plain kubectl and helm: eval "$(rapidfireai env)"    End it: rapidfireai stop')
