"""The interactive form of a page's chart: a Vega-Lite specification (version 6) as plain data.

Colours are names of the page's CSS, so that a chart follows the page's light or dark scheme. A selection `hidden`
(labels of series that are switched off) or `choice` (which matrix is shown) is set by the page's script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poise.reports.figures.labels import place_labels
from poise.reports.figures.series import Panel, Point, Series
from poise.reports.figures.still import COLOURS, names_of, placed, ticks

SHAPES = ("circle", "square", "triangle-up", "diamond")
HIDDEN = {"name": "hidden", "value": []}
SHOWN = {"filter": "indexof(hidden, datum.series) < 0"}
FEW = 1500
"""With more points than these a line is pointed at as a whole."""
_AXIS = {
    "labelColor": "var(--soft)",
    "titleColor": "var(--soft)",
    "gridColor": "var(--line)",
    "domainColor": "var(--rule)",
    "tickColor": "var(--rule)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "labelFontWeight": "normal",
    "titlePadding": 8,
    "labelPadding": 5,
    "tickSize": 4,
    "labelOverlap": True,
}
CONFIG = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": _AXIS,
    "axisY": {"domain": False, "ticks": False, "tickCount": 5},
    "axisX": {"grid": False, "tickCount": 6},
}
"""The look of all charts."""

Spec = dict[str, Any]


def vega(kind: str, panels: Sequence[Panel]) -> Spec:
    """The specification of a panel; of several matrices, of which one is shown at a time. kind: one of `KINDS`."""
    spec = _matrix(panels) if kind == "matrix" else KINDS[kind](panels[0])
    fit = "fit-x" if kind in ("nested", "matrix") else "fit"  # lines of one height, however many
    return {"width": "container", "autosize": {"type": fit, "contains": "padding"}, **spec}


def _number(value: float | None, digits: int = 5) -> float | None:
    """Of so many digits, which is more than one sees; no number where JSON has none."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _coloured(series: Sequence[Series]) -> dict[str, Any]:
    scale = {
        series_item.label: f"var(--c{place % COLOURS})" if place >= 0 else "var(--soft)"
        for place, series_item in placed(series)
    }
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(scale), "range": list(scale.values())},
        "legend": None,
    }


def _shaped(series: Sequence[Series]) -> dict[str, Any]:
    scale = {series_item.label: SHAPES[place % len(SHAPES)] for place, series_item in placed(series)}
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(scale), "range": list(scale.values())},
        "legend": None,
    }


def _dashed(series: Sequence[Series]) -> dict[str, Any]:
    """Colours that come back have another dash."""
    scale = {series_item.label: [5, 3] if place >= COLOURS else [1, 0] for place, series_item in placed(series)}
    return {**_shaped(series), "scale": {"domain": list(scale), "range": list(scale.values())}}


def _axis(field: str, title: str, **axis: Any) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"zero": False, "nice": True},
        "axis": {"title": title or None, **axis},
    }


def _told(fields: Mapping[str, str], **formats: str) -> list[dict[str, Any]]:
    """What is said where one points: {title: field}."""
    return [
        {"field": field, "title": title, **({"format": formats[field]} if field in formats else {})}
        for title, field in fields.items()
    ]


# -- lines ------------------------------------------------------------------------------------------------------------


def _line_row(series: Series, banded: bool) -> dict[str, Any]:
    """A whole line in one row; `flatten` makes rows of its points."""
    row: dict[str, Any] = {
        "series": series.label,
        "run": series.run,
        "x": [_number(point.x) for point in series.points],
        "y": [_number(point.y, 4) for point in series.points],
    }
    if banded:
        row |= {
            "low": [_number(point.low, 4) for point in series.points],
            "high": [_number(point.high, 4) for point in series.points],
            "n": max((point.n for point in series.points), default=0),
        }
    return row


