"""Measures of several experts on the same images: where all of them are fooled, and how well one of them is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.core.distributed import ALONE, World
from poise.core.errors import InputError
from poise.core.exact import exact
from poise.core.measures import Choice, EnsembleMeasures
from poise.core.modes import evaluating
from poise.data.dataset import Split
from poise.evaluation.predictions import attacked, device_of
from poise.evaluation.shares import share_of, whole
from poise.losses import cross_entropy
from poise.models.ensemble import CollaborationModule, EnsembleModule, unwrapped
from poise.models.mixture import MixtureModule


def measures(logits: Tensor, y: Tensor, output: Tensor, chosen: Tensor | None = None) -> EnsembleMeasures:
    """Measures from the experts' logits [M, N, C], labels [N], the whole's logits [N, C] and the expert chosen per
    example [N].
    """
    right = logits.argmax(-1) == y
    best = torch.stack([cross_entropy(member_logits.double(), y) for member_logits in logits]).argmin(0)
    choice = None
    if chosen is not None:
        chosen_right = _picked(right, chosen)
        missing = right.any(0) & ~chosen_right
        choice = Choice(_share(chosen_right), _share(chosen == best), _share(missing), _shares(chosen, len(logits)))
    return EnsembleMeasures(
        members=tuple(_share(member_logits) for member_logits in right),
        overlap=_share(~right.any(0)),
        oracle=_share(_picked(right, best)),
        best=_shares(best, len(logits)),
        accuracy=_share(output.argmax(1) == y),
        choice=choice,
    )


def has_experts(model: nn.Module) -> bool:
    """Whether the network is a collaboration, an ensemble or a mixture, perhaps in a wrapper (see `unwrapped`)."""
    return isinstance(unwrapped(model), CollaborationModule | EnsembleModule | MixtureModule)


class ExpertAnswers:
    """Collects what the experts of `model` say of batches of images, in the order of `labels` [N].

    Raises: InputError for a network that is not several.
    """

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        if not has_experts(model):
            raise InputError(f"model is {type(model).__name__}, must be a Collaboration, an Ensemble or a Mixture")
        self.model, self.labels = unwrapped(model), labels.cpu()
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Ask the experts about the next images [B, C, H, W]."""
        with evaluating(self.model), exact(x.device):
            if isinstance(self.model, CollaborationModule):
                member_logits, evaluator = self.model.all_heads(x)
                confidences = self.model.confidences(member_logits, evaluator)
                output, winners = self.model.select(member_logits, confidences), self.model.winners(confidences).cpu()
            else:
                assert isinstance(self.model, EnsembleModule | MixtureModule)
                member_logits, winners = self.model.all_logits(x), None
                output = self.model(x) if isinstance(self.model, MixtureModule) else self.model.combine(member_logits)
        self._seen.append((member_logits.cpu(), output.cpu(), winners))

    def measures(self, world: World = ALONE, rows: slice = slice(None)) -> EnsembleMeasures:
        """Of all images seen, which must be as many as the labels; of several ranks each has seen its `rows`. Raises:
        RankError.
        """

        def joined(parts: list[Tensor], axis: int = 0) -> Tensor:
            return whole(world, torch.cat(parts, axis) if parts else None, rows, len(self.labels), axis)

        logits, outputs = (
            joined([member_logits for member_logits, _, _ in self._seen], 1),
            joined([output for _, output, _ in self._seen]),
        )
        choices = [part for _, _, part in self._seen if part is not None]
        return measures(
            logits, self.labels, outputs, joined(choices) if isinstance(self.model, CollaborationModule) else None
        )


def measure_ensemble(
    model: nn.Module,
    split: Split,
    attack: Attack | None = None,
    *,
    seed: int = 0,
    batch_size: int = 256,
    world: World = ALONE,
) -> EnsembleMeasures:
    """Measures on the split's images, natural or under an attack on the whole (draws as in `predict_under`).

    Raises: InputError for a network that is not several, RankError.
    """
    answers, rows = ExpertAnswers(model, split.labels), share_of(world, len(split), batch_size)
    if attack is None:
        _see_natural(answers, split.subset(rows), batch_size)
    else:
        for x_adv, _ in attacked(model, split.subset(rows), attack, seed=seed, batch_size=batch_size):
            answers.see(x_adv)
    return answers.measures(world, rows)


def natural_notes(model: nn.Module, split: Split, batch_size: int = 256, world: World = ALONE) -> dict[str, Any]:
    """{"experts": measures on the natural images} for a network of several, else nothing: what a record's notes say."""
    if not has_experts(model):
        return {}
    return {"experts": dataclasses.asdict(measure_ensemble(model, split, batch_size=batch_size, world=world))}


def predict_and_measure(
    model: nn.Module,
    split: Split,
    attack: Attack,
    *,
    seed: int = 0,
    batch_size: int = 256,
    advance: Callable[[int], None] | None = None,
    world: World = ALONE,
) -> tuple[Tensor, dict[str, Any]]:
    """`predict_under` [N] with the notes of the attack's record: the experts' measures on the images the attack made,
    if there are any.

    The attack is made once; what is added is one forward of the experts. The ranks of `world`, which all call this,
    share the work.
    Raises: InputError, RankError.
    """
    answers = ExpertAnswers(model, split.labels) if has_experts(model) else None
    predictions, rows = [], share_of(world, len(split), batch_size)
    for x_adv, labels in attacked(model, split.subset(rows), attack, seed=seed, batch_size=batch_size, advance=advance):
        predictions.append(labels)
        if answers is not None:
            answers.see(x_adv)
    notes = {} if answers is None else {"experts": dataclasses.asdict(answers.measures(world, rows))}
    return whole(world, torch.cat(predictions) if predictions else None, rows, len(split)), notes


def _see_natural(answers: ExpertAnswers, split: Split, batch_size: int) -> None:
    device, dtype = device_of(answers.model)
    for start in range(0, len(split), batch_size):
        answers.see(split.pixels(slice(start, start + batch_size), dtype).to(device))


def _picked(flags: Tensor, expert: Tensor) -> Tensor:
    """flags [M, N] of each example's expert [N] -> [N]."""
    return flags.gather(0, expert[None])[0]


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _shares(expert: Tensor, count: int) -> tuple[float, ...]:
    return tuple((torch.bincount(expert, minlength=count).double() / len(expert)).tolist())
