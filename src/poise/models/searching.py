"""Layers of a copy that is only searched on (see `folding`): they answer as those they stand for, up to rounding, and
faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_AT_ONCE = 16
"""Output channels that a CPU's convolution computes at a time, needed or not."""

_WINDOWS = 64
"""Outputs from which a linear layer is faster as a convolution."""


class NarrowConv(nn.Conv2d):
    """A convolution of a narrower dtype than its network's, for autocast; a forward that switches that off has wider
    activations.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _in_its_dtype(super().forward, self.weight, input)


class NarrowLinear(nn.Linear):
    """The same of a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return _in_its_dtype(super().forward, self.weight, input)


def _in_its_dtype(forward: Callable[[Tensor], Tensor], weight: Tensor, input: Tensor) -> Tensor:
    output = forward(input.to(weight.dtype))
    return output if torch.is_autocast_enabled(input.device.type) else output.to(input.dtype)


class ImageConv(nn.Conv2d):
    """A convolution of few input channels, such as those of images: on a CPU their gradient is computed by blocks of
    pixels.
    """

    blocks: Blocks
    blockwise: Tensor
    """Its weights as `blocks` have them."""

    def refresh(self) -> None:
        """Take over weights that were changed."""
        self.blockwise = self.blocks.weight(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return _in_its_dtype(self._answer, self.weight, input)

    def _answer(self, input: Tensor) -> Tensor:
        needs_gradient = input.requires_grad and torch.is_grad_enabled()
        if input.device.type != "cpu" or not needs_gradient or input.dtype is torch.float64:  # there it is no faster
            return super().forward(input)
        output: Any = _ByBlocks.apply(input, self.weight, self.bias, self.blockwise, self.blocks)
        return output


class Blocks:
    """The gradient of a convolution's input as an ordinary convolution, whose channels are the pixels of a block.

    A gradient of one to four channels leaves most of a CPU's registers empty. The `side` x `side` pixels of a block all
    hear the same `reach` x `reach` outputs, from `first` on, and the next block those that are `side / stride` further.
    """

    def __init__(self, conv: nn.Conv2d, side: int) -> None:
        stride, padding, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
        self.stride, self.padding, self.side = stride, padding, side
        self.first = -((kernel - 1 - padding) // stride)
        self.reach = (side - 1 + padding) // stride - self.first + 1
        outputs = torch.arange(self.reach) + self.first
        tap = torch.arange(side)[:, None] + padding - outputs * stride  # [side, reach]
        down, across = tap[:, None, :, None], tap[None, :, None, :]
        inside = (down >= 0) & (down < kernel) & (across >= 0) & (across < kernel)
        self._taps = torch.where(inside, down * kernel + across, kernel**2)  # the last is 0

    def weight(self, weight: Tensor) -> Tensor:
        """The convolution's weights [O, I, k, k] as those from outputs to the pixels of blocks [I side^2, O, reach,
        reach].
        """
        taps = F.pad(weight.detach().flatten(2), (0, 1))[..., self._taps]  # [O, I, side, side, reach, reach]
        return taps.permute(1, 2, 3, 0, 4, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def gradient(self, output: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
        """Of images of so many pixels, given that of the convolution's output and the weights as blocks have them."""
        step, before = self.side // self.stride, -self.first
        heard = [(-(-size // self.side) - 1) * step + self.reach for size in (height, width)]
        down, across = (count - size - before for count, size in zip(heard, output.shape[2:], strict=True))
        if down == across == before:
            blocks = F.conv2d(output, weight, None, step, before)
        else:
            blocks = F.conv2d(F.pad(output, (before, across, before, down)), weight, None, step)
        return F.pixel_shuffle(blocks, self.side)[:, :, :height, :width]


def blocks_of(conv: nn.Conv2d) -> Blocks | None:
    """Those by which the gradient of the convolution's input is computed faster; None where it isn't."""
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    square = all(len({*size}) == 1 for size in (conv.kernel_size, conv.stride)) and isinstance(conv.padding, tuple)
    if not plain or not square or len({*conv.padding}) != 1 or int(conv.padding[0]) >= conv.kernel_size[0]:
        return None
    side = next((side for side in (4, 2) if conv.in_channels * side**2 <= _AT_ONCE), 0)
    return Blocks(conv, side) if side and side % conv.stride[0] == 0 else None


class _ByBlocks(torch.autograd.Function):
    """A convolution that is differentiated once, and with respect to its images alone."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, blockwise: Tensor, blocks: Blocks
    ) -> Tensor:
        ctx.save_for_backward(blockwise)
        ctx.blocks, ctx.size = blocks, images.shape[2:]
        return F.conv2d(images, weight, bias, blocks.stride, blocks.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        (blockwise,) = ctx.saved_tensors
        return ctx.blocks.gradient(gradients[0], blockwise, *ctx.size), None, None, None, None


class Unflattened(nn.Flatten):
    """Leaves maps of features as they are, for a `WindowLinear`."""

    def forward(self, input: Tensor) -> Tensor:
        return input if input.dim() == 4 else super().forward(input)


class WindowLinear(nn.Linear):
    """A linear layer on flattened maps, as the convolution that it is: its window is the whole map, which needs no
    flattening.

    On CPUs that is faster than a product of matrices where there are outputs enough.
    """

    _window: Tensor | None = None

    def refresh(self) -> None:
        """Take over weights that were changed."""
        self._window = None

    def forward(self, input: Tensor) -> Tensor:
        return _in_its_dtype(self._answer, self.weight, input)

    def _answer(self, input: Tensor) -> Tensor:
        if input.dim() != 4:
            return super().forward(input)
        if self._window is None or self._window.shape[1:] != input.shape[1:]:
            window = self.weight.detach().view(len(self.weight), *input.shape[1:])
            self._window = window.contiguous(memory_format=torch.channels_last)
        return F.conv2d(input, self._window, self.bias).flatten(1)

    @staticmethod
    def suits(flatten: nn.Module, linear: nn.Module) -> bool:
        """Whether it may stand for these two."""
        whole = type(flatten) is nn.Flatten and (flatten.start_dim, flatten.end_dim) == (1, -1)
        return whole and type(linear) is nn.Linear and linear.out_features >= _WINDOWS


class PooledRelu(nn.Module):
    """ReLU behind the maxima of a pooling instead of before it, where it has a quarter of the work; the same bits and
    gradients.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool
        sizes = [{*size} if isinstance(size, tuple) else {size} for size in (pool.kernel_size, pool.stride)]
        plain = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1)) and not pool.ceil_mode
        self._halves = plain and sizes == [{2}, {2}]

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not self._halves or input.device.type != "cpu" or input.dim() != 4:
            return F.relu(self.pool(input))
        height, width = (size // 2 * 2 for size in input.shape[2:])
        rows = torch.maximum(input[:, :, 0:height:2], input[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2]).relu_()
