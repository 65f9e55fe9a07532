"""Networks of the timm library (Wightman, https://github.com/huggingface/pytorch-image-models), by its names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from poise.core.errors import MissingExtraError, SettingsError, did_you_mean
from poise.core.settings import settings
from poise.models.network import Network, Shape


@settings
class Timm(Network):
    """A network of the timm library by its name there, untrained: `model=Timm model.name=resnet18`.

    It has the channels and classes of the data, and the images' size where its architecture asks for one (transformers). Needs
    `pip install 'poise[timm]'`; Poise is tested without it, as its torchvision cannot be installed beside every torch.
    """

    name: str = "resnet18"
    """As in `timm.list_models()`."""

    def module(self, shape: Shape, classes: int) -> nn.Module:
        """Raises: MissingExtraError without timm; SettingsError where it cannot be imported, has no such name or none for such images."""
        timm = _timm()
        if not timm.is_model(self.name):
            raise SettingsError(f"Timm.name = {self.name!r} is unknown to timm{did_you_mean(self.name, timm.list_models())}")
        channels, height, width = shape
        given = {"num_classes": classes, "in_chans": channels}
        try:
            try:
                network = timm.create_model(self.name, img_size=(height, width), **given)
            except TypeError:  # most convolutional networks take any size, and no such argument
                network = timm.create_model(self.name, **given)
            with torch.no_grad():
                network.eval()(torch.zeros(1, *shape))
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise SettingsError(f"Timm.name = {self.name!r} cannot be made for images of shape {tuple(shape)}: {reason}") from None
        return network.train()


def _timm() -> Any:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    except RuntimeError as error:  # of torchvision, beside another torch than its own
        raise SettingsError(f"timm cannot be imported: {str(error).partition(chr(10))[0]}") from None
    return timm
