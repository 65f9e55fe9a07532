"""What figures show of the networks themselves: losses by budget, angles between perturbations, a loss or labels around
an image.

Of each line the selected weights of its first seed are asked, on the first test images, each draw keyed by the image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import PGD, Collaborative
from poise.core.documents import read_document
from poise.core.seeds import Draw, key_of
from poise.data import Split
from poise.engine import Run
from poise.engine.devices import choose_device
from poise.evaluation.predictions import attacked
from poise.losses import cross_entropy
from poise.models.ensemble import unwrapped
from poise.recipes.items import Line, Picture
from poise.reports.figures.series import Field, Panel, Point, Series
from poise.reproduce.grids import collaborative, told_apart
from poise.reproduce.plan import Plan, Work
from poise.threats import Linf, Threat
from poise.verbs.embed import embed, features_of, placed

MEASURED = ("budget", "histogram", "surface", "labels", "embedding", "grid")
"""The kinds of picture that are measured on networks."""
CLUSTERED = ("natural", "adversarial")
"""Of an embedding: the columns of one of a network's own features."""
BUDGETS = (0.5, 1.0, 2.0, 4.0)
"""Of collaborative examples, in the epsilon that the network is judged within: 4, 8, 16 and 32 of 255."""
DESCENT = 100
STEPS = (1, 2, 5, 10, 20, 100)
BINS = 36
GRID = 41
"""Places along each direction; odd, so that the image itself is one."""
REACH = 2.0
"""How far along each direction, in epsilons."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A line's network and the images that it is asked about, within the threat that it is judged within."""

    line: Line
    network: nn.Module
    split: Split
    threat: Threat
    classes: tuple[str, ...] = ()


def probed(plan: Plan, device: str, data_dir: Path | None) -> list[Panel]:
    """The panels of an item's picture, measured now; empty where a run of the plan isn't there yet, or nothing is to be
    measured.
    """
    picture = plan.item.picture
    if picture is None or picture.kind not in MEASURED:
        return []
    works = list({work.line: work for work in reversed(plan.works)}.values())[::-1]  # the first seed of each line
    if any(work.state == "missing" or work.state == "begun" for work in works):
        return []
    if picture.kind == "embedding" and picture.columns == CLUSTERED:
        return [clustered(_asked(work, picture, device, data_dir)) for work in works]
    if picture.kind == "embedding":
        return [panel for work in works for panel in embedding(work, picture.images, device, data_dir)]
    if picture.kind == "grid" and picture.chosen:
        return [told_apart(works, picture.chosen == "only the last", data_dir)]
    probes = [_asked(work, picture, device, data_dir) for work in works]
    if picture.kind == "grid":
        return [
            collaborative(probe.line.label, probe.network, probe.split, probe.threat, probe.classes) for probe in probes
        ]
    if picture.kind == "budget":
        return [Panel("", "perturbation budget", "mean cross-entropy", tuple(budget(probe) for probe in probes))]
    if picture.kind == "histogram":
        return [Panel(probe.line.label, "angle, degrees", "share of images", angles(probe)) for probe in probes]
    if picture.kind == "surface":
        return [surface(probe) for probe in probes]
    return [panel for probe in probes for panel in labels(probe)]


def _asked(work: Work, picture: Picture, device: str, data_dir: Path | None) -> Asked:
    run, where = Run.open(work.folder), choose_device(device)
    data = work.experiment.data.load(data_dir)
    split = data.test
    threats = [attack.threat for attack in work.experiment.protocol.attacks]
    return Asked(
        work.line,
        run.network().to(where),
        split.first(min(picture.images, len(split))),
        threats[0] if threats else Linf(),
        data.classes,
    )


def embedding(work: Work, images: int, device: str, data_dir: Path | None) -> list[Panel]:
    """A panel for each epoch that the run kept: where t-SNE puts the images that each learner is attacked with."""
    path = embed(Run.open(work.folder), images=images, device=device, data_dir=data_dir)
    panels = []
    for epoch in read_document(path, "embedding")["epochs"]:
        clouds = {name: tuple(Point(float(x), float(y)) for x, y in points) for name, points in epoch["points"].items()}
        panels.append(
            Panel(f"epoch {epoch['epoch']}", "", "", tuple(Series(name, points) for name, points in clouds.items()))
        )
    return panels


def clustered(asked: Asked) -> Panel:
    """Where t-SNE puts a network's features of the images and of the adversarial ones made against it, all together."""
    attack = PGD(threat=asked.threat, step_size=asked.threat.epsilon / 4)
    x_adv = torch.cat([x for x, _ in attacked(asked.network, asked.split, attack)])
    whole = {"natural": asked.split.pixels(), "adversarial": x_adv}
    clouds = {name: features_of(asked.network, images).double().cpu().numpy() for name, images in whole.items()}
    series = [
        Series(name, tuple(Point(x, y) for x, y in points)) for name, points in placed(clouds, 30.0, seed=0).items()
    ]
    return Panel(asked.line.label, "", "", tuple(series))


