"""`robustbench.eval`: the two accuracies of a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.attacks.checks import check_network
from poise.core.errors import SettingsError
from poise.data import Data
from poise.evaluation.corruption import evaluate_corruptions
from poise.interop.asking import check_size
from poise.interop.autoattack import AutoAttack
from poise.interop.autoattack_parts import threat_of
from poise.interop.robustbench.data import check_preprocessing, first_of, source_of
from poise.interop.robustbench.info import ModelInfo, info_path
from poise.interop.robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel, word
from poise.interop.robustbench.utils import check_threat, clean_accuracy

_ALL = 10_000


def benchmark(
    model: nn.Module,
    n_examples: int = _ALL,
    dataset: str | BenchmarkDataset | Data = BenchmarkDataset.cifar_10,
    threat_model: str | ThreatModel = ThreatModel.Linf,
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path = "./data",
    corruptions_data_dir: str | Path | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 32,
    eps: float | None = None,
    log_path: str | Path | None = None,
    preprocessing: str | Callable[[Tensor], Tensor] | None = None,
    aa_state_path: str | Path | None = None,
) -> tuple[float, float]:
    """(clean accuracy, robust accuracy), in [0, 1], on the first `n_examples` test images.

    threat_model: "Linf" or "L2", AutoAttack's standard version at `eps`, or "corruptions", the mean over 15 corruptions
    of 5 severities in `corruptions_data_dir`/CIFAR-10-C. dataset: "cifar10", "cifar100", or a data set of Poise's.
    to_disk: write model_info/<dataset>/<threat_model>/<model_name>.json, keeping what an earlier file says beside the
    numbers; the text of a leaderboard request is `new_model_issue(ModelInfo.read(path), ...)`.
    Raises: SettingsError, before any work, for what is not supported; DataError; InputError.
    """
    check_network(model)
    name = dataset.name.lower() if isinstance(dataset, Data) else str(word(dataset))
    threat_model = check_threat(threat_model)
    _check(threat_model, to_disk, model_name, eps, preprocessing)
    check_size(batch_size, "batch_size")
    data = dataset if isinstance(dataset, Data) else source_of(dataset).load(Path(data_dir))
    n_examples = min(_ALL, len(data.test)) if n_examples == _ALL else n_examples  # by default all that there are
    if device is not None:
        model.to(device)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x, y = first_of(data, n_examples)
    clean = clean_accuracy(model, x, y, batch_size, device)
    print(f"Clean accuracy: {clean:.2%}")
    if threat_model == "corruptions":
        robust = _corruptions(model, data, Path(corruptions_data_dir or data_dir), n_examples, batch_size)
    else:
        assert eps is not None
        adversary = AutoAttack(model, norm=threat_model, eps=eps, version="standard", device=device, log_path=log_path)
        x_adv = adversary.run_standard_evaluation(x, y, bs=batch_size, state_path=aa_state_path)
        robust = clean_accuracy(model, x_adv, y, batch_size, device)
    print(f"Adversarial accuracy: {robust:.2%}")
    if to_disk and model_name is not None:
        ModelInfo.of(name, threat_model, eps, clean, robust).write(info_path(name, threat_model, model_name))
    return clean, robust


def _corruptions(model: nn.Module, data: Data, folder: Path, count: int, batch_size: int) -> float:
    archive = {"CIFAR10": "CIFAR-10-C", "CIFAR100": "CIFAR-100-C"}.get(data.name, f"{data.name}-C")
    inside = folder / archive
    record = evaluate_corruptions(
        model, data, inside if inside.is_dir() else folder, first=count, batch_size=batch_size
    )
    return float(record.notes["corruptions"]["mean"])


def _check(
    threat_model: str,
    to_disk: bool,
    model_name: str | None,
    eps: float | None,
    preprocessing: object,
) -> None:
    if threat_model in ("Linf", "L2"):
        if eps is None:
            raise SettingsError(f"eps is None, must be given for threat_model = {threat_model!r}")
        threat_of(threat_model, eps)
    elif eps is not None:
        raise SettingsError(f"eps = {eps}, must be None for threat_model = 'corruptions'")
    if to_disk and model_name is None:
        raise SettingsError("model_name is None, must be given with to_disk=True")
    check_preprocessing(preprocessing)


__all__ = ["benchmark"]
