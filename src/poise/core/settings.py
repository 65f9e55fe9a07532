"""Settings: frozen, keyword-only dataclasses, validated on construction, that are the whole configuration.

    @settings
    class SGD(Optimizer):
        learning_rate: Positive = 0.1

A *family* is an abstract class whose registered subclasses may stand in one field (`Objective`, `Threat`, ...). In JSON
such a value carries its class: `{"type": "TRADES", "beta": 6.0}`. Tags name registered classes only, so reading
settings never imports.

What is written once stays: digests, records and random draws hold these words, so a class or setting that gets another
name in Python keeps its word in JSON (`tag`, `written`), and a setting that comes later is left out while it has its
default (`newer`).
"""

from __future__ import annotations

import dataclasses
import math
import os
from abc import ABC
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeGuard, TypeVar, dataclass_transform, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass
from pydantic_core import PydanticCustomError, core_schema

from poise.core.documents import parse
from poise.core.errors import SettingsError, did_you_mean
from poise.core.files import read_text
from poise.core.printing import printable

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
_FAMILIES: dict[str, dict[str, type]] = {}
_LONGEST = 180
"""Bytes of a name, of which files have up to 255 with what is added to it."""
_UNDER_CONSTRUCTION: set[type] = set()
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, validate_default=True)


def number(value: object) -> object:
    """Accept `"8/255"` wherever a number is expected; anything else is left to the validator."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a number")
    if isinstance(value, str) and "/" in value:
        above, _, below = value.partition("/")
        try:
            return float(above) / float(below)
        except (ValueError, ZeroDivisionError):
            raise PydanticCustomError("number", "must be a number such as 0.031 or 8/255") from None
    return value


def plain_name(value: str) -> str:
    """What may name a folder or a file: no path, nothing hidden, nothing that no disk or terminal takes."""
    if (
        value in (".", "..")
        or "/" in value
        or "\\" in value
        or printable(value) != value
        or not 0 < len(os.fsencode(value)) <= _LONGEST
    ):
        rule = "must be a plain name of 1 to {longest} bytes, without slashes and control characters"
        raise PydanticCustomError("name", rule, {"longest": _LONGEST})
    return value


Name = Annotated[str, AfterValidator(plain_name)]


def spelled(value: float, digits: int = 4) -> str:
    """A number as papers print it: 8/255 where it is that and no short decimal, else a decimal of so many digits."""
    halves = round(value * 510)
    # a third is a third
    of_pixels = 0 < value <= 1 and math.isclose(halves / 510, value, rel_tol=1e-12) and halves % 170
    return f"{halves / 2:g}/255" if of_pixels and float(f"{value:.4g}") != value else f"{value:.{digits}g}"


def in_pixels(data: Any) -> Any:
    """JSON with "8/255" in place of every number that is exactly that: what is read is the same."""
    if isinstance(data, Mapping):
        return {key: in_pixels(item) for key, item in data.items()}
    if isinstance(data, list):
        return [in_pixels(item) for item in data]
    return word if isinstance(data, float) and "/" in (word := spelled(data)) and number(word) == data else data


def count(value: object) -> object:
    """Refuse booleans wherever a whole number is expected; anything else is left to the validator."""
    if isinstance(value, bool):
        raise PydanticCustomError("count", "must be a whole number")
    return value


def whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


Number = Annotated[float, BeforeValidator(number)]
NonNegative = Annotated[float, BeforeValidator(number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(number), Field(gt=0)]
UnitInterval = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(count), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(count), Field(ge=1)]


class Settings(ABC):
    """Base of all settings. A direct subclass declared with `family="..."` is the abstract class of a family."""

    family: ClassVar[str | None] = None
    transparent: ClassVar[str | None] = None
    """Name of one field through which unknown override paths are looked up (`method.robust.beta` ->
    `method.robust.objective.beta`); where it is a mapping, it takes whatever name is no setting (see `gathered`).
    """
    views: ClassVar[tuple[str, ...]] = ()
    """Names that paths may assign though they are no settings: each stands for several settings (see `viewed`)."""
    tag: ClassVar[str]
    """The word for this class, and none that inherits from it, in JSON, records and draws, where its name is another
    (see `tag_of`).
    """
    aliases: ClassVar[tuple[str, ...]] = ()
    """Further words by which this class, and none that inherits from it, is read."""
    written: ClassVar[Mapping[str, str]] = {}
    """The words in JSON of settings that have another name by now, by that name; both are read."""

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family = family
            _FAMILIES.setdefault(family, {})

    @classmethod
    def gathered(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings given by name; where the class is transparent to a mapping, names of no setting go into it."""
        behind = cls.transparent
        if behind is None or parts_of(cls).get(behind):
            return dict(given)
        rest = {name: item for name, item in given.items() if name not in field_names(cls)}
        plain = {name: item for name, item in given.items() if name not in rest}
        return plain | ({behind: {**plain.get(behind, {}), **rest}} if rest else {})

    @classmethod
    def coerce(cls, value: object) -> object:
        """Turn a convenient stand-in for this class into one, or return it as it is (see `Policy`)."""
        return value

    def hand_on(self, new: Any) -> Any:
        """What takes this object's place under `override`, with what it should keep of this one; by default as it
        is.
        """
        return new

    def viewed(self, views: Mapping[str, Any]) -> Any:
        """This object with its views assigned, by path in JSON. Raises: SettingsError for what they cannot be."""
        raise SettingsError(f"{type(self).__name__} has no view {next(iter(views))!r}")

    def __repr__(self) -> str:
        settings = (f"{name}={_repr(getattr(self, name))}" for name in field_names(type(self)))
        return f"{type(self).__name__}({', '.join(settings)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        if cls in _UNDER_CONSTRUCTION:  # pydantic asks for the fields of the class itself, not of a field typed by it
            return handler(source)
        return core_schema.no_info_plain_validator_function(lambda value: _resolve(cls, value))