def budget(asked: Asked) -> Series:
    """Mean cross-entropy of the images (budget 0) and of collaborative examples, with a band of half its standard
    deviation.
    """
    points = [_mean(0.0, _losses(asked.network, asked.split, None))]
    for share in BUDGETS:
        threat: Any = dataclasses.replace(asked.threat, epsilon=share * asked.threat.epsilon)  # type: ignore[type-var]
        attack = Collaborative(threat=threat, step_size=asked.threat.epsilon / 8, steps=DESCENT)
        points.append(_mean(threat.epsilon, _losses(asked.network, asked.split, attack)))
    return Series(asked.line.label, tuple(points))


def _mean(x: float, losses: Tensor) -> Point:
    mean, half = float(losses.mean()), float(losses.std(correction=0)) / 2
    return Point(x, mean, max(0.0, mean - half), mean + half)


def _losses(network: nn.Module, split: Split, attack: Collaborative | None) -> Tensor:
    """Cross-entropy of each image, or of what the attack makes of it [N]."""
    images = [x for x, _ in attacked(network, split, attack)] if attack is not None else [split.pixels()]
    device = next(network.parameters()).device
    with torch.no_grad():
        x, y = torch.cat(images).to(device), split.labels.to(device)
        return torch.cat(
            [cross_entropy(network(part), of) for part, of in zip(x.split(256), y.split(256), strict=True)]
        ).cpu()


def angles(asked: Asked) -> tuple[Series, ...]:
    """Of each number of steps, the shares of images by the angle between their adversarial and their collaborative
    perturbation.
    """
    common: dict[str, Any] = {"threat": asked.threat, "step_size": asked.threat.epsilon / 8, "start": "zero"}
    cells = []
    for steps in STEPS:
        pair = [_moved(asked, attack) for attack in (PGD(steps=steps, **common), Collaborative(steps=steps, **common))]
        cosine = torch.cosine_similarity(pair[0].flatten(1), pair[1].flatten(1))
        degrees = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
        shares = torch.histc(degrees, BINS, 0, 180) / len(degrees)
        width = 180 / BINS
        points = tuple(Point(width * (place + 0.5), float(share)) for place, share in enumerate(shares))
        cells.append(Series(f"{steps} step{'s' * (steps > 1)}", points))
    return tuple(cells)


def _moved(asked: Asked, attack: PGD | Collaborative) -> Tensor:
    images_moved = torch.cat([x for x, _ in attacked(asked.network, asked.split, attack)])
    return images_moved - asked.split.pixels().to(images_moved.device)


def surface(asked: Asked) -> Panel:
    """Cross-entropy around the image, along the collaborative perturbation u and a random direction v orthogonal to it,
    of its length.
    """
    u = _moved(asked, Collaborative(threat=asked.threat, step_size=asked.threat.epsilon / 8, steps=DESCENT))[0]
    draw = _draw("surface").normal(*u.shape)[0].to(u)
    v = draw - (draw * u).sum() / (u * u).sum() * u if float(u.abs().max()) > 0 else draw
    v = v * (u.norm() if float(u.norm()) > 0 else math.sqrt(u.numel()) * asked.threat.epsilon) / v.norm()
    label = asked.split.labels[:1].to(u.device)
    heights = _around(asked, u, v, lambda x: cross_entropy(asked.network(x), label.expand(len(x))))
    return Panel(asked.line.label, "u", "v", field=_field(heights))


def labels(asked: Asked) -> list[Panel]:
    """Labels predicted around the image by each sub-model and by the whole: a random Rademacher vector across,
    adversarial up.
    """
    attack = PGD(threat=asked.threat, step_size=asked.threat.epsilon / 5, steps=50)
    direction = _moved(asked, attack)[0].sign() * asked.threat.epsilon
    random = (_draw("labels").normal(*direction.shape)[0].to(direction).sign()) * asked.threat.epsilon
    members: Sequence[nn.Module] = list(getattr(unwrapped(asked.network), "members", []))
    parts = [
        *((f"sub-model {place}", member) for place, member in enumerate(members, start=1)),
        ("whole", asked.network),
    ]
    right = int(asked.split.labels[0])
    panels_list = []
    for name, part in parts:
        values = _around(asked, random, direction, lambda x, part=part: _answers(part, x))
        panels_list.append(Panel(f"{asked.line.label}, {name}", "random", "adversarial", field=_field(values, right)))
    return panels_list


def _answers(part: nn.Module, x: Tensor) -> Tensor:
    logits = part(x)
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(1)


def _around(asked: Asked, across: Tensor, up: Tensor, value: Any) -> Tensor:
    """The value [GRID, GRID] at the image moved along both directions, row by row upwards."""
    x, steps = asked.split.pixels()[0].to(across), torch.linspace(-REACH, REACH, GRID)
    with torch.no_grad():
        rows = [value((x + b * up + steps[:, None, None, None].to(across) * across).clamp(0, 1)) for b in steps]
    return torch.stack(rows).cpu()


def _field(values: Tensor, right: int | None = None) -> Field:
    steps = tuple(torch.linspace(-REACH, REACH, GRID).tolist())
    return Field(steps, steps, tuple(tuple(float(value) for value in row) for row in values), right)


def _draw(purpose: str) -> Draw:
    return Draw(key_of(0, "reproduce", purpose), torch.zeros(1, dtype=torch.int64))
