"""Extra images beside the labelled ones: pools of pseudo-labelled or generated images, which may be larger than memory.

A pool is read once, as a stream, into an .npy file in the user's cache, with its digest; from then on that file is
memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from poise.core import papers
from poise.core.batches import UNLABELLED
from poise.core.bounds import SEAL, mapped
from poise.core.documents import opened, parse, sealed
from poise.core.errors import DataError, StorageError
from poise.core.files import read_text, reading, whole_file, write_text
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, Settings, number, settings, tag_of, to_json
from poise.data.dataset import Data, Split, cache_directory, data_directory, labels_from
from poise.data.folder import Layout
from poise.data.images import image_files, in_turn, subfolders
from poise.data.own import located
from poise.data.parts import PART, Parts, column, names_in, of_array, of_files, of_npz, sealed_by
from poise.data.pickles import read_pickle

_FORMAT = 1
_DIGEST = "facts_sha256"
"""Of what the facts of a cache say; `sha256` among them is of the pool's images and labels."""


@dataclass(frozen=True, eq=False)
class OpenedPool:
    """split: the pool's images, memory-mapped, with labels and numbers; digest: SHA-256 of shape, pixels and labels."""

    split: Split
    digest: str
    origin: str

    @property
    def note(self) -> str:
        """What a record says of it."""
        return f"extra images: {len(self.split):,} of {Path(self.origin).name}, SHA-256 {self.digest}"


@dataclass(frozen=True, kw_only=True)
class Pool(Settings, family="pool"):
    """Labelled images beside a data set's own: pseudo-labelled, generated or collected."""

    paper: ClassVar[Paper | None] = None
    source: ClassVar[str] = "set path to your data"
    """What to do where there is no such file."""

    path: Annotated[str, Field(min_length=1)]
    """The file or folder; a relative one is looked up here, then in the data folder."""

    @property
    def labelled(self) -> bool:
        """False where images are `UNLABELLED`: for objectives that take those."""
        return True

    @abstractmethod
    def read(self, path: Path, data: Data) -> tuple[Parts, np.ndarray]:
        """The images as parts and their labels [N], nothing more than headers and labels read."""

    def open(self, data: Data, data_dir: Path | str | None = None) -> OpenedPool:
        """The pool for training beside `data`, copied into the cache on first use.

        Raises: DataError for a missing or damaged file, images of another shape or labels beyond the classes of `data`;
        StorageError when the cache cannot be written.
        """
        path = located(self.path, data_directory(data_dir), self.source)
        place = cache_directory() / "pools" / f"{tag_of(self)}-{self._key(path, data)}"
        pool = _cached(place, len(data.classes), self.labelled)
        if pool is None:
            parts, values = self.read(path, data)
            if parts.shape != data.shape:
                raise DataError(
                    f"{parts.origin}: images are {list(parts.shape)}, must be {list(data.shape)} as those of"
                    f" {data.name}"
                )
            labels = labels_from(values, len(data.classes), path).numpy() if self.labelled else values
            if len(labels) != parts.count:
                raise DataError(f"{path}: {parts.count} images but {len(labels)} labels")
            _keep(place, parts, labels)
            pool = _cached(place, len(data.classes), self.labelled)
        if pool is None:
            raise DataError(f"{place}.npy was changed while it was written; delete it and try again")
        images, labels, digest = pool
        return OpenedPool(Split.of(torch.from_numpy(images), torch.from_numpy(labels)), digest, str(path))

    def _key(self, path: Path, data: Data) -> str:
        """Changes with the settings, the data's classes and shape and the size or time of any file, behind links to
        folders too.
        """
        digest = hashlib.blake2b(
            json.dumps([_FORMAT, to_json(self), list(data.classes), list(data.shape)]).encode(), digest_size=12
        )
        folders = [path, *subfolders(path)] if path.is_dir() else []
        files = (
            [child for folder in folders for child in sorted(folder.iterdir()) if child.is_file()]
            if folders
            else [path]
        )
        for file in files:
            facts = file.stat()
            digest.update(f"{file.resolve()}\x1f{facts.st_size}\x1f{facts.st_mtime_ns}\x1e".encode())
        return digest.hexdigest()


