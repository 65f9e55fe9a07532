"""Transfer: adversarial images made on surrogates, kept on disk, shown to every target (Yang et al. 2020; Cui et al.
2022).

An image counts as robust only if the target is right on every variant, which is every attack on every surrogate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.attacks.saved import AdversarialSet
from poise.core.errors import DataError, InputError
from poise.core.settings import to_json
from poise.data.dataset import Split
from poise.evaluation.digests import digest_of
from poise.evaluation.predictions import Advance, attacked, logits_of


def make_set(
    surrogate: nn.Module,
    split: Split,
    attack: Attack,
    *,
    seed: int = 0,
    batch_size: int = 256,
    advance: Advance | None = None,
) -> AdversarialSet:
    """Attack the surrogate on the whole split; draws are keyed by (seed, attack, number of the example in its data
    set).
    """
    batches = attacked(surrogate, split, attack, seed=seed, batch_size=batch_size, advance=advance)
    images = [x_adv.cpu() for x_adv, _ in batches]
    return AdversarialSet(
        torch.cat(images), split.labels.cpu(), split.ids.cpu(), to_json(attack), digest_of(surrogate), seed
    )


def set_path(folder: Path, surrogate: nn.Module, attack: Attack, seed: int = 0) -> Path:
    """Where in `folder` the set of this surrogate, attack and seed belongs; sets of others have other names."""
    made_by = json.dumps([digest_of(surrogate), to_json(attack), seed], sort_keys=True)
    digits = hashlib.sha256(made_by.encode()).hexdigest()[:8]
    return folder / f"{attack.name}-{attack.threat.epsilon:g}-{digits}.safetensors"


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
    """The set at `path` if it holds what `make_set` would make, perhaps among more; and whether nothing had to be made.

    What such a set lacks is made and added to it; a set of other weights, settings, seed or labels is replaced.
    Raises: StorageError.
    """
    set_kept = _kept(path, surrogate, split, attack, seed)
    lacking = (
        split
        if set_kept is None
        else split.subset((set_kept.rows(split.ids) < 0).nonzero()[:, 0].to(split.labels.device))
    )
    if set_kept is not None and len(lacking) == 0:
        return set_kept, True
    set_new = make_set(surrogate, lacking, attack, seed=seed, batch_size=batch_size, advance=advance)
    whole = set_new if set_kept is None else set_kept.plus(set_new)
    whole.save(path)
    return whole, False


def _kept(path: Path, surrogate: nn.Module, split: Split, attack: Attack, seed: int) -> AdversarialSet | None:
    """The set at `path`, if it is of this surrogate, attack and seed and knows none of the split's examples by another
    label.
    """
    try:
        set_read = AdversarialSet.load(path)
    except DataError:
        return None
    rows = set_read.rows(split.ids)
    same = torch.equal(set_read.labels[rows[rows >= 0]], split.labels.cpu()[rows >= 0])
    return (
        set_read
        if same
        and (set_read.attack, set_read.surrogate, set_read.seed) == (to_json(attack), digest_of(surrogate), seed)
        else None
    )


def survived(kept: AdversarialSet, target: nn.Module, batch_size: int = 256) -> Tensor:
    """Which examples [N], bool, the target gets right, on the CPU."""
    return logits_of(target, kept.x_adv, batch_size).argmax(1).cpu() == kept.labels


@dataclass(frozen=True)
class TransferMatrix:
    """Accuracy of targets on images made on surrogates, in [0, 1].

    single[surrogate][target][attack]: under one attack; all_or_nothing[surrogate][target]: right under every attack on
    this surrogate; worst[target]: right under every attack on every surrogate, the number that the protocol reports.
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

    folder: where the sets are kept, in SURROGATE/ by `set_path`, and found again; None keeps none.
    Draws are keyed by (seed, attack, number of the example in its data set). Raises: InputError for two attacks of one
    name.
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
                set_of_attack = make_set(network, split, attack, seed=seed, batch_size=batch_size)
            else:
                path = set_path(folder / surrogate, network, attack, seed)
                set_of_attack = made_or_kept(path, network, split, attack, seed=seed, batch_size=batch_size)[0].only(
                    split.ids
                )
            for target, target_network in targets.items():
                flags = survived(set_of_attack, target_network, batch_size)
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
