"""When two attacks are the same: by what they do to images, not by how their settings are spelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An attack's settings as JSON, without the folder of a set of images that a digest names; equal for attacks that are the same.

    Attacks are compared by this wherever a record is looked up or put beside another, so that a set may lie elsewhere.
    """
    return {name: value for name, value in settings.items() if name != "path" or not settings.get("digest")}
