"""`rapidfireai env`."""

from __future__ import annotations

import shlex

import typer

from rapidfireai.cli.errors import sentences


def env() -> None:
    """Print what makes plain kubectl and helm speak to this machine's cluster: eval "$(rapidfireai env)"."""
    with sentences():
        from rapidfireai.cluster.local import LocalCluster

        cluster = LocalCluster()
        _ = cluster.binary  # says so if there is no cluster
        programs = shlex.quote(str(cluster.programs))
        typer.echo(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
        # Said twice it is on the PATH once.
        typer.echo(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac')
