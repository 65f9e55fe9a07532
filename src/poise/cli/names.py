"""Names that are known before anything is imported: a mistyped one is answered at once, without torch.

`make docs` writes them into names.json; a recipe or protocol of the user's own is known once its file is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

from poise.core.errors import SettingsError, did_you_mean


@cache
def names_of(kind: str) -> list[str]:
    """The names of a kind, "recipes" or "protocols", that Poise itself has."""
    return json.loads((files("poise.cli") / "names.json").read_text())[kind]


def completed(kind: str) -> Callable[[str], list[str]]:
    """For the shell: the names of a kind that begin as what was typed."""
    return lambda incomplete: [name for name in names_of(kind) if name.startswith(incomplete)]


def check_recipe(name: str, imports: list[Path] | None) -> None:
    """Raises: SettingsError for what is neither a recipe's name nor a file or folder, unless a user's own file may have
    it.
    """
    if not imports and not name.endswith(".json") and name not in names_of("recipes") and not Path(name).is_dir():
        raise SettingsError(f"there is no recipe {name!r}{did_you_mean(name, names_of('recipes'))}")


def check_protocol(name: str | None) -> None:
    """Raises: SettingsError for a word that names no protocol and no file of one."""
    names = names_of("protocols")
    if name is not None and name not in names and not name.endswith(".json"):
        raise SettingsError(f"--protocol {name!r} is unknown; must be one of {', '.join(names)}")
