"""Transfer: adversarial images made on surrogates, kept on disk, shown to every target (Yang et al. 2020; Cui et al. 2022).

An image counts as robust only if the target is right on every variant, which is every attack on every surrogate.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.attacks.saved import AdversarialSet
from poise.core.errors import DataError, InputError
from poise.core.modes import crafting
from poise.core.settings import to_json
from poise.data.dataset import Split
from poise.evaluation.predictions import Advance, attacked, device_of
from poise.evaluation.protocol import digest_of


def make_set(
    surrogate: nn.Module, split: Split, attack: Attack, *, seed: int = 0, batch_size: int = 256, advance: Advance | None = None
) -> AdversarialSet:
    """Attack the surrogate on the whole split; draws are keyed by (seed, attack, number of the example in its data set)."""
    batches = attacked(surrogate, split, attack, seed=seed, batch_size=batch_size, advance=advance)
    images = [x_adv.cpu() for x_adv, _ in batches]
    return AdversarialSet(torch.cat(images), split.labels.cpu(), split.ids.cpu(), to_json(attack), digest_of(surrogate), seed)


def made_or_kept(
    path: Path,
    surrogate: nn.Module,
    split: Split,
    attack: Attack,
    *,
    seed: int = 0,
    batch_size: int = 256,
    advance: Advance | None = None,
) -> tuple[AdversarialSet, bool]:
    """The set at `path` if it is what `make_set` would make, else a new one, which is saved there; and whether it was kept.

    Raises: StorageError.
    """
    try:
        kept = AdversarialSet.load(path)
    except DataError:
        kept = None
    if kept is not None and _same(kept, surrogate, split, attack, seed):
        return kept, True
    made = make_set(surrogate, split, attack, seed=seed, batch_size=batch_size, advance=advance)
    made.save(path)
    return made, False


def _same(kept: AdversarialSet, surrogate: nn.Module, split: Split, attack: Attack, seed: int) -> bool:
    made_by = (kept.attack, kept.surrogate, kept.seed) == (to_json(attack), digest_of(surrogate), seed)
    return made_by and torch.equal(kept.ids, split.ids.cpu()) and torch.equal(kept.labels, split.labels.cpu())


def survived(kept: AdversarialSet, target: nn.Module, batch_size: int = 256) -> Tensor:
    """Which examples [N], bool, the target gets right, on the CPU."""
    device, dtype = device_of(target)
    with crafting(target, "evaluating"), torch.no_grad():
        predicted = [target(part.to(device, dtype)).argmax(1).cpu() for part in kept.x_adv.split(batch_size)]
    return torch.cat(predicted) == kept.labels


def published_subset(split: Split, count: int = 1000) -> Split:
    """The 1,000 of the 10,000 CIFAR-10 test images that DVERGE and Synergy-of-Experts evaluate on, in their order.

    Drawn by Python's generator of seed 0, whether or not a network is right on them.
    Raises: InputError for a split of another length than 10,000.
    """
    if len(split) != 10_000:
        raise InputError(f"the published subset is one of 10,000 test images; the split has {len(split)}")
    return split.subset(torch.tensor(random.Random(0).sample(range(10_000), count)))


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
    folder: Path | None = None,
) -> TransferMatrix:
    """Make images with every attack on every surrogate, once, and show them to every target.

    folder: where the sets are kept, as SURROGATE/ATTACK.safetensors, and found again; None keeps none.
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
            if folder is None:
                made = make_set(network, split, attack, seed=seed, batch_size=batch_size)
            else:
                path = folder / surrogate / f"{attack.name}.safetensors"
                made, _ = made_or_kept(path, network, split, attack, seed=seed, batch_size=batch_size)
            for target, judged in targets.items():
                flags = survived(made, judged, batch_size)
                single[surrogate][target][attack.name] = _share(flags)
                stands[surrogate][target] &= flags
    everywhere = {target: torch.stack([stands[name][target] for name in surrogates]).all(0) for target in targets}
    return TransferMatrix(
        single=single,
        all_or_nothing={name: {target: _share(flags) for target, flags in row.items()} for name, row in stands.items()},
        worst={target: _share(flags) for target, flags in everywhere.items()},
    )


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
