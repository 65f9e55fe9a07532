"""Images of a data set of the Hugging Face library `datasets`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from pydantic import Field

from poise.core.errors import DataError, MissingExtraError, did_you_mean
from poise.core.files import read_bytes
from poise.core.settings import settings
from poise.data.dataset import Data
from poise.data.own import OwnImages, numbered


@dataclass(frozen=True, eq=False)
class Rows:
    """The encoded images of splits of a data set, in their mapped Arrow files. origins: what errors call each split."""

    splits: tuple[Any, ...]
    column: str
    origins: tuple[str, ...]

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def _place(self, number: int) -> tuple[int, int]:
        """(split, row in it)."""
        first = len(self.splits[0])
        return (0, number) if number < first else (1, number - first)

    def name(self, number: int) -> str:
        split, row = self._place(number)
        return f"{self.origins[split]}, row {row}"

    def open(self, number: int) -> IO[bytes]:
        """Raises: DataError naming a row without an image."""
        split, row = self._place(number)
        try:
            image = self.splits[split][row][self.column]
            content = image["bytes"] if image["bytes"] is not None else read_bytes(image["path"])
        except (TypeError, KeyError, OSError) as error:
            raise DataError(f"{self.name(number)} has no readable image: {error}") from None
        return io.BytesIO(content)

    def facts(self) -> list[tuple[str, int, int]]:
        """(name, rows, 0): a split's fingerprint is the library's own digest of its files and of what was done to
        them.
        """
        return [(split._fingerprint, len(split), 0) for split in self.splits]

    def layout(self) -> bytes:
        return self.column.encode()

    @property
    def folder(self) -> str:
        return self.origins[0]

    @property
    def nbytes(self) -> int:
        return sum(int(split.data.nbytes) for split in self.splits)


@settings
class HuggingFace(OwnImages):
    """Images of a data set of the Hugging Face library: a name on its hub, a folder it can read, or one that it saved.

    Needs `pip install 'poise[huggingface]'`. Classes are those of the label column where it names them.
    """

    path: Annotated[str, Field(min_length=1)]
    """As for `datasets.load_dataset`, or a folder of `Dataset.save_to_disk`."""
    configuration: str | None = None
    """Of a data set that has several."""
    split: str = "train"
    """The images to train on."""
    test_split: str | None = None
    """The images to test on; None makes the test split of `split`."""
    image_column: str = "image"
    label_column: str = "label"

    def read(self, data_dir: Path) -> Data:
        words = [split for split in (self.split, self.test_split) if split is not None]
        splits = [self._opened(word, data_dir) for word in words]
        rows = Rows(tuple(splits), self.image_column, tuple(f"{self.path}[{word}]" for word in words))
        columns = [np.asarray(split.with_format(None)[self.label_column][:]) for split in splits]
        class_names = getattr(splits[0].features[self.label_column], "names", None)
        if class_names is not None:
            labels, names = [column.astype(np.int64) for column in columns], list(class_names)
            if outside := [int(value) for column in labels for value in column if not 0 <= value < len(names)]:
                raise DataError(f"{self.path}: a label is {outside[0]}, outside 0 to {len(names) - 1}")
        else:
            column, names = numbered([str(value) for column in columns for value in column.tolist()])
            labels = np.split(column, [len(columns[0])])[: len(columns)]
        return self.assembled(Path(self.path).name, rows, labels, names)

    def _opened(self, split: str, data_dir: Path) -> Any:
        """One split, its images left encoded."""
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("datasets", "huggingface") from None
        local = next(
            (str(place) for place in (Path(self.path).expanduser(), data_dir / self.path) if place.exists()), self.path
        )
        try:
            if (Path(local) / "dataset_dict.json").exists() or (Path(local) / "state.json").exists():
                whole = datasets.load_from_disk(local)
                dataset = whole[split] if isinstance(whole, datasets.DatasetDict) else whole
            else:
                dataset = datasets.load_dataset(local, self.configuration, split=split)
        except Exception as error:  # its readers raise errors of many kinds
            raise DataError(
                f"{self.path}, split {split!r}, cannot be opened: {str(error).partition(chr(10))[0]}"
            ) from None
        for column in (self.image_column, self.label_column):
            if column not in dataset.features:
                raise DataError(f"{self.path} has no column {column!r}{did_you_mean(column, dataset.features)}")
        return dataset.cast_column(self.image_column, datasets.Image(decode=False))
