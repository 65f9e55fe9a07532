"""A faster copy of a network for crafting in evaluating mode: convolutions absorb the batch normalisation behind them.

In evaluating mode batch normalisation is the fixed map z -> scale * (z - mean) + shift with scale = weight / sqrt(var + eps), so
that convolution and normalisation together are one convolution of weight scale * W and bias scale * (b - mean) + shift.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

from poise.models import Classifier

Pair = tuple[str, str]
"""Qualified names of a convolution and of the batch normalisation that alone reads its output."""


def foldable(network: nn.Module) -> list[Pair]:
    """Which pairs may be folded, read off the graph of the network's forward; none where it cannot be traced."""
    examined = copy.deepcopy(network).eval()
    try:
        graph = fx.Tracer().trace(examined)
    except Exception:  # whatever a user's forward raises when shown symbols: folding is an offer, not a need
        return []
    modules = dict(examined.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        names = str(source.target), str(node.target)
        conv, norm = (modules[name] for name in names)
        known = _plain(conv) and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and not _hooked(norm)
        if known and calls[names[0]] == calls[names[1]] == 1:
            pairs.append(names)
    return pairs


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _any_layout(network: nn.Module) -> bool:
    """Whether activations may lie in memory in any order: code outside a `Classifier` may call `view` on them."""
    ours = {module for part in network.modules() if isinstance(part, Classifier) for module in part.modules()}
    return all(module in ours for module in network.modules() if isinstance(module, nn.Conv2d))


class Folded:
    """The copy of `network`. It shares all its tensors but the weights of convolutions, which `refreshed` brings up to date.

    These lie "channels last" in memory where the network admits it, so that activations do too: faster on CPUs and GPUs. It must
    not be trained: in torch 2.13.0 on CPUs the float32 weight gradient of a 1x1 convolution in that order writes out of bounds.
    """

    def __init__(self, network: nn.Module) -> None:
        shared = [*network.parameters(), *network.buffers()]
        self._copy = copy.deepcopy(network, {id(tensor): tensor for tensor in shared}).eval()
        self._convolutions: list[tuple[nn.Conv2d, nn.BatchNorm2d | None, nn.Conv2d]] = []
        layout = torch.channels_last if _any_layout(network) else torch.preserve_format
        behind = dict(foldable(network))
        for name, conv in list(network.named_modules()):
            if not _plain(conv):
                continue
            assert isinstance(conv, nn.Conv2d)
            norm = network.get_submodule(behind[name]) if name in behind else None
            assert norm is None or isinstance(norm, nn.BatchNorm2d)
            own = copy.deepcopy(conv)
            own.weight = nn.Parameter(conv.weight.detach().clone(memory_format=layout), requires_grad=False)
            if norm is not None:
                own.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
                self._copy.set_submodule(behind[name], nn.Identity())
            elif conv.bias is not None:
                own.bias = conv.bias
            self._copy.set_submodule(name, own)
            self._convolutions.append((conv, norm, own))

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The copy with the network's weights and running statistics as they are now."""
        for conv, norm, own in self._convolutions:
            if norm is None:
                own.weight.copy_(conv.weight)
                continue
            assert norm.running_mean is not None and norm.running_var is not None and own.bias is not None
            scale = (norm.running_var + norm.eps).rsqrt()
            if norm.weight is not None:
                scale = scale * norm.weight
            torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=own.weight)
            shift: Tensor = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
            torch.mul(shift, scale, out=own.bias)
            if norm.bias is not None:
                own.bias.add_(norm.bias)
        return self._copy
