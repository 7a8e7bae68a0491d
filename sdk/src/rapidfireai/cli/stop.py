"""`rapidfireai stop`."""

from __future__ import annotations

from typing import Annotated

import typer

from rapidfireai.cli.errors import fail, sentences
from rapidfireai.cli.options import Immediate, Kubeconfig, Namespace, steered


def stop(
    experiment: Annotated[
        str | None,
        typer.Argument(help="The experiment whose runs to stop. Without it the cluster of this machine is ended."),
    ] = None,
    runs: Annotated[list[str] | None, typer.Argument(help="The runs to stop, by number or name.")] = None,
    immediate: Immediate = False,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="With the cluster: also remove all state, experiments, checkpoints and MLflow's."),
    ] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """WITHOUT ARGUMENTS: end the cluster of this machine. With EXPERIMENT RUN...: stop these runs, nothing else.

    `rapidfireai stop` alone ends the cluster. Workers commit what they have; `rapidfireai start` goes on from there.

    `rapidfireai stop EXPERIMENT RUN...` lets runs rest at their next chunk boundary; `rapidfireai resume` goes on with
    them. The cluster and all other runs go on.
    """
    with sentences():
        if experiment is None:
            _end_cluster(purge)
            return
        if purge:
            fail("--purge removes the cluster of this machine with all its state; leave it out to stop runs")
        steering, names = steered(experiment, runs or [], namespace, kubeconfig, doing="stop")
        steering.ask("Stop", names, "Immediate" if immediate else "Boundary")


def _end_cluster(purge: bool) -> None:
    from rapidfireai.cluster.local import LocalCluster

    cluster = LocalCluster()
    if purge:
        cluster.purge(typer.echo)
        left = f"what is not the cluster's is still in {cluster.home}"
        typer.echo(f"cluster stopped; {left if cluster.home.exists() else f'{cluster.home} is removed'}")
    else:
        cluster.stop(typer.echo)
        typer.echo("cluster stopped; `rapidfireai start` goes on, `rapidfireai stop --purge` removes all state")