def _resolve(cls: type[Settings], value: object) -> object:
    """An instance of `cls` from an instance, a tagged mapping or a bare class name."""
    value = cls.coerce(value)
    if isinstance(value, cls):
        return value
    members = registered(cls)
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError("family", "must be one of {known}", {"known": ", ".join(members) or cls.__name__})
    values = dict(value)
    only = next(iter(members)) if len(members) == 1 else None
    name = values.pop("type", only)
    concrete = called(cls, name) if isinstance(name, str) else None
    if concrete is None:
        facts = {"family": cls.family or cls.__name__, "name": repr(name), "hint": did_you_mean(str(name), members)}
        raise PydanticCustomError("family", "names no registered {family} {name}{hint}", facts)
    present = {word: setting for setting, word in concrete.written.items()}
    values = concrete.gathered({present.get(key, key): item for key, item in values.items()})
    _check_names(concrete, values)
    return concrete(**values)


def _check_names(cls: type[Settings], given: Mapping[str, Any]) -> None:
    """Raises: SettingsError for a name that is no setting of the class."""
    names = field_names(cls)
    for name in (name for name in given if name not in names):
        if name in cls.views:
            raise SettingsError(
                f"{cls.__name__}.{name} is a view, no setting: make it without, then override(it, {{{name!r}: ...}})"
            )
        raise SettingsError(f"{cls.__name__} has no setting {name!r}{did_you_mean(name, names)}")


def _repr(value: object) -> str:
    return str(in_pixels(value)) if isinstance(value, float) else repr(value)


def registered(cls: type[Settings]) -> dict[str, type]:
    """The registered concrete classes that may stand where `cls` is expected, by tag, in order of registration."""
    family = _FAMILIES.get(cls.family or "", {})
    return {name: member for name, member in family.items() if issubclass(member, cls)}


def called(cls: type[Settings], word: str) -> Any:
    """The registered class that `word` names where `cls` is expected: its tag, its name or an alias; None where it
    names none.
    """
    members = registered(cls)
    candidates = (
        member for member in members.values() if word in (member.__name__, *member.__dict__.get("aliases", ()))
    )
    return members[word] if word in members else next(candidates, None)


def tag_of(part: object) -> str:
    """The word for a class, or an object's, in JSON, records and draws: its `tag` where it says one, else its name."""
    cls = part if isinstance(part, type) else type(part)
    return cls.__dict__.get("tag", cls.__name__)


def families() -> dict[str, dict[str, type]]:
    """Every family with its registered classes."""
    return {name: dict(members) for name, members in _FAMILIES.items()}


def field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


@cache
def parts_of(cls: type) -> Mapping[str, tuple[type[Settings], ...]]:
    """For each setting the classes of settings that its annotation names, also inside lists: what may stand there."""
    fields = getattr(cls, "__pydantic_fields__", {})
    return {name: tuple(_classes(field.annotation)) for name, field in fields.items()}


def _classes(annotation: Any) -> Iterator[type[Settings]]:
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, Settings):
        yield origin
    else:
        for part in get_args(annotation):
            yield from _classes(part)


def newer(*, default: T) -> T:
    """A setting that its class got after experiments with it were digested: JSON leaves it out at its default, so their
    groups stay.
    """
    return dataclasses.field(default=default, metadata={"newer": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, newer))
