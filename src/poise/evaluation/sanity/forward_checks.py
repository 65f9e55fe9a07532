"""Checks of the forward pass: modes, randomness, precision, constant and saturated logits, units of the pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from poise.core.modes import frozen_parameters
from poise.core.verdicts import Finding
from poise.evaluation.sanity.significance import exceeds
from poise.evaluation.sanity.subject import Subject, percent, share
from poise.evaluation.sanity.trace import Trace
from poise.losses import margin

_TOLERANCE = 1e-3
"""Of logits computed twice, relative to their spread: summation order moves the last digits, a mode or a draw far more.
"""
_ASKED = 5


def moved(a: Tensor, b: Tensor) -> Tensor:
    """Where two computations [N, C] of the same logits differ by more than rounding."""
    spread = a.amax(1) - a.amin(1)
    return ~((a - b).abs().amax(1) <= _TOLERANCE * spread)


def batch_statistics(subject: Subject) -> Finding:
    """Whether an image's logits depend on its batch mates, in the mode the network was handed over in and in evaluating
    mode.
    """
    check, half = "batch_statistics", max(len(subject.x) // 2, 1)
    as_given_both = _as_given(subject.model, subject.x), _as_given(subject.model, subject.x[:half])
    again = _as_given(subject.model, subject.x)
    as_given, noise = (
        share(moved(as_given_both[0][:half], as_given_both[1])),
        share(moved(as_given_both[0][:half], again[:half])),
    )
    evaluated_share = share(
        moved(subject.logits(subject.x, half)[:half], subject.logits(subject.x[:half], max(half // 2, 1)))
    )
    noisy = share(moved(subject.logits(subject.x), subject.logits(subject.x)))
    norms = [
        name for name, module in subject.model.named_modules() if isinstance(module, _BatchNorm) and _by_batch(module)
    ]
    numbers = {
        "as_given": as_given,
        "evaluating": evaluated_share,
        "noise_as_given": noise,
        "layers_in_training_mode": norms,
    }
    if norms or (evaluated_share > 0 and noisy == 0) or (as_given > 0 and noise == 0):
        names = (
            f"; batch normalisation by the batch: {', '.join(norms[:4])}{' ...' * (len(norms) > 4)}" if norms else ""
        )
        sentence = (
            f"The logits of {percent(as_given)} of the images change with the other images of their batch{names}."
        )
        stays = evaluated_share > 0 and noisy == 0
        means = "What is measured is a function of the batch: an attack on one image changes the verdict on others." + (
            " It stays so in evaluating mode."
            if stays
            else " In evaluating mode, in which Poise attacks, the network is another one."
        )
        then = (
            "Let the network use its running statistics"
            if stays
            else "Call model.eval() before every accuracy and every attack"
        )
        return Finding(check, "flaw", sentence, means, f"{then}, then inspect again.", numbers)
    return Finding(check, "pass", "An image's logits do not depend on its batch mates.", numbers=numbers)


def _by_batch(module: _BatchNorm) -> bool:
    return module.training or module.running_mean is None


def _as_given(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in the mode the network is in; its buffers come back as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen_parameters(model), torch.no_grad():
        logits = model(x)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return logits


def randomised_output(subject: Subject) -> Finding:
    """Whether the same images in the same batch get the same logits again, in evaluating mode."""
    check = "randomised_output"
    answers = [subject.logits(subject.x) for _ in range(_ASKED)]
    differ = torch.stack([moved(answers[0], answer) for answer in answers[1:]]).any(0)
    labels = torch.stack([logits.argmax(1) for logits in answers])
    flipped_share = share((labels != labels[0]).any(0))
    with Trace() as trace:
        subject.logits(subject.x[:2])
    numbers = {"logits_differ": share(differ), "labels_differ": flipped_share, "draws": sorted(trace.random)}
    if not differ.any():
        return Finding(check, "pass", f"The same images gave the same logits {_ASKED} times.", numbers=numbers)
    sentence_drawn = f"; the forward pass calls {', '.join(sorted(trace.random))}" if trace.random else ""
    return Finding(
        check,
        "flaw",
        f"Asked {_ASKED} times, the network changed its logits on {percent(share(differ))} of the images and its label"
        f" on {percent(flipped_share)}{sentence_drawn}.",
        "An attack by single gradients follows one draw and is judged by another, so accuracy under it is too high; and"
        " each attack ends at a luckier or unluckier draw.",
        "Evaluate with AutoAttack(version='rand'), which averages 20 gradients (expectation over transformation), and"
        " judge each image by several draws.",
        numbers,
    )


def quantisation(subject: Subject) -> Finding:
    """Whether the forward pass rounds: narrow types, and steps too small to be seen that change no logit at all."""
    check, draw = "quantisation", subject.draw("quantisation")
    with Trace() as trace:
        subject.logits(subject.x[:2])
    off_grid = subject.threat.random_start(subject.x, draw)
    signs = draw.within("signs").uniform(*subject.x.shape[1:], dtype=subject.x.dtype).sub_(0.5).sign_()
    flat = max(share(_same(subject, subject.x, signs, 1e-3)), share(_same(subject, off_grid, signs, 2e-6)))
    narrow = sorted(trace.narrow) + ([str(subject.natural.dtype)[6:]] if subject.natural.dtype.itemsize < 4 else [])
    numbers: dict[str, Any] = {"flat": flat, "narrow_types": sorted(set(narrow)), "rounding": sorted(trace.rounding)}
    calls = f"; the forward pass calls {', '.join(sorted(trace.rounding))}" if trace.rounding else ""
    if flat > 0.25:
        vanishing = share((subject.gradient(margin, subject.x, subject.y) == 0).flatten(1).all(1)) > 0.5
        return Finding(
            check,
            "flaw" if vanishing else "warning",
            f"Around {percent(flat)} of the images the logits are constant under changes of every pixel that a network"
            f" without rounding would see{calls}.",
            "The network is a staircase: its true gradient is zero almost everywhere. "
            + (
                "The one it returns is zero too, so gradient attacks fail for no good reason."
                if vanishing
                else "The one it returns is made up."
            ),
            "Attack with the rounding replaced by the identity in the backward pass (BPDA), and with Square at its full"
            " 5000 queries.",
            numbers | {"gradient_lost": vanishing},
        )
    if narrow:
        return Finding(
            check,
            "warning",
            f"The forward pass computes in {', '.join(sorted(set(narrow)))}.",
            "Ties and the last digits of small margins decide verdicts, and gradients below the type's range vanish.",
            "Run the network in float32 for every verdict: model.float(), without autocast.",
            numbers,
        )
    return Finding(check, "pass", "Steps of a millionth of the pixel range change the logits.", numbers=numbers)


def _same(subject: Subject, x: Tensor, signs: Tensor, size: float) -> Tensor:
    """Where no logit changes, to the last bit, between x and x moved inwards or outwards by `size` along `signs`,
    [N].
    """
    z = torch.where((x + size * signs >= 0) & (x + size * signs <= 1), x + size * signs, x - size * signs)
    return (subject.logits(z) == subject.logits(x)).all(1)


def constant_logits(subject: Subject) -> Finding:
    """Whether different images get the very same logits, as from a detector that refuses to answer; also images an
    attack passes.
    """
    check, draw = "constant_logits", subject.draw("constant")
    x = subject.x
    corners = (x + subject.threat.epsilon * draw.uniform(*x.shape[1:], dtype=x.dtype).sub_(0.5).sign_()).clamp(0, 1)
    sets = {
        "natural": x,
        "random in the threat": subject.threat.random_start(x, draw),
        "random signs": subject.threat.project(corners, x),
    }
    if subject.differentiable:
        sets["PGD"] = subject.images(subject.pgd())
    logits = torch.cat([subject.logits(images) for images in sets.values()])
    _, kind = logits.unique(dim=0, return_inverse=True)
    _, example = x.flatten(1).unique(dim=0, return_inverse=True)  # the same image twice is no constant answer
    example = example.repeat(len(sets))
    pairs = torch.stack([kind, example], 1).unique(dim=0)
    repeated = torch.bincount(pairs[:, 0], minlength=int(kind.max()) + 1)[kind] > 1
    shares = {name: share(part) for name, part in zip(sets, repeated.split(len(x)), strict=True)}
    name, worst = max(shares.items(), key=lambda pair: pair[1])
    if not exceeds(round(worst * len(x)), len(x), 0.02, subject.effort.level):
        return Finding(
            check, "pass", "Different images get different logits, also under attack.", numbers={"shared": shares}
        )
    answer = logits[repeated][0].tolist()
    return Finding(
        check,
        "flaw",
        f"{percent(worst)} of the images ({name}) get logits that another image gets too, to the last bit: "
        f"[{', '.join(f'{value:.3g}' for value in answer[:4])}{', ...' * (len(answer) > 4)}].",
        "The network refuses to answer, or has collapsed: where it does there is no gradient, and whether a refusal"
        " counts as right or wrong decides the accuracy.",
        "Evaluate classifier and detector apart, then attack both at once with one loss; say how refusals are counted.",
        {"shared": shares},
    )


def saturated_logits(subject: Subject) -> Finding:
    """Whether softmax is so sure that the cross-entropy's gradient underflows."""
    check = "saturated_logits"
    logits = subject.natural.to(torch.promote_types(subject.natural.dtype, torch.float32))
    runners_up = F.softmax(logits, 1).scatter(1, logits.argmax(1)[:, None], 0).amax(1)
    gone = runners_up < torch.finfo(torch.float32).tiny
    lead = logits.topk(2, 1).values
    numbers = {
        "underflow": share(gone),
        "median_lead": float((lead[:, 0] - lead[:, 1]).median()),
        "largest": float(logits.abs().max()),
    }
    if not exceeds(int(gone.sum()), len(gone), 0.02, subject.effort.level):
        sentence = f"The predicted class leads by {numbers['median_lead']:.3g} logits (median)."
        return Finding(check, "pass", sentence, numbers=numbers)
    return Finding(
        check,
        "flaw",
        f"On {percent(share(gone))} of the images every other class has probability zero in float32: the predicted"
        f" class leads by {numbers['median_lead']:.3g} logits (median).",
        "The gradient of the cross-entropy is exactly zero there, so FGSM, PGD and APGD-CE do not move; the labels are"
        " no more robust.",
        "Divide the logits by their spread, which changes no label, and attack again; or use losses that do not see the"
        " scale: APGD(loss='targeted_dlr'), CW.",
        numbers,
    )


