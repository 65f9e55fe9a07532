"""What all sources of a user's own image files share: how images become arrays and where they are kept, which classes
there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from poise.core.errors import DataError, InputError, SettingsError, did_you_mean
from poise.core.settings import Count, PositiveCount, newer
from poise.data.cache import Decode, views
from poise.data.dataset import Data, DataSource, held_out
from poise.data.encoded import Origin
from poise.data.geometry import Geometry, Interpolation
from poise.data.split import Split


def located(path: str, data_dir: Path, hint: str = "set path to your data") -> Path:
    """The path itself, or below the data folder. Raises: DataError saying where it was looked for and, by `hint`, what
    to do.
    """
    place = Path(path).expanduser()
    for candidate in (place, data_dir / place):
        if candidate.exists():
            return candidate
    raise DataError(f"there is no {place} (looked in {Path.cwd()} and {data_dir}); {hint}")


@dataclass(frozen=True, kw_only=True)
class OwnImages(DataSource):
    """Your own image files."""

    image_size: PositiveCount | None = None
    """Resize every image to this height and width, in pixels; None asks that all have one size."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey; images are converted."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of every class that becomes the test split where the source has none of its own."""
    split_seed: Count = 0
    """Which images those are."""
    shorter_side: PositiveCount | None = newer(default=None)
    """Resize the shorter side to this and take the centre, image_size x image_size, as in evaluations on ImageNet; None
    stretches.
    """
    interpolation: Interpolation = newer(default="bilinear")
    """Of resized images."""
    decode: Decode = newer(default="auto")
    """"resident": decoded into memory at the start. "cache": their bytes in one mapped file in the user's cache, which
    all ranks read; "workers": where they are, both decoded as they are needed (by POISE_WORKERS processes). "auto": in
    memory where they take at most a quarter of what is free, else "cache". The pixels are the same."""
    label_map: Mapping[str, str] | None = newer(default=None)
    """The class of each label that the source has (a folder's name, a word in a table); several may become one. Others
    stay as they are.
    """
    class_names: tuple[str, ...] | None = newer(default=None)
    """The classes in the order of the network's outputs; None: those of the training images, sorted, whole numbers by
    their value.
    """

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.shorter_side is not None and self.shorter_side < (self.image_size or self.shorter_side + 1):
            raise SettingsError(
                f"{name}.shorter_side = {self.shorter_side}: must be at least image_size = {self.image_size}, which"
                " is set"
            )
        if self.class_names is not None and len(set(self.class_names)) < max(2, len(self.class_names)):
            raise SettingsError(f"{name}.class_names = {self.class_names}: must be at least 2 different names")

    @property
    def geometry(self) -> Geometry:
        """How images become arrays."""
        return Geometry(self.channels, self.image_size, self.shorter_side, self.interpolation)

    def assembled(
        self, name: str, images: Origin, labels: Sequence[np.ndarray], names: Sequence[str], notes: Sequence[str] = ()
    ) -> Data:
        """The data of images in order: those of the training split, then those of the test split; of one split both are
        made.

        labels: of each split, numbers of the source's own `names`, which are in the order of its classes. notes: what a
        reader of results must know. Raises: DataError, as `classed`.
        """
        splits, classes, about = self.classed(images, labels, names)
        try:
            train, test = splits if len(splits) == 2 else held_out(splits[0], self.test_fraction, self.split_seed)
        except InputError as error:
            raise DataError(f"{images.folder}: {error}") from None
        return Data(name, train, test, classes, tuple(notes), **about)

    def classed(
        self, images: Origin, labels: Sequence[np.ndarray], names: Sequence[str]
    ) -> tuple[list[Split], tuple[str, ...], dict[str, Any]]:
        """(a split for each column of labels, the classes in the order of the network's outputs, what Data says of
        them).

        Raises: DataError for a class of test images that the first split's images lack, or that is not among
        `class_names`, or the other way round; and as `poise.data.cache.kept`.
        """
        origin, label_numbers = images.folder, self.label_map or {}
        if strange := [label for label in label_numbers if label not in names]:
            raise DataError(
                f"{origin} has no label {strange[0]!r}, which label_map names{did_you_mean(strange[0], names)}"
            )
        words = [label_numbers.get(label, label) for label in names]
        present = {words[number] for number in np.unique(labels[0])}
        classes = self.class_names or tuple(dict.fromkeys(word for word in words if word in present))
        for column in labels:
            if unknown := [words[number] for number in np.unique(column) if words[number] not in classes]:
                reason = "no training image has" if self.class_names is None else "class_names does not name"
                raise DataError(f"{origin}: {unknown[0]!r} is a class that {reason}{did_you_mean(unknown[0], classes)}")
        if lacking := [word for word in classes if word not in present]:
            raise DataError(f"{origin}: no training image is of the class {lacking[0]!r}, which class_names names")
        if len(classes) < 2:
            raise DataError(f"{origin} holds images of {len(classes)} class, but needs at least 2")
        outputs = np.array([classes.index(word) if word in classes else -1 for word in words], dtype=np.int64)
        splits, about = views(images, [outputs[column] for column in labels], len(classes), self.geometry, self.decode)
        order = f"{', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}"
        about["remark"] += f"; its {len(classes)} classes in order: {order}"
        return splits, classes, about


def numbered(labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(number of each label, int64 [N], the different labels in order): sorted, whole numbers by their value."""
    different = set(labels)
    whole = all(label.isdecimal() for label in different)
    names = sorted(different, key=lambda label: (int(label), label)) if whole else sorted(different)
    place = {label: number for number, label in enumerate(names)}
    return np.array([place[label] for label in labels], dtype=np.int64), names
