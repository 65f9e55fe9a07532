"""The images that one attack makes on a subject, in a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import Attack
from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.errors import SettingsError
from poise.core.files import check_writable
from poise.core.progress import Progress
from poise.core.settings import from_json, to_json
from poise.data import Split
from poise.engine.checkpoints import write_tensors
from poise.evaluation.digests import digest_of, digest_of_images
from poise.evaluation.predictions import accuracy, attacked, logits_of, predict
from poise.losses import cross_entropy
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.results import Answer, Sheet
from poise.verbs.subject import Subject


@dataclass(frozen=True, eq=False)
class Attacked(Answer):
    """What an attack did to the images of `split`: x_adv [N, C, H, W] in [0, 1] and the labels predicted on both [N],
    on the CPU.
    """

    attack: Attack
    split: Split
    x_adv: Tensor
    natural: Tensor
    predicted: Tensor
    losses: Tensor
    """Cross-entropy on the images and on their adversarial forms [2, N]."""
    written: Path | None = None

    @property
    def natural_accuracy(self) -> float:
        """In [0, 1]."""
        return accuracy(self.natural, self.split)

    @property
    def accuracy(self) -> float:
        """On the adversarial images, in [0, 1]."""
        return accuracy(self.predicted, self.split)

    @property
    def kind(self) -> str:
        """What accuracy on the images that it made is: robust, or only collaborative."""
        return "robust" if self.attack.against else "collaborative"

    @property
    def cross_entropy(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the images, of "natural" and of "attacked" ones."""
        deviations, means = torch.std_mean(self.losses.double(), dim=1, correction=0)
        pairs = zip(means.tolist(), deviations.tolist(), strict=True)
        return dict(zip(("natural", "attacked"), pairs, strict=True))

    def sheet(self) -> Sheet:
        accuracies = [f"{100 * share:.2f}" for share in (self.natural_accuracy, self.accuracy)]
        losses = [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in self.cross_entropy.values()]
        heads = ["attack", "natural", self.kind, "cross-entropy, natural", "cross-entropy, attacked"]
        notes = [f"{len(self.split)} images; accuracy in percent; ± is the standard deviation over images"]
        return Sheet(heads, [[self.attack.name, *accuracies, *losses]], notes)

    def lines(self) -> list[dict[str, Any]]:
        """An image each: its number in the data set, its label, what is predicted on it and on its adversarial form,
        and both losses.
        """
        columns = (self.split.ids, self.split.labels, self.natural, self.predicted, *self.losses)
        names = ("id", "label", "natural", "attacked", "cross-entropy, natural", "cross-entropy, attacked")
        return [
            dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)
        ]


@computed_plainly
def attack(
    asked: Asked,
    by: Attack | str = "PGD",
    data: Images | None = None,
    *,
    first: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
    **kind: Any,
) -> Attacked:
    """Attack the test set and write x_adv, labels, predictions and ids as safetensors, with the attack's settings
    beside.

    asked, data, kind: see `subject_of`; by: the attack, or its name for its default settings; first: only so many
    images; seed: of its draws; out: the file, by default in a run's folder, beside weights, and of all others none.
    Raises: SettingsError for another suffix, InputError for more images than there are, StorageError, and what the
    subject refuses.
    """
    attack_used: Attack = from_json(Attack, {"type": by}) if isinstance(by, str) else by  # type: ignore[type-abstract]
    subject, progress = subject_of(asked, data, **kind), default_progress(progress)
    if out is not None and Path(out).suffix != ".safetensors":
        raise SettingsError(f"--out {out}: the suffix must be .safetensors")
    if out is not None:
        check_writable(out)
    network, split = subject.network, subject.data.test
    split = split.first(first) if first is not None else split
    path = Path(out) if out is not None else _place(subject, attack_used, first, seed)
    if path is not None:
        check_writable(path)
    attack_used.check(network)
    natural = predict(network, split, batch_size)
    advance = progress.begin(attack_used.name, len(split), "images")
    batches = [
        (x_adv.cpu(), y.cpu())
        for x_adv, y in attacked(network, split, attack_used, seed=seed, batch_size=batch_size, advance=advance)
    ]
    progress.end()
    x_adv, predictions = (torch.cat(column) for column in zip(*batches, strict=True))
    losses = torch.stack([_losses(network, images, split.labels, batch_size) for images in (split.pixels(), x_adv)])
    answer = Attacked(attack_used, split, x_adv, natural, predictions, losses, path)
    if path is not None:
        facts: dict[str, Any] = {
            "attack": to_json(attack_used),
            "run": subject.run_name,
            "checkpoint": subject.located,
            "seed": seed,
        }
        facts |= {"natural": answer.natural_accuracy, answer.kind: answer.accuracy, "weights": digest_of(network)}
        facts["cross_entropy"] = {
            name: {"mean": mean, "std": deviation} for name, (mean, deviation) in answer.cross_entropy.items()
        }
        tensors = {"x_adv": x_adv, "y": split.labels, "predicted": predictions, "ids": split.ids}
        write_tensors(path.with_suffix(""), tensors, facts)
    return answer


def _losses(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    return cross_entropy(logits_of(network, images, batch_size).cpu(), labels.cpu())


def _place(subject: Subject, chosen: Attack, first: int | None, seed: int) -> Path | None:
    """The file by default; those of other settings, weights or images have other names."""
    parts = [
        to_json(chosen),
        subject.digest,
        first,
        seed,
        *([digest_of_images(subject.data.test)] if subject.replaced else []),
    ]
    digits = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:6]
    return subject.place("adversarial", f"{chosen.name}-{chosen.threat.epsilon:g}-{digits}")
