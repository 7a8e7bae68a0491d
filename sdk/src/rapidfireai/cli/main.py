"""The commands of `rapidfireai`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from rapidfireai.cli.adopt import adopt
from rapidfireai.cli.dashboard import dashboard
from rapidfireai.cli.describe import describe
from rapidfireai.cli.diff import diff
from rapidfireai.cli.doctor import doctor
from rapidfireai.cli.env import env
from rapidfireai.cli.export import export
from rapidfireai.cli.get import get
from rapidfireai.cli.logs import logs
from rapidfireai.cli.passthrough import PASSTHROUGH, helm, kubectl
from rapidfireai.cli.plot import plot
from rapidfireai.cli.render import render, upload
from rapidfireai.cli.start import start
from rapidfireai.cli.status import status
from rapidfireai.cli.steer import clone, delete, resume
from rapidfireai.cli.stop import stop
from rapidfireai.cli.suspend import suspend, unsuspend
from rapidfireai.cli.version import version

PANELS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "Experiments and runs": (get, describe, diff, logs, plot, export, render, upload, adopt, dashboard),
    "Steering runs": (resume, clone, delete, suspend, unsuspend),
    "The cluster of this machine": (start, stop, status, doctor, env),
    "Programs": (kubectl, helm, version),
}
"""The commands as the help groups them."""

app = typer.Typer(
    name="rapidfireai",
    help="Fine-tune many LLM configs side by side, on a cluster of this machine or on any other.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in PANELS.items():
    for command in commands:
        passes_on = command in (kubectl, helm)
        app.command(
            rich_help_panel=panel,
            context_settings=PASSTHROUGH if passes_on else None,
            add_help_option=not passes_on,
        )(command)
