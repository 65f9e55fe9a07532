"""The check of networks that choose among others: what a missing gradient through the choice may hide."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from poise.attacks import SoftMixturePGD, TransferFromExperts
from poise.attacks.adaptive import chooses, softened
from poise.core.modes import crafting
from poise.core.verdicts import Finding
from poise.evaluation.sanity.significance import Paired
from poise.evaluation.sanity.strength_checks import NO_GRADIENT
from poise.evaluation.sanity.subject import Subject, percent, share
from poise.models.ensemble import CollaborationModule, unwrapped


class Softened(nn.Module):
    """The network with mixtures in place of its choices."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        return softened(self.whole, x, SoftMixturePGD().temperature)


def hard_choice(subject: Subject) -> Finding:
    """Whether attacks that treat a choice among networks as a mixture break more than attacks on the choice as it
    is.
    """
    check, whole = "hard_choice", unwrapped(subject.model)
    hidden_choice = next((part for part in whole.modules() if chooses(part)), None)
    if hidden_choice is None:
        return Finding(check, "not applicable", "The network makes no hard choice among others.")
    if not subject.differentiable:
        return Finding(check, "not applicable", NO_GRADIENT)
    if not chooses(whole):
        kind, where = type(hidden_choice).__name__.removesuffix("Module"), type(whole).__name__
        return Finding(
            check,
            "warning",
            f"The {kind} inside {where} makes a hard choice, where attacks that are aimed at choices do not reach it.",
            "PGD sees the gradient of the chosen network only, and nothing here has tried what lies beside it.",
            "Inspect and attack the network that chooses by itself, with what goes before it in its members.",
        )
    pgd = subject.pgd()
    common: dict[str, Any] = {"threat": pgd.threat, "step_size": pgd.step_size, "steps": pgd.steps}
    logits_tried: dict[str, Tensor] = {}
    if isinstance(whole, CollaborationModule):
        logits_tried["SoftMixturePGD"] = subject.stands(SoftMixturePGD(restarts=1, **common))
    else:
        soft = Softened(whole)
        with crafting(soft, "evaluating"):
            z = pgd.perturb(soft, subject.x, subject.y, subject.draw(pgd.name)).detach()
        logits_tried["PGD on mixtures"] = subject.right & (subject.logits(z).argmax(1) == subject.y)
    logits_tried["TransferFromExperts"] = subject.stands(TransferFromExperts(restarts=1, **common))
    hard = subject.stands(pgd)
    pairs = {name: Paired.of(flags, hard) for name, flags in logits_tried.items()}
    numbers = {name: pair.numbers() | {"accuracy": share(logits_tried[name])} for name, pair in pairs.items()} | {
        "PGD": share(hard)
    }
    proven = {name: pair for name, pair in pairs.items() if pair.proven(subject.effort.level)}
    line = ", ".join(f"{name} {percent(share(flags))}" for name, flags in logits_tried.items())
    if not proven:
        return Finding(check, "pass", f"PGD on the choice leaves {percent(share(hard))}; {line}.", numbers=numbers)
    name, pair = min(proven.items(), key=lambda item: -item[1].gain)
    return Finding(
        check,
        "flaw",
        f"{name} breaks {pair.more} of {pair.count} images that PGD on the hard choice leaves right, and misses"
        f" {pair.less} that it breaks (p = {pair.p:.1e}): PGD leaves {percent(share(hard))}; {line}.",
        "The gradient of a choice sees the chosen network only; robustness measured by it belongs to the masking, not"
        " to the networks.",
        "Report the worst case over PGD, SoftMixturePGD, TransferFromExperts and AdaptivePGD, with five restarts each.",
        numbers,
    )
