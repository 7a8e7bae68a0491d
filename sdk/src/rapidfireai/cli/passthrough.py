"""`rapidfireai kubectl` and `rapidfireai helm`: the real programs, speaking to this machine's cluster."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences

PASSTHROUGH = {"allow_interspersed_args": False, "ignore_unknown_options": True, "help_option_names": []}
"""Every word after the program's name belongs to the program, `--help` too."""
Words = Annotated[list[str] | None, typer.Argument(metavar="...", help="What to pass on, flags included.")]


def kubectl(words: Words = None) -> None:
    """Run kubectl on the cluster of this machine."""
    _become("kubectl", words or [])


def helm(words: Words = None) -> None:
    """Run helm on the cluster of this machine."""
    _become("helm", words or [])


def _become(program: str, words: list[str]) -> None:
    with sentences():
        from rapidfireai.cluster.local import LocalCluster

        cluster = LocalCluster()
        binary = str(cluster.binary)
        os.execve(  # noqa: S606 - to become the program, signals and terminal included, is the point
            binary, [binary, program, *words], {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        )
