"""What an attack is: `attack(model, x, y) -> x_adv`. The model comes back as it was, also when the attack raises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from poise.attacks.checks import (
    check_draw,
    check_found,
    check_images,
    check_labels,
    check_logits,
    check_network,
    count_classes,
    plain,
)
from poise.core.answers import lent
from poise.core.callers import plainly
from poise.core.modes import crafting
from poise.core.papers import Paper
from poise.core.seeds import Draw, everyone
from poise.core.settings import Settings, tag_of
from poise.threats import Threat

__all__ = ["Attack", "check_images", "check_labels", "check_logits", "count_classes"]


class Attack(Settings, family="attack"):
    """Searches, within a threat, for images that the model misclassifies."""

    paper: ClassVar[Paper]
    against: ClassVar[bool] = True
    """Whether it is against the model, so that accuracy under it says how robust the model is."""
    threat: Threat

    @property
    def name(self) -> str:
        """Short name for tables, such as PGD-20."""
        return tag_of(self)

    def check(self, model: nn.Module) -> None:
        """Raises: InputError for a network that the attack is not for; asked before any work."""

    def check_classes(self, classes: int) -> None:
        """Raises: SettingsError for so few classes that the attack is not defined; asked before any work."""

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What a record's notes say of the attack on this network beyond its settings."""
        return {}

    def forwards(self) -> float:
        """About what an image costs, in forwards of the network: two a step for one that follows gradients."""
        steps, restarts = (getattr(self, name, 1) for name in ("steps", "restarts"))
        return 2.0 * steps * restarts + 1

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """The attack itself; the model is in evaluation mode with frozen parameters, the inputs have been checked."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None, draw: Draw | None = None
    ) -> Tensor:
        """Adversarial images [B, C, H, W] for images x [B, C, H, W] in [0, 1] with labels y [B].

        target: classes to be reached [B], for attacks that can be targeted; draw: the source of random numbers, by
        default keyed by each example's place in the batch. Gradients are taken whatever the caller's mode of
        differentiation; what the caller gave stays as it is.
        Under the caller's autocast it is the network in that arithmetic that is attacked.
        Raises: InputError for images, labels or logits of a wrong shape, type, range or device, or a network that the
        attack is not for; NetworkError where the network's own code fails.
        """
        with self.entered(model, x, y, target, draw) as (x, y, target, draw):
            return self.crafted(model, x, y, draw, target)

    @contextmanager
    def entered(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None, draw: Draw | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Draw]]:
        """(x, y, target, draw), checked and apart from the caller's graphs, while the model is as an attack needs it.

        Raises: as `__call__`.
        """
        check_network(model)
        self.check(model)
        check_images(x)
        self.threat.check_shape(x.shape[1:])
        with plainly(autocast=True), crafting(model, "evaluating"):
            x = plain(x)
            classes = count_classes(model, x[:1])
            self.check_classes(classes)
            check_labels(y, len(x), classes, device=x.device)
            if target is not None:
                check_labels(target, len(x), classes, "target", x.device)
            check_draw(draw, len(x))
            draw = everyone(0, "attack", count=len(x), device=x.device) if draw is None else draw
            with lent(model, x):
                yield x, plain(y), None if target is None else plain(target), draw

    def crafted(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """What `perturb` returns, detached. Raises: InputError where that is no image."""
        x_adv = self.perturb(model, x, y, draw, target).detach()
        check_found(x_adv)
        return x_adv
