"""Checks of the gradient: whether there is one, and whether a better one is to be had."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.modes import crafting
from poise.core.verdicts import Finding
from poise.evaluation.sanity.gradients import Bridged, Estimated
from poise.evaluation.sanity.significance import Paired, exceeds
from poise.evaluation.sanity.subject import Subject, differentiable, percent
from poise.losses import cross_entropy, margin

_UNDERFLOW = 1e-30
"""Largest entry of a gradient that is as good as none: the square of such numbers is zero in float32."""
_TOLERATED = 0.05


def vanishing_gradients(subject: Subject) -> Finding:
    """On how many images the gradient of the cross-entropy, or of the margin, is zero, or not finite."""
    check = "vanishing_gradients"
    if not subject.differentiable:
        return Finding(
            check,
            "flaw",
            "The logits do not hang on the images in the autograd graph.",
            "No gradient attack can run, so what it leaves standing proves nothing.",
            "Keep the forward pass in torch (no numpy, no detach, no no_grad), or give its steps a backward pass"
            " (BPDA).",
            {"differentiable": False},
        )
    x, y = subject.x[subject.right], subject.y[subject.right]
    if len(x) == 0:
        return Finding(check, "not applicable", "The network is right on none of the images.")
    gone: dict[str, float] = {}
    count: dict[str, int] = {}
    for name, loss in (("cross_entropy", cross_entropy), ("margin", margin)):
        size = subject.gradient(loss, x, y).flatten(1).abs().amax(1)
        bad = ~(size > _UNDERFLOW) | ~size.isfinite()
        count[name], gone[name] = int(bad.sum()), int(bad.sum()) / len(x)
    name = max(count, key=lambda loss: count[loss])
    if not exceeds(count[name], len(x), _TOLERATED, subject.effort.level):
        return Finding(
            check,
            "pass",
            f"The gradient is there on {percent(1 - gone[name])} of the images or more.",
            numbers={"gone": gone},
        )
    scale = gone["margin"] <= _TOLERATED
    return Finding(
        check,
        "flaw",
        f"The gradient vanishes on {percent(gone['cross_entropy'])} of the images for the cross-entropy, on"
        f" {percent(gone['margin'])} for the margin.",
        (
            "The cross-entropy has no gradient, but the logits have: its scale is at fault, and attacks by"
            " cross-entropy stand still."
            if scale
            else "The network cuts or flattens the gradient: gradient attacks stand still, which is no robustness."
        ),
        (
            "Attack with losses that do not see the scale: APGD(loss='targeted_dlr'), CW."
            if scale
            else "Attack with Square at 5000 queries, and with the cutting layer's backward pass replaced (BPDA)."
        ),
        {"gone": gone},
    )


def shattered_gradients(subject: Subject) -> Finding:
    """Whether PGD breaks more with another gradient than the network's own: straight through its steps, or estimated
    from logits.
    """
    check, effort = "shattered_gradients", subject.effort
    rows = subject.right.nonzero()[:, 0]
    if len(rows) == 0:
        return Finding(check, "not applicable", "The network is right on none of the images.")
    attack = subject.pgd(max(effort.steps // 2, 5), loss="margin")
    bridge = Bridged(subject.model)
    standing = subject.stands(attack) if subject.differentiable else subject.right
    comparisons: dict[str, Paired] = {}
    if differentiable(bridge, subject.x) and bridge.replaced:
        comparisons["straight through"] = Paired.of(_stands(subject, attack, bridge, rows), standing[rows])
    few = rows[: effort.gradient_examples]
    radius = subject.threat.epsilon / 2 / subject.whole_box()
    estimator = Estimated(subject.model, radius, effort.gradient_samples, subject.draw("estimated")[few])
    comparisons["estimated"] = Paired.of(_stands(subject, attack, estimator, few), standing[few])
    numbers: dict[str, Any] = {name: pair.numbers() for name, pair in comparisons.items()} | {
        "replaced": sorted(bridge.replaced)
    }
    proven = {name: pair for name, pair in comparisons.items() if pair.proven(effort.level)}
    if not proven:
        return Finding(check, "pass", "No other gradient breaks more images than the network's own.", numbers=numbers)
    name, pair = next(iter(proven.items()))
    how = {
        "straight through": f"gradients straight through {', '.join(sorted(bridge.replaced))}",
        "estimated": f"gradients estimated from {2 * effort.gradient_samples} logits a step",
    }[name]
    return Finding(
        check,
        "flaw",
        f"PGD with {how} breaks {pair.more} of {pair.count} images that PGD with the network's own gradients leaves"
        f" right, and misses {pair.less} that it breaks (p = {pair.p:.1e}).",
        "The network's own gradients lead nowhere (shattered or masked), so every white-box accuracy is too high.",
        "Give the layers at fault a differentiable backward pass (BPDA), then run AutoAttack; until then believe Square"
        " only.",
        numbers,
    )


def _stands(subject: Subject, attack: PGD, stand_in: nn.Module, rows: Tensor) -> Tensor:
    """Which of the examples stand on the network itself when the attack follows the gradients of another module,
    [rows].
    """
    x, y = subject.x[rows], subject.y[rows]
    with crafting(stand_in, "evaluating"):
        z = attack.perturb(stand_in, x, y, subject.draw(attack.name)[rows]).detach()
    return subject.logits(z).argmax(1) == y
