"""What a package's front page exports exists, is documented, and says where it comes from."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest

import poise
import poise.recipes  # registers every class
from poise.core.papers import Paper
from poise.core.settings import families, from_json, to_json

PACKAGES = [
    "attacks",
    "data",
    "engine",
    "evaluation",
    "learners",
    "methods",
    "models",
    "objectives",
    "recipes",
    "reports",
]
CITED = ("method", "objective", "attack", "perturbation", "average")


def registered() -> list[tuple[str, type]]:
    ours = [(family, cls) for family, members in families().items() for cls in members.values()]
    return [(family, cls) for family, cls in ours if cls.__module__.startswith("poise.")]


def test_every_name_of_the_front_page_can_be_had():
    for name in poise.__all__:
        assert getattr(poise, name) is not None
    assert sorted(poise.__all__) == sorted(set(poise.__all__))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        poise.nothing  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_exports_exist_and_are_documented(name):
    module = importlib.import_module(f"poise.{name}")
    for exported in module.__all__:
        member = getattr(module, exported)
        if inspect.isclass(member) or inspect.isfunction(member):
            assert inspect.getdoc(member), f"poise.{name}.{exported} has no docstring"


@pytest.mark.parametrize(
    ("family", "cls"), registered(), ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_registered_classes_say_what_they_are_and_whose(family, cls):
    line = (inspect.getdoc(cls) or "").splitlines()[0]
    assert len(line) > 10
    assert not line.startswith(f"{cls.__name__}(")  # not the signature that dataclasses put there
    if family in CITED:
        assert isinstance(cls.paper, Paper)


def defaults(cls: type) -> object | None:
    """An instance with default settings, or None where a setting is required."""
    try:
        return cls()
    except poise.PoiseError:
        return None


@pytest.mark.parametrize(
    ("family", "cls"), registered(), ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_settings_survive_json(family, cls):
    made = defaults(cls)
    if made is None:
        required = [
            each.name for each in dataclasses.fields(cls) if each.default is each.default_factory is dataclasses.MISSING
        ]
        assert required, f"{cls.__name__} cannot be made with its defaults"
        return
    data = to_json(made)
    assert data["type"] == cls.__name__
    assert from_json(cls, data) == made
