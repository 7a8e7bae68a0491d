"""Curves as a picture: a file by matplotlib, or characters in the terminal."""

from __future__ import annotations

import importlib
from pathlib import Path

from rapidfireai.errors import ExperimentError
from rapidfireai.show.curves import Curve, Figure
from rapidfireai.show.tables import aligned

_LEGEND = 20
"""How many runs a legend names, the best ones."""
_SIGNS = "ox+*#@%&"
_BOUND = "-"
_WITH_BOUNDS = 4
"""Up to how many runs' intervals can be told apart in characters; the legend has all of them."""


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
        marker = "o" if len(curve.points) < 50 else None
        (drawn,) = axes.plot(horizontal, vertical, marker=marker, markersize=3, label=label)
        if curve.bounds:
            places, lower, upper = (list(each) for each in zip(*curve.bounds, strict=True))
            axes.fill_between(places, lower, upper, color=drawn.get_color(), alpha=0.15, linewidth=0)
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
        for place, lower, upper in curve.bounds if len(figure.curves) <= _WITH_BOUNDS else ():
            canvas.draw(canvas.signal([place, place], [lower, upper], marker=_BOUND))
        legend.append([sign, curve.label, _last(curve)])
    picture = str(canvas.build())
    canvas.clear()
    drawn = picture if colours else str(plotext.uncolorize(picture))
    lines = [line.rstrip() for line in drawn.splitlines()]
    shown = aligned(legend[:_LEGEND])
    more = [f"and {len(legend) - _LEGEND} more, that are further from the best"] if len(legend) > _LEGEND else []
    return "\n".join([*lines, *shown, *more])


def _last(curve: Curve) -> str:
    """Return the last value of a curve, with its interval if it has one."""
    value = f"{curve.points[-1][1]:.5g}"
    return f"{value} [{curve.bounds[-1][1]:.5g}, {curve.bounds[-1][2]:.5g}]" if curve.bounds else value


def _legend_title(figure: Figure) -> str | None:
    return f"the best {_LEGEND} of {len(figure.curves)}" if len(figure.curves) > _LEGEND else None
