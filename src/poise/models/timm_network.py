"""Networks of the timm library (Wightman, https://github.com/huggingface/pytorch-image-models), by its names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poise.core.errors import MissingExtraError, SettingsError, did_you_mean
from poise.core.settings import UnitInterval, newer, settings
from poise.models.conv_stem import give_conv_stem
from poise.models.network import Network, Shape


@settings
class Timm(Network):
    """A network of the timm library by its name there: `model=Timm model.name=resnet18`.

    It has the channels and classes of the data, and the images' size where its architecture asks for one
    (transformers). Needs `pip install 'poise[timm]'`; Poise is tested without it, as its torchvision cannot be
    installed beside every torch.
    """

    name: str = "resnet18"
    """As in `timm.list_models()`."""
    pretrained: bool | str = newer(default=False)
    """Begin with the weights that timm publishes (true: it downloads them) or with a file's; the head is new where
    classes differ.
    """
    drop_path: UnitInterval = newer(default=0.0)
    """Largest probability with which a block is left out in training (stochastic depth)."""
    checkpointing: bool = newer(default=False)
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, the same numbers.
    """
    conv_stem: bool = newer(default=False)
    """A ConvStem in the place of patches, after pretrained weights are read (Singh et al. 2023)."""

    def blank(self) -> Network:
        return replace(self, pretrained=False)

    def module(self, shape: Shape, classes: int) -> nn.Module:
        """Raises: MissingExtraError without timm; SettingsError where it cannot be imported, has no such name or none
        for such images.
        """
        timm = _timm()
        if not timm.is_model(self.name):
            raise SettingsError(
                f"Timm.name = {self.name!r} is unknown to timm{did_you_mean(self.name, timm.list_models())}"
            )
        channels, height, width = shape
        arguments: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **self._pretraining()}
        if self.drop_path:
            arguments["drop_path_rate"] = self.drop_path
        try:
            try:
                network = timm.create_model(self.name, img_size=(height, width), **arguments)
            except TypeError:  # most convolutional networks take any size, and no such argument
                network = timm.create_model(self.name, **arguments)
            if self.conv_stem:
                give_conv_stem(network)
            if self.checkpointing:
                network.set_grad_checkpointing(True)
            with torch.no_grad():
                network.eval()(torch.zeros(1, *shape))
        except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, OSError) as error:
            if isinstance(error, SettingsError):
                raise
            reason = str(error).partition("\n")[0]
            raise SettingsError(
                f"Timm.name = {self.name!r} cannot be made for images of shape {tuple(shape)}: {reason}"
            ) from None
        return network.train()

    def beginning(self) -> Path | None:
        """Raises: SettingsError for a file that is missing, or might run code."""
        if isinstance(self.pretrained, bool) or not self.pretrained:
            return None
        path = Path(self.pretrained).expanduser()
        if path.suffix != ".safetensors" or not path.is_file():
            requirement = (
                "must be true, false or a .safetensors file that exists; other weights are read by Experiment.initial"
            )
            raise SettingsError(f"Timm.pretrained = {self.pretrained!r}: {requirement}")
        return path

    def _pretraining(self) -> dict[str, Any]:
        """timm's arguments for the weights to begin with."""
        path = self.beginning()
        overlay = {} if path is None else {"pretrained_cfg_overlay": {"file": str(path)}}
        return {"pretrained": True, **overlay} if self.pretrained else {}


def _timm() -> Any:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    except RuntimeError as error:  # of torchvision, beside another torch than its own
        raise SettingsError(f"timm cannot be imported: {str(error).partition(chr(10))[0]}") from None
    return timm
