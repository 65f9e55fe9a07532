"""What the attacks of `poise.interop.torchattacks` share: the call, the targeted modes, normalisation, saving and
loading.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from poise.attacks.attack import Attack as NativeAttack
from poise.attacks.checks import check_images, check_labels
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import Draw, everyone
from poise.interop.asking import check_tensor, logits_of, own_names, predicted
from poise.models.layers import Standardise

NAMES = {
    "epsilon": "eps",
    "step_size": "alpha",
    "restarts": "n_restarts",
    "queries": "n_queries",
    "eot_iterations": "eot_iter",
    "momentum": "decay",
    "targets": "n_classes",
    "targeted": "multi_targeted",
    "rescale": "resc_schedule",
    "x": "images",
    "y": "labels",
    "target": "target labels",
}
"""What the package calls Poise's settings and arguments."""
TargetMap = Callable[[Tensor, Tensor], Tensor]
"""(images [B, C, H, W] in [0, 1], labels [B]) -> classes to reach [B]."""


@dataclass(eq=False)
class Attack(ABC):
    """What all attacks share: `atk(images, labels)`, the targeted modes, normalisation, saving."""

    model: nn.Module
    supported_mode: ClassVar[tuple[str, ...]] = ("default", "targeted")
    attack_mode: str = field(default="default", init=False)
    normalization_used: dict[str, Tensor] | None = field(default=None, init=False)
    _target_map: TargetMap | None = field(default=None, init=False, repr=False)
    _calls: int = field(default=0, init=False, repr=False)

    @abstractmethod
    def native(self) -> NativeAttack:
        """The attack of ours with these settings."""

    @property
    def attack(self) -> str:
        """Its name."""
        return type(self).__name__

    @property
    def targeted(self) -> bool:
        return self.attack_mode != "default"

    @property
    def device(self) -> torch.device:
        """Where the model is; adversarial images are returned there."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Adversarial images like `inputs` [B, C, H, W]; labels [B], in mode "targeted(label)" the classes to reach.

        Raises: InputError as `poise.attacks.Attack`, or where labels are missing.
        """
        if not isinstance(self.model, nn.Module):
            raise InputError(f"{self.attack}: model is {type(self.model).__name__}, must be a torch.nn.Module")
        check_tensor(inputs, f"{self.attack}: images", "a tensor [B, C, H, W]")
        if labels is not None:
            check_tensor(labels, f"{self.attack}: labels", "a tensor [B], one class per image")
        with own_names(self, NAMES):
            return self._attacked(inputs.to(self.device), labels)

    def _attacked(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        network = self._network()
        if self.normalization_used is not None:
            inputs = self._pixels(inputs)
            check_images(inputs, "inputs * std + mean")
            inputs = inputs.clamp(0, 1)
        check_images(inputs)
        labels, target = self._labels(network, inputs, labels)
        adversarial = self.native()(network, inputs, labels, target=target, draw=self._draw(len(inputs)))
        self._calls += 1
        if self.normalization_used is None:
            return adversarial
        return (adversarial - self.normalization_used["mean"]) / self.normalization_used["std"]

    def _network(self) -> nn.Module:
        """The model as a function of pixels in [0, 1]."""
        if self.normalization_used is None:
            return self.model
        mean, std = (self.normalization_used[name].flatten().tolist() for name in ("mean", "std"))
        return nn.Sequential(OrderedDict(normalise=Standardise(mean, std).to(self.device), network=self.model))

    def _labels(self, network: nn.Module, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """True labels and, in targeted modes, the classes to reach."""
        if self.attack_mode == "targeted(label)":
            if labels is None:
                raise InputError("labels is None, must be the classes to reach in mode 'targeted(label)'")
            return predicted(network, x), labels.to(x.device)
        if labels is None:
            labels = predicted(network, x)
        labels = labels.to(x.device)
        if self._target_map is not None:
            check_labels(labels, len(x), logits_of(network, x[:1]).shape[1])
        return labels, None if self._target_map is None else self._target_map(x, labels)

    def _draw(self, count: int) -> Draw:
        seed = getattr(self, "seed", None)
        call = self._calls if seed is None else "seeded"
        return everyone(seed or 0, "torchattacks", self.attack, call, count=count, device=self.device)

    def get_mode(self) -> str:
        """ "default", or "targeted(...)" with "custom", "random", "least-likely" or "label"."""
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Any misclassification counts."""
        self.attack_mode, self._target_map = "default", None

    def set_mode_targeted_by_function(self, target_map_function: TargetMap, quiet: bool = False) -> None:
        """Classes to reach are `target_map_function(images, labels)` [B]."""
        self._set_targeted("custom", target_map_function)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """Classes to reach are drawn among those other than the label."""

        def drawn(x: Tensor, labels: Tensor) -> Tensor:
            classes = logits_of(self._network(), x[:1]).shape[1]
            offset = self._draw(len(x)).within("target").integers(classes - 1)
            return (labels + 1 + offset) % classes

        self._set_targeted("random", drawn)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """The class to reach has the `kth_min`-th smallest logit among those other than the label."""

        def unlikely(x: Tensor, labels: Tensor) -> Tensor:
            logits = logits_of(self._network(), x).scatter(1, labels[:, None], torch.inf)
            if not 1 <= kth_min < logits.shape[1]:
                raise SettingsError(
                    f"kth_min = {kth_min}, must be from 1 to {logits.shape[1] - 1} for {logits.shape[1]} classes"
                )
            return logits.sort(dim=1, stable=True).indices[:, kth_min - 1]

        self._set_targeted("least-likely", unlikely)

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """The labels given to the attack are the classes to reach."""
        self._set_targeted("label", None)

    def _set_targeted(self, how: str, function: TargetMap | None) -> None:
        if "targeted" not in self.supported_mode:
            raise SettingsError(f"{self.attack} has no targeted mode")
        self.attack_mode, self._target_map = f"targeted({how})", function

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Images given and returned are (pixels - mean) / std, as the model wants them; epsilon stays in pixels."""
        self.normalization_used = {
            name: torch.as_tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(self.device)
            for name, values in (("mean", mean), ("std", std))
        }

    def set_device(self, device: torch.device | str) -> None:
        """Move the model there. (The package expects it to be there already.)"""
        self.model.to(device)
        if self.normalization_used is not None:
            self.normalization_used = {name: values.to(device) for name, values in self.normalization_used.items()}

    def set_model_training_mode(
        self, model_training: bool = False, batchnorm_training: bool = False, dropout_training: bool = False
    ) -> None:
        """Raises: SettingsError for True: adversarial images are made in evaluation mode; the model gets back its
        modes.
        """
        if model_training or batchnorm_training or dropout_training:
            raise SettingsError(
                "model_training = True: attacks run in evaluation mode, as in deployment; only False is supported"
            )

    def save(
        self,
        data_loader: DataLoader[Any],
        save_path: str | Path | None = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: Literal["float", "int"] = "float",
    ) -> tuple[float, float, float] | None:
        """Attack all batches and write the images in [0, 1] ("int": uint8 0 to 255), labels and what else is asked for.

        With `return_verbose`: robust accuracy in percent, mean L2 size of the successful perturbations, seconds.
        """
        if save_type not in ("float", "int"):
            raise SettingsError(f"save_type = {save_type!r}, must be 'float' or 'int'")
        start, network = time.perf_counter(), self._network()
        columns: dict[str, list[Tensor]] = {"adv_inputs": [], "labels": [], "preds": [], "clean_inputs": []}
        for inputs, labels in data_loader:
            adversarial, natural = (self._pixels(images.to(self.device)) for images in (self(inputs, labels), inputs))
            outputs = (adversarial, labels, predicted(network, adversarial), natural)
            for column, values in zip(columns.values(), outputs, strict=True):
                column.append(values.detach().cpu())
        columns_joined = {name: torch.cat(parts) for name, parts in columns.items()}
        wrong = columns_joined["preds"] != columns_joined["labels"]
        robust = 100 * (1 - float(wrong.double().mean()))
        sizes = (columns_joined["adv_inputs"] - columns_joined["clean_inputs"])[wrong].flatten(1).norm(dim=1)
        size, seconds = float(sizes.mean()) if len(sizes) else 0.0, time.perf_counter() - start
        if verbose:
            print(f"robust accuracy: {robust:.2f} %, L2: {size:.5f} ({seconds:.1f} s)")
        if save_path is not None:
            left_out = ([] if save_predictions else ["preds"]) + ([] if save_clean_inputs else ["clean_inputs"])
            content = {
                name: as_bytes(values) if save_type == "int" else values
                for name, values in columns_joined.items()
                if name not in left_out
            }
            torch.save({**content, "save_type": save_type}, save_path)
        return (robust, size, seconds) if return_verbose else None

    def _pixels(self, images: Tensor) -> Tensor:
        used = self.normalization_used
        return images if used is None else images * used["std"] + used["mean"]

    @staticmethod
    def load(
        load_path: str | Path,
        batch_size: int = 128,
        shuffle: bool = False,
        normalize: dict[str, Sequence[float]] | None = None,
        load_predictions: bool = False,
        load_clean_inputs: bool = False,
    ) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (adversarial images, labels[, predictions][, natural images]) that `save` wrote; nothing is
        unpickled.
        """
        content = torch.load(load_path, map_location="cpu", weights_only=True)
        names = ["adv_inputs", "labels", *["preds"] * load_predictions, *["clean_inputs"] * load_clean_inputs]
        if missing := [name for name in names if name not in content]:
            raise InputError(f"{load_path} holds no {missing[0]}; it has {', '.join(sorted(content))}")
        for name in {"adv_inputs", "clean_inputs"} & set(names):
            images = content[name].float() / 255 if content[name].dtype == torch.uint8 else content[name]
            content[name] = (
                images if normalize is None else Standardise(list(normalize["mean"]), list(normalize["std"]))(images)
            )
        return DataLoader(TensorDataset(*(content[name] for name in names)), batch_size=batch_size, shuffle=shuffle)


def as_bytes(values: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8, cut off as in the package; labels as they are."""
    return (values * 255).to(torch.uint8) if values.is_floating_point() else values
