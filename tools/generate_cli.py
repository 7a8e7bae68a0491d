"""`docs/reference/cli.md`: every command of `rapidfireai` with its arguments and options, as `--help` has them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from generate_reference import NOTE, _table, _text

from rapidfireai.cli.main import PANELS, app


def cli_page() -> str:
    """Return the page of all commands."""
    commands = typer.main.get_command(app).commands
    lines = [
        NOTE,
        "# Commands",
        "",
        "What `rapidfireai --help` lists. [Experiments in the terminal](../terminal.md) shows them at work.",
    ]
    for panel, functions in PANELS.items():
        lines += ["", f"## {panel}"]
        for function in functions:
            name = function.__name__.rstrip("_").replace("_", "-")
            lines += ["", f"### `rapidfireai {name}`", "", *_command(name, commands[name])]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    options = [each for each in command.params if each not in arguments and each.name != "help"]
    yield _text(inspect.cleandoc(command.help or "")).replace("  ", "\n\n")
    words = ["rapidfireai", name, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])]
    yield from ("", "```text", " ".join(words), "```")
    rows = [(f"`{each.name.upper()}`", _text(each.help or "")) for each in arguments]
    rows += [(", ".join(f"`{word}`" for word in each.opts), _about(each)) for each in options]
    if rows:
        yield from ("", *_table(("argument", "meaning"), rows))


def _argument(argument: Any) -> str:
    word = argument.name.upper() + ("..." if argument.nargs == -1 or argument.multiple else "")
    return word if argument.required else f"[{word}]"


def _about(option: Any) -> str:
    default = option.default
    shown = default is not None and not option.is_flag and not callable(default) and default != ""
    return _text(option.help or "") + (f" Default: `{getattr(default, 'value', default)}`." if shown else "")
