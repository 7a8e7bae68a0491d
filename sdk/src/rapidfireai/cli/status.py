"""`rapidfireai status`."""

from __future__ import annotations

import typer

from rapidfireai.cli.errors import sentences


def status() -> None:
    """Say what runs; the exit code is 0 if experiments can run."""
    with sentences():
        from rapidfireai.cluster.local import LocalCluster

        cluster = LocalCluster()
        seen = cluster.status()
        if seen.server is None:
            typer.echo(f"no cluster in {cluster.home}: run `rapidfireai start`")
            raise typer.Exit(1)
        for name, runs in seen.processes.items():
            _line(name, "running" if runs else "not running", good=runs)
        for part in seen.parts:
            _line(part.name, "ready" if part.ready else part.reason, good=part.ready)
        _line("API server", seen.server)
        _line("dashboard", f"{seen.dashboard_url} (log in with `rapidfireai dashboard`)")
        _line("gateway", seen.gateway_url)
        _line("MLflow", seen.mlflow_url)
        _line("volume", f"{cluster.volume} ({seen.volume_url})")
        if not seen.ready:
            typer.echo("not ready: run `rapidfireai start`, or `rapidfireai doctor` for a diagnosis")
            raise typer.Exit(1)


def _line(name: str, text: str, good: bool | None = None) -> None:
    colour = {True: typer.colors.GREEN, False: typer.colors.RED, None: None}[good]
    typer.echo(f"{name:24} {typer.style(text, fg=colour)}")
