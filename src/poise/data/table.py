"""Images that a table of paths and labels names: a csv or parquet file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from poise.core.bounds import check_plausible
from poise.core.errors import DataError, MissingExtraError
from poise.core.files import reading
from poise.core.settings import settings
from poise.data.dataset import Data
from poise.data.encoded import Places
from poise.data.own import OwnImages, located, numbered

_TRAIN, _TEST = ("train", "training"), ("test", "val", "valid", "validation")
_LARGEST, _ROWS, _PATH, _BATCH = 2**30, 10**8, 4096, 4096
"""The most bytes and rows of a table, characters of a path, and rows that are in memory at a time."""


@settings
class Table(OwnImages):
    """Your own images as a table names them: a .csv (with a head) or .parquet file with a column of paths and one of
    labels.

    A relative path is below the table's folder. With a column `split` (train, and test or val) its splits are taken,
    else made here.
    """

    path: Annotated[str, Field(min_length=1)]
    """The table; a relative one is looked up here, then in the data folder."""
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"

    def read(self, data_dir: Path) -> Data:
        table = located(self.path, data_dir)
        paths: dict[str, list[str]] = {"train": [], "test": []}
        labels: dict[str, list[str]] = {"train": [], "test": []}
        for number, row in self._rows(table):
            path, label = (
                str(row[column]).strip() if row.get(column) is not None else ""
                for column in (self.path_column, self.label_column)
            )
            if not path or not label:
                raise DataError(
                    f"{table}, row {number} has no {self.path_column if not path else self.label_column}: {dict(row)}"
                )
            if not (table.parent / path).is_file():
                raise DataError(f"{table}, row {number}: there is no file {table.parent / path}")
            split = self._split(str(row.get(self.split_column, "train")), table, number)
            paths[split].append(path)
            labels[split].append(label)
        splits = ["train", "test"] if labels["test"] else ["train"]
        if not labels["train"]:
            raise DataError(f"{table} names no image to train on")
        column, names = numbered([label for split in splits for label in labels[split]])
        places = Places.whole(table.parent, [path for split in splits for path in paths[split]])
        parts = np.split(column, [len(labels["train"])])[: len(splits)]
        return self.assembled(table.stem, places, parts, names)

    def _split(self, word: str, table: Path, number: int) -> str:
        word = word.strip().lower()
        if word in _TRAIN:
            return "train"
        if word in _TEST:
            return "test"
        names = ", ".join((*_TRAIN, *_TEST))
        raise DataError(f"{table}, row {number}: {self.split_column} = {word!r}, must be one of {names}")

    def _rows(self, table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(number from 1, values by column) of every row."""
        columns_needed = (self.path_column, self.label_column, self.split_column)
        rows = _parquet(table, columns_needed) if table.suffix == ".parquet" else _csv(table)
        number = 0
        for number, row in rows:
            lacking = [column for column in (self.path_column, self.label_column) if column not in row]
            if lacking:
                raise DataError(f"{table} has no column {lacking[0]!r}; it has {', '.join(map(str, row))}")
            yield number, row
        if number == 0:
            raise DataError(f"{table} has no rows")


def _csv(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with io.TextIOWrapper(reading(table, _LARGEST), newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), 1):
                if None in row or None in row.values():
                    raise DataError(
                        f"{table}, row {number} has {'more' if None in row else 'fewer'} fields than the head"
                    )
                yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a readable csv file: {error}") from None


def _parquet(table: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of the columns that are wanted, as far as there are; texts stay in their dictionaries, which unpack to no
    more than the file says.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    try:
        with reading(table, _LARGEST) as content:
            file = parquet.ParquetFile(content, read_dictionary=list(wanted))
            metadata, size = file.metadata, os.fstat(content.fileno()).st_size
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            check_plausible(sum(group.total_byte_size for group in groups), size)
            if metadata.num_rows > _ROWS:
                raise ValueError(f"it has {metadata.num_rows:,} rows, may have at most {_ROWS:,}")
            names = file.schema_arrow.names
            columns = [name for name in wanted if name in names] if {*wanted[:2]} <= {*names} else names[:1]
            start = 1
            for batch in file.iter_batches(_BATCH, columns=columns):
                rows = batch.to_pylist()
                if any(isinstance(value, str) and len(value) > _PATH for row in rows for value in row.values()):
                    raise ValueError(f"a path, label or split has more than {_PATH:,} characters")
                if columns == names[:1]:  # what a table lacks is said of all columns that it has
                    rows = [dict.fromkeys(names) for _ in rows]
                yield from enumerate(rows, start)
                start += len(rows)
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{table} is not a readable parquet file: {str(error).partition(chr(10))[0]}") from None
