"""The evaluation record: everything a claim about accuracy rests on, as JSON, without torch.

Per example it keeps the label, the prediction on the natural image and the prediction after each attack, so that any
accuracy, worst case, per-class figure or paired comparison can be computed from it later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from poise.core.errors import PoiseError, RunError, StorageError

FORMAT = 1


@dataclass(frozen=True)
class AttackRecord:
    """One attack of a protocol: `predicted` is the label predicted on each example's adversarial image."""

    name: str
    settings: dict[str, Any]
    predicted: list[int]
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRecord:
    """What was evaluated, on what, how, when, and what came out (module docstring)."""

    model: str
    """Display name, such as the recipe's or the checkpoint's."""
    checkpoint: str
    """Which weights: "selected", "last", "epoch 80", or "file" for a user's own weights."""
    model_digest: str
    run: str
    """Name of the run folder, or empty."""
    group: str
    """Runs that differ only by their seed share this key."""
    seed: int
    """Seed of the training run."""
    evaluation_seed: int
    dataset: str
    split: str
    classes: list[str]
    protocol: str
    labels: list[int]
    natural: list[int]
    """Label predicted on each natural image."""
    attacks: list[AttackRecord]
    seconds: float
    started: str
    """UTC, ISO 8601."""
    device: str
    versions: dict[str, str]
    notes: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def natural_accuracy(self) -> float:
        """Share of natural images classified correctly, in [0, 1]."""
        return _share(self.natural_correct())

    @property
    def attack_names(self) -> list[str]:
        return [attack.name for attack in self.attacks]

    def natural_correct(self) -> list[bool]:
        return self._right(self.natural)

    def correct_under(self, name: str) -> list[bool]:
        """Per example: correct on the image that attack `name` made. Raises KeyError for an unknown attack."""
        attack = next((attack for attack in self.attacks if attack.name == name), None)
        if attack is None:
            raise KeyError(f"the record has no attack {name!r}; it has {', '.join(self.attack_names)}")
        return self._right(attack.predicted)

    def _right(self, predicted: list[int]) -> list[bool]:
        return [guess == label for guess, label in zip(predicted, self.labels, strict=True)]

    def accuracy(self, name: str) -> float:
        """Robust accuracy under attack `name`, in [0, 1]."""
        return _share(self.correct_under(name))

    def worst_case(self) -> list[bool]:
        """Per example: correct on the natural image and after every attack."""
        columns = [self.natural_correct(), *(self._right(attack.predicted) for attack in self.attacks)]  # two may have one name
        return [all(row) for row in zip(*columns, strict=True)]

    @property
    def worst_case_accuracy(self) -> float:
        return _share(self.worst_case())

    @property
    def corruption_accuracy(self) -> float | None:
        """Mean accuracy over 15 common corruptions of 5 severities in [0, 1], where it was measured."""
        found = self.notes.get("corruptions")
        return float(found["mean"]) if found else None

    def write(self, path: str | Path) -> Path:
        """Write as JSON, atomically."""
        return write_text(path, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: str | Path) -> EvaluationRecord:
        """Raises: RunError when the file is missing, damaged or not a record."""
        path = Path(path)
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise RunError(f"there is no evaluation record {path}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(f"{path} cannot be read as an evaluation record: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RunError(f"{path} is not an evaluation record of format {FORMAT}")
        try:
            attacks = [AttackRecord(**attack) for attack in data.pop("attacks")]
            record = cls(attacks=attacks, **data)
        except (TypeError, KeyError) as error:
            raise RunError(f"{path} is not a complete evaluation record: {error}") from None
        lengths = {len(record.natural), *(len(attack.predicted) for attack in attacks)}
        if lengths != {record.count}:
            raise RunError(f"{path} has {record.count} labels but predictions of length {sorted(lengths)}")
        return record


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else float("nan")


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: StorageError naming `path` for whatever keeps the body from writing it; Poise's own errors pass."""
    try:
        yield
    except PoiseError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in _FULL:
            why = f"no space is left or a size limit is reached ({why}); what was there is unharmed"
        raise StorageError(f"{path} cannot be written: {why}") from None


def check_writable(path: str | Path) -> None:
    """Refuses, before long work, a place where its result could not be written. Raises: StorageError."""
    path = Path(path)
    if path.is_dir():
        raise StorageError(f"{path} cannot be written: it is a folder, must be a file")
    _regular(path)
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"{path} cannot be written: {nearest} is not a folder that one may write to")


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file so that it either has all of `data` or is as it was: temporary file, fsync, rename. Raises: StorageError."""
    write_files({Path(path): data})
    return Path(path)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together as `write_bytes` does: none is renamed before all lie on the disk. Raises: StorageError."""
    files = {_regular(path): data for path, data in files.items()}
    parts = {path: _part(path) for path in files}
    try:
        for path, data in files.items():
            with writing(path), _synced(parts[path]) as file:
                file.write(data)
        for path, part in parts.items():
            with writing(path):
                os.replace(part, path)
    except BaseException:
        _drop(*parts.values())
        raise


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to be written that stands at `path` once the block has ended, or not at all, as by `write_bytes`. Raises: StorageError."""
    path = _regular(Path(path))
    part = _part(path)
    with writing(path):
        try:
            with _synced(part) as file:
                yield file
            os.replace(part, path)
        except BaseException:
            _drop(part)
            raise


def _drop(*parts: Path) -> None:
    """Delete what was written; what keeps that from working is not what went wrong."""
    for part in parts:
        with contextlib.suppress(OSError):
            part.unlink()


def _regular(path: Path) -> Path:
    """Where a link leads, which is to stay one. Raises: StorageError for what is there and cannot be replaced, such as a device."""
    place = path.resolve() if path.is_symlink() else path
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise StorageError(f"{path} cannot be written: it is a device or a pipe, must be a file")
    return place


def _part(path: Path) -> Path:
    """The temporary file beside `path` in which it is written."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which lies on the disk when the block ends. Its mode is what the umask makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a file, or leave the file as it was. Raises: StorageError."""
    path = Path(path)
    with writing(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        data = f"{line}\n".encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects that `append_line` wrote; the last one may be cut off, as it is while a process writes or was killed.

    Empty where there is no file. Raises: RunError for a file that cannot be read, or a line before the last that is no object.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    lines = text.split("\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            found.append(entry)
        elif number < len(lines):  # a line that was written to its end
            raise RunError(f"{path} is damaged at line {number}: it is not a JSON object")
    return found


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of a text in UTF-8."""
    return write_bytes(path, text.encode())