def _curves(panel: Panel) -> Spec:
    """Lines by epoch: of several runs of a method the mean with a band of their standard deviation before thin lines of
    each.
    """
    meant = {series_item.label for series_item in panel.series if not series_item.run}
    bold = [series_item for series_item in panel.series if not series_item.run or series_item.label not in meant]
    thin = [series_item for series_item in panel.series if series_item.run and series_item.label in meant]
    colour, shape, dash = _coloured(panel.series), _shaped(panel.series), _dashed(panel.series)
    x, y = _axis("x", "", tickMinStep=1), _axis("y", panel.up)
    y["scale"] |= _constant(panel)
    base = {"x": x, "y": y, "color": colour, "detail": {"field": "run"}}
    tooltip = {"method": "series", "run": "run", panel.across: "x", "value": "y"}
    layers: list[Spec] = [_marked(panel.marked)] if panel.marked else []
    if thin:
        last = [
            {**_line_row(series_item, False), "at": _number(series_item.points[-1].x), "last": _last(series_item)}
            for series_item in thin
        ]
        layers.append(
            {
                "data": {"values": last},
                "transform": [SHOWN, {"flatten": ["x", "y"]}],
                "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.3},
                "encoding": base | {"tooltip": _told({"method": "series", "run": "run", "last": "last", "at": "at"})},
            }
        )
        layers.append(
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "area", "opacity": 0.14},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            }
        )
        tooltip |= {"runs": "n", "mean - std": "low", "mean + std": "high"}
    layers.append({"mark": {"type": "line", "strokeWidth": 2}, "encoding": {**base, "strokeDash": dash}})
    end: list[Spec] = [
        {"joinaggregate": [{"op": "max", "field": "x", "as": "end"}], "groupby": ["series", "run"]},
        {"filter": "datum.x === datum.end"},
    ]
    layers.append(
        {
            "transform": end,
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
            "encoding": {**base, "shape": shape},
        }
    )
    count = sum(len(series_item.points) for series_item in bold)
    layers.append(_pointed(base, _told(tooltip, y=".4~g", low=".4~g", high=".4~g"), count))
    return {
        "params": [HIDDEN],
        "data": {"values": [_line_row(series_item, bool(thin)) for series_item in bold]},
        "transform": [SHOWN, {"flatten": ["x", "y", *(["low", "high"] if thin else [])]}],
        "layer": layers,
        "height": 170,
    }


def _constant(panel: Panel) -> dict[str, Any]:
    """Ends of the axis for values that are all the same, which by themselves have none."""
    values = {point.y for series_item in panel.series for point in series_item.points}
    return {"domain": [(ends := ticks(min(values), max(values)))[0], ends[-1]]} if len(values) == 1 else {}


def _last(series: Series) -> float | None:
    return _number(series.points[-1].y)


def _marked(places: Sequence[float]) -> Spec:
    return {
        "data": {"values": [{"x": _number(place)} for place in places]},
        "mark": {"type": "rule", "color": "var(--line)", "strokeWidth": 1.5},
        "encoding": {"x": {"field": "x", "type": "quantitative"}},
    }


def _pointed(base: Mapping[str, Any], told: list[dict[str, Any]], count: int) -> Spec:
    """The point that is nearest to where one points, or, of very many points, any that one meets."""
    if count > FEW:
        return {"mark": {"type": "point", "opacity": 0, "size": 60}, "encoding": {**base, "tooltip": told}}
    near = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    return {
        "params": [{"name": "near", "select": near}],
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {
            **base,
            "tooltip": told,
            "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
        },
    }


# -- points -----------------------------------------------------------------------------------------------------------


def _point_row(series: Series, point: Point) -> dict[str, Any]:
    row = {
        "series": series.label,
        "name": point.name,
        "x": _number(point.x),
        "y": _number(point.y),
        "low": _number(point.low),
        "high": _number(point.high),
        "x_low": _number(point.x_low),
        "x_high": _number(point.x_high),
        "about": _about(point),
    }
    return {name: value for name, value in row.items() if value is not None}


def _about(point: Point) -> list[str]:
    """What is said where one points at it, a line for each fact. As values they are never a part of an expression."""
    return [f"{name}: {value}" for name, value in point.about]


ABOUT = {"field": "about"}


def _swept(panel: Panel) -> Spec:
    """Lines over a setting, each of its values with an interval."""
    colour, shape, dash = _coloured(panel.series), _shaped(panel.series), _dashed(panel.series)
    x, y = _axis("x", panel.across), _axis("y", panel.up)
    base = {"x": x, "y": y, "color": colour}
    rows = [_point_row(series_item, point) for series_item in panel.series for point in series_item.points]
    return {
        "params": [HIDDEN],
        "data": {"values": rows},
        "transform": [SHOWN],
        "layer": [
            _bar_between("y", "low", "high", x, y, colour),
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {**base, "strokeDash": dash}},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {**base, "shape": shape, "tooltip": ABOUT},
            },
        ],
        "height": 260,
    }


def _bar_between(
    axis: str, low: str, high: str, x: Mapping[str, Any], y: Mapping[str, Any], colour: Mapping[str, Any]
) -> Spec:
    """A line from one end of an interval to the other, where there is one."""
    ends = {axis: {**(y if axis == "y" else x), "field": low}, f"{axis}2": {"field": high}}
    return {
        "transform": [{"filter": f"isValid(datum.{low})"}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.65},
        "encoding": {"x": x, "y": y, **ends, "color": colour},
    }


