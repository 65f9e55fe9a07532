"""A problem in the plane on which one network, an ensemble and a collaboration are really trained, within Linf: where
each can be fooled (Synergy-of-Experts, Figure 1), and which sub-model learns which data (Figure 2a).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.losses import cross_entropy
from poise.models.dual_head import DualHeadModule
from poise.models.ensemble import CollaborationModule, EnsembleModule
from poise.models.layers import Classifier
from poise.objectives import AT, SynergyOfExperts
from poise.objectives.objective import Objective
from poise.reports.figures.series import Field, Panel, Point, Series
from poise.threats import Linf

SIDE, EPSILON = 4, 0.09
"""Data a row, and the radius within which they are attacked; rows are .25 apart."""
WIDTH, MEMBERS, STEPS = 8, 3, 300
GRID = 61
OUTSIDE, RIGHT, WRONG, FOOLED = 0, 1, 2, 3
AREAS = ("no data near", "right", "wrong, though a sub-model is right", "fooled for certain")
"""What the values of a field mean: at a place within epsilon of a datum, how it is answered."""


class Points(Classifier):
    """A network of one hidden layer for points in the plane, as images [B, 1, 1, 2]; too narrow to fit all data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def trunk(self, x: Tensor) -> Tensor:
        return torch.tanh(10 * self.layer(x.flatten(1) - 0.5))


@dataclass(frozen=True)
class Trained:
    """What was trained, and the data: x [N, 1, 1, 2], y [N]."""

    x: Tensor
    y: Tensor
    models: dict[str, nn.Module]

    def members(self, name: str) -> list[nn.Module]:
        model = self.models[name]
        return list(getattr(model, "members", [model]))


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """SIDE x SIDE points of two classes at random."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    x = torch.cartesian_prod(places, places).reshape(-1, 1, 1, 2)
    y = torch.randint(2, (len(x),), generator=torch.Generator().manual_seed(seed))
    return x, y


@functools.cache
def trained(steps: int = STEPS, members: int = MEMBERS) -> Trained:
    """One network and the members of an ensemble by adversarial training, each by itself; a collaboration by
    Synergy-of-Experts.
    """
    x, y = data()
    inner = Ascent(threat=Linf(epsilon=EPSILON), step_size=EPSILON / 4, steps=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        alone = [_fitted(Points(), AT(inner=inner), x, y, steps) for _ in range(members)]
        experts = CollaborationModule([DualHeadModule(Points(), "rectified") for _ in range(members)], "rectified")
        together = _fitted(experts, SynergyOfExperts(inner=inner), x, y, steps)
    models = {"single model": alone[0], "ensemble": EnsembleModule(alone, "vote"), "collaboration": together}
    return Trained(x, y, models)


def _fitted(model: nn.Module, objective: Objective, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """The model after so many steps of Adam on all data at once."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = Batch.of(x, y)
    for step in range(steps):
        now = Now(epoch=step + 1, step=step, epochs=steps, steps_per_epoch=1, seed=0)
        terms = objective.loss(model, objective.craft(model, batch, now), now)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def areas(made: Trained, name: str) -> Tensor:
    """What becomes of every place of the plane [GRID, GRID], row by row upwards (see `AREAS`).

    An ensemble is fooled for certain where most of its members are, a collaboration where all are, whomever it trusts.
    """
    steps = torch.linspace(0, 1, GRID)
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 1, 1, 2)
    distance = (places.flatten(1)[:, None] - made.x.flatten(1)[None]).abs().amax(-1)
    nearest = distance.min(1)
    labels = made.y[nearest.indices]
    wrong = torch.stack([member(places).argmax(1) != labels for member in made.members(name)])
    certain = wrong.all(0) if name == "collaboration" else wrong.sum(0) * 2 > len(wrong)
    answers = made.models[name](places).argmax(1) == labels
    value = torch.where(certain, FOOLED, torch.where(answers, RIGHT, WRONG))
    return torch.where(nearest.values > EPSILON, OUTSIDE, value).reshape(GRID, GRID)


def share_fooled(found: Tensor) -> float:
    """The share of the places near data at which a model is fooled for certain."""
    return float((found == FOOLED).sum() / (found != OUTSIDE).sum())


def vulnerability() -> list[Panel]:
    """Figure 1: the areas of vulnerability of a single model, an ensemble and a collaboration."""
    return vulnerability_of(trained())


def vulnerability_of(made: Trained) -> list[Panel]:
    panels = []
    for name in made.models:
        field = areas(made, name)
        title = f"{name}: {100 * share_fooled(field):.1f} % near data fooled"
        panels.append(Panel(title, "", "", _classes(made), _field(field)))
    return panels


def assignment() -> list[Panel]:
    """Figure 2a: where two sub-models of a collaboration decide, and which of them each datum is assigned to: that of
    the lowest loss.
    """
    models = trained(members=2)
    experts = models.members("collaboration")
    with torch.no_grad():
        best = torch.stack([cross_entropy(expert(models.x), models.y) for expert in experts]).argmin(0)
    series = [
        Series(f"sub-model {k} decides", tuple(Point(x, y) for x, y in boundary(expert)))
        for k, expert in enumerate(experts, start=1)
    ]
    for k in range(len(experts)):
        for label, sign in ((0, "-"), (1, "+")):
            points = models.x[(best == k) & (models.y == label)].flatten(1).tolist()
            series.append(Series(f"{sign}, learned by sub-model {k + 1}", tuple(Point(x, y) for x, y in points)))
    return [Panel("", "", "", tuple(series_item for series_item in series if series_item.points))]


@torch.no_grad()
def boundary(model: nn.Module) -> list[tuple[float, float]]:
    """Places where a model is undecided, between neighbouring places of a grid, by linear interpolation."""
    steps = torch.linspace(0, 1, GRID)
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    logits = model(places.reshape(-1, 1, 1, 2))
    height = (logits[:, 1] - logits[:, 0]).reshape(GRID, GRID)
    points = []
    for transposed in (False, True):
        rows = height.T if transposed else height
        for row in range(GRID):
            here, there = rows[row, :-1], rows[row, 1:]
            for place in torch.nonzero(here * there < 0).flatten().tolist():
                share = float(here[place] / (here[place] - there[place]))
                along, across = (place + share) / (GRID - 1), row / (GRID - 1)
                points.append((across, along) if transposed else (along, across))
    return points


def _classes(made: Trained) -> tuple[Series, ...]:
    def points(label: int) -> tuple[Point, ...]:
        return tuple(Point(x, y) for x, y in made.x[made.y == label].flatten(1).tolist())

    return tuple(Series(sign, points(label)) for label, sign in ((0, "-"), (1, "+")))


def _field(values: Tensor) -> Field:
    steps = tuple(torch.linspace(0, 1, GRID).tolist())
    rows: Sequence[Sequence[int]] = values.tolist()
    return Field(steps, steps, tuple(tuple(float(value) for value in row) for row in rows), names=AREAS)
