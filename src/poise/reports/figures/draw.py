"""Pictures by matplotlib (the extra `plots`), without its global state: a figure for each kind, written as PDF, SVG and
PNG.

draw("sweep", panels, "title") gives a `matplotlib.figure.Figure`, which can be restyled before `write`.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise.core.errors import SettingsError
from poise.core.files import write_bytes, write_text
from poise.reports.figures.series import Field, Panel, Point, Series, to_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

MARKERS = "osD^vPX"
FORMATS = ("pdf", "svg", "png")
_UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""So that the same numbers give the same file."""


def draw(kind: str, panels: Sequence[Panel], title: str) -> Figure:
    """A figure with the panels beside each other. Raises: SettingsError for an unknown kind, or where matplotlib is not
    there.
    """
    kinds = (*KINDS, *FIELDS, *WHOLE)
    if kind not in kinds:
        raise SettingsError(f"there is no kind of picture {kind!r}; must be one of {', '.join(kinds)}")
    with _style():
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

        figure = Figure()
        width, height = figure.get_size_inches()
        figure.set_size_inches(width * max(1, len(panels)) ** 0.75, height)
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            if kind in WHOLE:
                WHOLE[kind](axes, panel)
            elif panel.field is not None:
                FIELDS[kind](axes, panel.field)
            else:
                KINDS[kind](axes, panel.series)
            axes.set_xlabel(panel.across)
            axes.set_ylabel(panel.up)
            if len(panels) > 1:
                axes.set_title(panel.title)
            if any(series.label for series in panel.series) and (kind not in WHOLE or place == 1):
                axes.legend(**_legend(kind, len(panel.series)))
        figure.suptitle(textwrap.fill(title, int(15 * figure.get_size_inches()[0])))
        return figure


def _legend(kind: str, count: int) -> dict[str, Any]:
    """Where a legend stands, and how it looks, so that it hides as little as it can."""
    if kind in WHOLE:
        return BELOW
    behind = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"} if kind == "bars" else {}
    return {**behind, **({"fontsize": 5} if count > 8 else {})}


def write(figure: Figure, panels: Sequence[Panel], stem: Path) -> list[Path]:
    """The figure as PDF, SVG and PNG beside each other, and the numbers behind it as CSV."""
    paths = []
    with _style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]

        FigureCanvasAgg(figure)
        for form in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, metadata=_UNDATED[form])
            paths.append(write_bytes(stem.with_suffix(f".{form}"), buffer.getvalue()))
    return [*paths, write_text(stem.with_suffix(".csv"), to_csv(panels))]


@contextlib.contextmanager
def _style() -> Iterator[None]:
    try:
        import matplotlib.style  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SettingsError("pictures need matplotlib: pip install 'poise[plots]'") from None
    with matplotlib.style.context(str(files("poise.reports.figures") / "poise.mplstyle")):
        yield


def _lines(axes: Axes, series: Sequence[Series]) -> None:
    """A line for each series, with a band."""
    for place, curve in enumerate(series):
        xs, ys = _across(curve.points), [point.y for point in curve.points]
        hollow: dict[str, Any] = {"markerfacecolor": "white"} if curve.printed else {}
        few = len(xs) <= 20
        (line,) = axes.plot(xs, ys, marker=MARKERS[place % len(MARKERS)] if few else "", label=curve.label, **hollow)
        band = [point for point in curve.points if point.low is not None and point.high is not None]
        if band:
            lows, highs = [point.low or 0.0 for point in band], [point.high or 0.0 for point in band]
            axes.fill_between(_across(band), lows, highs, color=line.get_color(), alpha=0.18, linewidth=0)


def _across(points: Sequence[Point]) -> list[float]:
    return [point.x for point in points]


def _bars(axes: Axes, series: Sequence[Series]) -> None:
    """Groups of bars, one colour for each series, with whiskers."""
    width = 0.8 / max(1, len(series))
    for place, series_bar in enumerate(series):
        xs = [point.x - 0.4 + width * (place + 0.5) for point in series_bar.points]
        look = {"color": LABELS[place % len(LABELS)], "edgecolor": "white", "linewidth": 0.5}
        axes.bar(xs, [point.y for point in series_bar.points], width, label=series_bar.label, **look)
        for x, point in zip(xs, series_bar.points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color="0.25", linewidth=0.9, linestyle="-")
    names = {point.x: point.name for series_bar in series for point in series_bar.points}
    long = max((len(name) for name in names.values()), default=0) > 10
    axes.set_xticks(list(names), list(names.values()), rotation=30 if long else 0, ha="right" if long else "center")
    axes.grid(axis="x", visible=False)


