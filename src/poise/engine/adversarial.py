"""The images that one attack makes on a run's weights, in a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from poise.attacks import Attack
from poise.core.errors import SettingsError
from poise.core.files import check_writable
from poise.core.settings import to_json
from poise.engine.checkpoints import write_tensors
from poise.engine.devices import choose_device
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.evaluation.digests import digest_of
from poise.evaluation.predictions import accuracy, attacked, predict


def adversarial_path(run: Run, attack: Attack, which: str = "selected", first: int | None = None, seed: int = 0) -> Path:
    """Where in the run's folder the attack's images on these weights belong; those of other settings have other names."""
    made_by = json.dumps([to_json(attack), run.facts(which)["sha256"], first, seed], sort_keys=True)
    digits = hashlib.sha256(made_by.encode()).hexdigest()[:6]
    return run.path / "adversarial" / f"{attack.name}-{attack.threat.epsilon:g}-{digits}.safetensors"


def save_adversarial(
    run: Run,
    attack: Attack,
    path: Path,
    *,
    which: str = "selected",
    first: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> tuple[float, float, int]:
    """Attack the test set and write x_adv, labels, predictions and ids as safetensors with the attack's settings beside.

    Returns natural accuracy, robust accuracy (both in [0, 1]) and the number of images.
    Raises: SettingsError for another suffix, InputError for more images than there are, StorageError.
    """
    if path.suffix != ".safetensors":
        raise SettingsError(f"--out {path}: the suffix must be .safetensors")
    check_writable(path)
    progress = progress or Progress()
    network = run.network(which).to(choose_device(device))
    split = run.experiment.data.load(data_dir).test
    split = split.first(first) if first is not None else split
    natural = accuracy(predict(network, split, batch_size), split)
    advance = progress.begin(attack.name, len(split), "images")
    batches = [(x_adv.cpu(), y.cpu()) for x_adv, y in attacked(network, split, attack, seed=seed, batch_size=batch_size, advance=advance)]
    progress.end()
    x_adv, predicted = (torch.cat(column) for column in zip(*batches, strict=True))
    robust = accuracy(predicted, split)
    facts = {"attack": to_json(attack), "run": run.name, "checkpoint": which, "seed": seed, "natural": natural, "robust": robust}
    facts["weights"] = digest_of(network)
    tensors = {"x_adv": x_adv, "y": split.labels, "predicted": predicted, "ids": split.ids}
    write_tensors(path.with_suffix(""), tensors, facts)
    return natural, robust, len(split)
