"""What every tracker answers, whatever program shows it."""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from poise.core.errors import MissingExtraError, SettingsError, did_you_mean

Point = tuple[str, float, int]
"""A number of a curve: its tag, its value, the step."""
_KINDS: dict[str, type[Tracker]] = {}


@dataclass(frozen=True)
class Identity:
    """A run as trackers know it. key: the same for one run whenever and wherever it goes on, and no other's."""

    name: str
    key: str
    folder: Path
    group: str
    seed: int
    settings: Mapping[str, Any]
    """As JSON, by dotted paths."""


class Tracker(ABC):
    """One program's store of curves. A run that is opened again is gone on with where it stands there.

    place: where the store is, in the program's own words; empty for its usual one. No secret is asked for, kept or
    written: each program finds its own.
    """

    word: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """What it needs, as it is imported."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.word] = cls

    def __init__(self, place: str = "") -> None:
        self.place = place
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, self.word)

    @abstractmethod
    def open(self, run: Identity) -> None:
        """Begin with the run, or go on with what is there of it, its settings beside it."""

    @abstractmethod
    def known(self) -> Mapping[str, set[int]]:
        """The steps that each tag has there already."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Put these down for good: what `known` tells afterwards holds them."""

    @abstractmethod
    def results(self, columns: Mapping[str, float], table: str, step: int) -> None:
        """The columns of the run's records at its last step, and all of them as a table in Markdown."""

    @abstractmethod
    def page(self, file: Path) -> None:
        """The run's page, an HTML file."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Nothing more comes for now; finished: nor later."""


def tracker(text: str) -> Tracker:
    """The tracker that is typed as KIND or KIND:PLACE. Raises: SettingsError for an unknown kind, MissingExtraError."""
    word, _, place = text.partition(":")
    if word not in _KINDS:
        raise SettingsError(f"tracker {text!r}: there is no kind {word!r}{did_you_mean(word, _KINDS)}")
    return _KINDS[word](place)


def plain(tag: str) -> str:
    """A tag in the letters that every program takes."""
    return re.sub(r"[^\w\-. :/]", "_", tag, flags=re.ASCII)
