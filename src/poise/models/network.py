"""The family of networks: an architecture's settings build its untrained module for a shape of image."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import nn

from poise.core.callers import plainly
from poise.core.errors import SettingsError
from poise.core.papers import Paper
from poise.core.seeds import key_of
from poise.core.settings import Number, Positive, Settings, field_names, settings
from poise.models.layers import Classifier, Standardise
from poise.models.own import is_own, prepared

Shape = tuple[int, int, int]
"""Channels, height, width of one image."""


@settings
class Normalisation(Settings):
    """Per channel (x - mean) / std, as the first layer of a network: its inputs stay pixels in [0, 1], and epsilon
    stays in pixels.
    """

    mean: tuple[Number, ...]
    std: tuple[Positive, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise SettingsError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; both must have one per channel"
            )


CIFAR10_NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""The constants of ADP, GAL, DVERGE and Synergy-of-Experts."""


@dataclass(frozen=True, kw_only=True)
class Network(Settings, family="network"):
    """An architecture; `build` makes its untrained module, images [B, C, H, W] in [0, 1] to logits [B, classes]."""

    paper: ClassVar[Paper | None] = None
    smallest: ClassVar[int] = 1
    """The smallest height and width, in pixels, that the architecture can work on."""

    normalise: Normalisation | None = None
    """None: the network sees the pixels as they are."""

    def blank(self) -> Network:
        """The same network without weights to begin with, which a trained one's take the place of; so its parts."""
        parts = {name: part.blank() for name, part in self._parts()}
        return replace(self, **parts) if parts else self

    def beginning(self) -> Path | None:
        """The file of weights that it begins with, if it or a part names one. Raises: SettingsError for a bad one."""
        return next(filter(None, (part.beginning() for _, part in self._parts())), None)

    def _parts(self) -> list[tuple[str, Network]]:
        """The networks among its settings, as the members of an ensemble, by setting."""
        values = [(name, getattr(self, name)) for name in field_names(type(self))]
        return [(name, value) for name, value in values if isinstance(value, Network)]

    @abstractmethod
    def module(self, shape: Shape, classes: int) -> nn.Module:
        """The module without normalisation, for images of `shape` (channels, height, width).

        Weights are drawn from the CPU's global generator, which `build` has seeded and will restore.
        """

    @final
    def build(self, shape: Shape, classes: int, seed: int) -> nn.Module:
        """The network on the CPU, in training mode, with weights that depend on `seed` only; no global generator
        changes.

        Raises: SettingsError where the images are too small, `classes` or the normalisation does not fit, or a network
        of the user's own cannot be trained (see `prepared`).
        """
        with plainly(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(key_of(seed, "init"))
            network = self.assembled(shape, classes)
            user_class = not type(self).__module__.startswith("poise.models.") or is_own(network)
            return prepared(network, type(self).__name__, shape, classes) if user_class else network

    @final
    def assembled(self, shape: Shape, classes: int) -> nn.Module:
        """`build` with weights drawn from the CPU's generator as it stands: how one network makes the others inside
        it.
        """
        self._check(shape, classes)
        network = self.module(shape, classes)
        if not isinstance(network, nn.Module):
            raise SettingsError(
                f"{type(self).__name__}.module returned {type(network).__name__}, must return a torch.nn.Module"
            )
        if self.normalise is None:
            return network
        standardise = Standardise(self.normalise.mean, self.normalise.std)
        if isinstance(network, Classifier):
            network.normalise = standardise
            return network
        return nn.Sequential(OrderedDict(normalise=standardise, network=network))

    def _check(self, shape: Shape, classes: int) -> None:
        name = type(self).__name__
        channels, height, width = shape
        if channels < 1 or min(height, width) < self.smallest:
            requirement = f"at least 1 channel and {self.smallest}x{self.smallest} pixels"
            raise SettingsError(f"{name} needs images of {requirement}, not shape {tuple(shape)}")
        if classes < 2:
            raise SettingsError(f"{name}: classes = {classes} must be at least 2")
        if self.normalise is not None and len(self.normalise.mean) != channels:
            channels_given = len(self.normalise.mean)
            raise SettingsError(
                f"{name}.normalise has values for {channels_given} channels, but the images have {channels}"
            )


@dataclass(frozen=True, kw_only=True)
class Collective(Network):
    """A network made of others, each of which keeps its own normalisation."""

    def __post_init__(self) -> None:
        if self.normalise is not None:
            raise SettingsError("normalise must be None here; set it on the network inside")