def pixel_units(subject: Subject) -> Finding:
    """Whether epsilon, the images and the network agree that pixels run from 0 to 1."""
    check, epsilon, x = "pixel_units", subject.threat.epsilon, subject.x
    wide = share(subject.logits(x * 255).argmax(1) == subject.y)
    here = share(subject.right)
    nearest = _nearest_other(subject)
    numbers = {
        "epsilon": epsilon,
        "brightest": float(x.max()),
        "accuracy": here,
        "accuracy_at_255": wide,
        "nearest_other_class": nearest,
    }

    def flaw(seen: str, means: str, then: str) -> Finding:
        return Finding(check, "flaw", seen, means, then, numbers)

    if float(x.max()) <= 2 / 255:
        return flaw(
            f"No pixel exceeds {float(x.max()):.2g}.", "The images were divided by 255 twice.", "Pass pixels in [0, 1]."
        )
    if nearest is not None and 2 * epsilon >= nearest:
        return flaw(
            f"Twice epsilon = {epsilon:g} reaches from half of the images to an image of another class, {nearest:.3g}"
            " away (median).",
            "The image half way between the two may be either, so no classifier can be robust here; the epsilon looks"
            " like one for 0-255.",
            f"Pass epsilon in pixels from 0 to 1, such as {min(epsilon, 8):g}/255.",
        )
    if epsilon < 0.5 / 255:
        return flaw(
            f"epsilon = {epsilon:.3g} is less than half a grey level.",
            "The attacker can do nothing that an 8-bit image could show; epsilon was probably divided by 255 twice.",
            "Pass epsilon in pixels from 0 to 1, such as 8/255.",
        )
    if wide - here > 0.2 and here < 0.5:
        return flaw(
            f"The network is right on {percent(here)} of the images in [0, 1] and on {percent(wide)} when they are"
            " multiplied by 255.",
            "It expects pixels in 0-255, so accuracies here are of images it was never made for, and epsilon is in"
            " other units.",
            "Divide by 255 inside the network's first layer (Normalisation).",
        )
    return Finding(
        check,
        "pass",
        f"epsilon = {epsilon:.4g} and pixels up to {float(x.max()):.3g} are both in [0, 1] units.",
        numbers=numbers,
    )


def _nearest_other(subject: Subject) -> float | None:
    """Median over the images of the distance, in the threat's norm, to the nearest image of another class; None if
    there is none.
    """
    if len(subject.y.unique()) < 2:
        return None
    flat = subject.x.flatten(1).double()
    distances = torch.cdist(flat, flat, p=subject.threat.order)
    distances[subject.y[:, None] == subject.y[None]] = float("inf")
    return float(distances.amin(1).median())
