"""Weights in files that other people's code wrote: where in the file the state dict lies, and its names as the network
has them.

Nothing is guessed where the result could be another network: what is left over, missing or there twice is refused by
its name.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.parameter import is_lazy

from poise.core.bounds import ImplausibleError, check_archive, check_fits, check_nested, check_plausible, read_fitting
from poise.core.errors import CheckpointError
from poise.core.files import reading

Weights = dict[str, Tensor]
"""By name; what a module keeps under "_extra_state" need be no tensor."""
_ASIDE = re.compile(
    r"optim|sched|scaler|loop|callback|hparam|hyper|arg|config|cfg|rng|random|metric|history|log", re.IGNORECASE
)
"""What lies beside weights in a training code's checkpoint and may hold tensors, but no weights."""
_FORMER = re.compile(r"unaveraged|raw|last|prev|init", re.IGNORECASE)
"""Weights beside which the others are those that count: of {"model_state_dict", "unaveraged_model_state_dict"} the
first.
"""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, FSDP and activation checkpointing put anywhere into them."""
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Counters, of batches and of averages, of which no output depends in evaluation; files of before PyTorch 0.4.1 have
none.
"""
_CONSTANTS = frozenset({"mean", "std", "mu", "sigma"})
"""Buffers of a first layer that standardises; where a file lacks them, the network's own are its constants."""


