"""Rows of papers: whose experiment a row is, what its columns were measured by, and how an experiment is called that
has left its row.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from poise.attacks import AutoAttack
from poise.core import identity
from poise.core.errors import SettingsError
from poise.core.settings import Number, PositiveCount, Settings, newer, settings, to_json
from poise.core.wording import plain, told_apart
from poise.evaluation import Protocol

if TYPE_CHECKING:
    from poise.engine.experiment import Experiment

PlusMinus = Literal["standard deviation", "95 % interval", "not stated"]


@settings
class Published(Settings):
    """A row of a paper's table, in percent, that this experiment is meant to reproduce."""

    table: str = ""
    row: str = ""
    columns: tuple[str, ...] = ()
    values: tuple[Number | None, ...] = ()
    spread: tuple[Number | None, ...] = ()
    """Printed plus-minus per column, None where it cannot be read; empty when the paper prints none."""
    runs: PositiveCount | None = None
    note: str = ""
    plus_minus: PlusMinus = newer(default="standard deviation")
    """What the printed plus-minus is."""
    protocol: Protocol | None = newer(default=None)
    """What the columns were measured by; None: what the experiment itself is evaluated by."""
    of: str = newer(default="")
    """Of the experiment whose row this is, its `fingerprint`: of a changed one it is no row. Empty: of whatever carries
    it.
    """

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.values) or len(self.spread) not in (0, len(self.values)):
            raise SettingsError(f"Published.values has {len(self.values)} entries for {len(self.columns)} columns")

    def measured(self, protocol: Protocol) -> dict[str, list[dict[str, Any]]]:
        """{column: the settings of the attack that it is about}; of several the column is the strongest one as a whole.

        protocol: the experiment's own. Columns without an attack there, such as natural accuracy, are left out.
        """
        attacks = (self.protocol or protocol).attacks
        measurements = {}
        for column in self.columns:
            exact = [
                attack
                for attack in attacks
                if attack.name == column or (column == "AA" and isinstance(attack, AutoAttack))
            ]
            forms = exact or [attack for attack in attacks if attack.name.startswith(f"{column}-")]
            measurements[column] = [to_json(attack) for attack in forms]
        return {column: forms for column, forms in measurements.items() if forms}

    def told(self, protocol: Protocol) -> dict[str, Any]:
        """The row as records have it. protocol: the experiment's own."""
        columns = {name: value for name, value in zip(self.columns, self.values, strict=True) if value is not None}
        about = {
            "table": self.table,
            "row": self.row,
            "runs": self.runs,
            "note": self.note,
            "plus_minus": self.plus_minus,
        }
        spread = dict(zip(self.columns, self.spread, strict=False))
        return {**about, "columns": columns, "spread": spread, "measured": self.measured(protocol)}


# -- whose it is -----------------------------------------------------------------------------------------------------


def definition(experiment: Experiment) -> dict[str, Any]:
    """What makes the experiment this one and no other (see `core.identity`)."""
    return identity.definition(to_json(experiment))


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint(experiment: Experiment) -> str:
    """Of the experiment's definition and of what it is evaluated by."""
    return f"{_digest(definition(experiment))}-{_digest([to_json(attack) for attack in experiment.protocol.attacks])}"


def belongs(row: Published, experiment: Experiment) -> bool:
    """Whether the row is the experiment's as it is now, so that its numbers may stand beside what it measures."""
    method_trained, _, method_judged = row.of.partition("-")
    now, _, by = fingerprint(experiment).partition("-")
    return not row.of or (method_trained == now and (row.protocol is not None or method_judged == by))


# -- what it is called ---------------------------------------------------------------------------------------------


def trained_by(experiment: Experiment) -> str:
    """The objective, or the method with those of its learners, with a beta or divergence that is not its class's
    own.
    """
    words = {name: _objective(policy.objective) for name, policy in experiment.method.policies().items()}
    if len(words) == 1:
        return next(iter(words.values()))
    return f"{type(experiment.method).__name__} ({', '.join(f'{name}: {kind}' for name, kind in words.items())})"


def _objective(objective: Any) -> str:
    parameters = [field for field in fields(objective) if field.name in ("beta", "divergence")]
    settings_own = [
        f"{field.name} {plain(value)}"
        for field in parameters
        if (value := getattr(objective, field.name)) != field.default
    ]
    return ", ".join([type(objective).__name__, *settings_own])


def retitled(old: Experiment, new: Experiment, kinds: bool) -> str:
    """What `old` is called once it has become `new`, which has no row of a paper: `TRADES, beta 1, VGG-16, 3 epochs`.

    kinds: whether method or objectives are others, which are then named first; else what it was called stays in front.
    """
    stale, parts = told_apart(_compared(old, new, kinds))
    first, *parts_kept = [trained_by(new)] if kinds or not old.title else old.title.split(", ")
    shapes_before = set(map(_shape, [*stale, *parts]))
    parts = [part for part in parts if part not in first.split(", ")]
    return ", ".join([first, *(part for part in parts_kept if _shape(part) not in shapes_before), *parts])


def outdated(old: Experiment, new: Experiment) -> bool:
    """Whether the title of `old` says something that `new` has otherwise."""
    return bool({*told_apart(_compared(old, new, kinds=False))[0]} & {*old.title.split(", ")})


def _compared(old: Experiment, new: Experiment, kinds: bool) -> list[dict[str, Any]]:
    """The two definitions; of other kinds of methods or objectives only what both have, which is a policy without its
    objective.
    """
    settings = [definition(settings_each) for settings_each in (old, new)]
    policies = [settings_each["method"].get("policy") for settings_each in settings]
    if kinds and None in policies:
        return [{**settings_each, "method": {}} for settings_each in settings]
    if kinds:
        parts = [{name: value for name, value in policy.items() if name != "objective"} for policy in policies]
        return [
            {**settings_each, "method": {"policy": part}} for settings_each, part in zip(settings, parts, strict=True)
        ]
    return settings


def _shape(part: str) -> str:
    """A part of a title without its numbers, but for a network's."""
    return part if re.match(r"[A-Z]", part) else re.sub(r"[\d.,/]+", "#", part)
