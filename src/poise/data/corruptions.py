"""Common corruptions (Hendrycks & Dietterich 2019): readers of CIFAR-10-C, CIFAR-100-C and Tiny-ImageNet-C."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poise.core.bounds import mapped
from poise.core.errors import DataError, InputError, did_you_mean
from poise.data.dataset import Data, Split, images_from, labels_from
from poise.data.images import image_files, in_turn, read_images

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions that averages are taken over, in the paper's order."""
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four more, meant for validation; not part of any average."""
SEVERITIES = (1, 2, 3, 4, 5)
_WHERE = (
    "CIFAR-10-C: https://zenodo.org/record/2535967, CIFAR-100-C: https://zenodo.org/record/3555552, "
    + "Tiny-ImageNet-C: https://zenodo.org/record/2536630"
)


def corrupted(folder: Path | str, corruption: str, severity: int, data: Data) -> Split:
    """The test images of `data` under one corruption, read from the unpacked archive `folder`.

    CIFAR's form is `<corruption>.npy`, uint8 [5 N, H, W, C], severity 1 first, with `labels.npy`; ids are places in the
    test split. Tiny-ImageNet's form is `<corruption>/<severity>/<class>/*.JPEG`; images are taken from every class of
    `data` in turn and numbered in that order. Whole test sets only: `test_images` of a source does not apply.
    Raises: InputError (unknown corruption or severity), DataError (missing or malformed files).
    """
    names = CORRUPTIONS + EXTRA_CORRUPTIONS
    if corruption not in names:
        raise InputError(f"there is no corruption {corruption!r}{did_you_mean(corruption, names)}")
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise InputError(f"severity = {severity!r} must be one of 1, 2, 3, 4, 5")
    root = Path(folder).expanduser()
    if (root / f"{corruption}.npy").is_file():
        return _from_arrays(root, corruption, severity, data)
    if (root / corruption).is_dir():
        return _from_folders(root / corruption / str(severity), data)
    raise DataError(
        f"{root} holds neither {corruption}.npy nor a folder {corruption}; get the archive ({_WHERE}) and unpack it"
    )


def _from_arrays(root: Path, corruption: str, severity: int, data: Data) -> Split:
    path = root / f"{corruption}.npy"
    images, labels = _array(path), _array(root / "labels.npy")
    channels, height, width = data.shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        layout = f"uint8 [N, {height}, {width}, {channels}]"
        raise DataError(f"{path}: images must be {layout}, not {images.dtype} {list(images.shape)}")
    if len(images) % len(SEVERITIES) or len(labels) not in (len(images), len(images) // len(SEVERITIES)):
        raise DataError(
            f"{path}: {len(images)} images and {len(labels)} labels are not five severities of one test split"
        )
    count = len(images) // len(SEVERITIES)
    rows = slice((severity - 1) * count, severity * count)
    labels_used = labels[rows] if len(labels) == len(images) else labels
    test_labels = labels_from(np.array(labels_used), len(data.classes), root / "labels.npy")
    return images_from(np.array(images[rows]).transpose(0, 3, 1, 2), test_labels, data.shape, path)


def _array(path: Path) -> np.ndarray:
    """The array, mapped: only the rows that are used are read."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        return mapped(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a whole .npy array of numbers: {error}") from None


def _from_folders(folder: Path, data: Data) -> Split:
    per_class = [image_files(folder / name) for name in data.classes]
    empty = [name for name, files in zip(data.classes, per_class, strict=True) if not files]
    if empty:
        raise DataError(f"{folder / empty[0]} holds no images")
    paths, labels = in_turn(per_class)
    pixels = read_images(paths, channels=data.shape[0], shape=data.shape)
    return images_from(pixels, labels_from(labels, len(data.classes), folder), data.shape, folder)
