"""Labelling images by a trained model: what self-training on extra data starts from (Carmon et al. 2019)."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks.attack import check_logits
from poise.core.bars import default_progress
from poise.core.bounds import SEAL
from poise.core.callers import computed_plainly
from poise.core.errors import DataError, SettingsError
from poise.core.files import check_writable, reading, whole_file
from poise.core.progress import Progress
from poise.data.dataset import Split
from poise.data.images import image_files
from poise.data.parts import Parts, names_in, of_array, of_files, of_npy, of_npz, pool_digest
from poise.data.pickles import read_pickle
from poise.evaluation.predictions import device_of, logits_of
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.subject import Subject

BATCH = 256


@dataclass(frozen=True)
class Labelled:
    """What was written: per class how many images were given its label, and the mean confidence in [0, 1]."""

    count: int
    per_class: dict[str, int]
    confidence: float


@computed_plainly
def pseudo_label(
    asked: Asked,
    images: str | Path | None,
    out: str | Path,
    data: Images | None = None,
    *,
    progress: Progress | None = None,
    **kind: Any,
) -> Labelled:
    """Write `image` uint8 [N, H, W, C], `label` int64 [N], `confidence` float32 [N] and a digest as .npz.

    asked, data, kind: see `subject_of`. images: an .npz archive (array `image`, or its only array of images), an .npy
    file, a pickle with `data`, or a folder of image files, all its subfolders included; None labels a run's own
    training images but those held out, or the training images of `data`, their known labels unused.
    The label is the arg max of the logits, the confidence the largest softmax probability.
    Raises: SettingsError for another suffix of `out`, DataError for images that are missing, damaged or of another
    shape than the subject's, StorageError, and what the subject refuses.
    """
    out, images = Path(out), None if images is None else Path(images)
    if out.suffix != ".npz":
        raise SettingsError(f"--out {out}: the suffix must be .npz")
    check_writable(out)
    subject, progress = subject_of(asked, data, **kind), default_progress(progress)
    network, shape, classes = subject.network, subject.shape, subject.classes
    name = subject.run_name or subject.title
    parts = _training_images(subject) if images is None else parts_of(images, shape[0])
    if parts.shape != shape:
        raise DataError(
            f"{parts.origin}: images are {list(parts.shape)}, must be {list(shape)} as those that {name} was trained on"
        )
    if images is not None and images.resolve() == out.resolve():
        raise SettingsError(f"--out {out}: must be another file than --images")
    advance = progress.begin(f"{name}: pseudo-labels", parts.count, "images")
    labels, confidences = [], []

    def labelled() -> Iterator[np.ndarray]:
        for part in parts.read():
            guesses, sure = _predicted(network, torch.from_numpy(np.array(part)))
            labels.append(guesses)
            confidences.append(sure)
            advance(len(part))
            yield part.transpose(0, 2, 3, 1)

    label, confidence = _write(out, parts, labelled(), labels, confidences)
    progress.end()
    counts = np.bincount(label, minlength=len(classes))
    per_class = {name: int(count) for name, count in zip(classes, counts, strict=True)}
    return Labelled(parts.count, per_class, float(confidence.mean()))


def parts_of(images: Path, channels: int) -> Parts:
    """The images in a file or folder (see `pseudo_label`). Raises: DataError, UntrustedFileError."""
    if images.is_dir():
        folders = [images, *sorted(path for path in images.rglob("*") if path.is_dir())]
        return of_files([file for folder in folders for file in image_files(folder)], channels, images)
    if not images.is_file():
        raise DataError(f"there is no {images}")
    if images.suffix == ".npy":
        return of_npy(images)
    if images.suffix == ".npz":
        names = names_in(images)
        return of_npz(images, "image" if "image" in names or len(names) != 1 else names[0])
    with reading(images) as file:
        content = read_pickle(file, images)
    if not isinstance(content, dict) or "data" not in content:
        has = (
            f"a dict of {', '.join(map(repr, content)) or 'nothing'}"
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise DataError(f"{images} is no .npz, .npy or pickle of images: it lacks 'data'; it holds {has}")
    return of_array(np.asarray(content["data"]), images)


def _training_images(subject: Subject) -> Parts:
    images_own = subject.training_images()  # held-out images stay unseen by what is trained on these labels
    return of_array(images_own.images.numpy(), f"{subject.data.name}, training images", layout="NCHW")


@torch.no_grad()
def _predicted(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(labels int64 [N], confidences float32 [N]) of uint8 images [N, C, H, W]."""
    split = Split.of(images, torch.zeros(len(images), dtype=torch.int64))
    labels, confidences = [], []
    for start in range(0, len(split), BATCH):
        x = split.pixels(slice(start, start + BATCH), device_of(network)[1])
        logits = logits_of(network, x, BATCH)
        check_logits(logits, len(x))
        confidence, label = logits.softmax(1).max(1)
        labels.append(label.cpu())
        confidences.append(confidence.float().cpu())
    return torch.cat(labels).numpy(), torch.cat(confidences).numpy()


def _write(
    out: Path, parts: Parts, read: Iterator[np.ndarray], labels: list[np.ndarray], confidences: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The archive, whole or not at all; `labels` and `confidences` fill as `read` is read. Returns both joined."""
    channels, height, width = parts.shape
    head: Any = {"descr": "|u1", "fortran_order": False, "shape": (parts.count, height, width, channels)}
    with whole_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        digest = hashlib.sha256()
        with archive.open("image.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, head)
            for part in read:
                content = np.ascontiguousarray(part).tobytes()
                digest.update(content)
                member.write(content)
        label, confidence = np.concatenate(labels), np.concatenate(confidences)
        seal = np.array(pool_digest(digest, label))
        for name, values in (("label", label), ("confidence", confidence), (SEAL, seal)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
    return label, confidence
