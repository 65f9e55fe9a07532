"""Agreement: on which images two subjects differ, natural and attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.core.callers import computed_plainly
from poise.core.errors import InputError, SettingsError
from poise.core.progress import Progress
from poise.reports.statistics import NATURAL, correct, paired_interval
from poise.verbs.evaluate import evaluate
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.protocols import protocol_asked
from poise.verbs.results import Answer, Evaluation, Sheet


@dataclass(frozen=True)
class Agreement(Answer):
    """The evaluations of two subjects by one protocol on the same images; each was attacked by itself."""

    a: Evaluation
    b: Evaluation
    names: tuple[str, str]

    @property
    def columns(self) -> list[str]:
        """ "natural", then each attack."""
        return [NATURAL, *self.a.attack_names]

    def differing(self, column: str = NATURAL) -> list[int]:
        """The places, from 0, of the images on which the two predict different labels. Raises: KeyError for an unknown
        column.
        """
        ours, theirs = _predicted(self.a, column), _predicted(self.b, column)
        return [
            place
            for place, (ours_label, theirs_label) in enumerate(zip(ours, theirs, strict=True))
            if ours_label != theirs_label
        ]

    def lines(self) -> list[dict[str, Any]]:
        """A column each: images, on how many the labels differ, on how many both, one or neither is right; and the
        difference of the accuracies, a minus b, with its paired 95 % interval.
        """
        return [self._line(column) for column in self.columns]

    def _line(self, column: str) -> dict[str, Any]:
        pairs = list(zip(correct(self.a, column), correct(self.b, column), strict=True))
        counts = {name: pairs.count(pair) for name, pair in _RIGHT.items()}
        interval = paired_interval([self.a], [self.b], column)
        difference = {"difference": interval.difference, "low": interval.low, "high": interval.high}
        return {"images": self.a.count, "column": column, "differ": len(self.differing(column)), **counts, **difference}

    def sheet(self) -> Sheet:
        name_a, name_b = self.names
        names = [
            "images under",
            "labels differ",
            "both right",
            f"only {name_a}",
            f"only {name_b}",
            "neither",
            "difference [95 %]",
        ]
        rows = []
        for line in self.lines():
            size = [f"{100 * line[name]:.2f}" for name in ("difference", "low", "high")]
            counts = [str(line[name]) for name in ("differ", *_RIGHT)]
            rows.append([line["column"], *counts, f"{size[0]} [{size[1]}, {size[2]}]"])
        return Sheet(
            names,
            rows,
            [f"{self.a.dataset}, {self.a.count:,} images; difference in points of accuracy, {name_a} minus {name_b}"],
        )


_RIGHT = {"both_right": (True, True), "only_a": (True, False), "only_b": (False, True), "neither": (False, False)}


@computed_plainly
def agreement(
    a: Asked,
    b: Asked,
    data: Images | None = None,
    protocol: Any = None,
    *,
    threat: Any = None,
    epsilon: float | str | Sequence[float | str] | None = None,
    step_size: float | str | None = None,
    first: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    **kind: Any,
) -> Agreement:
    """Evaluate two subjects by one protocol on the same images and compare them image by image: what `poise agreement`
    does.

    a, b, data, kind: see `subject_of`; protocol and what follows: as for `evaluate`, by default the protocol that both
    have. Evaluations that are there already are used. Each is attacked by itself, so an attacked image of one is not
    that of the other.
    Raises: SettingsError where the two have different protocols, InputError where they have different images; and as
    `evaluate`.
    """
    pair = [subject_of(side, data, **kind) for side in (a, b)]
    options: dict[str, Any] = {"threat": threat, "epsilon": epsilon, "step_size": step_size, "first": first}
    protocols = [protocol_asked(subject, protocol, **options) for subject in pair]
    if protocols[0] != protocols[1]:
        pair_text = ", ".join(f"{subject.title} by {side.name}" for subject, side in zip(pair, protocols, strict=True))
        raise SettingsError(
            f"the two are not evaluated by the same protocol ({pair_text}); name one with --protocol, or its"
            " --epsilon too"
        )
    evaluations = [
        evaluate(subject, protocol=side, seed=seed, progress=progress)
        for subject, side in zip(pair, protocols, strict=True)
    ]
    if evaluations[0].notes["images"] != evaluations[1].notes["images"]:
        raise InputError(f"{pair[0].title} and {pair[1].title} have different test images; give both the same data")
    return Agreement(evaluations[0], evaluations[1], _names(evaluations))


def _names(evaluations: list[Evaluation]) -> tuple[str, str]:
    """Of the runs, else of the networks; where both have one, a and b."""
    names = [Path(evaluation.run).name if evaluation.run else evaluation.model for evaluation in evaluations]
    return (names[0], names[1]) if names[0] != names[1] else ("a", "b")


def _predicted(record: Evaluation, column: str) -> list[int]:
    if column == NATURAL:
        return record.natural
    attack = next((attack_record for attack_record in record.attacks if attack_record.name == column), None)
    if attack is None:
        raise KeyError(f"the agreement has no column {column!r}; it has natural, {', '.join(record.attack_names)}")
    return attack.predicted
