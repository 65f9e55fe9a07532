"""What only several networks together have: overlap of vulnerabilities, the quality of their choice, transfer between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.core.errors import DataError, InputError
from poise.core.modes import crafting
from poise.core.records import write_bytes
from poise.core.seeds import Draw, key_of
from poise.core.settings import to_json
from poise.data.dataset import Split
from poise.evaluation.predictions import device_of
from poise.evaluation.protocol import digest_of
from poise.losses import cross_entropy
from poise.models.ensemble import CollaborationModule, EnsembleModule
from poise.models.mixture import MixtureModule


@dataclass(frozen=True)
class Choice:
    """How well the experts' own confidence chooses among them; all are shares of the examples, in [0, 1].

    right: the chosen expert is right; best: it is the one of lowest loss; missed: it is wrong although another is right;
    won: how often each expert is chosen, which sums to 1.
    """

    right: float
    best: float
    missed: float
    won: tuple[float, ...]


@dataclass(frozen=True)
class EnsembleMeasures:
    """Measures of several experts on the same images; all are shares of the examples, in [0, 1].

    members: each expert's accuracy; overlap: share fooled in every expert, so that no choice whatever could be right;
    oracle: accuracy of the true best expert, that of lowest cross-entropy (Cui et al. 2022, Definition 1);
    best: how often each expert is that one; accuracy: of the whole; choice: None where nothing is chosen.

    oracle <= 1 - overlap. With three classes or more the two can differ: an expert may be right with less probability on the true
    class than another has that is wrong.
    """

    members: tuple[float, ...]
    overlap: float
    oracle: float
    best: tuple[float, ...]
    accuracy: float
    choice: Choice | None


def measures(logits: Tensor, y: Tensor, output: Tensor, chosen: Tensor | None = None) -> EnsembleMeasures:
    """Measures from the experts' logits [M, N, C], labels [N], the whole's logits [N, C] and the expert chosen per example [N]."""
    right = logits.argmax(-1) == y
    best = torch.stack([cross_entropy(each.double(), y) for each in logits]).argmin(0)
    choice = None
    if chosen is not None:
        chosen_right = _picked(right, chosen)
        missed = right.any(0) & ~chosen_right
        choice = Choice(_share(chosen_right), _share(chosen == best), _share(missed), _shares(chosen, len(logits)))
    return EnsembleMeasures(
        members=tuple(_share(each) for each in right),
        overlap=_share(~right.any(0)),
        oracle=_share(_picked(right, best)),
        best=_shares(best, len(logits)),
        accuracy=_share(output.argmax(1) == y),
        choice=choice,
    )


def measure_ensemble(
    model: nn.Module, split: Split, attack: Attack | None = None, *, seed: int = 0, batch_size: int = 256
) -> EnsembleMeasures:
    """Measures on the split's images, natural or under an attack on the whole (draws as in `predict_under`).

    Raises: InputError for a network that is not several.
    """
    if not isinstance(model, CollaborationModule | EnsembleModule | MixtureModule):
        raise InputError(f"model is {type(model).__name__}, must be a Collaboration, an Ensemble or a Mixture")
    logits, labels, outputs, chosen = [], [], [], []
    for x, y, ids in _batches(model, split, batch_size):
        x = _perturbed(model, x, y, ids, attack, seed)
        with crafting(model, "evaluating"), torch.no_grad():
            if isinstance(model, CollaborationModule):
                each, evaluator = model.all_heads(x)
                confidences = model.confidences(each, evaluator)
                chosen.append(model.winners(confidences))
                outputs.append(model.select(each, confidences))
            else:
                each = model.all_logits(x)
                outputs.append(model(x))
        logits.append(each)
        labels.append(y)
    return measures(torch.cat(logits, 1), torch.cat(labels), torch.cat(outputs), torch.cat(chosen) if chosen else None)


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """Images made on one network, to be shown to any other, with all that says where they come from.

    x_adv: [N, C, H, W] in [0, 1] on the CPU; labels, ids: int64 [N]; attack: its settings as JSON data; surrogate: digest of the
    network's weights; seed: of the attack's draws.
    """

    x_adv: Tensor
    labels: Tensor
    ids: Tensor
    attack: dict[str, Any]
    surrogate: str
    seed: int

    @classmethod
    def made(cls, surrogate: nn.Module, split: Split, attack: Attack, *, seed: int = 0, batch_size: int = 256) -> AdversarialSet:
        """Attack the surrogate on the whole split; draws are keyed by (seed, attack, number of the example in its data set)."""
        images = [_perturbed(surrogate, x, y, ids, attack, seed).cpu() for x, y, ids in _batches(surrogate, split, batch_size)]
        return cls(torch.cat(images), split.labels.cpu(), split.ids.cpu(), to_json(attack), digest_of(surrogate), seed)

    def survived_by(self, target: nn.Module, batch_size: int = 256) -> Tensor:
        """Which examples [N], bool, the target gets right, on the CPU."""
        device, dtype = device_of(target)
        with crafting(target, "evaluating"), torch.no_grad():
            predicted = [target(part.to(device, dtype)).argmax(1).cpu() for part in self.x_adv.split(batch_size)]
        return torch.cat(predicted) == self.labels

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; the settings are its metadata."""
        tensors = self._tensors()
        about = {"attack": json.dumps(self.attack), "surrogate": self.surrogate, "seed": str(self.seed), "sha256": _digest(tensors)}
        write_bytes(path, safetensors.torch.save(tensors, about))

    @classmethod
    def load(cls, path: Path) -> AdversarialSet:
        """Inverse of `save`. Raises: DataError when the file is missing, damaged, altered or something else."""
        try:
            with safetensors.safe_open(path, "pt") as file:  # pyright: ignore[reportPrivateImportUsage]
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = cls(**tensors, attack=json.loads(about["attack"]), surrogate=about["surrogate"], seed=int(about["seed"]))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged or not a set of adversarial images: {error}") from None
        if _digest(tensors) != about.get("sha256"):
            raise DataError(f"{path} was altered: its images are not those of the digest in its metadata")
        return found

    def _tensors(self) -> dict[str, Tensor]:
        return {"x_adv": self.x_adv.contiguous(), "labels": self.labels, "ids": self.ids}


