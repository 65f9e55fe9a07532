"""JSON documents: with a digest of their content, which tells damage, and with the types of their fields checked on
reading.

Everything here raises ValueError with a clause that says what is wrong; whoever knows the file puts its name before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from poise.core.errors import RunError
from poise.core.files import read_bytes, read_text

_DIGITS = 300
"""More in a whole number, and no float holds it."""
_DEPTH = 100
_SHOWN = 40
_LONG = re.compile(rf"[0-9]{{{_DIGITS + 1}}}")
_LINE: dict[str, Any] = {"key": "digest_with_seconds", "length": 12}


def parse(text: str) -> Any:
    """JSON data. Raises: ValueError for whatever is none: nested too deeply, with half a character or with a number
    beyond all floats.
    """
    try:
        # the check of every number is called only where one may fail, as records hold very many
        data = json.loads(text, parse_int=_whole) if _LONG.search(text) else json.loads(text)
        _check_depth(data, _DEPTH)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:  # may be half a character, which no file holds
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _check_depth(data: object, left: int) -> None:
    if left == 0:
        raise RecursionError
    parts = list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else []
    if {dict, list}.isdisjoint(map(type, parts)):  # labels, of which there are many
        return
    for part in parts:
        if type(part) in (dict, list):
            _check_depth(part, left - 1)


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)


def digest_of_content(content: Any) -> str:
    """SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_text_of(text: str, digest: str) -> bool:
    """Whether settings have the SHA-256 `digest` of their text as it was written, though they may have been laid out
    otherwise since.
    """
    with contextlib.suppress(ValueError):
        return digest in (
            hashlib.sha256(form.encode()).hexdigest() for form in (text, json.dumps(parse(text), indent=1))
        )
    return False


def sealed(content: Mapping[str, Any], key: str = "sha256", length: int = 64) -> dict[str, Any]:
    """The content with its digest under `key`, of which `length` digits are kept."""
    plain = json.loads(json.dumps(dict(content)))  # keys are text and tuples lists, as they will be read
    return {**plain, key: digest_of_content(plain)[:length]}


def opened(document: object, key: str = "sha256", length: int = 64, *, required: bool = True) -> dict[str, Any]:
    """The content of what `sealed` made, without its digest. required: whether it must have one, or may be from before
    there were any.

    Raises: ValueError for another digest than its own, or none, or no JSON object.
    """
    content = {name: value for name, value in _object(document, "").items() if name != key}
    entry = _object(document, "").get(key)
    if entry is None and required:
        raise ValueError(f"its {key} is missing")
    if entry is not None and entry != digest_of_content(content)[:length]:
        raise ValueError(f"its {key} is not the digest of what it says")
    return content


def read_document(path: Path, what: str) -> Any:
    """The JSON data in a file. Raises: RunError that names `what` it should be when the file is missing, damaged or no
    JSON.
    """
    try:
        return parse(read_text(path))
    except FileNotFoundError:
        raise RunError(f"there is no {what} {path}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as {article(what)}: {error}") from None


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def typed(kind: Any, data: object, where: str = "") -> Any:
    """JSON data as a value of a type: a dataclass, list, dict, union or literal of such, text, truth value, or finite
    number.

    Raises: ValueError that names the first part with another type, a field that is missing or one that is not known.
    """
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return None if data is None and len(members) < len(arguments) else typed(members[0], data, where)
    if origin is Literal:
        if type(data) is not str or data not in arguments:
            raise ValueError(f"{where} is {shown(data)}, must be one of {', '.join(map(repr, arguments))}")
        return data
    if origin is list:
        return _list(arguments[0], data, where)
    if origin is tuple:  # of any length
        return tuple(_list(arguments[0], list(data) if isinstance(data, tuple) else data, where))
    if origin is dict:
        return {key: typed(arguments[1], value, f"{where}[{key!r}]") for key, value in _object(data, where).items()}
    if kind is float:
        _expect(type(data) in (int, float) and math.isfinite(data), data, where, "a finite number")  # type: ignore[arg-type]
        return data
    names = {int: "a whole number", str: "a text", bool: "true or false"}
    _expect(type(data) is kind and (kind is not int or abs(data) < 2**63), data, where, names[kind])  # type: ignore[arg-type]
    return data


def _dataclass(kind: type, data: object, where: str) -> Any:
    fields_given, before = _object(data, where), f"{where}." if where else ""
    hints, fields = get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [name for name in fields_given if name not in fields]:
        raise ValueError(f"{before}{unknown[0][:_SHOWN]} is not known")
    for name, field in fields.items():
        if (
            name not in fields_given
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ValueError(f"{before}{name} is missing")
    return kind(**{name: typed(hints[name], value, f"{before}{name}") for name, value in fields_given.items()})


def _object(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where or 'it'} is {shown(data)}, must be a JSON object")
    return cast(dict[str, Any], data)


def _list(kind: Any, data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"{where} is {shown(data)}, must be a list")
    # labels, of which there are many
    if kind is int and set(map(type, data)) == {int} and min(data) > -(2**63) and max(data) < 2**63:
        return data
    return [typed(kind, value, f"{where}[{place}]") for place, value in enumerate(data)]


def _expect(right: bool, data: object, where: str, wanted: str) -> None:
    if not right:
        raise ValueError(f"{where or 'it'} is {shown(data)}, must be {wanted}")


def shown(data: object) -> str:
    """A piece of JSON data in an error, cut short."""
    text = repr(data)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def line_of(entry: Mapping[str, Any]) -> str:
    """A JSON object as one line of a file that grows, with a short digest of its own."""
    return json.dumps(sealed(entry, **_LINE))


def lines_in(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON objects of a file of lines, and for each damaged line a clause that names it. Nothing where there is no
    file.

    The last line may be cut off, as it is while a process writes or was killed. Lines from before there were digests
    have none.
    Raises: RunError for a file that cannot be read.
    """
    if not path.exists():
        return [], []
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    entries: list[dict[str, Any]] = []
    bad_lines: list[str] = []
    with_digests = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = parse(line.decode())
            entries.append(_counted(opened(document, **_LINE, required=with_digests)))
            with_digests |= _LINE["key"] in document
        except ValueError as error:
            if number < len(lines) or _whole_object(line):
                bad_lines.append(f"line {number}: {error}")
    return entries, bad_lines


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The entries of `lines_in`. Raises: RunError for a file that cannot be read or has a damaged line."""
    entries, bad_lines = lines_in(Path(path))
    if bad_lines:
        raise RunError(f"{path} is damaged at {bad_lines[0]}")
    return entries


def _counted(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry. Raises: ValueError where what it counts by is no whole number."""
    for name in ("epoch", "step"):
        typed(int | None, entry.get(name), name)
    return entry


def _whole_object(line: bytes) -> bool:
    """Whether a line that cannot be read holds all of an object, so that it was not cut off but damaged."""
    try:
        json.JSONDecoder().raw_decode(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    return True
