"""The file from which a stopped AutoAttack goes on; of several ranks each has its own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from poise.attacks.autoattack.job import Job
from poise.core.distributed import World
from poise.core.errors import RunError
from poise.core.files import reading, write_bytes

_FORMAT = "poise.autoattack.1"


def fingerprint_of(settings: list[object], tensors: Iterable[Tensor]) -> str:
    """What a run's outcome follows from, as a digest."""
    digest = blake2b(json.dumps(settings).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _digest(facts: dict[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Of all that a state holds."""
    shapes = [[name, str(values.dtype), list(values.shape)] for name, values in sorted(tensors.items())]
    items = sorted((name, value) for name, value in facts.items() if name != "digest")
    return fingerprint_of([items, shapes], (values for _, values in sorted(tensors.items()) if len(values)))


def width_of(path: str | Path, world: World) -> int | None:
    """The lanes with which the run whose state lies there was begun; None where none can be read."""
    try:
        reading(_own(Path(path), world)).close()  # no pipe
        with safetensors.safe_open(_own(Path(path), world), framework="pt") as file:
            return int((file.metadata() or {}).get("width", 0)) or None
    except (safetensors.SafetensorError, OSError, ValueError):
        return None


def _own(path: Path, world: World) -> Path:
    """The rank's own file."""
    return path if world.size == 1 else path.with_name(f"{path.name}.{world.rank}-of-{world.size}")


class StateFile:
    """Writes a job to its file, atomically, and reads it back. Several ranks write PATH.0-of-2 and so on."""

    def __init__(self, path: str | Path, seconds: float, fingerprint: str, width: int, world: World) -> None:
        self.named, self.seconds, self.fingerprint, self.world = Path(path), seconds, fingerprint, world
        self.width, self.path = width, _own(self.named, world)
        self.last = time.monotonic()

    def keep(self, job: Job, over: bool) -> None:
        """Save where an attack is over, and in between when it is due."""
        if over or time.monotonic() - self.last >= self.seconds:
            self.save(job)

    def save(self, job: Job) -> None:
        """Raises: StorageError."""
        tensors = {name: values.detach().cpu().clone().contiguous() for name, values in job.snapshot().items()}
        facts = {"format": _FORMAT, "fingerprint": self.fingerprint, "width": str(self.width)}
        facts["digest"] = _digest(facts, tensors)
        write_bytes(self.path, safetensors.torch.save(tensors, metadata=facts))
        self.last = time.monotonic()

    def load(self, job: Job) -> None:
        """Let the job go on from the file; does nothing where there is none yet. All ranks call this together.

        Raises: RunError on every rank if the file of one is damaged, belongs to another run or was written by another
        number of ranks.
        """
        problem, tensors = None, None
        try:
            tensors = self._read()
        except RunError as error:
            problem = error
        job.ranks.agree(problem)
        if tensors is not None:
            job.restore(tensors)
        job.ranks.recall()

    def _read(self) -> dict[str, Tensor] | None:
        self._check_size()
        if not self.path.exists():
            return None
        try:
            reading(self.path).close()  # no pipe
            with safetensors.safe_open(self.path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise RunError(f"state_path = {self.path} cannot be read ({error}); remove it to start anew") from None
        if facts.get("digest") not in (None, _digest(facts, tensors)):  # states had none once
            raise RunError(
                f"state_path = {self.path} is damaged: its digest is not that of what it holds; remove it to start anew"
            )
        if facts.get("format") != _FORMAT or facts.get("fingerprint") != self.fingerprint:
            raise RunError(
                f"state_path = {self.path} belongs to another run: model, images, labels, settings, seed and batch size"
                " must be the same"
            )
        return tensors

    def _check_size(self) -> None:
        """Raises: RunError if another number of ranks began this."""
        sizes = {1} if self.named.exists() else set()
        form = re.compile(re.escape(self.named.name) + r"\.\d+-of-(\d+)")
        beside = self.named.parent.iterdir() if self.named.parent.is_dir() else ()
        sizes |= {int(match[1]) for file in beside if (match := form.fullmatch(file.name))}
        if other_sizes := sizes - {self.world.size}:
            saved_size = min(other_sizes)
            raise RunError(
                f"state_path = {self.named} was begun by {saved_size} rank{'s' * (saved_size > 1)} and this run has"
                f" {self.world.size}: go on with {saved_size}, or remove {self.named.name}* to start anew"
            )