def _trade_off(panel: Panel) -> Spec:
    """Points with intervals both ways; a paper's are hollow and joined to ours by a dashed line."""
    colour, shape = _coloured(panel.series), _shaped(panel.series)
    x, y = _axis("x", panel.across), _axis("y", panel.up, tickCount=6)
    base = {"x": x, "y": y, "color": colour}
    point_marks = [
        (place, series_item, point) for place, series_item in placed(panel.series) for point in series_item.points
    ]
    points_measured = {place: point for place, series_item, point in point_marks if not series_item.printed}
    rows = []
    for (place, series_item, point), side in zip(point_marks, _sides(panel), strict=True):
        row = _point_row(series_item, point) | {
            "printed": series_item.printed,
            "dx": side[0],
            "dy": side[1],
            "align": side[2],
        }
        if series_item.printed and place in points_measured:
            row |= {"our_x": _number(points_measured[place].x), "our_y": _number(points_measured[place].y)}
        rows.append(row)
    marks = {"type": "point", "size": 110, "opacity": 1, "strokeWidth": 2}
    link: Spec = {
        "transform": [{"filter": "isValid(datum.our_x)"}],
        "mark": {"type": "rule", "strokeDash": [2, 3]},
        "encoding": {**base, "x2": {"field": "our_x"}, "y2": {"field": "our_y"}},
    }
    hollow: Spec = {
        "transform": [{"filter": "datum.printed"}],
        "mark": {**marks, "filled": False, "fill": "var(--card)"},
        "encoding": {**base, "shape": shape, "tooltip": ABOUT},
    }
    labels: Spec = {
        "mark": {
            "type": "text",
            "fontSize": 12,
            "fontWeight": 600,
            "baseline": "alphabetic",
            **{name: {"expr": f"datum.{name}"} for name in ("dx", "dy", "align")},
        },
        "encoding": {**base, "text": {"field": "name"}},
    }
    return {
        "params": [HIDDEN],
        "data": {"values": rows},
        "transform": [SHOWN],
        "layer": [
            *([link] if any("our_x" in row for row in rows) else []),
            _bar_between("x", "x_low", "x_high", x, y, colour),
            _bar_between("y", "low", "high", x, y, colour),
            {
                "transform": [{"filter": "!datum.printed"}],
                "mark": {**marks, "filled": True},
                "encoding": {**base, "shape": shape, "tooltip": ABOUT},
            },
            *([hollow] if any(series_item.printed for series_item in panel.series) else []),
            *([labels] if len(rows) <= 14 else []),
        ],
        "height": 330,
    }


def _sides(panel: Panel) -> list[tuple[float, float, str]]:
    """Where names stand, in a picture of usual size."""
    points = [point for series_item in panel.series for point in series_item.points]
    xs, ys = ([value for p in points for value in ends if value is not None] for ends in _ends(points))
    wide, high = 420, 290
    across, up = (max(values) - min(values) or 1.0 for values in (xs, ys))
    return place_labels(
        [
            (wide * (p.x - min(xs)) / across * 0.9 + 20, high * (1 - (p.y - min(ys)) / up) * 0.9 + 14, p.name)
            for p in points
        ],
        wide + 10,
        high + 10,
    )


def _ends(points: Sequence[Point]) -> tuple[list[float | None], list[float | None]]:
    return (
        [value for p in points for value in (p.x, p.x_low, p.x_high)],
        [value for p in points for value in (p.y, p.low, p.high)],
    )


# -- classes ----------------------------------------------------------------------------------------------------------


def _nested(panel: Panel) -> Spec:
    """A full bar with its number for each point of the last series, before a pale one of the first."""
    pale, full = panel.series[0], panel.series[-1]
    place = placed(panel.series)[-1][0]
    rows = [
        {"name": front.name, "pale": _number(back.y), "full": _number(front.y), "about": _about(front)}
        for back, front in zip(pale.points, full.points, strict=True)
    ]
    colour = f"var(--c{place % COLOURS})" if place >= 0 else "var(--soft)"
    bar = {"type": "bar", "color": colour, "cornerRadius": 2, "height": 14}
    y = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "labelLimit": 90, "grid": False},
    }
    scale = {"domain": [0, 100], "nice": False}

    def across(field: str) -> dict[str, Any]:
        return {"field": field, "type": "quantitative", "scale": scale, "axis": None}

    return {
        "data": {"values": rows},
        "encoding": {"y": y, "tooltip": ABOUT},
        "layer": [
            {
                "mark": {**bar, "color": "var(--track)"},
                "encoding": {"x": {"datum": 100, "type": "quantitative", "scale": scale, "axis": None}},
            },
            {"mark": {**bar, "opacity": 0.3}, "encoding": {"x": across("pale")}},
            {"mark": bar, "encoding": {"x": across("full")}},
            {
                "mark": {"type": "text", "align": "right", "dx": 36, "color": "var(--ink)", "fontSize": 12},
                "encoding": {
                    "x": {"datum": 100, "type": "quantitative", "scale": scale, "axis": None},
                    "text": {"field": "full", "format": ".1f"},
                },
            },
        ],
        "height": 21 * len(rows),
        "padding": {"right": 40, "top": 2, "left": 2, "bottom": 2},
    }


