"""The user's own files, executed so that their classes are registered."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poise.core.errors import SettingsError, did_you_mean


def import_files(paths: Sequence[Path] | None) -> dict[str, str]:
    """Execute the user's files; returns the SHA-256 of each, for the record. Raises: SettingsError for a missing
    file.
    """
    if not paths:
        return {}
    from poise.core.code import give_all

    digests = {}
    for path in paths:
        if not path.is_file():
            raise SettingsError(f"--import {path}: there is no such file")
        loaded_from = getattr(sys.modules.get(path.stem), "__file__", None)
        if path.stem in sys.stdlib_module_names or (
            path.stem in sys.modules and Path(loaded_from or "").resolve() != path.resolve()
        ):
            raise SettingsError(f"--import {path}: the name {path.stem!r} is taken by another module; rename the file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise SettingsError(f"--import {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        give_all(module)
        digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def code_of(text: str | None, option: str, digests: dict[str, str]) -> Any:
    """What file.py:NAME or module:NAME stands for, the file executed as by --import, its SHA-256 put into `digests`; a
    word without a colon is left as it is. Raises: SettingsError.
    """
    place, colon, name = (text or "").rpartition(":")
    if not colon:
        return text
    if place.endswith(".py"):
        digests |= import_files([Path(place)])
        module = sys.modules[Path(place).stem]
    else:
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(place)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"{option} {text}: {error}; must be a name, file.py:NAME or module:NAME") from None
        finally:
            sys.path.pop(0)
    if not hasattr(module, name):
        raise SettingsError(f"{option} {text}: {place} has no {name!r}{did_you_mean(name, vars(module))}")
    return getattr(module, name)
