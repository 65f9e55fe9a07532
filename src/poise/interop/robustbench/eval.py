"""The names of the `robustbench` package over Poise's evaluation.

    from poise.interop.robustbench import benchmark, load_model
    model = load_model("Carmon2019Unlabeled", model_dir="models", dataset="cifar10", threat_model="Linf")
    clean_accuracy, robust_accuracy = benchmark(model, dataset="cifar10", threat_model="Linf", eps=8 / 255)

Nothing is downloaded but data sets: weights lie at <model_dir>/<dataset>/<threat_model>/<model_name>.pt. What differs: AutoAttack is
seeded and resumable (see `poise.interop.autoattack`), networks come from the weights themselves (see `released_weights`), and
the corruption error relative to AlexNet is not given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.core.errors import CheckpointError, SettingsError
from poise.core.modes import evaluating
from poise.data import CIFAR10, CIFAR100, Data
from poise.engine.checkpoints import foreign_weights
from poise.evaluation.corruption import evaluate_corruptions
from poise.interop.autoattack import AutoAttack, threat_of
from poise.interop.released_weights import loaded
from poise.interop.robustbench_info import ModelInfo, info_path, new_model_issue
from poise.models import Normalisation

DATASETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
THREAT_MODELS = ("Linf", "L2", "corruptions")
_SUFFIXES = (".pt", ".pth", ".safetensors")


def load_model(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    custom_checkpoint: str | Path = "",
    *,
    network: nn.Module | None = None,
    normalise: Normalisation | None = None,
) -> nn.Module:
    """The network saved at <model_dir>/<dataset>/<threat_model>/<model_name>.pt, or at `custom_checkpoint`, in evaluation mode.

    The state dict may lie under "state_dict" and its names may begin with "module." or "model.". network: your own module, where
    the weights are not those of a WideResNet, ResNet-18, PreAct-ResNet-18 or ResNet-20. normalise: the model's input constants,
    where they do not lie among the weights.
    Raises: CheckpointError for a file that is missing, would run code, or does not fit; SettingsError for an unknown threat model.
    """
    _check_threat(threat_model)
    path = Path(custom_checkpoint) if custom_checkpoint else _found(Path(model_dir) / dataset / threat_model, model_name)
    return loaded(foreign_weights(path), str(path), network, normalise)


def _found(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise CheckpointError(f"there is no weights file {folder / name}.pt, and weights are not downloaded; put it there")


def clean_accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 100, device: torch.device | str | None = None) -> float:
    """Share of images x [N, C, H, W] classified correctly in evaluation mode, in [0, 1]; the model must be on `device`."""
    device = x.device if device is None else device
    with evaluating(model), torch.no_grad():
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        return sum(int((model(images.to(device)).argmax(1) == labels.to(device)).sum()) for images, labels in parts) / len(x)


def load_cifar10(n_examples: int | None = None, data_dir: str | Path = "./data") -> tuple[Tensor, Tensor]:
    """The first test images [N, 3, 32, 32] in [0, 1] and their labels [N]; None takes all."""
    return _first(CIFAR10().load(Path(data_dir)), n_examples)


def load_cifar100(n_examples: int | None = None, data_dir: str | Path = "./data") -> tuple[Tensor, Tensor]:
    """The same of CIFAR-100, with its 100 fine labels."""
    return _first(CIFAR100().load(Path(data_dir)), n_examples)


def _first(data: Data, count: int | None) -> tuple[Tensor, Tensor]:
    split = data.test if count is None else data.test.first(count)
    return split.pixels(), split.labels


def benchmark(
    model: nn.Module,
    n_examples: int = 10000,
    dataset: str | Data = "cifar10",
    threat_model: str = "Linf",
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

    threat_model: "Linf" or "L2", AutoAttack's standard version at `eps`, or "corruptions", the mean over 15 corruptions of 5
    severities in `corruptions_data_dir`/CIFAR-10-C. dataset: "cifar10", "cifar100", or a data set of Poise's. to_disk: write
    model_info/<dataset>/<threat_model>/<model_name>.json, keeping what an earlier file says beside the numbers; the text of a
    leaderboard request is `new_model_issue(ModelInfo.read(path), ...)`.
    Raises: SettingsError, before any work, for what is not supported; DataError; InputError.
    """
    name = dataset if isinstance(dataset, str) else dataset.name.lower()
    _check(name, dataset, threat_model, to_disk, model_name, eps, preprocessing)
    data = dataset if isinstance(dataset, Data) else DATASETS[dataset]().load(Path(data_dir))
    if device is not None:
        model.to(device)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x, y = _first(data, n_examples)
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
    record = evaluate_corruptions(model, data, inside if inside.is_dir() else folder, first=count, batch_size=batch_size)
    return float(record.notes["corruptions"]["mean"])


def _check_threat(threat_model: str) -> None:
    if threat_model not in THREAT_MODELS:
        raise SettingsError(f"threat_model = {threat_model!r}, must be one of {', '.join(THREAT_MODELS)}")


def _check(
    name: str, dataset: str | Data, threat_model: str, to_disk: bool, model_name: str | None, eps: float | None, preprocessing: object
) -> None:
    _check_threat(threat_model)
    if isinstance(dataset, str) and name not in DATASETS:
        raise SettingsError(f"dataset = {name!r}, must be one of {', '.join(DATASETS)} or a data set of Poise's")
    if threat_model in ("Linf", "L2"):
        if eps is None:
            raise SettingsError(f"eps is None, must be given for threat_model = {threat_model!r}")
        threat_of(threat_model, eps)
    elif eps is not None:
        raise SettingsError(f"eps = {eps}, must be None for threat_model = 'corruptions'")
    if to_disk and model_name is None:
        raise SettingsError("model_name is None, must be given with to_disk=True")
    if preprocessing is not None:
        raise SettingsError(
            f"preprocessing = {preprocessing!r}, must be None: images come in [0, 1] in their own size; put it into the model"
        )


__all__ = ["ModelInfo", "benchmark", "clean_accuracy", "load_cifar10", "load_cifar100", "load_model", "new_model_issue"]