# -- matrices and clouds ----------------------------------------------------------------------------------------------


def _matrix(panels: Sequence[Panel]) -> Spec:
    """Squares, the darker the larger, with their numbers; empty where they are zero. Values are stored row by row."""
    fields = [panel.field for panel in panels if panel.field is not None]
    columns = list(max((field.columns for field in fields), key=len))
    rows = list(dict.fromkeys(name for field in fields for name in field.rows))
    values = [
        {"choice": panel.title, "down": field.rows, "across": field.columns, "share": _grid(field.values)}
        for panel, field in zip(panels, fields, strict=True)
    ]
    alike = all((field.rows, field.columns) == (fields[0].rows, fields[0].columns) for field in fields)
    for value in values if alike else []:
        del value["down"], value["across"]
    down, across = ("rows", "columns") if alike else ("datum.down", "datum.across")
    labels = [
        {"window": [{"op": "row_number", "as": "place"}]},
        {"calculate": f"{down}[floor((datum.place - 1) / length({across}))]", "as": "row"},
        {"calculate": f"{across}[(datum.place - 1) % length({across})]", "as": "column"},
        {"filter": "datum.share > 0"},
    ]
    first, angle = panels[0], -35 if max(map(len, columns), default=0) > 3 else 0
    x = {
        "field": "column",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": columns, "paddingInner": 0.06},
        "axis": {"title": first.across or None, "orient": "top", "labelAngle": angle, "labelLimit": 110},
    }
    y = {
        "field": "row",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": rows, "paddingInner": 0.06},
        "axis": {"title": first.up or None, "labelLimit": 130, "grid": False, "tickCount": len(rows)},
    }
    quiet = {"domain": False, "ticks": False, "labelOverlap": False}
    for side in (x, y):
        side["axis"] = {**side["axis"], **quiet}
    tooltip = _told({first.up or "row": "row", first.across or "column": "column", "%": "share"}, share=".2f")
    return {
        "params": [
            {"name": "choice", "value": first.title},
            {"name": "rows", "value": rows},
            {"name": "columns", "value": columns},
        ],
        "data": {"values": values},
        "transform": [{"filter": "datum.choice === choice"}, {"flatten": ["share"]}, *labels],
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "rect", "color": "var(--accent)", "cornerRadius": 3},
                "encoding": {
                    "fillOpacity": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"domain": [0, 100], "range": [0.05, 0.55]},
                        "legend": None,
                    }
                },
            },
            {
                "mark": {"type": "text", "color": "var(--ink)", "fontSize": 11},
                "encoding": {
                    "text": {"field": "share", "type": "quantitative", "format": ".1f" if len(columns) <= 8 else ".0f"}
                },
            },
        ],
        "height": (32 if len(rows) <= 12 else 22) * len(rows),
    }


def _grid(values: Sequence[Sequence[float]]) -> list[float | None]:
    return [_number(round(value, 2)) for row in values for value in row]


def _cloud(panel: Panel) -> Spec:
    """Points alone: a shape for each series, a colour for each name of a point."""
    names = names_of(panel)
    rows = [
        {
            "series": series_item.label,
            "x": [_number(point.x) for point in series_item.points],
            "y": [_number(point.y) for point in series_item.points],
            "name": [point.name for point in series_item.points],
        }
        for series_item in panel.series
    ]
    colours = {"domain": names, "range": [f"var(--c{place % COLOURS})" for place in range(len(names))]}
    return {
        "params": [HIDDEN],
        "data": {"values": rows},
        "transform": [SHOWN, {"flatten": ["x", "y", "name"]}],
        "mark": {"type": "point", "filled": True, "size": 34, "opacity": 0.75},
        "encoding": {
            "x": {**_axis("x", ""), "axis": None},
            "y": {**_axis("y", ""), "axis": None},
            "color": {"field": "name", "type": "nominal", "scale": colours, "legend": None},
            "shape": _shaped(panel.series),
            "tooltip": _told({"learner": "series", "class": "name"}),
        },
        "height": 300,
    }


KINDS: dict[str, Callable[[Panel], Spec]] = {
    "curves": _curves,
    "sweep": _swept,
    "trade-off": _trade_off,
    "nested": _nested,
    "embedding": _cloud,
}
"""And "matrix", of which a chart holds several."""
