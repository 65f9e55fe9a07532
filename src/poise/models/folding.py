"""A faster copy of a network for attacks in evaluating mode: convolutions absorb the batch normalisation behind them.

In evaluating mode batch normalisation is the fixed map z -> scale * (z - mean) + shift with scale = weight / sqrt(var +
eps), so that convolution and normalisation together are one convolution of weight scale * W and bias scale * (b - mean)
+ shift.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from poise.models.layers import Classifier
from poise.models.searching import ImageConv, NarrowConv, NarrowLinear, PooledRelu, Unflattened, WindowLinear, blocks_of

Pair = tuple[str, str]
"""Qualified names of a module and of the one that alone reads its output."""


def foldable(network: nn.Module) -> list[Pair]:
    """Which convolutions may absorb which batch normalisations, read off the graph of the network's forward.

    Where it cannot be traced: those of each `Classifier` inside, such as the experts of a collaboration; others have
    none.
    """

    def folds(conv: nn.Module, norm: nn.Module) -> bool:
        return _plain(conv) and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and not _hooks(norm)

    return _neighbours(network, folds)


def swappable(network: nn.Module) -> list[Pair]:
    """Which ReLUs may follow the poolings that follow them, found as in `foldable`."""

    def swaps(relu: nn.Module, pool: nn.Module) -> bool:
        plain = type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d and not pool.return_indices
        return plain and not _hooks(relu) and not _hooks(pool)

    return _neighbours(network, swaps)


def _linear(network: nn.Module) -> list[str]:
    """Linear layers of which only the answer is read, found as in `foldable`."""
    return [
        name for _, name in _neighbours(network, lambda _, linear: type(linear) is nn.Linear and not _hooks(linear))
    ]


def _overwriting(network: nn.Module) -> list[str]:
    """ReLUs that may write over what they are given, as nobody else needs it: answers of layers whose gradients do not
    look at them.
    """
    forgetful = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)

    def overwrites(layer: nn.Module, relu: nn.Module) -> bool:
        return type(layer) in forgetful and type(relu) is nn.ReLU and not _hooks(layer) and not _hooks(relu)

    swapped = {relu for relu, _ in swappable(network)}
    return [name for _, name in _neighbours(network, overwrites) if name not in swapped]


def _windows(network: nn.Module) -> list[Pair]:
    """Which linear layers behind a flattening may be convolutions (see `WindowLinear`), found as in `foldable`."""
    device_types = (parameter.device.type for parameter in network.parameters())
    pairs = _neighbours(network, WindowLinear.suits) if next(device_types, "") == "cpu" else []
    return [(flatten, linear) for flatten, linear in pairs if not _hooked(network, flatten, linear)]


def _hooked(network: nn.Module, *names: str) -> bool:
    return any(_hooks(network.get_submodule(name)) for name in names)


def _neighbours(network: nn.Module, suitable: Callable[[nn.Module, nn.Module], bool]) -> list[Pair]:
    """Pairs of modules, both called once by nobody else, of which the second alone reads what the first answers."""
    copied_network = copy.deepcopy(network)
    if (
        copied_network is network
    ):  # which some say of themselves: a change of its modes would be one of the network's own
        return []
    copied_network.eval()
    try:
        graph = fx.Tracer().trace(copied_network)
    except Exception:  # whatever a user's forward raises when shown symbols: folding is an offer, not a need
        inside = [(name, module) for name, module in network.named_modules() if name and isinstance(module, Classifier)]
        found = ((name, pair) for name, module in inside for pair in _neighbours(module, suitable))
        return [(f"{name}.{first}", f"{name}.{second}") for name, (first, second) in found]
    modules = dict(copied_network.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    names_of = Counter(id(module) for _, module in copied_network.named_modules(remove_duplicate=False))
    attributes = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        names = str(source.target), str(node.target)
        first, second = (modules[name] for name in names)
        # nobody else calls it or reads its weights
        alone = names_of[id(first)] == names_of[id(second)] == 1 and not attributes & set(names)
        if suitable(first, second) and alone and calls[names[0]] == calls[names[1]] == 1:
            pairs.append(names)
    return pairs


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and not _hooks(module)


def _hooks(module: nn.Module) -> list[tuple[int, int]]:
    """Number and function of each hook."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return [(number, id(hook)) for hooks in kinds for number, hook in hooks.items()]


_BY_STRIDE = frozenset({"view", "view_as", "as_strided", "stride", "is_contiguous", "storage_offset", "data_ptr"})
"""Tensor methods that ask how a tensor lies in memory."""
_OWN = ("poise.models.", "torch.nn.modules.container")
"""Where the classes are of which it is known that they do not: ensembles and what holds their members."""


