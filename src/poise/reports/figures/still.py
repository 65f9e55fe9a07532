"""The static form of a page's chart, as SVG: what is shown where scripts are off, before a chart comes into sight, on
paper, and in a file of its own. Colours are the page's CSS, so that it follows its light or dark scheme.

It draws the same panels as `vega` without anything installed; what one reads off by pointing is in titles here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files

from poise.reports.figures.labels import place_labels
from poise.reports.figures.series import Panel, Point, Series

COLOURS = 10
CORNERS = {
    1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    2: ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
}
"""Square, triangle and diamond; 0 is the circle."""
_MOST = 1200
"""Of more points than these in a static picture only every second, third and so on is drawn."""
_ROWS = 60
"""The most rows of a static matrix."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 420, 290, 48, 10, 40, 12


def still(kind: str, panel: Panel) -> str:
    """The panel as an SVG element. kind: one of `KINDS`."""
    return KINDS[kind](panel)


def write_still(kind: str, panel: Panel) -> str:
    """The same as a whole SVG file, with its style and background."""
    style = (files("poise.reports") / "templates" / "report.css").read_text()
    head, _, body = still(kind, panel).partition(">")
    names = dict.fromkeys((series.label, place) for place, series in placed(panel.series) if not series.printed)
    wide, high = (int(part) for part in head.partition('viewBox="0 0 ')[2].partition('"')[0].split())
    legend = [
        marker(place, 14, high + 12 + 18 * line, 5) + _text(26, high + 16 + 18 * line, label)
        for line, (label, place) in enumerate(names if kind not in ("matrix", "trade-off") else ())
    ]
    whole = high + 18 * len(legend) + (8 if legend else 0)
    head = head.replace(f'viewBox="0 0 {wide} {high}"', f'viewBox="0 0 {wide} {whole}" width="{round(1.4 * wide)}"')
    paper = '<rect width="100%" height="100%" fill="var(--card)"/>'
    drawing, _, end = body.rpartition("</svg>")
    head = f'{head} xmlns="http://www.w3.org/2000/svg" class="alone">'
    return f"{head}<style>{style}</style>{paper}{drawing}{''.join(legend)}</svg>{end}"


def placed(series: Sequence[Series]) -> list[tuple[int, Series]]:
    """Each with the place that its colour and shape go by."""
    return [
        (number if series_item.place is None else series_item.place, series_item)
        for number, series_item in enumerate(series)
    ]


def colour(place: int) -> str:
    """CSS class of a place; after ten the colours return with another dash. Below 0: outside the table."""
    return "none" if place < 0 else f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def marker(place: int, x: float, y: float, size: float = 5.5, hollow: bool = False, title: str = "") -> str:
    """Circle, square, triangle or diamond by `place`, so that methods differ in shape too."""
    kind = f"{colour(place)} mark{' hollow' if hollow else ''}"
    inner = f"<title>{escape(title)}</title>" if title else ""
    if place % 4 not in CORNERS:
        return f'<circle class="{kind}" cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}">{inner}</circle>'
    points = " ".join(f"{_number(x + size * dx)},{_number(y + size * dy)}" for dx, dy in CORNERS[place % 4])
    return f'<polygon class="{kind}" points="{points}">{inner}</polygon>'


