"""`robustbench.utils`: networks from files, and their accuracy."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.attacks.checks import check_images, check_network
from poise.core.errors import InputError, SettingsError, did_you_mean
from poise.engine.foreign_weights import foreign_weights
from poise.interop.asking import check_size, check_tensor, predicted
from poise.interop.robustbench.downloads import check_digest, fetch
from poise.interop.robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel, word
from poise.interop.robustbench.released_weights import loaded
from poise.models import Normalisation

DATASETS = ("cifar10", "cifar100", "imagenet")
THREAT_MODELS = ("Linf", "L2", "corruptions")
_SUFFIXES = (".pt", ".pth", ".safetensors")


def load_model(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str | BenchmarkDataset = BenchmarkDataset.cifar_10,
    threat_model: str | ThreatModel = ThreatModel.Linf,
    custom_checkpoint: str | Path = "",
    norm: str | None = None,
    *,
    network: nn.Module | None = None,
    normalise: Normalisation | None = None,
    sha256: str | None = None,
) -> nn.Module:
    """The network saved at <model_dir>/<dataset>/<threat_model>/<model_name>.pt, fetched there where it is missing, or
    at `custom_checkpoint`, in evaluation mode.

    The state dict may lie under "state_dict" and its names may begin with "module." or "model.". network: your own
    module, where the weights are not those of a WideResNet, ResNet-18, PreAct-ResNet-18 or ResNet-20. normalise: the
    model's input constants, where they do not lie among the weights. norm: the package's former name of `threat_model`,
    before which it goes.
    sha256: of the file; without it a file that was fetched must be as it was then.
    Raises: CheckpointError for a file that is missing and not to be had, that has another digest,
    would run code, or does not fit; SettingsError for an unknown
    threat model or a data set that neither the package knows nor `model_dir` has a folder of.
    """
    if norm is not None:
        warnings.warn(f"norm is deprecated: write threat_model={norm!r}", DeprecationWarning, stacklevel=2)
        threat_model = norm
    threat_model, dataset = check_threat(threat_model), str(word(dataset))
    if dataset not in DATASETS and not (Path(model_dir) / dataset).is_dir():
        raise SettingsError(
            f"dataset = {dataset!r} is unknown, and there is no folder"
            f" {Path(model_dir) / dataset}{did_you_mean(dataset, DATASETS)}"
        )
    folder = Path(model_dir) / dataset / threat_model
    path = Path(custom_checkpoint) if custom_checkpoint else _found(folder, model_name)
    if path is None:
        path = fetch(dataset, threat_model, model_name, folder / f"{model_name}.pt", sha256)
    if path.is_file():
        check_digest(path, sha256)
    return loaded(foreign_weights(path), str(path), network, normalise)


def _found(folder: Path, name: str) -> Path | None:
    places = (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def clean_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 100, device: torch.device | str | None = None
) -> float:
    """Share of images x [N, C, H, W] classified correctly in evaluation mode, in [0, 1]; the model must be on
    `device`.
    """
    check_network(model)
    check_size(batch_size, "batch_size")
    check_images(x)
    check_tensor(y, "y", "a tensor [N], one class per image")
    if y.shape != x.shape[:1]:
        raise InputError(f"y has shape {list(y.shape)}, must be [{len(x)}], one label per image")
    device = x.device if device is None else device
    guess = torch.cat([predicted(model, images.to(device)).cpu() for images in x.split(batch_size)])
    return int((guess == y.cpu()).sum()) / len(x)


def check_threat(threat_model: object) -> str:
    """The word for a threat model. Raises: SettingsError."""
    name = word(threat_model)
    if not isinstance(name, str) or name not in THREAT_MODELS:
        raise SettingsError(f"threat_model = {name!r}, must be one of {', '.join(THREAT_MODELS)}")
    return name


__all__ = ["clean_accuracy", "load_model"]
