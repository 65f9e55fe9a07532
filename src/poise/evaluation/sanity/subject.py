"""The network under inspection with its images, and the attacks tried on it, each run once however many checks ask for
it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from poise.attacks import APGD, PGD, Attack, AutoAttack, Square
from poise.attacks.attack import check_images, check_labels, check_logits
from poise.core.errors import InputError
from poise.core.modes import crafting
from poise.core.seeds import Draw, key_of
from poise.core.settings import PositiveCount, Settings, UnitInterval, settings, to_json
from poise.evaluation.predictions import logits_of
from poise.losses import Divergence
from poise.threats import Threat

BATCH = 256


@settings
class Effort(Settings):
    """Budgets of the attacks, and what counts as more than noise. The defaults take less than a minute on 8x8 digits
    and one core.
    """

    steps: PositiveCount = 20
    """Of PGD; the check that more steps are never weaker goes to twice as many."""
    autoattack_steps: PositiveCount = 30
    """Of APGD on the cross-entropy and on the targeted DLR, where the published budget is 100."""
    targets: PositiveCount = 3
    queries: PositiveCount = 300
    """Of Square, where AutoAttack's budget is 5000."""
    gradient_examples: PositiveCount = 64
    """How many images the attack by estimated gradients sees; its paired test needs ten that differ."""
    gradient_samples: PositiveCount = 24
    """Pairs of queries behind each estimated gradient."""
    substitute_steps: PositiveCount = 150
    """Training steps, of 64 queries each, of the substitute from which images are transferred."""
    level: UnitInterval = 0.001
    """Significance level of every test; some twenty are made, so a sound network is accused in about one inspection of
    a hundred.
    """


@dataclass(frozen=True)
class Claim:
    """An accuracy that someone reports, in [0, 1], with the adversarial images [N, C, H, W] on which it is said to
    hold.

    threat: in which they must lie; None: that of the inspection.
    """

    x_adv: Tensor
    accuracy: float
    threat: Threat | None = None