def configurable(cls: type[T]) -> type[T]:
    """Class decorator: a frozen keyword-only dataclass, validated on construction and registered in its family.

    Raises (on construction): SettingsError naming the class, the setting, the value and what is allowed.
    """
    return _enlisted(shared(cls))


settings = configurable
"""The same by its former name."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, newer))
def shared(cls: type[T]) -> type[T]:
    """Class decorator: settings that the classes inheriting from an abstract one have, validated like theirs; it is not
    registered.
    """
    _UNDER_CONSTRUCTION.add(cls)
    try:
        validated: Any = validated_dataclass(frozen=True, kw_only=True, repr=False, config=_CONFIG)(cls)
    finally:
        _UNDER_CONSTRUCTION.discard(cls)
    validate = validated.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = validated.gathered(kwargs)
        if args:
            example = (field_names(validated) or ["..."])[0]
            raise SettingsError(
                f"{validated.__name__} takes keyword arguments only, such as {validated.__name__}({example}=...)"
            )
        _check_names(validated, kwargs)
        try:
            validate(self, **kwargs)
        except ValidationError as error:
            raise SettingsError(_sentence(validated.__name__, error)) from None

    __init__.__wrapped__ = validate  # type: ignore[attr-defined]  # keeps the signature for help() and inspect
    validated.__init__ = __init__
    if "__repr__" not in vars(validated):  # plain dataclasses it inherits from have one that knows but their own fields
        validated.__repr__ = Settings.__repr__
    return validated


def _enlisted(made: Any) -> Any:
    tag, origin = tag_of(made), f"{made.__module__}.{made.__qualname__}"
    if made.family is None:  # alone; whoever else has the name has nothing to do with it
        made.family = origin if any(_origin(cls) != origin for cls in _FAMILIES.get(tag, {}).values()) else tag
        _FAMILIES.setdefault(made.family, {})
    namesake = _FAMILIES[made.family].get(tag)
    if namesake is not None and _origin(namesake) != origin:
        raise SettingsError(f"the name {tag!r} is taken by {_origin(namesake)}; rename the class in {made.__module__}")
    _FAMILIES[made.family][tag] = made
    return made


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _sentence(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join([name, *[str(part) for part in first["loc"]]])
    message = first["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    if first["type"] == "missing":
        return f"{where} is required"
    # the sentence of a nested object; add where it stands
    if first["type"] == "value_error" and " = " in message and first["loc"]:
        inner, at, path = message.removesuffix(")").partition(" (at ")
        return f"{inner} (at {'.'.join([*map(str, first['loc']), *([path] if at else [])])})"
    if first["type"] == "value_error":
        return message if first["loc"] or message.startswith(f"{name}.") else f"{name}: {message}"
    return f"{where} = {first['input']!r}: {message[0].lower() + message[1:]}"


def to_json(value: Any, whole: bool = False) -> Any:
    """Plain JSON data of a settings object; each object carries its class under `"type"`. whole: with newer settings at
    their defaults.
    """
    if isinstance(value, Settings) and dataclasses.is_dataclass(value):
        fields_written = [
            field for field in dataclasses.fields(value) if field.init and (whole or not _left_out(field, value))
        ]
        words = {field.name: type(value).written.get(field.name, field.name) for field in fields_written}
        return {"type": tag_of(value)} | {word: to_json(getattr(value, name), whole) for name, word in words.items()}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, whole) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SettingsError(f"{value!r} of type {type(value).__name__} cannot be written as a setting")


def _left_out(field: dataclasses.Field[Any], value: Settings) -> bool:
    return "newer" in field.metadata and getattr(value, field.name) == field.default


def from_json(cls: type[S], data: object) -> S:
    """The settings object that `data`, made by `to_json` or written by hand, describes.

    Raises: SettingsError for an unknown class, setting, type or range.
    """
    try:
        return _resolve(cls, data)  # type: ignore[return-value]
    except PydanticCustomError as error:
        raise SettingsError(f"{cls.__name__} {error.message()}") from None


def read_json(cls: type[S], text: str, origin: str) -> S:
    """`from_json` of a JSON text; `origin` names it in the error."""
    try:
        data = parse(text)
    except ValueError as error:
        raise SettingsError(f"{origin} is not JSON: {error}") from None
    return from_json(cls, data)


def read_file(cls: type[S], path: Path) -> S:
    """`from_json` of a JSON file. Raises: SettingsError naming the file when it is missing, damaged or not such
    settings.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise SettingsError(f"there is no settings file {path}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error}") from None
    return read_json(cls, text, str(path))
