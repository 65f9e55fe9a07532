"""Functions and classes that a program gives by themselves: settings name them and hold a digest of their source, never
the code.

Reading settings imports nothing. Whoever goes on gives the same code again, by the same call or by --import, and it is
told by its source whether it is the same.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

from poise.core.errors import SettingsError
from poise.core.settings import Settings, settings

_GIVEN: dict[str, list[tuple[Code, Callable[..., Any]]]] = {}


@settings
class Code(Settings):
    """A function or class by its name and the SHA-256 of its source, of which the first 16 digits are kept."""

    name: str
    digest: str

    def find(self, purpose: str) -> Callable[..., Any]:
        """What was given under this name with this source. Raises: SettingsError where nothing was, or only something
        else.
        """
        sources = _GIVEN.get(self.name, [])
        if (found := next((code for source, code in sources if source == self), None)) is not None:
            return found
        if sources:
            raise SettingsError(
                f"{self.name}, {purpose}, has another source now than when the run was begun (SHA-256 {self.digest})"
            )
        again = "go on by the same call, or by --import with the file that it is in"
        raise SettingsError(
            f"{self.name}, {purpose}, was given by the program that began the run, and settings import nothing: {again}"
        )


def given(part: Callable[..., Any]) -> Code:
    """The code under which a function or class can be found in this process from now on."""
    name = getattr(part, "__name__", type(part).__name__)
    code = Code(name=name, digest=hashlib.sha256(_source(part).encode()).hexdigest()[:16])
    entries = [entry for entry in _GIVEN.get(name, []) if entry[0] != code]
    _GIVEN[name] = [*entries, (code, part)]
    return code


def give_all(module: ModuleType) -> None:
    """Make known what a user's file defines by itself."""
    for part in list(vars(module).values()):
        if (inspect.isfunction(part) or inspect.isclass(part)) and part.__module__ == module.__name__:
            given(part)


def doubts(part: object) -> str:
    """Why the source of a function doesn't say all that it does, as the end of a sentence; empty where it does."""
    name = getattr(part, "__name__", type(part).__name__)
    if closure := getattr(part, "__closure__", None):
        names = ", ".join(getattr(part, "__code__").co_freevars[: len(closure)])  # noqa: B009  functions only
        return f"{name} closes over {names}"
    if name == "<lambda>":
        return "a lambda has no name and no source of its own"
    if not (inspect.isfunction(part) or inspect.isclass(part)):
        return f"{name} is an object, whose state is no part of its source"
    return "" if _has_source(part) else f"the source of {name} cannot be read"


def in_doubt(part: Any) -> Iterator[str]:
    """`doubts` of all code in settings that was given in this process."""
    if isinstance(part, Code):
        yield from filter(None, (doubts(code) for source, code in _GIVEN.get(part.name, []) if source == part))
    elif isinstance(part, Settings):
        for value in vars(part).values():
            yield from in_doubt(value)
    elif isinstance(part, tuple):
        for item in part:
            yield from in_doubt(item)


def _source(part: Any) -> str:
    if _has_source(part) and getattr(part, "__name__", "") != "<lambda>":
        return textwrap.dedent(inspect.getsource(part))
    code = getattr(part, "__code__", None)
    return _instructions(code) if code is not None else f"{type(part).__module__}.{type(part).__qualname__}"


def _has_source(part: Any) -> bool:
    try:
        inspect.getsource(part)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # the last two: a file that is not its source
        return False
    return True


def _instructions(code: CodeType) -> str:
    constants = [_instructions(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return "\n".join([code.co_code.hex(), *constants, *code.co_names, *code.co_varnames])
