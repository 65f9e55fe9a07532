"""`inspect`: every check on one network, as a verdict."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poise.core.errors import InputError, did_you_mean
from poise.core.seeds import generators_kept, key_of
from poise.core.settings import to_json
from poise.core.verdicts import Finding, Verdict
from poise.core.version import __version__
from poise.evaluation.digests import digest_of
from poise.evaluation.protocol import device_name
from poise.evaluation.sanity import (
    choice_checks,
    flat_checks,
    forward_checks,
    gradient_checks,
    sink_checks,
    strength_checks,
)
from poise.evaluation.sanity.subject import Claim, Effort, Subject, share
from poise.losses import Divergence
from poise.threats import Threat

Check = Callable[[Subject], Finding]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        forward_checks.pixel_units,
        forward_checks.batch_statistics,
        forward_checks.randomised_output,
        forward_checks.quantisation,
        forward_checks.constant_logits,
        forward_checks.saturated_logits,
        gradient_checks.vanishing_gradients,
        gradient_checks.shattered_gradients,
        flat_checks.flat_operations,
        sink_checks.safe_sink,
        strength_checks.more_steps,
        strength_checks.more_epsilon,
        strength_checks.large_epsilon,
        strength_checks.black_box,
        strength_checks.pgd_against_autoattack,
        choice_checks.hard_choice,
        strength_checks.training_divergence,
        strength_checks.reported_accuracy,
    )
}
"""Every check by its name, in the order in which they are made."""
_FEWEST = 16


def inspect(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    checks: Sequence[str] = tuple(CHECKS),
    ids: Tensor | None = None,
    claims: Mapping[str, Claim] | None = None,
    surrogates: Mapping[str, nn.Module] | None = None,
    divergences: tuple[Divergence, Divergence] | None = None,
    classes: int | None = None,
    progress: Callable[[str], None] | None = None,
    named: str = "",
    **about: Any,
) -> Verdict:
    """Whether accuracies under attack of this network can be believed: every check, on images x [N, C, H, W] in [0, 1],
    labels y [N].

    The network is inspected as it is handed over and in evaluating mode, and comes back as it was. checks: names from
    `CHECKS`, all by default; claims: images and accuracies that someone reports, by attack; surrogates: other networks
    to transfer from; divergences: of training's inner and outer problem, where it used some (Squeeze Training);
    classes: how many the data have, where the network may have more outputs; progress: called with each check's name as
    it begins; named: the verdict's display name; about: its fields that say what was inspected: run, checkpoint,
    dataset, split.

    Raises: InputError for images, labels, logits or a threat that cannot be inspected, fewer than 16 images, or an
    unknown check.
    """
    begin, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    effort = effort or Effort()
    for name in checks:
        if name not in CHECKS:
            raise InputError(f"checks has no check {name!r}{did_you_mean(name, CHECKS)}")
    if x.dim() != 4 or len(x) < _FEWEST:
        raise InputError(
            f"x has shape {list(x.shape)}, must be [N, C, H, W] with at least {_FEWEST} images: fewer prove nothing"
        )
    # a network that draws for itself draws the same each time, and the caller's generator stays
    with generators_kept(x.device):
        torch.manual_seed(key_of(seed, "sanity"))
        subject = Subject(
            model,
            x,
            y,
            threat,
            effort,
            seed=seed,
            ids=ids,
            claims=claims,
            surrogates=surrogates,
            divergences=divergences,
            classes=classes,
        )
        findings = []
        for name in CHECKS:
            if name in checks:
                if progress is not None:
                    progress(name)
                findings.append(CHECKS[name](subject))
    return Verdict(
        model=named or type(model).__name__,
        model_digest=digest_of(model),
        count=len(x),
        natural_accuracy=share(subject.right),
        threat=to_json(threat),
        effort=to_json(effort),
        seed=seed,
        findings=findings,
        attacks=subject.accuracies,
        seconds=time.perf_counter() - clock,
        started=begin,
        device=device_name(x.device),
        versions={
            "poise": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        **{"checkpoint": "", "run": "", "dataset": "", "split": "test", **about},
    )
