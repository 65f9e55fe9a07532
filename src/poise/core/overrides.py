"""Settings changed by dotted paths, as the command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from poise.core.documents import parse
from poise.core.errors import SettingsError
from poise.core.places import (
    Classes,
    class_named,
    class_of,
    depth,
    hint,
    inside,
    opened,
    parts_at,
    seen_through,
    words_of,
)
from poise.core.settings import Settings, called, from_json, tag_of, to_json

S = TypeVar("S", bound=Settings)

_CALLED = {
    dict: "an object without a type",
    list: "a list",
    str: "a word",
    type(None): "none",
    int: "a number",
    float: "a number",
}


class _Nameless(SettingsError):
    """A setting was sought in a bare word, which may be the name of a class that nobody registered."""


def override(base: S, assignments: Mapping[str, Any] | Sequence[str]) -> S:
    """`base` with settings replaced by dotted paths: `override(run, ["method.robust=TRADES", "method.robust.beta=6"])`.

    Shorter paths, as written out in full, are applied first, so that a class is chosen before its settings, whatever
    the order given. A class chosen in place of another of its family takes over what that one hands on (see `hand_on`).
    Views of the whole (`views`, such as an experiment's `epsilon`) come after paths of one step and before all longer
    ones. Text is JSON, fractions ("8/255"), comma-separated lists, or bare words; in a mapping, values may also be
    numbers, booleans, None, lists, paths, settings, or classes of settings.

    Raises: SettingsError naming the path and the nearest ones at any depth, or the value and what is allowed.
    """
    if not isinstance(assignments, Mapping):
        assignments = dict(_split(assignment) for assignment in assignments)
    values = {
        path: _value(value) if isinstance(value, str) else _plain(value, path) for path, value in assignments.items()
    }
    views = {path: values.pop(path) for path in list(values) if path.split(".")[0] in base.views}
    data, root = to_json(base, whole=True), type(base)
    while values or views:
        data = _completed(root, data)  # longer paths find what JSON of shorter ones left to defaults
        steps = {path: depth(data, (root,), path.split(".")) for path in values}
        first = min(steps.values(), default=0)
        if views and first != 1 and (root_viewed := _viewed(root, data, views, last=not values)) is not None:
            data, views = root_viewed, {}
            continue
        for path in [path for path in values if steps[path] == first]:
            try:
                _assign(data, root, path.split("."), values.pop(path))
            except _Nameless as error:
                from_json(root, data)  # says which family has no such class
                raise SettingsError(str(error)) from None
    result = from_json(root, data)
    return _as_given(
        base.hand_on(result), result, [path for path in assignments if "." not in path and path not in base.views]
    )


def _as_given(handed_on: S, made: S, names: Sequence[str]) -> S:
    """What was handed on, with the settings of these names, which were given themselves, as they were given."""
    values: Any = {
        name: getattr(made, name) for name in names if getattr(handed_on, name, None) != getattr(made, name, None)
    }
    return dataclasses.replace(handed_on, **values) if values else handed_on  # type: ignore[type-var]


def _viewed(root: type[Settings], data: Any, views: Mapping[str, Any], last: bool) -> Any:
    """The data with views assigned; None where settings are still to come without which the others don't fit."""
    try:
        whole = from_json(root, data)
    except SettingsError:
        if last:
            raise
        return None
    return to_json(whole.viewed(views), whole=True)


def _completed(of: type[Settings], data: Any) -> Any:
    """The same with classes and defaults written out; as it is where it lacks settings that are still to come."""
    try:
        return to_json(from_json(of, data), whole=True)
    except SettingsError:
        return data


def _split(assignment: str) -> tuple[str, str]:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise SettingsError(f"{assignment!r} is not of the form name.name=value")
    return path.strip(), text.strip()


def _value(text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        pass
    if "," in text and not text.startswith(("{", "[")):
        return [_value(part.strip()) for part in text.split(",")]
    return {"none": None, "None": None, "True": True, "False": False}.get(text, text)


def _plain(value: Any, path: str) -> Any:
    """What a program gives as a setting, as JSON. Raises: SettingsError for what is none, such as NaN."""
    if isinstance(value, type) and issubclass(value, Settings):
        return tag_of(value)
    if isinstance(value, PurePath):
        return str(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy's or torch's
        value = value.item()
    try:
        return to_json(value, whole=True)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _assign(data: Any, root: type[Settings], keys: list[str], value: Any) -> None:
    """Set `data[keys...] = value` in JSON of a `root`, checking names against the classes that the data name."""
    whole, classes, at = data, (root,), 0
    near: list[str] = []
    while True:
        key, owner = keys[at], class_of(data, classes)
        near = [*near, *words_of(owner)]
        if owner is not None and (through := seen_through(owner, key)) is not None:
            classes = parts_at(owner, through)
            data[through] = opened(data.get(through), classes)
            data = data[through]
            continue
        step = inside(data, classes, key)
        if step is None:
            kind = _Nameless if isinstance(data, str) else SettingsError
            owner_name = owner.__name__ if owner is not None else _CALLED.get(type(data), "the value")
            raise kind(
                f"there is no setting {'.'.join(keys)!r}: {owner_name} has no"
                f" {key!r}{hint(whole, root, keys, at, near)}"
            )
        word, classes = step
        if at + 1 == len(keys):
            data[word] = _replaced(data[word] if isinstance(data, list) else data.get(word), classes, value)
            return
        data[word] = opened(data[word] if isinstance(data, list) else data.get(word), classes)
        data, at, near = data[word], at + 1, []


def _replaced(old: Any, classes: Classes, value: Any) -> Any:
    """What stands in a place where `value` is put: a class that is only named takes over what the old one hands on."""
    before = class_of(old, classes)
    if before is None or not isinstance(value, str):
        return value
    if (new := next((cls for cls in (called(cls, value) for cls in classes) if cls is not None), None)) is not None:
        return _succeeded(before, old, new)
    if before.transparent and (behind := class_named(value, parts_at(before, before.transparent))) is not None:
        inner = old[before.transparent]
        owner = class_of(inner, parts_at(before, before.transparent))
        return old if owner is None else {**old, before.transparent: _succeeded(owner, inner, behind)}
    return value


def _succeeded(before: type[Settings], old: Any, new: type[Settings]) -> Any:
    """JSON of a new object of another class, with what the old one hands on to it."""
    try:
        return to_json(from_json(before, old).hand_on(new()), whole=True)
    except SettingsError:  # either needs settings that are still to come
        return {"type": tag_of(new)}
