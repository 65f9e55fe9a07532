"""Adversarial images on disk, with the settings they were made by: any network can be shown them again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.core import papers
from poise.core.documents import parse
from poise.core.errors import DataError, InputError
from poise.core.files import reading, write_bytes
from poise.core.seeds import Draw
from poise.core.settings import from_json, settings
from poise.threats import Linf, Threat

_SLACK = 1e-5  # what float32 leaves of an epsilon that was kept in float64


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """Images made on one surrogate by one attack: x_adv [N, C, H, W] float, labels [N], ids [N] (numbers in the data
    set), all on the CPU.

    attack: its settings as JSON; surrogate: digest of the weights it was made on; seed: that of the draws.
    """

    x_adv: Tensor
    labels: Tensor
    ids: Tensor
    attack: dict[str, Any]
    surrogate: str
    seed: int

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the images, labels and ids."""
        return _digest(self._tensors())

    def rows(self, ids: Tensor) -> Tensor:
        """Where the examples `ids` [B] are in the set [B], -1 for one that is not."""
        order = self.ids.argsort()
        place = torch.searchsorted(self.ids[order], ids.cpu()).clamp(max=len(order) - 1)
        rows_of_ids = order[place]
        return torch.where(self.ids[rows_of_ids] == ids.cpu(), rows_of_ids, -1)

    def of(self, ids: Tensor) -> Tensor:
        """The images [B, C, H, W] made of the examples `ids` [B]. Raises: InputError for an example that is not in the
        set.
        """
        return self.only(ids).x_adv

    def only(self, ids: Tensor) -> AdversarialSet:
        """The part of the set that holds the examples `ids` [B], in their order. Raises: InputError for one that is not
        in the set.
        """
        rows = self.rows(ids)
        if (rows < 0).any():
            missing = int(ids.cpu()[rows < 0][0])
            raise InputError(
                f"the set of {len(self.ids)} adversarial images holds none of example {missing}; make it anew"
            )
        return self._with({name: tensor[rows] for name, tensor in self._tensors().items()})

    def plus(self, more: AdversarialSet) -> AdversarialSet:
        """This set and, behind it, `more`, which the same attack made of other examples on the same surrogate."""
        return self._with(
            {name: torch.cat([tensor, more._tensors()[name]]) for name, tensor in self._tensors().items()}
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; the settings are its metadata."""
        about = {
            "attack": json.dumps(self.attack),
            "surrogate": self.surrogate,
            "seed": str(self.seed),
            "sha256": self.digest,
        }
        write_bytes(path, safetensors.torch.save(self._tensors(), about))

    @classmethod
    def load(cls, path: Path) -> AdversarialSet:
        """Inverse of `save`. Raises: DataError when the file is missing, damaged, altered or something else."""
        try:
            reading(path).close()  # no pipe
            with safetensors.safe_open(path, "pt") as file:  # pyright: ignore[reportPrivateImportUsage]
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            adversarial = cls(
                **tensors, attack=parse(about["attack"]), surrogate=about["surrogate"], seed=int(about["seed"])
            )
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged or not a set of adversarial images: {error}") from None
        if adversarial.digest != about.get("sha256"):
            raise DataError(f"{path} was altered: its images are not those of the digest in its metadata")
        return adversarial

    def _with(self, tensors: Mapping[str, Tensor]) -> AdversarialSet:
        return AdversarialSet(**tensors, attack=self.attack, surrogate=self.surrogate, seed=self.seed)

    def _tensors(self) -> dict[str, Tensor]:
        return {"x_adv": self.x_adv.contiguous(), "labels": self.labels, "ids": self.ids}


@settings
class Saved(Attack):
    """Images that another attack made on another network, looked up by their number in the data set; the network is not
    asked.

    Raises (when run): DataError for a damaged set, or one of another digest; InputError for examples that it does not
    hold or images outside the threat.
    """

    paper = papers.DVERGE
    threat: Threat = Linf()
    path: str
    """A file that `AdversarialSet.save` wrote."""
    digest: str = ""
    """SHA-256 of the set; empty takes whatever set is there."""
    surrogate: str = "surrogate"
    """What the network they were made on is called in tables."""
    made_by: str = "attack"
    """What the attack is called in tables."""

    @property
    def name(self) -> str:
        return f"{self.surrogate}: {self.made_by}"

    @classmethod
    def of(cls, path: Path, kept: AdversarialSet, surrogate: str) -> Saved:
        """What shows the set `kept`, stored at `path`."""
        attack: Any = from_json(Attack, kept.attack)  # type: ignore[type-abstract]
        return cls(threat=attack.threat, path=str(path), digest=kept.digest, surrogate=surrogate, made_by=attack.name)

    def forwards(self) -> float:
        return 1.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        if target is not None:
            raise InputError("Saved cannot be targeted; leave target out")
        adversarial = _read(self.path, Path(self.path).stat().st_mtime_ns if Path(self.path).exists() else 0)
        if self.digest not in ("", adversarial.digest):
            raise DataError(
                f"{self.path} holds other images than those of digest {self.digest[:12]}...; make the set anew"
            )
        x_adv = adversarial.of(draw.index).to(x)
        if x_adv.shape != x.shape:
            raise InputError(
                f"{self.path} holds images of shape {list(x_adv.shape[1:])}, those to be replaced have"
                f" {list(x.shape[1:])}"
            )
        if float(self.threat.norm(x_adv - x).max()) > self.threat.epsilon + _SLACK:
            raise InputError(
                f"{self.path} holds images outside the threat {self.threat} of these images: it was made of other data"
            )
        return x_adv


@functools.lru_cache(maxsize=2)
def _read(path: str, changed: int) -> AdversarialSet:
    """The set at `path`; `changed`, the file's time, tells a new set from the one read before."""
    return AdversarialSet.load(Path(path))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
