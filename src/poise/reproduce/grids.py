"""Grids of images: those that some networks get right and others wrong, and what collaborative examples look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import Collaborative
from poise.core.errors import RunError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.data import Split
from poise.evaluation.predictions import attacked, logits_of
from poise.reports.figures.series import Panel, Tile
from poise.reproduce.plan import Work
from poise.threats import Threat

COLUMNS = 8
STEPS = 100
"""Of the descent to collaborative examples."""


def told_apart(works: Sequence[Work], only_last: bool, data_dir: Path | None) -> Panel:
    """The first images by a rule over the works' records, each with what every network says of it, natural ones and
    under attack.

    only_last: that the last network alone gets right; else that the last gets wrong and another right.
    Raises: RunError for records of different images.
    """
    records = [EvaluationRecord.read(work.folder / "records" / "selected.json") for work in works]
    if len({tuple(record.labels) for record in records}) > 1:
        raise RunError("the records of the runs are not of the same images, so that no image can be looked at in all")
    experiment = works[0].experiment
    split = experiment.protocol.images(experiment.data.load(data_dir).test)
    rows = []
    for name, answers in (
        ("natural", [record.natural for record in records]),
        ("under attack", [_hardest(record).predicted for record in records]),
    ):
        places = _chosen(records[0].labels, answers, only_last)
        tiles = [_said(works, records[0], split, place, [answer[place] for answer in answers]) for place in places]
        rows.append((name, tuple(tiles)))
    last, other_labels = works[-1].line.label, " and ".join(work.line.label for work in works[:-1])
    title = f"{last} alone is right" if only_last else f"{last} is wrong, {other_labels.replace(' and ', ' or ')} right"
    return Panel(title, "", "", tiles=tuple(row for row in rows if row[1]))


def _hardest(record: EvaluationRecord) -> AttackRecord:
    """AutoAttack, or else the attack that leaves least right."""
    whole = [attack for attack in record.attacks if attack.settings.get("type") == "AutoAttack"]
    return whole[0] if whole else min(record.attacks, key=lambda attack: record.accuracy(attack.name))


def _chosen(labels: Sequence[int], answers: Sequence[Sequence[int]], only_last: bool) -> list[int]:
    """The places of the first images of which the rule holds."""
    places = []
    for place, label in enumerate(labels):
        *first_ones, last = (answer[place] == label for answer in answers)
        if (last and not any(first_ones)) if only_last else (not last and any(first_ones)):
            places.append(place)
    return places[:COLUMNS]


def _said(works: Sequence[Work], record: EvaluationRecord, split: Split, place: int, answers: Sequence[int]) -> Tile:
    names = [record.classes[answer] for answer in answers]
    lines = [f"{work.line.label.partition(' (')[0]}: {name}" for work, name in zip(works, names, strict=True)]
    label = record.labels[place]
    text = "\n".join([record.classes[label], *lines])
    return Tile(pixels(split.pixels()[place]), text, int(split.ids[place]), answers[-1] == label)


def collaborative(label: str, network: nn.Module, split: Split, threat: Threat, classes: Sequence[str]) -> Panel:
    """The images of a split, their collaborative perturbations (grey is none, scaled to the threat) and examples, with
    what the network says of each and how sure it is.
    """
    attack = Collaborative(threat=threat, step_size=threat.epsilon / 8, steps=STEPS)
    x_adv = torch.cat([x for x, _ in attacked(network, split, attack)]).cpu()
    natural = split.pixels()
    shift = (x_adv - natural) / (2 * float((x_adv - natural).abs().max().clamp(min=1e-12))) + 0.5
    rows: list[tuple[str, tuple[Tile, ...]]] = []
    for name, images in (("benign", natural), ("perturbation", shift), ("collaborative", x_adv)):
        sure = torch.softmax(logits_of(network, images).cpu(), 1)
        tiles = []
        for image, number, right, shares in zip(images, split.ids, split.labels, sure, strict=True):
            answer = int(shares.argmax())
            text = f"{classes[answer]} {100 * float(shares[answer]):.0f} %" if name != "perturbation" else ""
            frame = None if name == "perturbation" else answer == int(right)
            tiles.append(Tile(pixels(image), text, int(number), frame))
        rows.append((name, tuple(tiles)))
    return Panel(label, "", "", tiles=tuple(rows))


def pixels(image: Tensor) -> tuple[tuple[Any, ...], ...]:
    """An image [C, H, W] in [0, 1] as rows of grey values or of colours; of other than three channels their mean."""
    if len(image) == 3:
        return tuple(tuple(tuple(colour) for colour in row) for row in image.permute(1, 2, 0).tolist())
    return tuple(map(tuple, image.mean(0).tolist()))
