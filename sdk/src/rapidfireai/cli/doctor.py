"""`rapidfireai doctor`."""

from __future__ import annotations

import typer

from rapidfireai.cli.errors import sentences


def doctor() -> None:
    """Look for what keeps experiments from running, and say what to do; the exit code is 1 if something does."""
    colours = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "problem": typer.colors.RED}
    problems = 0
    with sentences():
        from rapidfireai.cluster.doctor import examine
        from rapidfireai.cluster.local import LocalCluster

        for each in examine(LocalCluster()):
            problems += each.level == "problem"
            typer.echo(f"{typer.style(f'{each.level:8}', fg=colours[each.level])} {each.topic:22} {each.text}")
            if each.fix:
                typer.echo(f"{'':31} -> {each.fix}")
    typer.echo(f"{problems} problem{'' if problems == 1 else 's'}" if problems else "nothing is wrong")
    raise typer.Exit(1 if problems else 0)
