"""What the attacks of `poise.interop.foolbox` share: the call for lists of epsilons."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import overload

import torch
from torch import Tensor

from poise.attacks.attack import Attack as NativeAttack
from poise.attacks.checks import check_images, check_labels
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import everyone
from poise.interop.asking import check_tensor, logits_of, own_names, predicted
from poise.interop.foolbox.criteria import Both, Criterion, Misclassification, TargetedMisclassification
from poise.interop.foolbox.models import PyTorchModel

NAMES = {
    "epsilon": "epsilons",
    "step_size": "abs_stepsize or rel_stepsize",
    "x": "inputs",
    "y": "labels",
    "target": "target_classes",
}
"""What the package calls Poise's settings and arguments."""


class Attack(ABC):
    """An attack at a fixed epsilon: `attack(fmodel, images, labels, epsilons=...)`."""

    times: int = 1
    _calls: int = 0

    @abstractmethod
    def native(self, epsilon: float, scale: float) -> NativeAttack:
        """The attack of ours at this epsilon; both epsilon and step sizes are in units of the bounds, which are `scale`
        apart.
        """

    @overload
    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilons: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    @overload
    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilons: Iterable[float]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]: ...
    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilons: float | Iterable[float]
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[list[Tensor], list[Tensor], Tensor]:
        """(what the attack returned, the same clipped to epsilon and bounds, whether that is a success), each like
        `inputs` or [B].

        Raises: InputError for images outside the bounds or labels that do not fit; SettingsError for an epsilon of
        None.
        """
        if not isinstance(model, PyTorchModel):
            raise InputError(f"{type(self).__name__}: model is {type(model).__name__}, must be a PyTorchModel")
        several = isinstance(epsilons, Iterable)
        epsilon_list = list(epsilons) if isinstance(epsilons, Iterable) else [epsilons]
        if any(epsilon is None for epsilon in epsilon_list):
            raise SettingsError(
                "epsilons = None asks for the smallest perturbation, must be numbers here; FAB().nearest finds it"
            )
        check_tensor(inputs, f"{type(self).__name__}: inputs", "a tensor [B, C, H, W]")
        x = model.to_unit(inputs.to(model.device))
        check_images(x, "(inputs - lower bound) / (upper bound - lower bound)")
        if not epsilon_list or any(
            isinstance(epsilon, bool) or not isinstance(epsilon, int | float) for epsilon in epsilon_list
        ):
            raise SettingsError(f"{type(self).__name__}: epsilons = {epsilons!r}, must be a number or numbers")
        with own_names(self, NAMES):
            results = [self._at(model, x, criterion, float(epsilon)) for epsilon in epsilon_list]
        self._calls += 1
        raw, clipped_images, success = (list(column) for column in zip(*results, strict=True))
        return (raw, clipped_images, torch.stack(success)) if several else (raw[0], clipped_images[0], success[0])

    def run(self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilon: float) -> Tensor:
        """What the attack returned, unclipped."""
        return self(model, inputs, criterion, epsilons=epsilon)[0]

    def repeat(self, times: int) -> Attack:
        """The attack repeated with other random numbers; of each example the first success is kept."""
        copied = dataclasses.replace(self)  # type: ignore[type-var]  # attacks are dataclasses
        copied.times, copied._calls = self.times * times, self._calls
        return copied

    def _at(
        self, model: PyTorchModel, x: Tensor, criterion: Criterion, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        labels, target = _wanted(model, x, criterion)
        check_labels(labels if target is None else target, len(x), logits_of(model.network, x[:1]).shape[1])
        if epsilon == 0:
            return model.from_unit(x), model.from_unit(x), _succeeds(model, x, criterion, labels)
        low, high = model.bounds
        attack = self.native(epsilon, high - low)
        raw, inside_images = x, x
        success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for time in range(self.times):
            draw = everyone(0, "foolbox", type(self).__name__, self._calls, time, count=len(x), device=x.device)
            adversarial = attack(model.network, x, labels, target=target, draw=draw)
            inside = attack.threat.project(adversarial, x)
            succeeded_rows = _succeeds(model, inside, criterion, labels)
            first = (succeeded_rows & ~success if time else torch.ones_like(success)).view(-1, *[1] * (x.dim() - 1))
            raw, inside_images = torch.where(first, adversarial, raw), torch.where(first, inside, inside_images)
            success |= succeeded_rows
        return model.from_unit(raw), model.from_unit(inside_images), success


def _wanted(model: PyTorchModel, x: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor | None]:
    """Labels and, for a targeted criterion, classes to reach."""
    if isinstance(criterion, Both):  # towards the one target, if there is one
        parts = list(criterion.parts())
        return _wanted(model, x, next((one for one in parts if isinstance(one, TargetedMisclassification)), parts[0]))
    if isinstance(criterion, TargetedMisclassification):
        check_tensor(criterion.target_classes, "target_classes", "a tensor [B], one class per image")
        return predicted(model.network, x), criterion.target_classes.to(x.device)
    labels = criterion.labels if isinstance(criterion, Misclassification) else criterion
    if not isinstance(labels, Tensor):
        raise InputError(
            f"criterion is {type(labels).__name__}, must be labels, Misclassification or TargetedMisclassification"
        )
    return labels.to(x.device), None


def _succeeds(model: PyTorchModel, x: Tensor, criterion: Criterion, labels: Tensor) -> Tensor:
    reached = Misclassification(labels) if isinstance(criterion, Tensor) else criterion
    return reached(model.from_unit(x), logits_of(model.network, x))