def wrap(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) covering [low, high]."""
    if not high > low:
        high, low = low + (abs(low) or 1) * 0.1, low - (abs(low) or 1) * 0.1
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def about(point: Point) -> str:
    return "; ".join(f"{name}: {value}" for name, value in point.about)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}">{escape(text)}</text>'


class _Axes:
    """Two linear axes with round ticks around all that a panel shows; `at` gives pixels."""

    def __init__(self, panel: Panel, width: int = WIDTH, height: int = HEIGHT, bottom: int = BOTTOM) -> None:
        self.width, self.height, self.bottom = width, height, bottom
        points = [point for series in panel.series for point in series.points]
        xs = [x for point in points for x in (point.x, point.x_low, point.x_high) if x is not None]
        ys = [y for point in points for y in (point.y, point.low, point.high) if y is not None]
        self.x, self.y = ticks(min(xs), max(xs), width // 70), ticks(min(ys), max(ys), height // 50)
        self.parts = [self._line((self.x[0], y), (self.x[-1], y), "grid") for y in self.y]
        self.parts += [self._line((x, self.y[0]), (x, self.y[-1]), "grid") for x in panel.marked]
        self.parts += [_text(LEFT - 7, self.at(0, y)[1] + 4, f"{y:.6g}", "end") for y in self.y]
        self.parts += [_text(self.at(x, 0)[0], height - bottom + 16, f"{x:.6g}", "middle") for x in self.x]
        if panel.up:
            self.parts.append(_text((LEFT + width - RIGHT) / 2, height - 5, panel.across, "middle"))
            transform = f'transform="translate(10 {(TOP + height - bottom) // 2}) rotate(-90)"'
            self.parts.append(f'<text text-anchor="middle" {transform}>{escape(panel.up)}</text>')

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, up = (x - self.x[0]) / (self.x[-1] - self.x[0]), (y - self.y[0]) / (self.y[-1] - self.y[0])
        right, bottom = self.width - RIGHT, self.height - self.bottom
        return LEFT + across * (right - LEFT), bottom - up * (bottom - TOP)

    def _line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        return f'<line class="{kind}" x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"/>'

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        self.parts.append(self._line(start, end, kind))

    def interval(self, place: int, point: Point) -> None:
        if point.low is not None and point.high is not None:
            self.line((point.x, point.low), (point.x, point.high), f"error {colour(place)}")
        if point.x_low is not None and point.x_high is not None:
            self.line((point.x_low, point.y), (point.x_high, point.y), f"error {colour(place)}")


def _lines(panel: Panel) -> str:
    """A line for each series, its last point marked; of several runs only their mean."""
    axes = _Axes(panel, 280, 170, 22)
    meant = {series.label for series in panel.series if not series.run}
    lines = [
        (place, series_item)
        for place, series_item in placed(panel.series)
        if not series_item.run or series_item.label not in meant
    ]
    every = 1 + sum(len(series.points) for _, series in lines) // _MOST
    for place, series in lines:
        points = series.points[(len(series.points) - 1) % every :: every]
        pixels = " ".join(",".join(map(_number, axes.at(point.x, point.y))) for point in points)
        axes.parts.append(f'<polyline class="line {colour(place)}" points="{pixels}"/>')
        if every > 1:
            continue
        last = series.points[-1]
        title = f"{', '.join(filter(None, (series.label, series.run)))}: {last.y:.4g} at {last.x:.4g}"
        axes.parts.append(marker(place, *axes.at(last.x, last.y), 3.5, title=title))
    return wrap(axes.width, axes.height, panel.title, axes.parts)


def _swept(panel: Panel) -> str:
    axes = _Axes(panel)
    for place, series in placed(panel.series):
        pixels = " ".join(",".join(map(_number, axes.at(point.x, point.y))) for point in series.points)
        axes.parts.append(f'<polyline class="line {colour(place)}" points="{pixels}"/>')
        for point in series.points:
            axes.interval(place, point)
            axes.parts.append(marker(place, *axes.at(point.x, point.y), 4, title=about(point)))
    return wrap(WIDTH, HEIGHT, panel.title, axes.parts)


def _trade_off(panel: Panel) -> str:
    """Points with their intervals; a paper's are hollow and joined to ours by a dashed line."""
    axes = _Axes(panel)
    points_measured = {
        place: series_item.points[0] for place, series_item in placed(panel.series) if not series_item.printed
    }
    for place, series in placed(panel.series):
        for point in series.points:
            axes.interval(place, point)
            if series.printed and place in points_measured:
                ours = points_measured[place]
                axes.line((ours.x, ours.y), (point.x, point.y), f"link {colour(place)}")
    points = [
        (place, series_item.printed, point)
        for place, series_item in placed(panel.series)
        for point in series_item.points
    ]
    for place, is_printed, point in points:
        axes.parts.append(marker(place, *axes.at(point.x, point.y), 6, hollow=is_printed, title=about(point)))
    labels = place_labels([(*axes.at(point.x, point.y), point.name) for *_, point in points], WIDTH, HEIGHT - BOTTOM)
    for (place, _, point), (dx, dy, anchor) in zip(points, labels, strict=True):
        x, y = axes.at(point.x, point.y)
        axes.parts.append(_text(x + dx, y + dy, point.name, anchor, f"point {colour(place)}"))
    return wrap(WIDTH, HEIGHT, panel.title, axes.parts)


