"""What Poise raises: every error says in one sentence which argument, which value and what is allowed.

All of them derive from `PoiseError`, so `except poise.PoiseError` catches whatever Poise refuses; each also derives
from the built-in exception a Python programmer would expect there.
"""

from __future__ import annotations


class PoiseError(Exception):
    """Base class of every error that Poise raises on purpose."""


class SettingsError(PoiseError, ValueError):
    """A setting has the wrong name, type or range."""


class UnknownNameError(SettingsError, AttributeError):
    """A module or object has no such name; `hasattr` says so too."""


class InputError(PoiseError, ValueError):
    """Images, labels or a network's output do not have the required shape, type or range."""


class NetworkError(InputError, RuntimeError):
    """A network's own code fails on the images that it is shown, or in the backward pass."""


class NotFiniteError(InputError):
    """A network's logits or gradients are NaN or infinite."""


class DataError(PoiseError, OSError):
    """A data file is missing, truncated, altered or not of the stated format."""


class UntrustedFileError(DataError):
    """A file would run code if it were read, and was not read."""


class CheckpointError(PoiseError, OSError):
    """A checkpoint is damaged, incomplete or belongs to something else."""


class RunError(PoiseError, OSError):
    """A run folder is missing, occupied, or not a run folder."""


class LockedError(RunError):
    """Another process works in the folder; the message says which, as far as it is known."""


class StorageError(PoiseError, OSError):
    """A file cannot be written: no space, a size limit, no permission, or no such place."""


class MissingExtraError(PoiseError, ImportError):
    """An optional dependency is needed; the message holds the line that installs it."""

    def __init__(self, package: str, extra: str, install: str = "") -> None:
        """install: the line, where it is not that of an extra."""
        line = install or f"pip install 'poise[{extra}]'"
        super().__init__(f"{package!r} is needed here and is not installed: {line}")


class Interrupted(PoiseError):
    """Training or an evaluation was asked to stop (SIGINT or SIGTERM) and has saved its state; the message says how to
    go on.
    """


class NumericalError(PoiseError, ArithmeticError):
    """A loss or a weight is no longer finite."""


def did_you_mean(word: str, known: object) -> str:
    """`"; did you mean 'x'?"` for the nearest known word, else the known words, where they are not too many to read."""
    import difflib

    words = sorted(str(name) for name in known)  # type: ignore[attr-defined]
    by_lower_case = {name.lower(): name for name in words}
    near = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {by_lower_case[near[0]]!r}?"
    many = f"; none of the {len(words)} known names is near: poise list"
    return many if len(words) > 60 else f"; known: {', '.join(words)}" if words else ""
