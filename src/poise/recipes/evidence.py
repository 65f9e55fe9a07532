"""What is known of recipes' accuracies: rows that papers print, and what Poise's own benchmarks measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from poise.engine.experiment import Experiment

_NO_ATTACKS = ("natural", "corruptions", "soe-transfer-3", "soe-transfer-30")
_STRONGEST = ("AutoAttack", "AA")


@dataclass(frozen=True)
class Evidence:
    """Natural and robust accuracy in percent; column: the attack behind the latter; source: where the numbers stand."""

    natural: float
    robust: float
    column: str
    source: str

    @property
    def strong(self) -> bool:
        """Whether the robust accuracy is AutoAttack's; others are upper bounds of it."""
        return self.column in _STRONGEST


@cache
def measured() -> dict[str, list[dict[str, Any]]]:
    """Rows of benchmarks/results by recipe, as `make docs` reads them."""
    return json.loads((files("poise.recipes") / "evidence.json").read_text())


def evidence_of(name: str, experiment: Experiment) -> list[Evidence]:
    """What is known of a recipe's experiment, our own measurements first."""
    evidence = [Evidence(**row) for row in measured().get(name, [])]
    row = experiment.published
    if row is not None:
        values = {column: value for column, value in zip(row.columns, row.values, strict=True) if value is not None}
        attacks = {column: value for column, value in values.items() if column not in _NO_ATTACKS}
        if "natural" in values and attacks:
            column = next(
                (each for each in _STRONGEST if each in attacks), min(attacks, key=lambda each: attacks[each])
            )
            evidence.append(Evidence(values["natural"], attacks[column], column, f"published: {row.table}, {row.row}"))
    return evidence