def _nested(panel: Panel) -> str:
    """A bar for each point of the last series, full and with its number, before a pale one of the first."""
    left_edge, right, pitch = 92, 240, 22
    pale, full = panel.series[0], panel.series[-1]
    parts = []
    for line, (behind, before) in enumerate(zip(pale.points, full.points, strict=True)):
        y = 6 + pitch * line
        parts.append(
            f"<g><title>{escape(about(before))}</title>{_text(left_edge - 8, y + 11, _short(before.name), 'end')}"
        )
        parts.append(f'<rect class="track" x="{left_edge}" y="{y}" width="{right - left_edge}" height="14" rx="2"/>')
        for kind, share in (("pale", behind.y), ("full", before.y)):
            width = _number((right - left_edge) * share / 100)
            css = f"bar {kind} {colour(placed(panel.series)[-1][0])}"
            parts.append(f'<rect class="{css}" x="{left_edge}" y="{y}" width="{width}" height="14" rx="2"/>')
        parts.append(_text(280, y + 11, f"{before.y:.1f}", "end", "value") + "</g>")
    return wrap(284, 8 + pitch * len(full.points), panel.title, parts)


def _matrix(panel: Panel) -> str:
    """A square for each cell, the darker the larger, with its number."""
    field = panel.field
    assert field is not None, "a matrix has a field"
    wide, high, left_edge, top = max(36, min(76, 420 // len(field.columns))), 30, 150, 84
    parts = []
    for column, name in enumerate(field.columns):
        turn = f"translate({left_edge + wide * column + wide // 2} {top - 8}) rotate(-35)"
        parts.append(f'<text transform="{turn}">{escape(_short(name, 18))}<title>{escape(name)}</title></text>')
    for row, (name, values) in enumerate(zip(field.rows[:_ROWS], field.values, strict=False)):
        y = top + high * row
        label = f"{escape(_short(name, 22))}<title>{escape(name)}</title>"
        parts.append(f'<text x="{left_edge - 8}" y="{y + 19}" text-anchor="end">{label}</text>')
        for column, value in enumerate(values):
            x = left_edge + wide * column
            title = escape(f"{name}, {field.columns[column]}: {value:.2f} %")
            shade = f'fill="var(--accent)" fill-opacity="{0.04 + 0.005 * value:.2f}"'
            parts.append(
                f'<g><title>{title}</title><rect x="{x + 1}" y="{y + 1}" width="{wide - 2}" height="{high - 2}" rx="3"'
                f" {shade}/>{_text(x + wide / 2, y + 19, f'{value:.1f}', 'middle', 'value')}</g>"
            )
    rows_visible, further = min(len(field.rows), _ROWS), len(field.rows) - _ROWS
    if further > 0:
        parts.append(_text(left_edge, top + high * rows_visible + 18, f"and {further} further ones"))
    height = top + high * (rows_visible + (further > 0)) + 8
    return wrap(left_edge + wide * len(field.columns) + 50, height, panel.title, parts)


def _cloud(panel: Panel) -> str:
    """Points alone: a shape for each series, a colour for each name of a point."""
    side, names = 300, names_of(panel)
    points = [point for series in panel.series for point in series.points]
    low = (min(point.x for point in points), min(point.y for point in points))
    size = max(max(p.x for p in points) - low[0], max(p.y for p in points) - low[1]) or 1.0
    parts = []
    for shape, series in placed(panel.series):
        for point in series.points:
            x, y = (
                8 + (side - 16) * (value - least) / size for value, least in zip((point.x, point.y), low, strict=True)
            )
            parts.append(_dot(shape, names.index(point.name), x, side - y))
    return wrap(side, side, panel.title, parts)


def names_of(panel: Panel) -> list[str]:
    """The names of a panel's points, each once."""
    return list(dict.fromkeys(point.name for series in panel.series for point in series.points))


def _dot(shape: int, hue: int, x: float, y: float) -> str:
    dot = marker(shape, x, y, 3)
    return dot.replace(f'class="{colour(shape)} ', f'class="{colour(hue)} ')


def _short(text: str, most: int = 12) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


KINDS: dict[str, Callable[[Panel], str]] = {
    "curves": _lines,
    "sweep": _swept,
    "trade-off": _trade_off,
    "nested": _nested,
    "matrix": _matrix,
    "embedding": _cloud,
}
