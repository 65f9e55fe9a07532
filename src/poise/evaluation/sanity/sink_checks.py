"""The check of networks with more outputs than classes: a sink beside each class makes attacks stop too early."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.modes import crafting
from poise.core.verdicts import Finding
from poise.evaluation.sanity.significance import Paired
from poise.evaluation.sanity.subject import Subject, percent, share

_MOST = 4
"""How many outputs a class may have inside a network whose labels are made of them; wider layers are features."""


class Merged(nn.Module):
    """One logit for each class: the largest of outputs c, c + C, c + 2 C, ..., of the network or of a layer inside it.

    Outputs that are no multiple of the classes are those of refusals; the first C are the classes'.
    """

    def __init__(self, network: nn.Module, classes: int, layer: str | None = None) -> None:
        super().__init__()
        self.network, self.classes, self.layer = network, classes, layer

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.network(x) if self.layer is None else outputs_of(self.network, x)[self.layer]
        return merged(outputs, self.classes)


def merged(outputs: Tensor, classes: int) -> Tensor:
    """Outputs [N, K] as [N, C] (see `Merged`)."""
    if outputs.shape[1] % classes:
        return outputs[:, :classes]
    return outputs.view(len(outputs), -1, classes).amax(1)


def outputs_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each module inside answers, by its name, of those that answer with a row for each image."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, given: object, out: object) -> None:
            if isinstance(out, Tensor) and out.dim() == 2 and len(out) == len(x) and out.is_floating_point():
                outputs[name] = out

        return hook

    hooks = [part.register_forward_hook(keep(name)) for name, part in network.named_modules() if name]  # type: ignore[arg-type]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _sink(subject: Subject, classes: int) -> Merged | None:
    """The network with its outputs merged, or those of the last layer inside that has several for each class."""
    if subject.classes > classes:
        return Merged(subject.model, classes)
    with crafting(subject.model, "evaluating"), torch.enable_grad():
        inside = outputs_of(subject.model, subject.x[:2].detach().requires_grad_(True))
    several = [
        name
        for name, out in inside.items()
        if out.requires_grad and out.shape[1] % classes == 0 and 1 < out.shape[1] // classes <= _MOST
    ]
    return Merged(subject.model, classes, several[-1]) if several else None


def safe_sink(subject: Subject) -> Finding:
    """Whether an attack that maximises over the other classes, each with all its outputs, breaks more than one that
    any other output satisfies.
    """
    check, classes = "safe_sink", subject.known_classes or subject.classes
    sink = _sink(subject, classes) if classes > 1 else None
    if sink is None:
        return Finding(check, "not applicable", "The network has one output for each class.")

    def right(z: Tensor) -> Tensor:
        return merged(subject.logits(z), classes).argmax(1) == subject.y

    attacks: tuple[PGD, ...] = (subject.pgd(), subject.pgd(loss="margin"))
    natural = right(subject.x)
    standing = standing_aimed = natural
    for attack in attacks:
        standing = standing & right(subject.images(attack)) if subject.differentiable else standing
        with crafting(sink, "evaluating"):
            standing_aimed = standing_aimed & right(
                attack.perturb(sink, subject.x, subject.y, subject.draw(attack.name)).detach()
            )
    pair, where = (
        Paired.of(standing_aimed, standing),
        "its outputs" if sink.layer is None else f"the outputs of {sink.layer}",
    )
    numbers = {"outputs": where, "natural": share(natural), "PGD": share(standing), "aimed": share(standing_aimed)}
    numbers |= {"test": pair.numbers()}
    line = (
        f"PGD leaves {percent(share(standing))}, PGD on the classes with {where} merged"
        f" {percent(share(standing_aimed))}."
    )
    if not pair.proven(subject.effort.level):
        return Finding(check, "pass", line, numbers=numbers)
    return Finding(
        check,
        "flaw",
        f"{line} It breaks {pair.more} of {pair.count} images that the other leaves right, and misses {pair.less}"
        f" (p = {pair.p:.1e}).",
        "Attacks end in outputs that count as the true class afterwards, so that they stop where nothing is broken.",
        "Merge the outputs of each class by their largest one inside the network, then evaluate that with AutoAttack.",
        numbers,
    )
