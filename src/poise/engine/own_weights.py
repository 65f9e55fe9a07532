"""A user's own checkpoint and images by the words that name them: --weights, --model and --data."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from poise.core.errors import SettingsError, did_you_mean
from poise.core.settings import from_json, read_json, registered
from poise.data import Data, DataSource, Folder, Npz, data_directory
from poise.engine.foreign_weights import fitting, foreign_weights, load_into
from poise.models import Network
from poise.models.functions import built_by

Built = str | Network | nn.Module | Callable[..., nn.Module]
"""What `network_built` takes: a registered network's name or settings, module:function or a function that builds one, a
module.
"""


def network_of(weights: Path, network: Built, data: Data) -> nn.Module:
    """The network of a user's own checkpoint, in evaluating mode. Raises: SettingsError, CheckpointError."""
    module = network_built(network, data)
    load_into(module, fitting(foreign_weights(weights), module), str(weights))
    return module.eval()


def network_built(network: Built, data: Data) -> nn.Module:
    """The network for these images; a function that takes the number of classes is given it (see `built_by`).

    Raises: SettingsError for what builds none.
    """
    if isinstance(network, nn.Module):
        return network
    if isinstance(network, Network):
        return network.build(data.shape, len(data.classes), seed=0)
    if isinstance(network, str) and ":" not in network:
        return from_json(Network, {"type": network}).build(data.shape, len(data.classes), seed=0)  # type: ignore[type-abstract]
    source = (
        f"--model {network!r}" if isinstance(network, str) else f"network = {getattr(network, '__name__', network)!r}"
    )
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = _named(network) if isinstance(network, str) else network
        return built_by(function, len(data.classes), source)
    except SettingsError:
        raise
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{source} must be a network's name or module:function that builds one, but {error}"
        ) from None
    finally:
        sys.path.pop(0)


def _named(text: str) -> Callable[..., nn.Module]:
    module, _, function = text.partition(":")
    return getattr(importlib.import_module(module), function)


def data_named(text: str, data_dir: Path | None = None) -> Data:
    """The data of `--data`: a data set's name, a folder of images, an .npz archive, or a data source's settings as
    JSON.

    A folder with train and test (or val) beside each other gives its test images; one of classes only gives all of
    them.
    Raises: SettingsError for something else, DataError for images that cannot be read.
    """
    if text.lstrip().startswith("{"):
        return read_json(DataSource, text, "--data").load(data_dir)  # type: ignore[type-abstract]
    sources = registered(DataSource)  # type: ignore[type-abstract]
    if text in sources and text not in ("Folder", "Npz"):
        return from_json(DataSource, {"type": text}).load(data_dir)  # type: ignore[type-abstract]
    data_path = Path(text).expanduser()
    path = data_path if data_path.exists() else data_directory(data_dir) / data_path
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() and path.suffix == ".npz":
        return Npz(path=str(path)).load(data_dir)
    if path.is_file():
        raise SettingsError(f"--data {text}: a file must be an .npz archive with x_train, y_train, x_test and y_test")
    hint = did_you_mean(text, sources)
    raise SettingsError(
        f"--data {text!r} names no data set, and there is no such folder of images or .npz archive{hint}"
    )


def _of_folder(path: Path) -> Data:
    """Folder/train with Folder/test or /val, one of the two alone, or one subfolder per class."""
    alone = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir():
        return Folder(path=str(path)).load()
    whole = Folder(path=str(alone or path)).whole()
    return dataclasses.replace(whole, name=path.name, notes=(*whole.notes, "all images of the folder"))
