"""FAB: walks along the decision boundary towards the image, looking for the nearest adversarial example."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.fab_projection import onto_plane
from poise.attacks.autoattack.search import Examples, Network, Search, State, at, choose, gradient_of, succeeds
from poise.attacks.gradients import image_gradient
from poise.core import papers
from poise.core.lengths import above_zero, scaled
from poise.core.seeds import Draw
from poise.core.settings import Number, PositiveCount, UnitInterval, settings
from poise.threats import Linf, Threat, spread


@settings
class FAB(CompactAttack):
    """Fast Adaptive Boundary attack (Croce & Hein 2020b, Algorithm 1), and with `targeted` FAB-T.

    FAB linearises the boundary to every class and walks to the nearest; FAB-T makes one run towards each of the
    `targets` classes most likely on the natural image, one gradient a step whatever the number of classes; any
    misclassification counts.
    """

    paper = papers.FAB
    threat: Threat = Linf()
    steps: PositiveCount = 100
    targeted: bool = False
    restarts: PositiveCount = 1
    """The first run begins at the image, later ones at a random point within epsilon / 2."""
    targets: PositiveCount = 9
    """Read with `targeted` only."""
    alpha_max: UnitInterval = 0.1
    """Largest weight of the step that starts from the natural image."""
    eta: Number = 1.05
    """Overshoot beyond the linearised boundary."""
    beta: UnitInterval = 0.9
    """Where the way back to the natural image is cut once the boundary has been crossed."""

    @property
    def name(self) -> str:
        return ("FAB-T" if self.targeted else "FAB") + (f"x{self.restarts}" if self.restarts > 1 else "")

    def forwards(self) -> float:
        """FAB-T takes a run towards each target, FAB a gradient for each class, which are about as many."""
        return (2.0 * self.targets + 1) * self.steps * self.restarts

    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        return FABSearch(self, model, classes, targeted)

    def notes(self, classes: int) -> list[str]:
        if self.targeted and classes - 1 < self.targets:
            return [
                f"{self.name}: {classes - 1} target classes instead of {self.targets}, all that {classes} classes allow"
            ]
        return []

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """Of the first run that succeeds within epsilon the nearest adversarial image, else the image itself."""
        x_adv, success = self._drive(model, x, y, draw, target, "after the run")
        return choose(success, x_adv, x)

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, *, draw: Draw | None = None) -> Tensor:
        """The nearest adversarial images found [B, ...], however far away; x itself where none was found or x is
        misclassified.

        Raises: InputError for images or labels of a wrong shape, type or range.
        """
        with self.entered(model, x, y, None, draw) as (x, y, _, draw):
            return self._drive(model, x, y, draw, None, "never")[0]


class FABSearch(Search):
    """FAB in lanes; a step linearises at `z`, projects, and pulls back towards x where the boundary was crossed."""

    kept: ClassVar[tuple[str, ...]] = ("fooled", "found", "distance")

    def __init__(self, attack: FAB, model: Network, classes: int, reach: bool) -> None:
        self.attack, self.model, self.reach = attack, model, reach
        self.towards_one = attack.targeted or reach
        self.runs = attack.restarts * (min(attack.targets, classes - 1) if attack.targeted and not reach else 1)
        self.steps = attack.steps

    def begin(self, examples: Examples, run: Tensor) -> State:
        x = examples.x
        rank = run // self.attack.restarts if self.towards_one and not self.reach else torch.zeros_like(run)
        z = x
        if self.attack.restarts > 1:
            z = choose(run % self.attack.restarts > 0, self._random_start(examples, run), x)
        return {
            "x": x,
            "y": examples.y,
            "target": examples.class_of_rank(rank) if self.towards_one else examples.y,
            "z": z,
            "distance": torch.full_like(examples.natural[:, 0], torch.inf, dtype=x.dtype),
            "fooled": torch.zeros(len(x), dtype=torch.bool, device=x.device),
            "found": x,
        }

    def _random_start(self, examples: Examples, run: Tensor) -> Tensor:
        """A random direction of length epsilon / 2, clamped to [0, 1]."""
        x, threat = examples.x, self.attack.threat
        draw = at(examples.draw, run).within("start")
        noise = draw.normal(*x.shape[1:], dtype=x.dtype)
        if threat.order == torch.inf:
            noise = draw.uniform(*x.shape[1:], dtype=x.dtype) * 2 - 1
        return (x + noise * spread(0.5 * threat.epsilon / above_zero(threat.norm(noise)), x)).clamp(0, 1)

    def step(self, state: State) -> State:
        s, attack = dict(state), self.attack
        x, z = s["x"], s["z"]
        level, normal = self._towards(s) if self.towards_one else self._nearest_plane(s)
        points = torch.stack([z.flatten(1), x.flatten(1)])
        offset = (normal * points[0]).sum(1) - level
        moves = onto_plane(points, normal, offset, attack.threat)
        size_z, size_x = (attack.threat.norm(move) for move in moves)
        alpha = (size_z / above_zero(size_z + size_x)).clamp(max=attack.alpha_max)[:, None]
        ahead = points.add_(moves, alpha=attack.eta)
        z = torch.addcmul(ahead[0].mul_(1 - alpha), ahead[1], alpha).clamp_(0, 1).view_as(x)
        no_gradient = offset.isnan()  # by a gradient of NaN: there is no such plane, and no such image
        z = choose(no_gradient, z.new_full((), torch.nan).expand_as(z), z)
        with torch.no_grad():
            success = succeeds(self.model(z), s["y"], s["target"] if self.reach else None) | no_gradient
        change = z - x
        distance = attack.threat.norm(change)
        nearer = success & ~(distance >= s["distance"])
        if not self.refines:
            nearer = nearer & ~s["fooled"]
        s["found"] = choose(nearer, z, s["found"])
        s["distance"] = torch.where(nearer, distance, s["distance"])
        s["fooled"] = ~(s["distance"] > attack.threat.epsilon)  # true of NaN too, so that it is judged
        s["z"] = choose(success, torch.add(x, change, alpha=attack.beta), z)
        return s

    def _towards(self, s: State) -> tuple[Tensor, Tensor]:
        """z_target - z_y at z [W] and its gradient [W, d]."""

        def gap(logits: Tensor) -> Tensor:
            return (logits.gather(1, s["target"][:, None]) - logits.gather(1, s["y"][:, None]))[:, 0]

        values, gradient, _ = gradient_of(self.model, gap, s["z"])
        return values, gradient.flatten(1)

    def _nearest_plane(self, s: State) -> tuple[Tensor, Tensor]:
        """The same for the class whose linearised boundary is nearest to z (Eq. 7); one gradient per class."""
        leaf = s["z"].detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(leaf)
            gaps = logits - logits.gather(1, s["y"][:, None])
            classes = range(logits.shape[1])
            normals = [image_gradient(gaps[:, c], leaf, retain=c < classes[-1]).flatten(1) for c in classes]
        levels = gaps.detach()
        planes = torch.stack(normals, 1)
        near, factor = scaled(planes)
        slopes = torch.stack([self.attack.threat.dual_norm(normal) for normal in near.unbind(1)], 1)
        away = (levels.abs() * factor[..., 0] / slopes).nan_to_num(nan=torch.inf).scatter(1, s["y"][:, None], torch.inf)
        best = away.argmin(1, keepdim=True)
        return levels.gather(1, best)[:, 0], planes.gather(1, best[:, :, None].expand(-1, -1, planes.shape[2]))[:, 0]
