"""`rapidfireai dashboard`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rapidfireai.cli.errors import sentences


def dashboard(
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the link in a browser, if this is a terminal.")
    ] = True,
) -> None:
    """Print a link that opens the dashboard once, logged in, and open it in the browser."""
    with sentences():
        from rapidfireai.gateway import address, login_link

        link = login_link(address())
        typer.echo(link.url)
        typer.echo(f"it works once, within {link.seconds} s; run this again for another one", err=True)
        if browser and sys.stdout.isatty():
            import webbrowser

            webbrowser.open(link.url)
