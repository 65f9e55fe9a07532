"""A module that `PyTorchModelHubMixin` reads: `HubNetwork.from_pretrained("owner/name")`, or a folder's path."""

from __future__ import annotations

from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from poise.core.settings import from_json
from poise.models import Network


class HubNetwork(nn.Module, PyTorchModelHubMixin):
    """A network made of a published config.json, images [B, C, H, W] in [0, 1] to logits [B, classes].

    Its weights have the names that they have in model.safetensors. Raises: SettingsError for a network that is not
    registered.
    """

    def __init__(self, network: dict[str, Any], shape: list[int], classes: list[str]) -> None:
        super().__init__()
        channels, height, width = shape
        inner = from_json(Network, network).blank().build((channels, height, width), len(classes), 0)  # type: ignore[type-abstract]
        self.__dict__["inner"] = inner  # beside the modules, so that names stay the inner one's own
        self._modules, self._parameters, self._buffers = inner._modules, inner._parameters, inner._buffers

    def train(self, mode: bool = True) -> Self:
        self.inner.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)
