"""`rapidfireai resume`, `rapidfireai clone` and `rapidfireai delete`; `stop` is in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidfireai.cli.errors import fail, sentences
from rapidfireai.cli.options import Immediate, Kubeconfig, Namespace, steered

_Experiment = Annotated[str, typer.Argument(help="The experiment.")]
_Runs = Annotated[list[str] | None, typer.Argument(help="The runs, by number or name.")]


def resume(
    experiment: _Experiment, runs: _Runs = None, namespace: Namespace = "default", kubeconfig: Kubeconfig = None
) -> None:
    """Let runs go on that were stopped (`rapidfireai stop EXPERIMENT RUN...`)."""
    with sentences():
        steering, names = steered(experiment, runs or [], namespace, kubeconfig, doing="resume")
        steering.ask("Resume", names)


def delete(
    experiment: _Experiment,
    runs: _Runs = None,
    immediate: Immediate = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """End runs for good and hide their results; their checkpoints stay, and they can still be cloned."""
    with sentences():
        steering, names = steered(experiment, runs or [], namespace, kubeconfig, doing="delete")
        steering.ask("Delete", names, "Immediate" if immediate else "Boundary")


def clone(
    experiment: _Experiment,
    runs: _Runs = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A knob and its value, as training_args.learning_rate=1e-4; null takes it away."),
    ] = None,
    patch_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A YAML or JSON file with a merge patch on the config."),
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="Begin with the weights that the parent has committed last.")
    ] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a new run of one that is there, with some of its knobs changed."""
    with sentences():
        patch = _patch(patch_file, changes or [])
        steering, names = steered(experiment, runs or [], namespace, kubeconfig, doing="clone")
        steering.clone(steering.parents(names, patch, warm_start=warm), patch, warm_start=warm)


def _patch(file: Path | None, changes: list[str]) -> dict[str, Any]:
    """Return the merge patch of the file and of the single changes, which may add to it."""
    import yaml

    try:
        patch = (yaml.safe_load(file.read_text()) if file else None) or {}
    except yaml.YAMLError as error:
        fail(f"--patch-file {file}: is no YAML: {error}")
    if not isinstance(patch, dict):
        fail(f"--patch-file {file}: must hold a mapping of what changes")
    for change in changes:
        knob, equals, text = change.partition("=")
        if not equals or not knob:
            fail(f"--set {change}: write KNOB=VALUE, such as training_args.learning_rate=1e-4")
        if knob in patch:
            fail(f"--set {knob}: is given twice; leave one of them out")
        try:
            patch[knob] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            fail(f"--set {knob}: {text!r} is no YAML value: {error}")
    return patch
