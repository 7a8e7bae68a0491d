"""Boxes, arrows and text as SVG: what the drawings of the documentation are made of.

One file, no fonts or scripts from elsewhere: a drawing looks the same on the site, in the repository and offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

INK, PALE, LINE = "#1f2937", "#6b7280", "#94a3b8"
FILLS = {
    "plain": ("#ffffff", "#94a3b8"),
    "ours": ("#e0f2fe", "#0284c7"),
    "api": ("#fef3c7", "#d97706"),
    "store": ("#ede9fe", "#7c3aed"),
    "good": ("#dcfce7", "#16a34a"),
    "bad": ("#fee2e2", "#dc2626"),
    "rest": ("#f1f5f9", "#cbd5e1"),
}
"""Fill and border of each kind of box."""
RUNS = ("#0284c7", "#d97706", "#16a34a", "#7c3aed", "#dc2626")
"""The colours of runs, in their order."""
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass
class Drawing:
    """A picture that grows by what is put on it; later things lie on top.

    Attributes:
        title: What it shows, for who cannot see it.
        width: In pixels.
        height: In pixels.
    """

    title: str
    width: int
    height: int
    _parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, *lines: str, kind: str = "plain") -> None:
        """Add a box; its first line is bold, the others are smaller."""
        fill, border = FILLS[kind]
        self._parts.append(
            f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='8' fill='{fill}' stroke='{border}' "
            "stroke-width='1.5'/>"
        )
        top = y + h / 2 - (len(lines) - 1) * 8.5 + 5
        for place, line in enumerate(lines):
            self.text(
                x + w / 2, top + place * 17, line, bold=place == 0, size=14 if place == 0 else 12, anchor="middle"
            )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        bold: bool = False,
        size: float = 12,
        anchor: str = "start",
        colour: str = INK,
    ) -> None:
        """Add a line of text; y is its base line."""
        weight = " font-weight='600'" if bold else ""
        self._parts.append(
            f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' text-anchor='{anchor}' fill='{colour}'{weight}>"
            f"{escape(words)}</text>"
        )

    def arrow(
        self, *points: tuple[float, float], label: str = "", at: tuple[float, float] | None = None, both: bool = False
    ) -> None:
        """Add a line through points with a head at its end; the label stands at its middle, or where `at` says."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        start = " marker-start='url(#tail)'" if both else ""
        self._parts.append(
            f"<path d='M{path}' fill='none' stroke='{PALE}' stroke-width='1.5' marker-end='url(#head)'{start}/>"
        )
        if label:
            (x0, y0), (x1, y1) = points[0], points[-1]
            x, y = at or ((x0 + x1) / 2, (y0 + y1) / 2 - 6)
            self.text(x, y, label, anchor="middle", colour=PALE)

    def bar(self, x: float, y: float, w: float, h: float, words: str, colour: str, *, faint: bool = False) -> None:
        """Add a coloured bar with white words on it."""
        opacity = " fill-opacity='0.35'" if faint else ""
        self._parts.append(f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='4' fill='{colour}'{opacity}/>")
        ink = INK if faint else "#ffffff"
        self.text(x + w / 2, y + h / 2 + 4, words, anchor="middle", colour=ink, bold=True)

    def curve(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> None:
        """Add a line through points, each of them marked."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = " stroke-dasharray='5 4'" if dashed else ""
        self._parts.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2.5'{dash}/>")
        self._parts += [f"<circle cx='{x:g}' cy='{y:g}' r='4' fill='{colour}'/>" for x, y in points]

    def rule(self, x0: float, y0: float, x1: float, y1: float, *, colour: str = LINE, dashed: bool = False) -> None:
        """Add a thin straight line."""
        dash = " stroke-dasharray='4 4'" if dashed else ""
        self._parts.append(
            f"<line x1='{x0:g}' y1='{y0:g}' x2='{x1:g}' y2='{y1:g}' stroke='{colour}' stroke-width='1.5'{dash}/>"
        )

    def svg(self) -> str:
        """Return the file."""
        head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' role='img' {_FONT}>"
        markers = "".join(
            f"<marker id='{name}' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' "
            f"orient='{turn}'><path d='M0 0 L10 5 L0 10 z' fill='{PALE}'/></marker>"
            for name, turn in (("head", "auto"), ("tail", "auto-start-reverse"))
        )
        ground = f"<rect width='{self.width}' height='{self.height}' rx='10' fill='#ffffff'/>"
        body = "\n".join(self._parts)
        return f"{head}\n<title>{escape(self.title)}</title>\n<defs>{markers}</defs>\n{ground}\n{body}\n</svg>\n"
