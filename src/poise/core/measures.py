"""What a record's notes hold as plain JSON: measures of experts and under corruptions, and the types of everything that
readers know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poise.core.documents import typed

MEASURED, FELL_FROM = "overfitting/pgd-10", "overfitting/fell from"
"""What lines of metrics call the accuracy by which a run is watched and, where it fell suddenly, the epoch's before."""


@dataclass(frozen=True)
class Choice:
    """How well the experts' own confidence chooses among them; all are shares of the examples, in [0, 1].

    right: the chosen expert is right; best: it is the one of lowest loss; missed: it is wrong although another is
    right;
    won: how often each expert is chosen, which sums to 1.
    """

    right: float
    best: float
    missed: float
    won: tuple[float, ...]


@dataclass(frozen=True)
class EnsembleMeasures:
    """Measures of several experts on the same images; all are shares of the examples, in [0, 1].

    members: each expert's accuracy; overlap: share fooled in every expert, so that no choice whatever could be right;
    oracle: accuracy of the true best expert, that of lowest cross-entropy (Cui et al. 2022, Definition 1);
    best: how often each expert is that one; accuracy: of the whole; choice: None where nothing is chosen.

    oracle <= 1 - overlap. With three classes or more the two can differ: an expert may be right with less probability
    on the true class than another has that is wrong.
    """

    members: tuple[float, ...]
    overlap: float
    oracle: float
    best: tuple[float, ...]
    accuracy: float
    choice: Choice | None


@dataclass(frozen=True)
class CorruptionAccuracy:
    """accuracies[corruption]: for the severities 1 to 5, in [0, 1]; images: of each of the 75; folder: its name; mean:
    over all 75.
    """

    accuracies: dict[str, list[float]]
    images: int
    folder: str
    mean: float


_ROW: dict[str, Any] = {
    "table": str,
    "row": str,
    "note": str,
    "runs": int | None,
    "plus_minus": str | None,
    "columns": dict[str, float],
    "spread": dict[str, float | None],
    "measured": dict[str, list[dict[str, Any]]] | None,
}
_NOTES: dict[str, Any] = {
    "epoch": int,
    "selection": str,
    "data": list[str],
    "images": str,
    "weights": str,
    "protocol": str,
    "tested_on": str,
    "trained_in": str,
    "experts": EnsembleMeasures | None,
    "corruptions": CorruptionAccuracy,
    "ensemble": dict[str, Any],
    "placement": dict[str, Any],
    "placements": list[dict[str, Any]],
    "theory": dict[str, Any],
    "published": dict[str, Any],
    "also_published": list[dict[str, Any]],
}
_ATTACK_NOTES: dict[str, Any] = {
    "experts": EnsembleMeasures | None,
    "components": list[str],
    "survivors": list[int],
    "seconds": list[float],
    "broken_by": list[int],
    "rules": list[str],
    "search": str,
    "from": str,
    "run_on": int,
    "third_party": str,
}


def check_notes(notes: Mapping[str, Any], attacks: list[Mapping[str, Any]]) -> None:
    """What readers know of a record's notes and of its attacks' has the type that they take it for. Raises:
    ValueError.
    """
    _check(_NOTES, notes, "notes")
    for row in (notes.get("published", {}), *notes.get("also_published", ())):
        _check(_ROW, row, "notes.published")
    for place, attack_notes in enumerate(attacks):
        _check(_ATTACK_NOTES, attack_notes, f"attacks[{place}].notes")


def _check(kinds: Mapping[str, Any], notes: Mapping[str, Any], where: str) -> None:
    for name in kinds.keys() & notes.keys():
        typed(kinds[name], notes[name], f"{where}.{name}")