@dataclass(frozen=True)
class TransferMatrix:
    """Accuracy of targets on images made on surrogates, in [0, 1].

    single[surrogate][target][attack]: under one attack; all_or_nothing[surrogate][target]: right under every attack on this
    surrogate; worst[target]: right under every attack on every surrogate, the number that the protocol reports.
    """

    single: dict[str, dict[str, dict[str, float]]]
    all_or_nothing: dict[str, dict[str, float]]
    worst: dict[str, float]


def transfer_matrix(
    surrogates: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    split: Split,
    attacks: Sequence[Attack],
    *,
    seed: int = 0,
    batch_size: int = 256,
) -> TransferMatrix:
    """Make images with every attack on every surrogate, once, and show them to every target.

    Draws are keyed by (seed, attack, number of the example in its data set). Raises: InputError for two attacks of one name.
    """
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"attacks = {names}: there must be at least one, and each must have another name")
    if not surrogates:
        raise InputError("surrogates is empty, must name at least one network")
    single: dict[str, dict[str, dict[str, float]]] = {name: {target: {} for target in targets} for name in surrogates}
    stands = {name: {target: torch.ones(len(split), dtype=torch.bool) for target in targets} for name in surrogates}
    for surrogate, network in surrogates.items():
        for attack in attacks:
            made = AdversarialSet.made(network, split, attack, seed=seed, batch_size=batch_size)
            for target, judged in targets.items():
                flags = made.survived_by(judged, batch_size)
                single[surrogate][target][attack.name] = _share(flags)
                stands[surrogate][target] &= flags
    everywhere = {target: torch.stack([stands[name][target] for name in surrogates]).all(0) for target in targets}
    return TransferMatrix(
        single=single,
        all_or_nothing={name: {target: _share(flags) for target, flags in row.items()} for name, row in stands.items()},
        worst={target: _share(flags) for target, flags in everywhere.items()},
    )


def _batches(model: nn.Module, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and numbers on the model's device."""
    device, dtype = device_of(model)
    for start in range(0, len(split), batch_size):
        part = split.subset(slice(start, start + batch_size))
        yield part.pixels(dtype=dtype).to(device), part.labels.to(device), part.ids.to(device)


def _perturbed(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack | None, seed: int) -> Tensor:
    if attack is None:
        return x
    with crafting(model, "evaluating"):
        return attack.perturb(model, x, y, Draw(key_of(seed, "evaluate", attack.name), ids)).detach()


def _picked(flags: Tensor, expert: Tensor) -> Tensor:
    """flags [M, N] of each example's expert [N] -> [N]."""
    return flags.gather(0, expert[None])[0]


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _shares(expert: Tensor, count: int) -> tuple[float, ...]:
    return tuple((torch.bincount(expert, minlength=count).double() / len(expert)).tolist())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
