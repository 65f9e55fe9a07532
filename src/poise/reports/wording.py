"""Settings in words: nested JSON as dotted names with values as a person would write them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    """{dotted name: value as text} of nested settings; k/255 is written as such."""
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        items = list(enumerate(value))
    else:
        return {prefix: plain(value)}
    flat: dict[str, str] = {}
    for name, item in items:
        inner = prefix if name == "type" and prefix else f"{prefix}.{name}" if prefix else str(name)
        flat |= flatten(item, inner)
    return flat


def plain(value: object) -> str:
    """A setting as a person writes it: `8/255`, `0.1`, `yes`."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, float) and math.isfinite(value):
        pixels = value * 255
        if 0 < value <= 1 and abs(pixels - round(pixels * 2) / 2) < 1e-9 and float(f"{value:.4g}") != value:
            return f"{pixels:g}/255"
        return f"{value:.6g}"
    return str(value)