@settings
class PseudoLabelled500K(Pool):
    """The 500,000 images of 80 Million Tiny Images, pseudo-labelled for CIFAR-10, in their authors' pickle (Carmon et
    al. 2019).

    The pickle is read without running anything it asks for; it is whole in memory once, on first use.
    """

    paper: ClassVar[Paper | None] = papers.RST_CARMON
    source: ClassVar[str] = (
        "its authors publish it at https://github.com/yaircarmon/semisup-adv; set path to where you keep it"
    )
    path: Annotated[str, Field(min_length=1)] = "ti_500K_pseudo_labeled.pickle"

    def read(self, path: Path, data: Data) -> tuple[Parts, np.ndarray]:
        try:
            with reading(path) as file:
                content = read_pickle(file, path)
        except IsADirectoryError:
            raise DataError(f"{path} is a folder, must be a pickle") from None
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        if not isinstance(content, dict) or "data" not in content or "extrapolated_targets" not in content:
            has = (
                f"a dict of {', '.join(map(repr, content)) or 'nothing'}"
                if isinstance(content, dict)
                else f"a {type(content).__name__}"
            )
            raise DataError(
                f"{path} is not the pseudo-labelled pool: it lacks 'data' or 'extrapolated_targets'; it holds {has}"
            )
        return of_array(np.asarray(content["data"]), path), np.asarray(content["extrapolated_targets"])


@settings
class NpzPool(Pool):
    """An .npz archive of uint8 images and labels, as generated data are published and `poise pseudo-label` writes
    them.
    """

    source: ClassVar[str] = (
        "set path to your data, or label images by a trained model: poise pseudo-label RUN --out FILE.npz"
    )
    images: str = "image"
    """Name of the array of images [N, H, W, C], [N, C, H, W] or [N, H, W]."""
    labels: str | None = "label"
    """Name of the array of labels [N]; None: the images have none (RST)."""
    layout: Layout = "auto"
    """Order of the axes; "auto" goes by which axis has 1 or 3 entries."""

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def read(self, path: Path, data: Data) -> tuple[Parts, np.ndarray]:
        images = of_npz(path, self.images, self.layout)
        if self.labels is None:
            return images, np.full(images.count, UNLABELLED, dtype=np.int64)
        labels = column(path, self.labels)
        if (self.images, self.labels) == ("image", "label") and SEAL in names_in(path):  # as poise pseudo-label writes
            images = sealed_by(images, str(column(path, SEAL)), labels)
        return images, labels_from(labels, len(data.classes), f"{path}, {self.labels}").numpy()


@settings
class FolderPool(Pool):
    """A folder with one subfolder of image files per class, named as the data set's classes; classes may be missing.

    Images without labels are labelled first: `poise pseudo-label RUN --images FOLDER --out FILE.npz`.
    """

    image_size: PositiveCount | None = None
    """Resize every image to this height and width, in pixels; None asks that all fit the data set."""

    def read(self, path: Path, data: Data) -> tuple[Parts, np.ndarray]:
        if not path.is_dir():
            raise DataError(f"{path} is not a folder")
        folders = subfolders(path)
        if not folders:
            raise DataError(
                f"{path} has no subfolders, one per class; label its images first: poise pseudo-label RUN --images"
                f" {path}"
            )
        strange = [folder.name for folder in folders if folder.name not in data.classes]
        if strange:
            raise DataError(f"{path / strange[0]} is no class of {data.name}, which has {_few(data.classes)}")
        paths, turns = in_turn([image_files(folder) for folder in folders])
        names = np.array([data.classes.index(folder.name) for folder in folders], dtype=np.int64)
        return of_files(paths, data.shape[0], path, self.image_size), names[turns]