def foreign_weights(path: Path) -> Weights:
    """The state dict in a user's own checkpoint: .safetensors, or a torch file read with `weights_only=True`.

    It may be the whole file or lie in dictionaries and lists of one entry inside it, beside optimizers, numbers and
    words. Its names are as
    they were saved (see `fitting`). Raises: CheckpointError when the file is missing, would run code, holds no tensors,
    or several state dicts, whose keys it names.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        try:
            content = read_fitting(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
        return load_safetensors(content, str(path))
    content = _content(path)
    candidates = dict(_state_dicts(content, ""))
    if not candidates:
        raise CheckpointError(f"{path} holds no state dict of tensors; {_entries(content)}")
    if len(candidates) > 1:
        latest = {key: weights for key, weights in candidates.items() if not _FORMER.search(key)}
        candidates = latest if len(latest) == 1 else candidates
    if len(candidates) > 1 and not _alike(list(candidates.values())):
        keys = ", ".join(map(repr, candidates))
        raise CheckpointError(
            f"{path} holds several state dicts, {keys}: save the one that is meant alone, by torch.save"
        )
    return next(iter(candidates.values()))


def load_safetensors(data: bytes, origin: str, device: torch.device | str = "cpu") -> Weights:
    """Tensors of a safetensors file. Raises: CheckpointError naming `origin`."""
    try:
        return {name: tensor.to(device) for name, tensor in safetensors.torch.load(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{origin} is not a valid safetensors file: {error}") from None


def _content(path: Path) -> object:
    """What is in a torch file. Besides tensors and plain values it may hold what training codes keep there and what
    runs no code.
    """
    harmless = [argparse.Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd")]
    harmless += [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with reading(path) as file, torch.serialization.safe_globals(harmless):  # type: ignore[arg-type]
            size = file.seek(0, io.SEEK_END)
            check_fits(size)
            if zipfile.is_zipfile(file):
                check_archive(zipfile.ZipFile(file), size)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        check_nested(content)
        check_plausible(sum(tensor.nbytes for tensor in _tensors(content)), size)
        return content
    except ImplausibleError as error:
        raise CheckpointError(f"{path} was not read: {error}") from None
    except Exception as error:  # torch raises many kinds; whatever it is, nothing of the file was used
        if match_global := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} asks for {match_global[1]}, which could run code, and was not read; save its state_dict alone"
            ) from None
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive and was not run; save the state_dict of its network"
            ) from None
        raise CheckpointError(
            f"{path} is not a whole file of weights as torch.save writes them, or is no such file"
        ) from None


def _tensors(content: object) -> Iterator[Tensor]:
    """Every tensor inside, of which each may say that it repeats what the file holds once."""
    if isinstance(content, Tensor):
        yield content
    parts = content.values() if isinstance(content, Mapping) else content
    for part in parts if isinstance(content, Mapping | list | tuple) else ():  # type: ignore[union-attr]
        yield from _tensors(part)


def _state_dicts(content: object, key: str) -> Iterator[tuple[str, Weights]]:
    """Every state dict inside (its key, its tensors); a dictionary that holds another one is none itself."""
    if isinstance(content, list | tuple) and len(content) == 1:
        yield from _state_dicts(content[0], key)
    if not isinstance(content, Mapping):
        return
    inside = [
        state_dict
        for name, value in content.items()
        if isinstance(name, str) and not _ASIDE.search(name) and not _of_weights(name, value)
        for state_dict in _state_dicts(value, f"{key}.{name}" if key else name)
    ]
    weights = {name: value for name, value in content.items() if isinstance(name, str) and _of_weights(name, value)}
    if any("." in name for name in weights) or not inside:
        inside = [(key, weights)] if weights else []
    yield from inside


def _of_weights(name: str, value: object) -> bool:
    return isinstance(value, Tensor) or name.endswith("_extra_state")


def _alike(several: Sequence[Weights]) -> bool:
    first = several[0]
    return all(
        candidate.keys() == first.keys() and all(torch.equal(candidate[name], first[name]) for name in first)
        for candidate in several[1:]
    )


def _entries(content: object) -> str:
    """What a file holds instead, in words."""
    if isinstance(content, Mapping):
        return f"it has {named(content)}" if content else "it is an empty dictionary"
    return f"it holds {type(content).__name__}" + (
        f" of {len(content)} entries" if isinstance(content, list | tuple) else ""
    )


def named(names: Collection[object]) -> str:
    """The first few names, and how many there are."""
    names_text = ", ".join(repr(name) for name in list(names)[:5])
    return names_text if len(names) <= 5 else f"{names_text} and {len(names) - 5} more"


def fitting(weights: Weights, network: torch.nn.Module) -> Weights:
    """The weights under the network's own names, as far as they can be told.

    Taken away: what wrappers put into names, and a prefix before all names that the network needs ("module.",
    "model.net."). Added: counters of batches, and the constants of a first layer that standardises, as the network has
    them. Weights that are stored as length and direction, or divided by their spectral norm, are multiplied out where
    the network has them plain.
    """
    needs = _needs(network)
    weights = _unwrapped(weights, needs)
    for _ in range(2):  # names are stripped before weights are multiplied out, or after
        weights = _stripped(weights, needs)
        weights = _multiplied(weights, needs)
    if _fits(weights, needs):
        weights = {name: tensor for name, tensor in weights.items() if name in needs or not name.endswith(_COUNTERS)}
    tensors = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    buffers = {name for name, _ in network.named_buffers()}
    for name, tensor in tensors.items():
        constant = name in buffers and name.rpartition(".")[2] in _CONSTANTS
        if name not in weights and (name.endswith(_COUNTERS) or constant):
            weights = {**weights, name: tensor}
    return weights


def _needs(network: torch.nn.Module) -> set[str]:
    """The names of a network's tensors, parameters that are lazy among them."""
    return {name for name in network.state_dict() if not name.endswith("_extra_state")}


def _fits(weights: Weights, wanted: Collection[str]) -> bool:
    return all(
        name in weights for name in wanted if not name.endswith(_COUNTERS) and name.rpartition(".")[2] not in _CONSTANTS
    )


def _unwrapped(weights: Weights, wanted: Collection[str]) -> Weights:
    """The weights without the parts of names that wrappers put into them, which the network's own do not have."""
    parts = {part for name in wanted for part in name.split(".")}
    for wrapper in (wrapper for wrapper in _WRAPPERS if wrapper not in parts):
        weights = {
            ".".join(part for part in name.split(".") if part != wrapper): tensor for name, tensor in weights.items()
        }
    return weights