def any_layout(network: nn.Module) -> bool:
    """Whether activations may lie in memory in any order, read off the graph of the forward or known of Poise's own
    modules.
    """
    if isinstance(network, Classifier):
        return True
    try:
        graph = fx.Tracer().trace(copy.deepcopy(network))  # a forward may keep what it is shown
    except Exception:  # as in `foldable`
        ours = {module for part in network.modules() if isinstance(part, Classifier) for module in part.modules()}
        return all(module in ours or type(module).__module__.startswith(_OWN) for module in network.modules())
    modules = dict(network.named_modules())
    modules_called = [modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]
    asks_stride = any(node.op == "call_method" and node.target in _BY_STRIDE for node in graph.nodes)
    return not asks_stride and not any(isinstance(module, nn.Unflatten) or _hooks(module) for module in modules_called)


_BLOCK = 16
"""Channels that oneDNN takes at a time: 8 or 16, by processor."""


def gradients_in_any_layout(network: nn.Module) -> bool:
    """Whether the float32 weight gradients of its convolutions are known to be right on CPUs where tensors lie channels
    last.

    Those of a strided 1x1 convolution of fewer input channels than a block are not: oneDNN writes past its workspace
    (github.com/uxlfoundation/oneDNN/issues/6035, in torch 2.13.0). Grouped, dilated and other convolutions are not
    vouched for.
    """
    convolutions = [module for module in network.modules() if type(module) is nn.Conv2d]
    weights = {id(conv.weight) for conv in convolutions}
    other_weights = any(parameter.dim() > 2 and id(parameter) not in weights for parameter in network.parameters())
    return not other_weights and all(_right_in_any_layout(conv) for conv in convolutions)


def _right_in_any_layout(conv: nn.Conv2d) -> bool:
    strided = conv.kernel_size == (1, 1) and conv.stride != (1, 1)
    return conv.groups == 1 and conv.dilation == (1, 1) and (not strided or conv.in_channels % _BLOCK == 0)


class Folded:
    """The copy of `network`. It shares all its tensors but the weights of layers, which `refreshed` brings up to date.

    Those of convolutions lie "channels last" in memory where the network admits it, so that activations do too: faster
    on CPUs and GPUs. It is not for training: see `gradients_in_any_layout`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None, faster: bool = False) -> None:
        """dtype: of the copy's layers where it will run under autocast, which would otherwise convert them at every
        forward. faster: whether layers take the places of others that round otherwise (see `searching`).
        """
        tensors = [*network.parameters(), *network.buffers()]
        self._copy = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
        if self._copy is network:
            raise TypeError("the network's deep copy is itself")
        self._copy.eval()
        self._convolutions: list[tuple[nn.Conv2d, nn.BatchNorm2d | None, nn.Conv2d]] = []
        self._linear: list[tuple[nn.Linear, nn.Linear]] = []
        self.relaid = any_layout(network)
        """Whether convolutions, and what they make, lie channels last."""
        behind = dict(foldable(network))
        for name, conv in list(network.named_modules()):
            if _plain(conv):
                assert isinstance(conv, nn.Conv2d)
                self._replace_convolution(
                    name, conv, network.get_submodule(behind[name]) if name in behind else None, dtype
                )
                if name in behind:
                    self._copy.set_submodule(behind[name], nn.Identity().eval())
        if faster:
            self._hasten(network, dtype)
        self._copy.eval()  # what took another one's place too

    def _hasten(self, network: nn.Module, dtype: torch.dtype | None) -> None:
        for _, _, folded in self._convolutions:
            if self.relaid and folded.weight.device.type == "cpu" and (blocks := blocks_of(folded)) is not None:
                folded.__class__ = ImageConv
                folded.blocks = blocks  # type: ignore[assignment]
        for relu, name in swappable(network):
            pool = self._copy.get_submodule(name)
            assert isinstance(pool, nn.MaxPool2d)
            self._copy.set_submodule(relu, nn.Identity())
            self._copy.set_submodule(name, PooledRelu(pool))
        for name in _overwriting(network):
            self._copy.set_submodule(name, nn.ReLU(inplace=True))
        windows = dict(_windows(network)) if self.relaid else {}
        for name in {*windows.values(), *(_linear(network) if dtype is not None else ())}:
            linear = network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            self._replace_linear(name, linear, dtype, NarrowLinear if name not in windows.values() else WindowLinear)
        for name in windows:
            self._copy.set_submodule(name, Unflattened())

    def _replace_convolution(
        self, name: str, conv: nn.Conv2d, norm: nn.Module | None, dtype: torch.dtype | None
    ) -> None:
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        folded = copy.deepcopy(conv).eval()
        narrow = dtype if conv.weight.dtype is torch.float32 else None  # autocast leaves float64 alone
        layout = torch.channels_last if self.relaid else torch.preserve_format
        folded.weight = _own(conv.weight, narrow, layout)
        if norm is not None:
            folded.bias = nn.Parameter(folded.weight.new_zeros(conv.out_channels), requires_grad=False)
        elif conv.bias is not None:
            folded.bias = conv.bias if narrow is None else _own(conv.bias, narrow)
        if narrow is not None:
            folded.__class__ = NarrowConv
        self._copy.set_submodule(name, folded)
        self._convolutions.append((conv, norm, folded))

    def _replace_linear(
        self, name: str, linear: nn.Linear, dtype: torch.dtype | None, kind: type[NarrowLinear | WindowLinear]
    ) -> None:
        narrow = dtype if linear.weight.dtype is torch.float32 else None
        folded = copy.deepcopy(linear).eval()
        folded.__class__ = kind
        folded.weight = _own(linear.weight, narrow)
        if linear.bias is not None:
            folded.bias = _own(linear.bias, narrow)
        self._copy.set_submodule(name, folded)
        self._linear.append((linear, folded))

    @property
    def pairs(self) -> int:
        """How many batch normalisations were absorbed."""
        return sum(norm is not None for _, norm, _ in self._convolutions)

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The copy with the network's weights and running statistics as they are now."""
        for conv, norm, folded_conv in self._convolutions:
            if norm is None:
                _copy_values(conv, folded_conv)
            else:
                _fold(conv, norm, folded_conv)
            if isinstance(folded_conv, ImageConv):
                folded_conv.refresh()
        for linear, folded_conv in self._linear:
            _copy_values(linear, folded_conv)
            if isinstance(folded_conv, WindowLinear):
                folded_conv.refresh()
        return self._copy


