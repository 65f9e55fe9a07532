"""Weights as other people's training code saved them, in Poise's networks.

The architecture is read off the names and shapes of the tensors. Known are the code of TRADES (WideResNet; also that of
MART, AWP, FAT, RST), of "pytorch-cifar" (ResNet-18, PreAct-ResNet-18, whose shortcuts take the activated input), of the
CIFAR ResNet-20, and Poise's own names; of any width.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from poise.core.errors import CheckpointError
from poise.engine.foreign_weights import fitting, load_into, without_prefixes
from poise.models import Network, Normalisation, PreActResNet18, ResNet18, ResNet20, WideResNet
from poise.models.layers import Standardise

Weights = dict[str, Tensor]
_CONSTANTS = (
    ("mu", "sigma"),
    ("mean", "std"),
    ("normalize.mean", "normalize.std"),
    ("normalise.mean", "normalise.std"),
)
_PREFIXES = ("module.", "model.", "network.")


def loaded(
    weights: Weights, origin: str, network: nn.Module | None = None, normalise: Normalisation | None = None
) -> nn.Module:
    """A network with these weights in evaluation mode, a function of pixels in [0, 1].

    network: by default the one that the weights tell. normalise: by default by the constants that lie among the
    weights, if any.
    Raises: CheckpointError where the weights tell no known network or do not fit the given one.
    """
    normalisation, weights = None, weights if network is None else fitting(weights, network)
    if network is None or not set(network.state_dict()) >= set(weights):
        weights, normalisation = without_constants(weights)
    normalise = normalise or normalisation
    if network is not None:
        load_into(network, _complete(weights, network), origin)
        if normalise is not None:
            network = nn.Sequential(OrderedDict(normalise=Standardise(normalise.mean, normalise.std), network=network))
        network.eval()
        return network
    settings, weights = told(weights, origin)
    channels, classes = weights["conv1.weight"].shape[1], len(weights["head.weight"])
    network_built = replace(settings, normalise=normalise).build(
        (channels, 32, 32), classes, seed=0
    )  # any size will do
    load_into(network_built, _complete(weights, network_built), origin)
    return network_built.eval()


def without_constants(weights: Weights) -> tuple[Weights, Normalisation | None]:
    """The weights without a normalisation's constants and the prefixes that all others share; and that normalisation,
    if any.
    """
    normalisation, weights = None, without_prefixes(weights, _PREFIXES)
    for names in _CONSTANTS:
        if set(names) <= set(weights):
            mean, std = (tuple(weights[name].flatten().tolist()) for name in names)
            normalisation = Normalisation(mean=mean, std=std)
            weights = {name: tensor for name, tensor in weights.items() if name not in names}
    return without_prefixes(weights, _PREFIXES), normalisation


def told(weights: Weights, origin: str) -> tuple[Network, Weights]:
    """The architecture that the weights tell, and the weights under its names. Raises: CheckpointError for none that is
    known.
    """
    wide = any(name.startswith("block1.") for name in weights)
    # never used
    weights = {_renamed(name, wide): tensor for name, tensor in weights.items() if not name.startswith("sub_block1.")}
    stem, head = weights.get("conv1.weight"), weights.get("head.weight")
    blocks = sorted({match[0] for name in weights if (match := re.match(r"layers?\.?\d\.\d+", name))})
    bottleneck = any(name.endswith("conv3.weight") for name in weights)
    if stem is None or head is None or not blocks or bottleneck or stem.shape[2] != 3:
        raise CheckpointError(
            f"{origin}: the weights are not those of a WideResNet, ResNet-18, PreAct-ResNet-18 or ResNet-20 for small"
            " images; give your own module as network="
        )
    stages = len({name.rpartition(".")[0] for name in blocks})
    blocks_per_stage, width = len(blocks) // stages, len(stem)
    if "bn1.weight" in weights:
        weights = {re.sub(r"downsample", "shortcut", name): tensor for name, tensor in weights.items()}
        options = any("shortcut" in name for name in weights if name.startswith("layer2"))
        network: Network = (
            ResNet18(width=width) if stages == 4 else ResNet20(width=width, shortcut="conv" if options else "pad")
        )
    else:
        weights = {
            re.sub(r"^layer(\d)\.", lambda m: f"layers.{int(m[1]) - 1}.", name): tensor
            for name, tensor in weights.items()
        }
        weights = {name.replace("shortcut.0.weight", "shortcut.weight"): tensor for name, tensor in weights.items()}
        final = "bn.weight" in weights
        width_factor = len(weights["layers.0.0.conv1.weight"]) // 16
        network = (
            PreActResNet18(width=width, final_norm=final)
            if stages == 4
            else WideResNet(depth=6 * blocks_per_stage + 4, width=width_factor)
        )
    return network, weights


def _renamed(name: str, wide: bool) -> str:
    """A head's name, and any of TRADES' WideResNet, in Poise's form."""
    if wide and (match := re.fullmatch(r"block(\d)\.layer\.(\d+)\.(.*)", name)):
        return f"layers.{int(match[1]) - 1}.{match[2]}.{match[3].replace('convShortcut', 'shortcut')}"
    if wide and name.startswith("bn1."):
        return f"bn.{name.removeprefix('bn1.')}"
    return re.sub(r"^(linear|fc)\.", "head.", name)


def _complete(weights: Weights, network: nn.Module) -> Weights:
    """The weights with the batch counters that old checkpoints lack; nothing is read off them."""
    expected = network.state_dict()
    return {
        name: torch.zeros_like(value) for name, value in expected.items() if name.endswith("num_batches_tracked")
    } | weights
