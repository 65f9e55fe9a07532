"""Settings in words: nested JSON as dotted names with values as a person would write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from poise.core.settings import spelled


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
        return spelled(value, digits=6)
    return str(value)


def told_apart(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each of several experiments' settings, as JSON, what it has otherwise than the others, in words.

    Such as `beta 1`, `VGG-16`, `3 epochs`, `500 training images`, `robust learning rate 0.05`.
    """
    flats = [flatten(definition) for definition in settings]
    paths = [
        path
        for path in dict.fromkeys(path for flat in flats for path in flat)
        if len({flat.get(path) for flat in flats}) > 1
    ]
    implicit = ("held_out",) if "selection" in paths else ()
    paths = [
        path for path in paths if path not in implicit and not any(path.startswith(f"{above}.") for above in paths)
    ]
    networks = [definition.get("model") for definition in settings]
    return [
        list(dict.fromkeys(_part(path, flat.get(path, "none"), network, networks) for path in paths))
        for flat, network in zip(flats, networks, strict=True)
    ]


def _part(path: str, value: str, network: Any, networks: Sequence[Any]) -> str:
    names = path.split(".")
    if names[0] == "model" and isinstance(network, Mapping):
        return network_in_words(network, networks)
    if path == "epochs":
        return f"{value} epoch{'s' * (value != '1')}"
    if path == "data.train_images":
        return "all training images" if value == "none" else f"{value} training images"
    if names[0] == "chosen by":
        return "chosen by other images or attacks"
    words = [name.replace("_", " ") for name in names if not name.isdigit()]
    learner = [words[1]] if words[0] == "method" and len(words) > 2 and words[1] != "policy" else []
    inner = ["inner"] * ("inner" in words[:-1])
    setting = [] if words[-1] in ("objective", "method", "data", *learner) else [words[-1]]
    return " ".join([*learner, *inner, *setting, value])


def network_in_words(network: Mapping[str, Any], others: Sequence[Any] = ()) -> str:
    """A network's settings in words: `ResNet-18`, `WRN-34-10`, `3 x ResNet-20`; its width where others of its kind have
    another.
    """
    kind = str(network.get("type"))
    if kind == "WideResNet":
        return f"WRN-{network.get('depth', 34)}-{network.get('width', 10):g}"
    inner = [relatives.get("member") for relatives in others if isinstance(relatives, Mapping)]
    if isinstance(member := network.get("member"), Mapping):
        return f"{kind} of {network.get('members', 1)} x {network_in_words(member, inner)}"
    word = re.sub(r"(?<=[A-Za-z])(?=\d)", "-", kind)
    same = [relatives for relatives in others if isinstance(relatives, Mapping) and relatives.get("type") == kind]
    differing = [name for name in network if len({str(relatives.get(name)) for relatives in same}) > 1]
    return word + "".join(f", {name.replace('_', ' ')} {plain(network[name])}" for name in differing)