def _own(
    values: Tensor, dtype: torch.dtype | None, layout: torch.memory_format = torch.preserve_format
) -> nn.Parameter:
    """A copy that nobody trains."""
    copy_of_values = values.detach().to(dtype or values.dtype, copy=True, memory_format=layout)
    return nn.Parameter(copy_of_values, requires_grad=False)


def _copy_values(layer: nn.Conv2d | nn.Linear, own: nn.Conv2d | nn.Linear) -> None:
    own.weight.copy_(layer.weight)
    if own.bias is not None and layer.bias is not None and own.bias is not layer.bias:
        own.bias.copy_(layer.bias)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, own: nn.Conv2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None and own.bias is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift: Tensor = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    shift = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    own.bias.copy_(shift)
    torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=own.weight)


Kind = tuple[torch.dtype | None, bool]
_SURROGATES: WeakKeyDictionary[nn.Module, dict[Kind, tuple[object, Folded | None]]] = WeakKeyDictionary()


def surrogate(network: nn.Module, faster: bool = False) -> nn.Module:
    """What crafting may ask instead of a network in evaluating mode: its folded copy, or itself where nothing is
    gained.

    Logits and gradients agree up to rounding (in float32 about 1e-6 of their size), so it serves a search; verdicts are
    the network's own. The copy is kept as long as the network lives, brought up to date here, and made anew where
    layers, hooks or attributes were changed. Under autocast it is another one, whose convolutions lie in autocast's
    dtype. faster: by layers of their own too (see `searching`), whose last digits are others than training's.
    """
    if any(module.training for module in network.modules()):
        return network
    anatomy, kind = _anatomy(network), (_autocast(network), faster)
    copies = _SURROGATES.setdefault(network, {})
    if kind not in copies or copies[kind][0] != anatomy:
        copies[kind] = anatomy, _folded(network, *kind)
    copy_folded = copies[kind][1]
    return network if copy_folded is None else copy_folded.refreshed()


def _autocast(network: nn.Module) -> torch.dtype | None:
    """The dtype in which convolutions on the network's device now compute, None for their own."""
    kind = next((parameter.device.type for parameter in network.parameters()), "cpu")
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _folded(network: nn.Module, dtype: torch.dtype | None, faster: bool) -> Folded | None:
    try:
        result = Folded(network, dtype, faster)
    except Exception:  # whatever a user's module raises when copied
        return None
    return result if result.pairs or result.relaid or dtype is not None else None


def _anatomy(network: nn.Module) -> object:
    """What a kept copy depends on besides the values of parameters and buffers."""
    modules = [(id(module), _hooks(module), _attributes(module)) for module in network.modules()]
    tensors = [(id(tensor), tensor.device, tensor.dtype) for tensor in (*network.parameters(), *network.buffers())]
    return modules, tensors


_TORCHS = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


def _attributes(module: nn.Module) -> list[tuple[str, object]]:
    """What its own code keeps, such as a temperature."""
    return [(name, _known(value)) for name, value in vars(module).items() if name not in _TORCHS]


_DEEP = 4


def _known(value: object, depth: int = 0) -> object:
    """Numbers and words by value, tensors by version, collections and plain objects by what is in them, anything else
    by identity.
    """
    if isinstance(value, bool | int | float | str | None):
        return type(value), value
    if isinstance(value, Tensor):
        return id(value), value._version
    if depth == _DEEP or isinstance(value, nn.Module | type) or callable(value):
        return id(value)
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, dict):
        return [(_known(name, depth + 1), _known(part, depth + 1)) for name, part in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_known(part, depth + 1) for part in value]
    return id(value), [(name, _known(part, depth + 1)) for name, part in getattr(value, "__dict__", {}).items()]
