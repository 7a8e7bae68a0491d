"""`rapidfireai render` and `rapidfireai upload`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from rapidfireai.cli.errors import fail, sentences
from rapidfireai.cli.options import Kubeconfig, Namespace


def render(
    script: Annotated[Path, typer.Argument(help="A Python script that calls run_fit or run_evals.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What the script is called with.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write NAME.yaml here, instead of printing all manifests.")
    ] = None,
    offline: Annotated[
        bool, typer.Option(help="Ask no cluster; write code and data to the output too, for `rapidfireai upload`.")
    ] = False,
) -> None:
    """Write the manifests of a script's experiments instead of running them: for GitOps.

    The script runs up to where it asks for results. Without --offline its code and data are sent to the volume.
    """
    if script.suffix == ".ipynb":
        fail(f"{script} is a notebook; call experiment.to_yaml(...) in it, with the arguments of run_fit or run_evals")
    if not script.is_file():
        fail(f"there is no script {script}")
    if offline and output is None:
        fail("--offline writes code and data too; say where with --output DIRECTORY")
    with tempfile.TemporaryDirectory(prefix="rapidfireai-") as temporary:
        directory = output or Path(temporary)
        written = _run(script, arguments or [], directory, offline=offline)
        if not written:
            fail(f"{script} called neither run_fit nor run_evals on an Experiment")
        if output is None:
            typer.echo("---\n".join(path.read_text() for path in written), nl=False)


def upload(
    directory: Annotated[Path, typer.Argument(help="The output of `rapidfireai render --offline`.")],
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Send the code and data that were rendered offline to the volume of a workspace."""
    with sentences():
        from rapidfireai.connection import Connection
        from rapidfireai.rendering import Folder
        from rapidfireai.volume import VolumeClient

        connection = Connection(namespace, kubeconfig)
        volume = VolumeClient(connection.workspace().volume_url, connection.volume_token)
        files = Folder(directory).upload(volume)
        typer.echo(f"{files} file{'' if files == 1 else 's'} on the volume of workspace {namespace}")


def _run(script: Path, arguments: list[str], directory: Path, *, offline: bool) -> list[Path]:
    """Run the script so that it renders; return the manifests in their order. What it prints goes to stderr."""
    from rapidfireai.rendering import environment

    before = {path: path.stat().st_mtime_ns for path in directory.glob("*.yaml")}
    command = [sys.executable, str(script), *arguments]
    variables = {**os.environ, **environment(directory.absolute(), offline=offline)}
    ended = subprocess.run(command, env=variables, stdout=sys.stderr, check=False)
    if ended.returncode:
        fail(f"{script} ended with code {ended.returncode}; nothing of it counts")
    now = {path: path.stat().st_mtime_ns for path in directory.glob("*.yaml")}
    return sorted((path for path in now if now[path] != before.get(path)), key=lambda path: (now[path], path.name))
