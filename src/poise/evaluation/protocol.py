"""A protocol: a named list of attacks with exact settings, run on every image of a split and written as a record."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks import CW, FGSM, MIM, PGD, Attack
from poise.core.errors import SettingsError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.settings import PositiveCount, Settings, settings, to_json
from poise.core.version import __version__
from poise.data.dataset import Data, Split
from poise.evaluation.predictions import Advance, attacked, device_of, predict, predict_under
from poise.threats import Linf, Threat


@settings
class Protocol(Settings):
    """Attacks that are run one by one on every image; the worst case over all of them is taken per example."""

    name: str = "standard"
    attacks: tuple[Attack, ...] = ()
    first: PositiveCount | None = None
    """Only the first n images of the split; None takes all."""

    def __post_init__(self) -> None:
        names = [attack.name for attack in self.attacks]
        if len(set(names)) < len(names):
            raise SettingsError(f"Protocol.attacks = {names}: every attack must have another name")


def standard(threat: Threat | None = None, step_size: float = 2 / 255) -> Protocol:
    """FGSM, PGD-20, PGD-100, MIM-20 and CW-100 with the step counts they are named after (uniform start, one restart)."""
    threat = threat or Linf()
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    attacks = (FGSM(threat=threat), PGD(**common), PGD(steps=100, **common), MIM(**common), CW(**common))
    return Protocol(name="standard", attacks=attacks)


def strict(threat: Threat, step_size: float) -> Protocol:
    """PGD-20, and for the worst case PGD-100 with 3 restarts and PGD-100 on the margin: what small data needs to be honest."""
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    attacks = (PGD(**common), PGD(steps=100, restarts=3, **common), PGD(steps=100, loss="margin", **common))
    return Protocol(name="strict", attacks=attacks)


Begin = Callable[[str, int], Advance]
"""(attack's name, number of examples) -> what is called as they finish."""


def evaluate(
    model: nn.Module,
    data: Data,
    protocol: Protocol,
    *,
    split: Split | None = None,
    split_name: str = "test",
    seed: int = 0,
    batch_size: int = 256,
    begin: Begin | None = None,
    named: str = "",
    **about: Any,
) -> EvaluationRecord:
    """Run the protocol on `data.test` (or `split`) and write down every prediction.

    named: the record's display name; about: its fields that say what was evaluated: checkpoint, run, group, seed, notes.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    split = split if split is not None else data.test
    if protocol.first is not None:
        split = split.first(protocol.first)
    natural = predict(model, split, batch_size)
    attacks = []
    for attack in protocol.attacks:
        tick = time.perf_counter()
        advance = begin(attack.name, len(split)) if begin is not None else None
        predicted = predict_under(model, split, attack, seed=seed, batch_size=batch_size, advance=advance)
        attacks.append(AttackRecord(attack.name, to_json(attack), predicted.tolist(), time.perf_counter() - tick))
    device, _ = device_of(model)
    return EvaluationRecord(
        model=named or type(model).__name__,
        model_digest=digest_of(model),
        evaluation_seed=seed,
        dataset=data.name,
        split=split_name,
        classes=list(data.classes),
        protocol=protocol.name,
        labels=split.labels.tolist(),
        natural=natural.tolist(),
        attacks=attacks,
        seconds=time.perf_counter() - clock,
        started=started,
        device=device_name(device),
        versions={"poise": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        **{"checkpoint": "", "run": "", "group": "", "seed": 0, **about},
    )


def gallery(model: nn.Module, split: Split, attack: Attack, *, seed: int = 0, count: int = 12) -> dict[str, np.ndarray]:
    """Images, adversarial images and both predictions for the first `count` examples, for the report."""
    part = split.first(min(count, len(split)))
    ((x_adv, adversarial),) = attacked(model, part, attack, seed=seed, batch_size=len(part))

    def plain(tensor: Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    return {
        "x": plain(part.images),
        "x_adv": plain(x_adv.float()),
        "label": plain(part.labels),
        "natural": plain(predict(model, part)),
        "adversarial": plain(adversarial),
        "attack": np.array(attack.name),
    }


def digest_of(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