class Subject:
    """Network, images x [N, C, H, W], labels y [N], threat; `stands` is which examples an attack leaves right.

    claims: see `Claim`, by the attack's name; surrogates: other networks to transfer from; divergences: those of
    training's inner and outer problem, where known; classes: of the data, where known.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        effort: Effort,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
        claims: Mapping[str, Claim] | None = None,
        surrogates: Mapping[str, nn.Module] | None = None,
        divergences: tuple[Divergence, Divergence] | None = None,
        classes: int | None = None,
    ) -> None:
        check_images(x)
        if not isinstance(threat, Threat):
            raise InputError(f"threat is {type(threat).__name__}, must be Linf, L2 or L1")
        if threat.epsilon <= 0:
            raise InputError(
                f"threat.epsilon = {threat.epsilon}, must be positive: nothing can be inspected without an attacker"
            )
        self.model, self.x, self.y, self.threat, self.effort, self.seed = model, x, y, threat, effort, seed
        self.ids = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)
        self.claims, self.surrogates, self.divergences = dict(claims or {}), dict(surrogates or {}), divergences
        self.known_classes = classes
        self.natural = self.logits(x)
        self.classes = check_logits(self.natural, len(x))
        check_labels(y, len(x), self.classes)
        self.right = self.natural.argmax(1) == y
        self.accuracies: dict[str, float] = {}
        self._made: dict[str, Tensor] = {}
        self._standing: dict[str, Tensor] = {}
        self.differentiable = differentiable(model, x)

    def logits(self, x: Tensor, batch_size: int = BATCH) -> Tensor:
        """Logits [N, C] in evaluating mode, without a graph."""
        return logits_of(self.model, x, batch_size)

    def gradient(self, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """d loss(logits, y) / dx [N, ...] in evaluating mode; zero where the network cuts the graph."""
        parts = []
        with crafting(self.model, "evaluating"):
            for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
                leaf = images.detach().requires_grad_(True)
                with torch.enable_grad():
                    values = loss(self.model(leaf), labels)
                image_gradient = (
                    torch.autograd.grad(values.sum(), leaf, allow_unused=True)[0] if values.requires_grad else None
                )
                parts.append(torch.zeros_like(leaf) if image_gradient is None else image_gradient)
        return torch.cat(parts).detach()

    def draw(self, *purpose: int | str) -> Draw:
        return Draw(key_of(self.seed, "sanity", *purpose), self.ids)

    # -- attacks ------------------------------------------------------------------------------------------------------

    def pgd(self, steps: int | None = None, epsilon: float | None = None, **changes: Any) -> PGD:
        """PGD whose steps together reach 2.5 epsilon (Madry et al. 2018, Section 5), but none beyond epsilon."""
        steps, epsilon = steps or self.effort.steps, self.threat.epsilon if epsilon is None else epsilon
        return PGD(threat=self.within(epsilon), steps=steps, step_size=epsilon * min(1.0, 2.5 / steps), **changes)

    def within(self, epsilon: float) -> Threat:
        """The threat with another epsilon, at most that of the whole box."""
        return dataclasses.replace(cast(Any, self.threat), epsilon=min(epsilon, self.whole_box()))

    def whole_box(self) -> float:
        """The epsilon within which every image can become every other."""
        return self.threat.whole_box(self.x)

    def images(self, attack: Attack) -> Tensor:
        """What the attack makes of all images."""
        key = json.dumps(to_json(attack))
        if key not in self._made:
            draw = self.draw(attack.name)
            rows = torch.arange(len(self.x), device=self.x.device).split(BATCH)
            parts = [attack(self.model, self.x[part], self.y[part], draw=draw[part]) for part in rows]
            self._made[key] = torch.cat(parts)
        return self._made[key]

    def stands(self, attack: Attack) -> Tensor:
        """Which examples [N] are right as they are and on the attack's image."""
        key = json.dumps(to_json(attack))
        if key not in self._standing:
            self._standing[key] = self.right & (self.logits(self.images(attack)).argmax(1) == self.y)
            if attack.threat == self.threat:
                self.accuracies[attack.name] = share(self._standing[key])
        return self._standing[key]

    def white_box(self) -> Tensor:
        """Which examples [N] stand under PGD on cross-entropy and margin, APGD on cross-entropy and on the targeted
        DLR.
        """
        components = (
            APGD(steps=self.effort.autoattack_steps),
            APGD(
                loss="targeted_dlr",
                steps=self.effort.autoattack_steps,
                targets=min(self.effort.targets, self.classes - 1),
            ),
        )
        return (
            self.stands(self.pgd())
            & self.stands(self.pgd(loss="margin"))
            & self._compact("APGD-CE, APGD-T", *components)
        )

    def square(self) -> Tensor:
        """Which examples [N] stand under Square."""
        return self._compact("Square", Square(queries=self.effort.queries))

    def _compact(self, name: str, *attacks: APGD | Square) -> Tensor:
        if name not in self._standing:
            attack = AutoAttack(version="custom", threat=self.threat, attacks=attacks)
            lanes = max(16, min(len(self.x), 2**15 // self.x[0].numel()))
            result = attack.run(self.model, self.x, self.y, seed=self.seed, ids=self.ids, batch_size=lanes)
            stands = result.robust.to(self.x.device) & self.right
            self.claims.setdefault(name, Claim(result.x_adv, result.survivors[-1] / len(self.x)))
            self._standing[name], self.accuracies[name] = stands, share(stands)
        return self._standing[name]


def differentiable(model: nn.Module, x: Tensor) -> bool:
    """Whether the logits hang on the images [N, ...] in the autograd graph at all."""
    with crafting(model, "evaluating"), torch.enable_grad():
        leaf = x[:2].detach().requires_grad_(True)
        logits = model(leaf)
        return logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None


def share(flags: Tensor) -> float:
    """Mean of flags."""
    return float(flags.double().mean())


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