def _trade_off(axes: Axes, series: Sequence[Series]) -> None:
    """Points with intervals both ways, those of a family joined in order; a paper's own are hollow."""
    for place, series_point in enumerate(series):
        xs, ys = _across(series_point.points), [point.y for point in series_point.points]
        hollow: dict[str, Any] = {"markerfacecolor": "white", "linestyle": ":"} if series_point.printed else {}
        marker = MARKERS[place % len(MARKERS)]
        (line,) = axes.plot(xs, ys, marker=marker, label=series_point.label, **hollow)
        for point in series_point.points:
            if point.low is not None and point.high is not None:
                axes.plot(
                    [point.x, point.x], [point.low, point.high], color=line.get_color(), linewidth=0.7, linestyle="-"
                )
            if point.x_low is not None and point.x_high is not None:
                axes.plot(
                    [point.x_low, point.x_high],
                    [point.y, point.y],
                    color=line.get_color(),
                    linewidth=0.7,
                    linestyle="-",
                )
            axes.annotate(point.name, (point.x, point.y), (4, 3), textcoords="offset points", fontsize=6)


def _histogram(axes: Axes, series: Sequence[Series]) -> None:
    """Shares by place, as steps: the places are the middles of bins of one width."""
    for series_part in series:
        xs, ys = _across(series_part.points), [point.y for point in series_part.points]
        axes.step(xs, ys, where="mid", label=series_part.label)


def _surface(axes: Axes, field: Field) -> None:
    """Heights as lines of equal height and shades of one colour, with their scale."""
    contours = axes.contourf(field.xs, field.ys, field.values, levels=12, cmap="viridis")
    axes.contour(field.xs, field.ys, field.values, levels=12, colors="white", linewidths=0.3)
    axes.plot([0], [0], marker="+", color="white")
    axes.figure.colorbar(contours, ax=axes)
    axes.grid(visible=False)


def _labels(axes: Axes, field: Field) -> None:
    """A colour for each label, black for the right one."""
    from matplotlib.colors import ListedColormap  # pyright: ignore[reportMissingImports]

    count = int(max(max(row) for row in field.values)) + 1
    colours = ["#000000" if label == field.right else LABELS[label % len(LABELS)] for label in range(count)]
    axes.pcolormesh(
        field.xs, field.ys, field.values, cmap=ListedColormap(colours), vmin=-0.5, vmax=count - 0.5, shading="nearest"
    )
    axes.plot([0], [0], marker="+", color="white")
    axes.grid(visible=False)


def _scatter(axes: Axes, series: Sequence[Series]) -> None:
    """Points alone; their places have no unit."""
    for place, series_part in enumerate(series):
        xs, ys = _across(series_part.points), [point.y for point in series_part.points]
        look = {"marker": MARKERS[place % len(MARKERS)], "color": LABELS[place % len(LABELS)], "markersize": 2.5}
        axes.plot(xs, ys, linestyle="", alpha=0.7, label=series_part.label, **look)
    axes.set_xticks([])
    axes.set_yticks([])


def _plane(axes: Axes, panel: Panel) -> None:
    """Areas in shades, data as points; what is a line of many points is drawn small."""
    from matplotlib.colors import ListedColormap  # pyright: ignore[reportMissingImports]

    if panel.field is not None:
        colours = AREAS[: len(panel.field.names)]
        limits = {"vmin": -0.5, "vmax": len(colours) - 0.5}
        field = panel.field
        axes.pcolormesh(
            field.xs, field.ys, field.values, cmap=ListedColormap(colours), shading="nearest", rasterized=True, **limits
        )
        for colour, name in zip(colours, field.names, strict=True):
            axes.plot([], [], linestyle="", marker="s", color=colour, markeredgecolor="0.5", label=name)
    for place, series_item in enumerate(panel.series):
        colour, sign = LABELS[place % len(LABELS)], {"-": "_", "+": "+"}.get(series_item.label[:1], "o")
        line = {"marker": ".", "markersize": 1}
        datum = {"marker": sign, "markersize": 6, "markeredgewidth": 1.6, "markeredgecolor": colour}
        style: dict[str, Any] = line if len(series_item.points) > 50 else datum
        ys = [point.y for point in series_item.points]
        axes.plot(_across(series_item.points), ys, linestyle="", color=colour, label=series_item.label, **style)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
    axes.grid(visible=False)


