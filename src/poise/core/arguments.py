"""Arguments of a class of another library, given by name: checked against what that class takes, kept as a setting."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from poise.core.errors import SettingsError, did_you_mean
from poise.core.settings import number


class _Frozen(dict[str, Any]):
    """A dictionary that settings may hold: equal ones have one hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


def _frozen(value: object) -> object:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("arguments", "must be arguments by name")
    return _Frozen({str(name): _plain(item) for name, item in value.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if not isinstance(value, str) or "/" in value:
        return value if isinstance(value, bool) else number(value)
    try:
        return float(value)  # as typed: .9
    except ValueError:
        return value


Arguments = Annotated[Mapping[str, Any], PlainValidator(_frozen)]
"""Arguments by name: numbers, fractions such as "1/2", truth values, words, and lists of these."""
NONE = _Frozen()


def check_arguments(
    owner: str, kind: type, given: Mapping[str, Any], own: Mapping[str, str], filled: tuple[str, ...] = ()
) -> None:
    """Whether a class of torch's takes these arguments.

    owner: what the sentence begins with; own: arguments that are not to be given, with the reason; filled: those that
    may be left out though the class insists on them. Raises: SettingsError.
    """
    parameters = dict(list(inspect.signature(kind).parameters.items())[1:])  # the first is what it works on
    names_allowed = [name for name in parameters if name not in own]
    owner_text, takes = f"{owner}.name = {kind.__name__!r}", f"it takes {', '.join(names_allowed) or 'none'}"
    for name, value in given.items():
        if name in own:
            raise SettingsError(f"{owner_text}: {name} is not to be given, as {own[name]}; {takes}")
        if name not in parameters:
            near = did_you_mean(name, names_allowed).partition("; known")[0]
            raise SettingsError(f"{owner_text}: it has no argument {name!r}{near}; {takes}")
        if problem := _unfit(value, parameters[name]):
            raise SettingsError(f"{owner}.{name} = {value!r}: must be {problem}")
    for name in names_allowed:
        if parameters[name].default is inspect.Parameter.empty and name not in given and name not in filled:
            raise SettingsError(f"{owner_text}: the argument {name} is missing; {takes}")


def _unfit(value: Any, parameter: inspect.Parameter) -> str:
    """What the value must be, in words; empty where it is that."""
    default, annotation = parameter.default, str(parameter.annotation)
    if default is None and value is None:
        return ""
    if isinstance(default, bool | str):
        kind = type(default)
        return "" if isinstance(value, kind) else "true or false" if kind is bool else "a word"
    if "Iterable" in annotation:
        return "" if isinstance(value, tuple) and all(map(_whole, value)) else "a list of whole numbers from 0"
    if isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default)
        fits = fits and all(_like(item, old) or item is old is None for item, old in zip(value, default, strict=True))
        return "" if fits else f"a list of {len(default)} numbers"
    if "int" in annotation and "float" not in annotation:
        return "" if _whole(value) and value > 0 else "a whole number from 1"
    return "" if _like(value, default) else f"a finite number{'' if _sign(default) < 0 else ' that is at least 0'}"


def _like(value: Any, default: Any) -> bool:
    """Whether it is a number that may be negative only where the default is."""
    return _number(value) and (value >= 0 or _sign(default) < 0)


def _sign(value: Any) -> float:
    return value if _number(value) else 0.0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def class_named(
    module: Any, owner: str, word: str, allowed: tuple[str, ...], refused: Mapping[str, str], base: type
) -> type:
    """The class of torch's that a word names. Raises: SettingsError for one that is refused, with the reason, or that
    nobody knows.
    """
    if word in refused:
        raise SettingsError(f"{owner}.name = {word!r}: {refused[word]}; must be one of {', '.join(allowed)}")
    kind = getattr(module, word, None) if word in allowed else None
    if kind is None and isinstance(candidate := getattr(module, word, None), type) and issubclass(candidate, base):
        raise SettingsError(f"{owner}.name = {word!r}: it was never tried here; must be one of {', '.join(allowed)}")
    if kind is None:
        raise SettingsError(f"{owner}.name = {word!r} is unknown to this torch{did_you_mean(word, allowed)}")
    return kind
