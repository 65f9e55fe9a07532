"""Checks of attacks against each other: what must not happen when an attack gets stronger, or knows more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poise.attacks import MIM
from poise.attacks.ascent import ascent
from poise.core.modes import crafting
from poise.core.verdicts import Finding
from poise.evaluation.sanity.significance import Paired, exceeds, tail
from poise.evaluation.sanity.subject import Claim, Subject, percent, share
from poise.evaluation.sanity.substitute import substitute_of
from poise.losses import Divergence, divergence

NO_GRADIENT = "The network has no gradient, so there is no white-box attack to judge."
_SLACK = 1e-5  # float rounding of projections
_FAR = {"PGD-CE": 0.25, "PGD-CE and PGD-margin": 0.12}
"""Of accuracy under PGD above AutoAttack's. On honest digits networks PGD-CE stands up to .21 above (TRADES), both
losses up to .08.
"""


def _ladder(subject: Subject, check: str, rungs: Sequence[tuple[str, Tensor]], what: str) -> Finding:
    """`rungs`: which examples stand, from the weakest attack to the strongest; each must break as many as the one
    before.
    """
    numbers: dict[str, Any] = {"accuracy": {name: share(stands) for name, stands in rungs}}
    line = ", ".join(f"{name}: {percent(share(stands))}" for name, stands in rungs)
    for place, (name, weaker) in enumerate(rungs[:-1]):
        for later, stronger in rungs[place + 1 :]:
            pair = Paired.of(weaker, stronger)
            if pair.proven(subject.effort.level):
                return Finding(
                    check,
                    "flaw",
                    f"Accuracy under PGD rises from {name} to {later} ({line}): {pair.more} of {pair.count} images fall"
                    f" to the weaker attack only, {pair.less} to the stronger only (p = {pair.p:.1e}).",
                    f"{what} make the attack weaker, which no sound gradient does: it follows noise or a masked loss.",
                    "Evaluate with AutoAttack; look at the checks of gradients and randomness.",
                    numbers | {"test": pair.numbers()},
                )
    return Finding(check, "pass", f"Accuracy under PGD: {line}.", numbers=numbers)


def more_steps(subject: Subject) -> Finding:
    """PGD with 1, a quarter of, all and twice the steps, each with step sizes that together reach epsilon."""
    if not subject.differentiable:
        return Finding("more_steps", "not applicable", NO_GRADIENT)
    steps = sorted({1, max(subject.effort.steps // 4, 2), subject.effort.steps, 2 * subject.effort.steps})
    rungs = [(f"{k} step{'s' * (k > 1)}", subject.stands(subject.pgd(k))) for k in steps]
    return _ladder(subject, "more_steps", rungs, "More steps")


def more_epsilon(subject: Subject) -> Finding:
    """PGD at a half, at one and at two epsilon."""
    if not subject.differentiable:
        return Finding("more_epsilon", "not applicable", NO_GRADIENT)
    sizes = sorted({min(factor * subject.threat.epsilon, subject.whole_box()) for factor in (0.5, 1.0, 2.0)})
    rungs = [(f"epsilon {size:.3g}", subject.stands(subject.pgd(epsilon=size))) for size in sizes]
    return _ladder(subject, "more_epsilon", rungs, "Larger epsilons")


def large_epsilon(subject: Subject) -> Finding:
    """Whether an attacker who may paint any image whatever brings the accuracy to zero."""
    check, epsilon = "large_epsilon", subject.whole_box()
    if not subject.differentiable:
        return Finding(check, "not applicable", NO_GRADIENT)
    steps = 2 * subject.effort.steps
    stands = subject.stands(subject.pgd(steps, epsilon)) & subject.stands(subject.pgd(steps, epsilon, loss="margin"))
    count_left = int(stands.sum())
    numbers = {"epsilon": epsilon, "accuracy": share(stands), "p": tail(count_left, len(stands), 0.01)}
    if not exceeds(count_left, len(stands), 0.01, subject.effort.level):
        return Finding(check, "pass", f"At epsilon {epsilon:.3g} PGD leaves {percent(share(stands))}.", numbers=numbers)
    return Finding(
        check,
        "flaw",
        f"At epsilon {epsilon:.3g}, where every image may become any other, PGD on cross-entropy and on the margin"
        f" still leaves {percent(share(stands))} right.",
        "An image of another class lies in reach of every one of these, so the attack fails and not the attacker:"
        " gradients are masked, or the network answers one class only.",
        "Look at the checks of gradients; attack with Square and BPDA before believing any accuracy.",
        numbers,
    )


def pgd_against_autoattack(subject: Subject) -> Finding:
    """Whether PGD leaves far more standing than a short AutoAttack: APGD-CE, APGD-T, Square."""
    check, effort, square = "pgd_against_autoattack", subject.effort, subject.square()
    if not subject.differentiable:
        return Finding(check, "not applicable", NO_GRADIENT)
    alone = subject.stands(subject.pgd())
    standing_both = alone & subject.stands(subject.pgd(loss="margin"))
    auto = subject.white_box() & square
    subject.accuracies["AutoAttack (short)"] = share(auto)
    gaps = {"PGD-CE": int((alone & ~auto).sum()), "PGD-CE and PGD-margin": int((standing_both & ~auto).sum())}
    count = len(auto)
    numbers = {
        "PGD-CE": share(alone),
        "PGD-CE and PGD-margin": share(standing_both),
        "AutoAttack (short)": share(auto),
        "gaps": gaps,
    }
    line = (
        f"PGD-CE leaves {percent(share(alone))}, with the margin too {percent(share(standing_both))}, a short"
        f" AutoAttack {percent(share(auto))}."
    )

    def far(times: int) -> bool:
        return any(exceeds(gaps[name], count, times * by, effort.level) for name, by in _FAR.items())

    if not far(1):
        return Finding(check, "pass", line, numbers=numbers)
    return Finding(
        check,
        "flaw" if far(2) else "warning",
        line,
        f"The gap is significantly more than {percent(_FAR['PGD-CE'])} for PGD-CE, or"
        f" {percent(_FAR['PGD-CE and PGD-margin'])} for both losses: PGD is fooled by the loss's shape, and its"
        " accuracy is no robust accuracy.",
        "Report AutoAttack (version standard, full budgets) and leave PGD out of the headline.",
        numbers,
    )


def black_box(subject: Subject) -> Finding:
    """Whether attacks that see logits only, or another network only, break more than those that see everything."""
    check, effort = "black_box", subject.effort
    square = subject.square()
    if not subject.differentiable:
        return Finding(
            check,
            "not applicable",
            f"{NO_GRADIENT} Square leaves {percent(share(square))}.",
            numbers={"Square": share(square)},
        )
    white = subject.white_box()
    stands = {"Square": square} | {f"transfer from {name}": flags for name, flags in _transferred(subject).items()}
    subject.accuracies |= {name: share(flags) for name, flags in stands.items()}
    pairs = {name: Paired.of(flags, white) for name, flags in stands.items()}
    numbers: dict[str, Any] = {name: pair.numbers() | {"accuracy": share(stands[name])} for name, pair in pairs.items()}
    numbers |= {"white-box": share(white)}
    proven = {name: pair for name, pair in pairs.items() if pair.proven(effort.level)}
    if proven:
        name, pair = min(proven.items(), key=lambda item: -item[1].gain)
        return Finding(
            check,
            "flaw",
            f"{name} breaks {pair.more} of {pair.count} images that PGD and APGD leave right, and misses {pair.less}"
            f" that they break (p = {pair.p:.1e}): it leaves {percent(share(stands[name]))}, they leave"
            f" {percent(share(white))}.",
            "An attack that knows less does more, so the gradients mislead the one that knows all: accuracies under it"
            " are too high.",
            "Run Square at 5000 queries, and the checks of gradients; report the worst case over black-box and"
            " white-box.",
            numbers,
        )
    extra = {name: int((~flags & white).sum()) for name, flags in stands.items()}
    name = max(extra, key=lambda each: extra[each])
    if exceeds(extra[name], len(white), 0.03, effort.level):
        return Finding(
            check,
            "warning",
            f"{name} breaks {extra[name]} of {len(white)} images that no white-box attack of this inspection breaks.",
            "On these the gradients mislead, although not on most.",
            "Run AutoAttack at its full budgets, in which Square has 5000 queries.",
            numbers,
        )
    line = ", ".join(f"{name} {percent(share(flags))}" for name, flags in stands.items())
    return Finding(
        check, "pass", f"White-box attacks leave {percent(share(white))}, black-box ones more: {line}.", numbers=numbers
    )


def _transferred(subject: Subject) -> dict[str, Tensor]:
    """Which examples [N] stand under MIM made on the surrogates given, and on a substitute trained on the network's
    answers.
    """
    transferred = {}
    pgd = subject.pgd()
    attack = MIM(threat=pgd.threat, step_size=pgd.step_size, steps=pgd.steps)
    for name, network in {**subject.surrogates, "a substitute": substitute_of(subject)}.items():
        z = attack(network, subject.x, subject.y, draw=subject.draw("transfer", name))
        transferred[name] = subject.right & (subject.logits(z).argmax(1) == subject.y)
    return transferred


def training_divergence(subject: Subject) -> Finding:
    """Whether training maximised another divergence than it minimised, which masks gradients (Li et al. 2023, Section
    4.2).
    """
    check = "training_divergence"
    if subject.divergences is None:
        return Finding(
            check, "not applicable", "Training is not known to have used a divergence within its inner maximisation."
        )
    inner, outer = subject.divergences
    if not subject.differentiable:
        return Finding(check, "not applicable", NO_GRADIENT)
    by_inner, plain = _ascended(subject, inner), subject.stands(subject.pgd())
    auto = subject.white_box() & subject.square()
    accuracy = {f"PGD on {inner}": share(by_inner), "PGD-CE": share(plain), "AutoAttack (short)": share(auto)}
    pair = Paired.of(auto, plain)
    numbers = {"inner": inner, "outer": outer, "accuracy": accuracy, "test": pair.numbers()}
    line = ", ".join(f"{name} {percent(value)}" for name, value in accuracy.items())
    if inner == outer:
        return Finding(
            check, "pass", f"Training maximised and minimised one divergence, {inner}; {line}.", numbers=numbers
        )
    surely = pair.proven(subject.effort.level)
    return Finding(
        check,
        "warning",
        f"Training maximised {inner} and minimised {outer}; {line}"
        + (f", a gap of {percent(pair.gain)} (p = {pair.p:.1e})." if surely else "."),
        "Different divergences mask gradients: PGD-20 looks better and stronger attacks do worse (Li et al. 2023,"
        " Section 4.2)."
        + (
            " PGD-CE stands above AutoAttack here, as it may on honest networks too: only the same training on one"
            " divergence tells."
            if surely
            else " It does not show on these images."
        ),
        "Report AutoAttack at its full budgets beside PGD, and compare with the same training on one divergence.",
        numbers,
    )


def _ascended(subject: Subject, name: Divergence) -> Tensor:
    """Which examples [N] stand under PGD on a divergence from the natural prediction."""
    pgd = subject.pgd()
    z = subject.threat.random_start(subject.x, subject.draw("divergence", name))
    with crafting(subject.model, "evaluating"):

        def score(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = subject.model(images)
            return divergence(name, subject.natural, logits), logits

        z = ascent(score, subject.x, z, threat=subject.threat, step_size=pgd.step_size, steps=pgd.steps)
    return subject.right & (subject.logits(z).argmax(1) == subject.y)


def reported_accuracy(subject: Subject) -> Finding:
    """Whether returned adversarial images are allowed and give the accuracy that was reported with them, asked one
    batch at a time.
    """
    check = "reported_accuracy"
    subject.square()
    if subject.differentiable:
        subject.white_box()
    wrong: list[str] = []
    numbers: dict[str, Any] = {}
    for name, claim in subject.claims.items():
        recomputed, outside = _recomputed(subject, claim)
        numbers[name] = {"reported": claim.accuracy, "recomputed": recomputed, "not_allowed": outside}
        if abs(recomputed - claim.accuracy) > 0.5 / len(subject.x):
            wrong.append(
                f"{name} was reported to leave {percent(claim.accuracy)}, its images give {percent(recomputed)}"
            )
        if outside:
            wrong.append(f"{outside} images of {name} lie outside the threat or the box")
    if not wrong:
        line = f"The images returned by {', '.join(numbers)} are allowed and give the accuracies reported."
        return Finding(check, "pass", line, numbers=numbers)
    return Finding(
        check,
        "flaw",
        f"{'; '.join(wrong)}.",
        "The reported accuracy is not that of the network on the images returned: another mode, precision, batch or"
        " draw decided it.",
        "Take every verdict from one forward pass, in evaluating mode and float32, on exactly the images that are"
        " kept.",
        numbers,
    )


def _recomputed(subject: Subject, claim: Claim) -> tuple[float, int]:
    """Accuracy on the images in reversed order and batches of another size, and how many of them are not allowed."""
    z = claim.x_adv.to(subject.x)
    backwards = torch.arange(len(z) - 1, -1, -1, device=z.device)
    right = subject.logits(z[backwards], 37).argmax(1) == subject.y[backwards]
    threat = claim.threat or subject.threat
    outside = (threat.norm(z - subject.x) > threat.epsilon + _SLACK) | ((z < -_SLACK) | (z > 1 + _SLACK)).flatten(
        1
    ).any(1)
    return share(right), int(outside.sum())
