"""The images on which a network is asked: a data set by name, folder, archive or settings, or arrays of images and
labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.attacks.attack import check_images
from poise.core.errors import DataError, InputError
from poise.data import Data, DataSource, Split
from poise.engine.own_weights import data_named

Images = Data | Split | DataSource | str | Path | tuple[Any, Any]
"""What `data_of` takes: (x, y) are images [N, C, H, W], uint8 or floats in [0, 1], and labels [N], as tensors, arrays
or lists.
"""

ARRAYS = "arrays"
"""What data are called that came without a name."""


class FloatSplit(Split):
    """Labelled images to be evaluated on that are no steps of 1/255: floating [N, C, H, W] in [0, 1], in memory."""

    def __init__(self, images: Tensor, labels: Tensor, ids: Tensor) -> None:
        super().__init__(images.new_empty(images.shape, dtype=torch.uint8), labels, ids)
        self.resident = images

    def to(self, device: torch.device | str) -> Split:
        return FloatSplit(self.images.to(device), self.labels.to(device), self.ids.to(device))

    def subset(self, indices: Tensor | slice) -> Split:
        return FloatSplit(self.images[indices], self.labels[indices], self.ids[indices])

    def pixels(self, rows: Tensor | slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        return self.images_at(rows).to(dtype)


def check_fit(data: Data, shape: tuple[int, ...], classes: Sequence[str], who: str) -> Data:
    """The data, for a network of this shape and these classes. Raises: DataError for others."""
    same = len(data.classes) == len(classes) or (data.name == ARRAYS and len(data.classes) <= len(classes))
    if data.shape != tuple(shape) or not same:
        shape_text = f"{list(shape)} and {len(classes)} classes, as {who} was trained on"
        raise DataError(
            f"{data.name}: images are {list(data.shape)} of {len(data.classes)} classes, must be {shape_text}"
        )
    return data


def data_of(data: Images, data_dir: Path | None = None) -> Data:
    """The data set, of which the test images are asked about; arrays and single splits stand for training images too.

    Raises: SettingsError, DataError, InputError for what is none of `Images`, or is not as it must be.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, DataSource):
        return data.load(data_dir)
    if isinstance(data, str | Path):
        return data_named(str(data), data_dir)
    if isinstance(data, tuple | list) and len(data) == 2:
        data = split_of(*data)
    if not isinstance(data, Split):
        forms = "(x, y), a Data, a data set's name or settings, a folder of images or an .npz archive"
        raise InputError(f"data is {type(data).__name__}, must be {forms}")
    classes = tuple(map(str, range(max(int(data.labels.max()) + 1, 2))))
    return Data(ARRAYS, data, data, classes)


def split_of(x: Any, y: Any) -> Split:
    """Images [N, C, H, W], uint8 or floats in [0, 1], with labels [N] of whole numbers from 0. Raises: InputError."""
    images, labels = _tensor(x, "x"), _tensor(y, "y")
    if images.dim() != 4 or len(images) == 0:
        raise InputError(f"x has shape {list(images.shape)}, must be [N, C, H, W] with N at least 1")
    if (
        labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
        or labels.shape != images.shape[:1]
    ):
        description = f"dtype {labels.dtype} and shape {list(labels.shape)}"
        raise InputError(f"y has {description}, must be whole numbers [{len(images)}], one label per image")
    if int(labels.min()) < 0:
        raise InputError(f"y has the label {int(labels.min())}, must be whole numbers from 0")
    if images.is_floating_point():
        check_images(images)
        in_bytes = Split.of(images.mul(255).round().to(torch.uint8), labels.long())
        if not torch.equal(in_bytes.pixels(dtype=images.dtype), images):
            return FloatSplit(images, labels.long(), torch.arange(len(images)))
        return in_bytes  # the same images as those of a data set have the same digest
    return Split.of(images, labels.long())


def _tensor(values: Any, name: str) -> Tensor:
    try:
        tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise InputError(f"{name} is {type(values).__name__}, must be a tensor or an array of numbers") from None
    # numpy, by which digests go, has no bfloat16
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).contiguous()