@settings
class Extra(Settings):
    """How a stream mixes images of a pool into its batches: drawn uniformly with replacement (Carmon et al. 2019)."""

    transparent = "pool"
    pool: Pool | None = PseudoLabelled500K()
    """None: the learner's own training images once more, under the labels they have (self-training without unlabelled
    images).
    """
    share: Annotated[float, BeforeValidator(number), Field(gt=0, le=1)] = 0.5
    """Share of every batch that comes from the pool. An epoch has as many images, labelled and extra, as there are
    labelled ones.
    """

    @classmethod
    def coerce(cls, value: object) -> object:
        """A pool stands for half of every batch from it."""
        if isinstance(value, Pool):
            return cls(pool=value)
        return {"pool": value} if isinstance(value, dict) and value.get("type", "Extra") != "Extra" else value


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _files(place: Path) -> tuple[Path, Path, Path]:
    return (
        place.with_name(f"{place.name}.npy"),
        place.with_name(f"{place.name}.labels.npy"),
        place.with_name(f"{place.name}.json"),
    )


def _cached(place: Path, classes: int, labelled: bool = True) -> tuple[np.ndarray, np.ndarray, str] | None:
    """(images memory-mapped, labels, digest), or None where the cache is missing, damaged, of another file or beyond
    the classes.

    Labels are checked on every opening. Pixels are read through, which takes seconds a GB, only when the file is no
    longer the one written.
    """
    pixels, numbers, facts = _files(place)
    try:
        document = parse(read_text(facts))
        facts_read = opened(document, _DIGEST, required=False)
        status = _written(pixels)
        # "c": torch wants arrays that may be written, the file may not
        images, labels = mapped(pixels, "c"), np.array(mapped(numbers))
        if images.dtype != np.uint8 or list(images.shape) != facts_read["shape"] or labels.shape != images.shape[:1]:
            return None
        labels_allowed = range(classes) if labelled else range(UNLABELLED, UNLABELLED + 1)
        if (
            labels.dtype != np.int64
            or int(labels.min()) not in labels_allowed
            or int(labels.max()) not in labels_allowed
        ):
            return None
        # facts of before they had a digest are checked as changed files are
        if _DIGEST not in document or (facts_read.get("pixels"), facts_read.get("labels")) != (status, _digest(labels)):
            if _digest_of(images, labels) != facts_read["sha256"]:
                return None
            with contextlib.suppress(StorageError):  # a cache that others own is checked each time
                _note(facts, {**facts_read, "pixels": status, "labels": _digest(labels)})
        return images, labels, facts_read["sha256"]
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _keep(place: Path, parts: Parts, labels: np.ndarray) -> None:
    """Stream the parts into the cache; the facts are written last, so that what is not whole is not found."""
    pixels, numbers, facts = _files(place)
    shape = (parts.count, *parts.shape)
    digest = hashlib.sha256(repr(shape).encode())
    head: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with whole_file(pixels) as file:
        np.lib.format.write_array_header_1_0(file, head)
        for part in parts.read():
            content = part.tobytes()
            digest.update(content)
            file.write(content)
    with whole_file(numbers) as file:
        np.save(file, labels)
    digest.update(labels.tobytes())
    pool_facts = {"shape": list(shape), "sha256": digest.hexdigest(), "origin": parts.origin}
    _note(facts, {**pool_facts, "pixels": _written(pixels), "labels": _digest(labels)})


def _note(facts: Path, known: dict[str, Any]) -> None:
    write_text(facts, json.dumps(sealed(known, _DIGEST), indent=1))


def _written(path: Path) -> list[int]:
    """[bytes, time of the last change in ns]: what tells a file that is as it was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(labels: np.ndarray) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()


def _digest_of(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of shape, pixels and labels, the images read a part at a time."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), PART):
        digest.update(images[start : start + PART].tobytes())
    digest.update(labels.tobytes())
    return digest.hexdigest()
