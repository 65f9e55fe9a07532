"""What `poise.train` is given as it is: a module or what builds one, arrays of images, a loss as a function.

Each stands in the settings by its name and digests. The first weights of a module lie beside the run, in
first.safetensors.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn

from poise.attacks.ascent import Score
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.code import Code, given
from poise.core.errors import CheckpointError, DataError, SettingsError
from poise.core.files import write_bytes
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data import Data, DataSource, Split, held_out
from poise.evaluation.digests import digest_of
from poise.models import Network, Shape
from poise.models.functions import built_by
from poise.objectives import Adversarial, AdversarialObjective
from poise.objectives.objective import Terms

FIRST = "first.safetensors"
TEST_SHARE = 0.2
_MODULES: dict[str, nn.Module] = {}
_ARRAYS: dict[str, tuple[Split, Split, tuple[str, ...]]] = {}


@settings
class GivenNetwork(Network):
    """A network of your own, given as a module or as what builds one: images [B, C, H, W] in [0, 1] to logits [B,
    classes].
    """

    code: Code
    """The module's class, or the function or class that builds it; it is given the number of classes if it takes it."""
    first: str | None = None
    """Digest of a module's first weights; None where code builds it, with weights that depend on the seed."""
    structure: str | None = None
    """Digest of what a module consists of."""

    def module(self, shape: Shape, classes: int) -> nn.Module:
        loaded_module = _MODULES.get(self.first or "")
        if loaded_module is not None:
            return copy.deepcopy(loaded_module)
        module = built_by(self.code.find("the network"), classes, f"network = {self.code.name}")
        if self.structure not in (None, _structure(module)):
            again = "go on by the same call"
            raise SettingsError(
                f"{self.code.name} by itself builds another network than the one that was given: {again}"
            )
        return module


@settings
class GivenLoss(AdversarialObjective):
    """Adversarial training on a loss of your own, given as a function of logits [B, classes] and labels [B] to values
    [B].
    """

    paper: ClassVar[Paper] = papers.PGD
    code: Code
    """The loss that is minimised at the adversarial images."""
    climbs: Code | None = None
    """Another function of logits and labels, which the inner maximisation climbs instead of the loss."""

    def check(self, model: nn.Module) -> None:
        for code in filter(None, (self.code, self.climbs)):
            code.find("the objective")

    def score(self, model: nn.Module, batch: Batch) -> Score:
        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(z)
            return _values(self.climbs or self.code, logits, batch.y), logits

        return score

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        return {"robust": _values(self.code, model(examples.x_adv), examples.y)}


def _values(code: Code, logits: Tensor, labels: Tensor) -> Tensor:
    values = code.find("the objective")(logits, labels)
    if not isinstance(values, Tensor) or values.shape != labels.shape:
        description = f"a tensor {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        requirement = (
            f"one value for each of {len(labels)} images, [{len(labels)}]; losses of torch do with reduction='none'"
        )
        raise SettingsError(f"{code.name} returned {description}, must return {requirement}")
    return values


@settings
class GivenArrays(DataSource):
    """Images and labels of your own that are given as arrays; they lie nowhere else, so going on needs the same
    call.
    """

    digest: str
    """Of all images and labels."""

    def read(self, data_dir: Path) -> Data:
        if self.digest not in _ARRAYS:
            again = "go on by the same call, or keep them in an .npz archive and name that"
            raise DataError(f"the images were arrays of the program that began the run: {again}")
        train, test, notes = _ARRAYS[self.digest]
        classes = max(int(train.labels.max()), int(test.labels.max())) + 1
        return Data("arrays", train, test, tuple(map(str, range(max(classes, 2)))), notes)


def network_given(network: nn.Module | Callable[..., Any]) -> GivenNetwork:
    """Settings for a module, or for a function or class that builds one."""
    if not isinstance(network, nn.Module):
        return GivenNetwork(code=given(network))
    first = digest_of(network)
    _MODULES[first] = network
    return GivenNetwork(code=given(type(network)), first=first, structure=_structure(network))


def loss_given(loss: Callable[..., Any], score: Callable[..., Any] | None) -> GivenLoss:
    """Settings for a loss as a function, and for what the inner maximisation climbs."""
    return GivenLoss(code=given(loss), climbs=given(score) if score is not None else None)


def arrays_given(
    train: tuple[Any, Any], test: tuple[Any, Any] | None, checked: Callable[[Any, Any], Split]
) -> GivenArrays:
    """Settings for images and labels; without test images a fifth of every class is held out as these."""
    splits, notes = [], []
    for word, pair in (("train", train), ("test", test)):
        if pair is not None:
            split, was_rounded = _in_bytes(checked(*pair))
            splits.append(split)
            notes += [f"x_{word}: float images rounded to 256 levels"] if was_rounded else []
    if test is None:
        splits = list(held_out(splits[0], TEST_SHARE, seed=0))
        notes.append("a fifth of every class was held out as test images")
    digest = hashlib.sha256()
    for split in splits:
        digest.update(str(list(split.images.shape)).encode())
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    name = digest.hexdigest()[:16]
    _ARRAYS[name] = (splits[0], splits[1], tuple(notes))
    return GivenArrays(digest=name)


def _in_bytes(split: Split) -> tuple[Split, bool]:
    """The images as bytes, and whether that rounded them."""
    pixels = split.pixels()
    in_bytes = Split.of(pixels.mul(255).round().to(torch.uint8), split.labels)
    return in_bytes, not torch.equal(in_bytes.pixels(), pixels)


def keep_first_weights(folder: Path, network: Network) -> None:
    """Write the first weights of a module that was given beside the run."""
    module = _MODULES.get((network.first or "") if isinstance(network, GivenNetwork) else "")
    if module is not None:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
        write_bytes(folder / FIRST, safetensors.torch.save(tensors))


def check_first_weights(network: Network) -> None:
    """Raises: SettingsError for a module that a run is to begin with and that was not given in this process."""
    if isinstance(network, GivenNetwork) and network.first and network.first not in _MODULES:
        instead = f"give the module to poise.train, or what builds it, and set initial to that run's {FIRST}"
        raise SettingsError(
            f"{network.code.name}: its first weights lie beside the run that it was given for; {instead}"
        )


def only_one_seed(network: Network) -> list[str]:
    """A sentence on a module that was given as it is."""
    if not isinstance(network, GivenNetwork) or not network.first:
        return []
    name = network.code.name
    same = "its first weights are kept beside the run and are the same with every seed"
    return [f"{name} was given as a module: {same}; several seeds need what builds it, such as network={name}"]


def first_weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights that a module had when the run was begun; None where code built it. Raises: CheckpointError for a
    damaged file.
    """
    if not (folder / FIRST).is_file():
        return None
    try:
        return safetensors.torch.load_file(folder / FIRST)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / FIRST} is damaged: {error}") from None


def as_begun(model: Network, begun: Network) -> Network:
    """The network of a run that goes on: a module that was given anew stands for the one that the run was begun
    with.
    """
    if not isinstance(model, GivenNetwork) or not isinstance(begun, GivenNetwork) or not model.first:
        return model
    if (model.code, model.structure) != (begun.code, begun.structure):
        return model
    _MODULES[begun.first or ""] = _MODULES[model.first]
    return begun


def _structure(module: nn.Module) -> str:
    shapes = [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]
    return hashlib.sha256(f"{module!r}{shapes}".encode()).hexdigest()[:16]
