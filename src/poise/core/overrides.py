"""Settings changed by dotted paths, as the command line gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from poise.core.errors import SettingsError, did_you_mean
from poise.core.settings import Settings, families, field_names, from_json, tag_of, to_json

S = TypeVar("S", bound=Settings)


_CALLED = {dict: "an object without a type", list: "a list", str: "a word", type(None): "none", int: "a number", float: "a number"}


class _Nameless(SettingsError):
    """A setting was sought in a bare word, which may be the name of a class that nobody registered."""


def override(base: S, assignments: Mapping[str, str] | list[str]) -> S:
    """`base` with settings replaced by dotted paths: `override(run, ["method.robust=TRADES", "method.robust.beta=6"])`.

    Shorter paths, as written out in full, are applied first, so that a class is chosen before its settings, whatever the order given.
    A class chosen in place of another of its family takes over what that one hands on (see `Settings.hand_on`).
    Values are JSON, fractions ("8/255"), comma-separated lists, or bare words.
    """
    if not isinstance(assignments, Mapping):
        pairs = [_split(assignment) for assignment in assignments]
    else:
        pairs = list(assignments.items())
    data = to_json(base)
    while pairs:
        data = _completed(type(base), data)  # longer paths find what JSON of shorter ones left to defaults
        depths = [_depth(data, path.split(".")) for path, _ in pairs]
        level = [pair for pair, depth in zip(pairs, depths, strict=True) if depth == min(depths)]
        pairs = [pair for pair in pairs if pair not in level]
        for path, text in level:
            try:
                _assign(data, path.split("."), path, _value(text))
            except _Nameless as error:
                from_json(type(base), data)  # says which family has no such class
                raise SettingsError(str(error)) from None
    return base.hand_on(from_json(type(base), data))


def _depth(data: Any, keys: Sequence[str]) -> int:
    """How many steps the path takes in `data`, those among them that lead through transparent settings without being named."""
    if not keys:
        return 0
    owner = _class_of(data := _opened(data))
    through = getattr(owner, "transparent", None)
    if through is not None and owner is not None and keys[0] not in field_names(owner) and through in data:
        return 1 + _depth(data[through], keys)
    if isinstance(data, list):
        inner = data[int(keys[0])] if keys[0].isdigit() and int(keys[0]) < len(data) else None
    else:
        inner = data.get(keys[0]) if isinstance(data, dict) else None
    return 1 + _depth(inner, keys[1:])


def _completed(of: type[Settings], data: Any) -> Any:
    """The same with classes and defaults written out; as it is where it lacks settings that are still to come."""
    try:
        return to_json(from_json(of, data))
    except SettingsError:
        return data


def _split(assignment: str) -> tuple[str, str]:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise SettingsError(f"{assignment!r} is not of the form name.name=value")
    return path.strip(), text.strip()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    if "," in text and not text.startswith(("{", "[")):
        return [_value(part.strip()) for part in text.split(",")]
    return {"none": None, "None": None, "True": True, "False": False}.get(text, text)


def _assign(data: Any, keys: list[str], path: str, value: Any, above: Sequence[str] = ()) -> None:
    """Set `data[keys...] = value` in what `to_json` made, checking names against the classes that the data name.

    above: names that would have been known to the objects through which `data` was reached.
    """
    key, rest = keys[0], keys[1:]
    at: Any = key
    if isinstance(data, list) and key.isdigit() and int(key) < len(data):
        at = int(key)
    else:
        owner = _class_of(data)
        names = field_names(owner) if owner is not None else []
        through = getattr(owner, "transparent", None)
        if key not in names and through is not None:
            data[through] = _opened(data[through])
            _assign(data[through], keys, path, value, [*above, *names])
            return
        if key not in names:
            hint = did_you_mean(key, [*above, *names])
            called = owner.__name__ if owner is not None else _CALLED.get(type(data), "the value")
            kind = _Nameless if isinstance(data, str) else SettingsError
            raise kind(f"there is no setting {path!r}: {called} has no {key!r}{hint}")
    inner: Any = data.get(at) if isinstance(data, dict) else data[at]
    through = getattr(_class_of(inner), "transparent", None)
    if rest:
        data[at] = _opened(inner)
        _assign(data[at], rest, path, value)
    elif through is not None and isinstance(value, str) and value in _relatives(inner[through]):
        inner[through] = _succeeded(inner[through], _relatives(inner[through])[value])
    elif isinstance(value, str) and value in _relatives(inner):
        data[at] = _succeeded(inner, _relatives(inner)[value])
    else:
        data[at] = value


def _class_of(data: Any) -> type | None:
    """The class that a piece of JSON names."""
    name = data.get("type") if isinstance(data, Mapping) else None
    return next((members[name] for members in families().values() if name in members), None)


def _relatives(data: Any) -> Mapping[str, type]:
    """The classes that may stand in the place of this one."""
    return families().get(getattr(_class_of(data), "family", None) or "", {})


def _opened(data: Any) -> Any:
    """A class's bare name as JSON of its defaults; all else as it is."""
    named = _class_of({"type": data}) if isinstance(data, str) else None
    return {"type": data} if named is not None else data


def _succeeded(old: Any, new: type) -> Any:
    """JSON of a new object of another class, with what the old one hands on to it."""
    before = _class_of(old)
    assert before is not None and issubclass(before, Settings)
    try:
        return to_json(from_json(before, old).hand_on(new()))
    except SettingsError:  # either needs settings that are still to come
        return {"type": tag_of(new)}
