"""What is compared in a cross-validation, and what papers claim of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from poise.data.digits import FOLDS
from poise.evaluation import Protocol

AUTOATTACK = "AutoAttack"
"""The column of what a suite's second protocol leaves; without one, that of the attack."""


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper claims: `better` above `worse` in a column of the page."""

    better: str
    worse: str
    column: str
    source: str


@dataclass(frozen=True)
class Trend:
    """What a paper says, in words, of one setting's values: the recipes in the setting's order, judged by a column."""

    name: str
    recipes: tuple[str, ...]
    claim: str
    column: str
    source: str


@dataclass(frozen=True)
class Suite:
    """Recipes compared under a protocol; every other recipe is compared with `baseline`."""

    recipes: tuple[str, ...]
    baseline: str
    protocol: Protocol
    """For all images; the worst case is over its attacks."""
    second: Protocol | None = None
    """A costlier one, such as AutoAttack on the first images of every fold; its worst case is a column of its own."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further columns: heading -> beginnings of the names of attacks, of which an image must stand all."""
    claims: tuple[Claim, ...] = ()
    trends: tuple[Trend, ...] = ()
    settings: tuple[str, ...] = ()
    """Overrides of every recipe."""
    folds: int = FOLDS
    """1: no folds, the data set's own test images."""
    seeds: int = 3
    experts: tuple[str, ...] = ()
    """NATURAL and names of attacks, on whose images the page says how the experts inside the networks did."""

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return (self.protocol,) if self.second is None else (self.protocol, self.second)

    def overrides(self, fold: int, seed: int) -> list[str]:
        return [*([f"data.fold={fold}"] if self.folds > 1 else []), f"seed={seed}", *self.settings]
