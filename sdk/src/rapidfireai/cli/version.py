"""`rapidfireai version`."""

from __future__ import annotations

import platform
from importlib import metadata

import typer


def version() -> None:
    """Print the versions of the packages and of Python."""
    for package in ("rapidfireai", "rapidfireai-operator", "rapidfireai-worker"):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            found = "not installed"
        typer.echo(f"{package:24} {found}")
    typer.echo(f"{'python':24} {platform.python_version()}")