def _grid(axes: Axes, panel: Panel) -> None:
    """Rows of images, each with its text below and a frame that says whether it is right."""
    axes.set_axis_off()
    rows, columns = len(panel.tiles), max((len(tiles) for _, tiles in panel.tiles), default=1)
    for row, (name, tiles) in enumerate(panel.tiles):
        axes.text(-0.01, 1 - (row + 0.5) / rows, name, rotation=90, ha="right", va="center", fontsize=6)
        for column, tile in enumerate(tiles):
            place = (column / columns, 1 - (row + 0.8) / rows, 0.94 / columns, 0.72 / rows)
            inside = axes.inset_axes(place)
            inside.imshow(tile.pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            inside.set_xticks([])
            inside.set_yticks([])
            inside.grid(visible=False)
            for spine in inside.spines.values():
                spine.set_visible(tile.right is not None)
                spine.set(color=FRAMES[bool(tile.right)], linewidth=1.2, linestyle="-" if tile.right else "--")
            inside.set_xlabel(tile.text, fontsize=4.5, labelpad=1.5)


def _diagram(axes: Axes, panel: Panel) -> None:
    """Boxes with text, and arrows from edge to edge."""
    from matplotlib.patches import FancyBboxPatch  # pyright: ignore[reportMissingImports]

    assert panel.diagram is not None
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    boxes = {}
    for place, box in enumerate(panel.diagram.boxes):
        corner = (box.x - box.width / 2, box.y - box.height / 2)
        look = {"facecolor": "white", "edgecolor": LABELS[place % 3], "linewidth": 1.2}
        patch = FancyBboxPatch(corner, box.width, box.height, boxstyle="round,pad=0.01", **look)
        boxes[box.name] = axes.add_patch(patch)
        axes.text(box.x, box.y, box.text, ha="center", va="center", fontsize=6.5)
    places = {box.name: box for box in panel.diagram.boxes}
    for start, end, text in panel.diagram.arrows:
        a, b = places[start], places[end]
        back = (end, start) in {(start_name, end_name) for start_name, end_name, _ in panel.diagram.arrows}
        ends = {"patchA": boxes[start], "patchB": boxes[end], "shrinkA": 2, "shrinkB": 2}
        bent = {"connectionstyle": f"arc3,rad={0.25 * back}"}
        arrow = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 0.9, **ends, **bent}
        axes.annotate("", (b.x, b.y), (a.x, a.y), arrowprops=arrow)
        across, up = 0.12 * back * (b.y - a.y), 0.12 * back * (a.x - b.x)  # to the side to which it is bent
        axes.text((a.x + b.x) / 2 + across, (a.y + b.y) / 2 + up, text, fontsize=5.5, ha="center", color="0.25")


AREAS = ("#ffffff", "#d9d9d9", "#e69f00", "#000000")
"""Of a plane's field: nothing, right, wrong, fooled for certain."""
BELOW: dict[str, Any] = {"fontsize": 6, "loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 2}
"""Of a legend that would hide what is drawn."""
FRAMES = {True: "#009e73", False: "#d55e00"}
LABELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#999999", "#b2df8a", "#cab2d6")
FIELDS: dict[str, Callable[[Axes, Field], None]] = {"surface": _surface, "labels": _labels}
KINDS: dict[str, Callable[[Axes, Sequence[Series]], None]] = {
    "sweep": _lines,
    "bars": _bars,
    "trade-off": _trade_off,
    "curves": _lines,
    "budget": _lines,
    "histogram": _histogram,
    "embedding": _scatter,
}
WHOLE: dict[str, Callable[[Axes, Panel], None]] = {"plane": _plane, "grid": _grid, "diagram": _diagram}
"""Kinds that draw all of a panel."""