def _stripped(weights: Weights, wanted: Collection[str]) -> Weights:
    """The weights without the one prefix under which all that the network needs is there; unchanged where there is
    none, or several.
    """
    names_needed = sorted((name for name in wanted if not name.endswith(_COUNTERS)), key=len, reverse=True)
    if any(name in weights for name in names_needed):
        return weights
    ends = (f".{name}" for name in names_needed)
    prefixes = next(
        (stems for end in ends if (stems := [name[: 1 - len(end)] for name in weights if name.endswith(end)])), []
    )
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in weights for name in names_needed)]
    prefixes = whole if len(prefixes) > 1 else prefixes
    return (
        {name.removeprefix(prefixes[0]): tensor for name, tensor in weights.items()} if len(prefixes) == 1 else weights
    )


def _multiplied(weights: Weights, wanted: Collection[str]) -> Weights:
    """The weights with those multiplied out that are stored as torch's weight_norm and spectral_norm do and that the
    network has plain.
    """
    result = dict(weights)
    for name in wanted:
        stem, dot, leaf = name.rpartition(".")
        prefix = f"{stem}{dot}parametrizations.{leaf}."
        for length, direction in ((f"{name}_g", f"{name}_v"), (f"{prefix}original0", f"{prefix}original1")):
            if name not in result and length in result and direction in result:
                g, v = result.pop(length), result.pop(direction)
                axes = [axis for axis in range(v.dim()) if g.dim() != v.dim() or g.shape[axis] == 1]
                result[name] = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
        for parts in (
            (f"{name}_orig", f"{name}_u", f"{name}_v"),
            (f"{prefix}original", f"{prefix}0._u", f"{prefix}0._v"),
        ):
            if name not in result and all(part in result for part in parts):
                whole, u, v = (result[part] for part in parts)
                # else of a transposed layer, whose outputs lie elsewhere
                if whole.flatten(1).shape == (
                    len(u),
                    len(v),
                ):
                    result = {name_other: tensor for name_other, tensor in result.items() if name_other not in parts}
                    result[name] = whole / torch.dot(u, whole.flatten(1) @ v)
    return result


def without_prefixes(weights: Weights, prefixes: Sequence[str], known: Collection[str] = ()) -> Weights:
    """The weights without the prefixes that all names share, as long as none of them is `known`."""
    for prefix in prefixes:
        if not any(name in known for name in weights) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def load_into(network: torch.nn.Module, weights: Mapping[str, Any], origin: str) -> None:
    """Take over all weights; those of another precision are converted.

    Raises: CheckpointError naming the first tensor that is missing, left over, of another shape or of another kind of
    numbers.
    """
    kind, expected = type(network).__name__, network.state_dict()
    for name, parameter in expected.items():
        if name.endswith("_extra_state"):
            continue
        if name not in weights:
            raise CheckpointError(
                f"{origin} lacks {name}, which {kind} needs; it has {named(list(weights)) or 'nothing'}"
            )
        value = weights[name]
        if not isinstance(parameter, Tensor) or not isinstance(value, Tensor) or is_lazy(parameter):
            continue
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"{origin}: {name} has shape {list(value.shape)}, must be {list(parameter.shape)} for this {kind}"
            )
        if parameter.is_floating_point() and not value.is_floating_point():
            raise CheckpointError(f"{origin}: {name} has dtype {value.dtype}, must be floating for this {kind}")
    if superfluous := sorted(set(weights) - set(expected)):
        constants = [name for name in superfluous if name.rpartition(".")[2] in _CONSTANTS]
        hint = "; it standardises its images: build that into the network" if constants else ""
        raise CheckpointError(
            f"{origin} has {(constants or superfluous)[0]}, which {kind} does not know ({len(superfluous)} such"
            f" tensors){hint}"
        )
    try:
        # all is there but the extra state of modules that had none when it was saved
        network.load_state_dict(weights, strict=False)
    except Exception as error:  # what a network's own code raises on its extra state
        raise CheckpointError(f"{origin} cannot be loaded into {kind}: {str(error).partition(chr(10))[0]}") from None
