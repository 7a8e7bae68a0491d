"""Where the picture is drawn: a live table in a terminal, a table in a notebook, lines elsewhere."""

from __future__ import annotations

import html
import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from rich import filesize
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rapidfireai.errors import ClusterNotFoundError
from rapidfireai.gateway import address
from rapidfireai.progress.columns import BAR, cells, headings
from rapidfireai.progress.lines import LineView
from rapidfireai.progress.picture import Picture, RunRow
from rapidfireai.volume import Sent
from rapidfireai.words import WORDS

_COLOURS = {"Running": "cyan", "Succeeded": "green", "Failed": "red", "Stopped": "yellow", "Deleted": "dim"}


class View(Protocol):
    """Shows an experiment as it goes on."""

    def update(self, picture: Picture) -> None:
        """Show the picture in place of the one before."""
        ...

    def note(self, text: str) -> None:
        """Show a sentence about something outside of the experiment."""
        ...

    def close(self) -> None:
        """Leave the last picture standing."""
        ...


def choose_view() -> View:
    """Return the view that suits where this process shows its output."""
    if in_notebook():
        return NotebookView(_dashboard())
    console = Console()
    return TerminalView(console) if console.is_terminal else LineView(_print)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _dashboard() -> str:
    try:
        return address().dashboard_url
    except ClusterNotFoundError:  # there may be a cluster, and only its gateway is not known here
        return ""


class TerminalView:
    """A table with bars that is drawn over in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")
        self._live.start()
        self._picture: Picture | None = None

    def update(self, picture: Picture) -> None:
        """Draw the table anew."""
        self._picture = picture
        self._live.update(table_of(picture), refresh=True)

    def note(self, text: str) -> None:
        """Show the sentence below the table until the next picture."""
        parts: list[RenderableType] = [table_of(self._picture)] if self._picture else []
        self._live.update(Group(*parts, Text(text, style="yellow")), refresh=True)

    def close(self) -> None:
        """Leave the table standing."""
        self._live.stop()


def table_of(picture: Picture) -> Group:
    """Return a picture for a terminal."""
    table = Table(*headings(picture), box=None, pad_edge=False, header_style="bold")
    for row in picture.rows:
        name, state, chunks, *more = cells(picture, row)
        table.add_row(name, Text(state, style=_COLOURS.get(row.state, "")), _bar(row, chunks), *more)
    problems = [Text(f"{row.name}  {row.problem}", style="red") for row in picture.rows if row.problem]
    notes = [Text(note, style="yellow") for note in picture.notes]
    return Group(Text(_title(picture), style="bold"), table, *problems, *notes)


def _bar(row: RunRow, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=max(1, row.chunks_total), completed=row.chunks_done, width=12), text)
    return grid


def _title(picture: Picture) -> str:
    done, total = picture.chunks
    parts = (
        picture.name,
        picture.state,
        f"{WORDS[picture.mode].piece}s {done}/{total}" if total else "",
        f"workers {picture.workers}",
        f"best {picture.best}" if picture.best else "",
        f"about {picture.eta} left" if picture.eta else "",
    )
    return "  ".join(part for part in parts if part)


class NotebookView:
    """An HTML table that is updated in place below the cell.

    Args:
        dashboard: The dashboard's address, for a link; empty if nobody knows it.
    """

    def __init__(self, dashboard: str = "") -> None:
        self._handle: Any = None
        self._link = f'<p><a href="{html.escape(dashboard)}" target="_blank">Dashboard</a></p>' if dashboard else ""
        self._picture: Picture | None = None

    def update(self, picture: Picture) -> None:
        """Replace the table."""
        self._picture = picture
        self._show(html_of(picture))

    def note(self, text: str) -> None:
        """Show the sentence below the table until the next picture."""
        table = html_of(self._picture) if self._picture else ""
        self._show(f"{table}<p>{html.escape(text)}</p>")

    def close(self) -> None:
        """Leave the table standing."""

    def _show(self, markup: str) -> None:
        page = importlib.import_module("IPython.display")  # only a notebook has it
        markup += self._link
        if self._handle is None:
            self._handle = page.display(page.HTML(markup), display_id=True)
        else:
            self._handle.update(page.HTML(markup))


def html_of(picture: Picture) -> str:
    """Return a picture for a notebook."""
    heads = "".join(f"<th>{name}</th>" for name in map(html.escape, headings(picture)))
    rows = "".join(_html_row(picture, row) for row in picture.rows)
    problems = "".join(
        f"<p><b>{html.escape(r.name)}</b> {html.escape(r.problem)}</p>" for r in picture.rows if r.problem
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in picture.notes)
    title = f"<p><b>{html.escape(_title(picture))}</b></p>"
    return f"{title}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{problems}{notes}"


def _html_row(picture: Picture, row: RunRow) -> str:
    texts = [html.escape(each) for each in cells(picture, row)]
    bar = f'<progress max="{max(1, row.chunks_total)}" value="{row.chunks_done}"></progress>'
    texts[BAR] = f"{bar} {texts[BAR]}"
    return f"<tr>{''.join(f'<td>{each}</td>' for each in texts)}</tr>"


def sending(label: str) -> AbstractContextManager[Sent]:
    """Show how a file is sent; gives the function that is told the bytes."""
    return _moving(label, "sending", "sent")


def fetching(label: str) -> AbstractContextManager[Sent]:
    """Show how files are fetched; gives the function that is told the bytes."""
    return _moving(label, "fetching", "fetched")


@contextmanager
def _moving(label: str, doing: str, done: str) -> Iterator[Sent]:
    if not Console().is_terminal:
        sizes: list[int] = []
        yield lambda _, total: sizes.append(total)
        if sizes:
            _print(f"{done} {label}: {filesize.decimal(sizes[-1])}")
        return
    columns = (TextColumn(f"{doing} {label}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(label, visible=False)
        yield lambda here, total: progress.update(task, completed=here, total=total, visible=True)


def _print(line: str) -> None:
    print(line, flush=True)
