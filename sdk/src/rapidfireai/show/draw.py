"""Curves as a picture: a file by matplotlib, or characters in the terminal."""

from __future__ import annotations

import importlib
from pathlib import Path

from rapidfireai.errors import ExperimentError
from rapidfireai.show.curves import Figure
from rapidfireai.show.tables import aligned

_LEGEND = 20
"""How many runs a legend names, the best ones."""
_SIGNS = "ox+*#@%&"


def save(figure: Figure, path: Path) -> None:
    """Write the picture to a file, in the format that its suffix names.

    Raises:
        ExperimentError: If the suffix is unknown or the file cannot be written.
    """
    # Not pyplot: it looks for a screen and keeps every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    canvas = Canvas(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for number, curve in enumerate(figure.curves):
        horizontal, vertical = zip(*curve.points, strict=True)
        label = curve.label if number < _LEGEND else None
        axes.plot(horizontal, vertical, marker="o" if len(curve.points) < 50 else None, markersize=3, label=label)
    axes.set(title=figure.title, xlabel=figure.x, ylabel=figure.metric)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", title=_legend_title(figure))
    known = canvas.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ExperimentError(f"--output {path}: end its name in .{', .'.join(sorted(known))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=150)
    except OSError as error:
        raise ExperimentError(f"--output {path}: cannot be written: {error.strerror or error}") from error


def in_characters(figure: Figure, width: int, height: int, *, colours: bool) -> str:
    """Return the picture for a terminal, and below it which sign is which run and its last value.

    Args:
        figure: What to draw.
        width: Columns.
        height: Lines of the picture.
        colours: Whether the terminal shows colours.
    """
    plotext = importlib.import_module("plotext")  # it publishes no types
    canvas = plotext.figure
    canvas.clear()
    canvas.theme("clear")
    canvas.plot_size(width, height)
    canvas.title(f"{figure.title}: {figure.metric}")
    canvas.label(figure.x, "x")
    legend = []
    for number, curve in enumerate(figure.curves):
        sign = _SIGNS[number % len(_SIGNS)]
        signal = canvas.signal(*map(list, zip(*curve.points, strict=True)), marker=sign)
        signal.lines()
        canvas.draw(signal)
        legend.append([sign, curve.label, f"{curve.points[-1][1]:.5g}"])
    picture = str(canvas.build())
    canvas.clear()
    drawn = picture if colours else str(plotext.uncolorize(picture))
    lines = [line.rstrip() for line in drawn.splitlines()]
    shown = aligned(legend[:_LEGEND])
    more = [f"and {len(legend) - _LEGEND} more, that are further from the best"] if len(legend) > _LEGEND else []
    return "\n".join([*lines, *shown, *more])


def _legend_title(figure: Figure) -> str | None:
    return f"the best {_LEGEND} of {len(figure.curves)}" if len(figure.curves) > _LEGEND else None
