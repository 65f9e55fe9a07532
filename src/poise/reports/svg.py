"""Just enough chart drawing as inline SVG text: a box with axes, lines, points and labels; colours come from the page's
CSS.

Hand-written because the page must be made in under two seconds, most of which matplotlib would take, and because inline
SVG takes its colours from the page and so follows its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

COLOURS = 7
_MARKERS = 4


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) covering [low, high]; the outer ones may lie beyond
    it.
    """
    if not high > low:
        high, low = low + (abs(low) or 1) * 0.1, low - (abs(low) or 1) * 0.1
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(step) < 1e-4):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.{max(0, math.ceil(-math.log10(abs(step)) - 1e-9))}f}"


def colour_class(place: int) -> str:
    """CSS class of the method at `place`; after seven the colours return with another dash. Below 0: a run outside the
    table.
    """
    if place < 0:
        return "none"
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def marker(place: int, x: float, y: float, size: float = 5.5, hollow: bool = False, title: str = "") -> str:
    """Circle, square, triangle or diamond by `place`, so that methods differ in shape too."""
    kind = f"{colour_class(place)} mark{' hollow' if hollow else ''}"
    inner = f"<title>{escape(title)}</title>" if title else ""
    if place % _MARKERS == 0:
        return f'<circle class="{kind}" cx="{number(x)}" cy="{number(y)}" r="{number(size)}">{inner}</circle>'
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[place % _MARKERS]
    points = " ".join(f"{number(x + size * dx)},{number(y + size * dy)}" for dx, dy in corners)
    return f'<polygon class="{kind}" points="{points}">{inner}</polygon>'


class Chart:
    """A plot area with linear axes. Coordinates given to its methods are in data units; `parts` collects the SVG
    elements.
    """

    def __init__(
        self,
        width: int,
        height: int,
        x: Sequence[float],
        y: Sequence[float],
        label: str,
        margin: tuple[int, int] = (44, 24),
    ):
        """x, y: tick positions, whose ends are the limits; margin: left and bottom, in pixels."""
        self.width, self.height, self.label = width, height, label
        self.left, self.bottom, self.top, self.right = margin[0], height - margin[1], 10, width - 12
        self.x_limits, self.y_limits = (x[0], x[-1]), (y[0], y[-1])
        self.parts: list[str] = []
        self._draw_axes(x, y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position of a point."""
        (x0, x1), (y0, y1) = self.x_limits, self.y_limits
        across = (x - x0) / ((x1 - x0) or 1)
        up = (y - y0) / ((y1 - y0) or 1)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def _draw_axes(self, x: Sequence[float], y: Sequence[float]) -> None:
        step_x = x[1] - x[0] if len(x) > 1 else 1.0
        step_y = y[1] - y[0] if len(y) > 1 else 1.0
        for value in y:
            _, py = self.at(x[0], value)
            self.parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{number(py)}" y2="{number(py)}"/>'
            )
            self.text(self.left - 7, py + 4, tick_text(value, step_y), "end")
        for place, value in enumerate(x):
            px, _ = self.at(value, y[0])
            self.parts.append(
                f'<line class="tick" x1="{number(px)}" x2="{number(px)}" y1="{self.bottom}" y2="{self.bottom + 4}"/>'
            )
            anchor = "end" if place == len(x) - 1 and len(x) > 1 else "middle"
            self.text(px + (4 if anchor == "end" else 0), self.bottom + 17, tick_text(value, step_x), anchor)
        self.parts.append(
            f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>'
        )

    def text(self, px: float, py: float, text: str, anchor: str = "start", kind: str = "") -> None:
        """Text at a pixel position."""
        css = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{css} x="{number(px)}" y="{number(py)}" text-anchor="{anchor}">{escape(text)}</text>')

    def upright(self, text: str) -> None:
        """The vertical axis' name, read from below."""
        turn = f"translate(11 {number((self.top + self.bottom) / 2)}) rotate(-90)"
        self.parts.append(f'<text class="name" text-anchor="middle" transform="{turn}">{escape(text)}</text>')

    def line(self, points: Sequence[tuple[float, float]], kind: str, title: str) -> None:
        pixels = " ".join(",".join(number(value) for value in self.at(x, y)) for x, y in points)
        self.parts.append(f'<polyline class="line {kind}" points="{pixels}"><title>{escape(title)}</title></polyline>')

    def segment(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        self.parts.append(
            f'<line class="{kind}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'
        )

    def svg(self) -> str:
        return wrap(self.width, self.height, self.label, self.parts)


def wrap(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
