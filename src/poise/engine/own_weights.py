"""Evaluating a user's own checkpoint on data by name, folder or archive."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.distributed import join
from poise.core.errors import RunError, SettingsError, did_you_mean
from poise.core.files import check_writable
from poise.core.records import EvaluationRecord
from poise.core.settings import from_json, read_json, registered
from poise.data import Data, DataSource, Folder, Npz, data_directory
from poise.engine.checkpoints import fitting, foreign_weights, load_into
from poise.engine.devices import choose_device
from poise.engine.evaluations import KEPT, Measurement, check_record, journal_of, shown
from poise.engine.progress import Progress
from poise.evaluation.columns import Searching
from poise.evaluation.corruption import evaluate_corruptions
from poise.evaluation.protocol import Protocol, evaluate
from poise.models import Network


def data_named(text: str, data_dir: Path | None = None) -> Data:
    """The data of `--data`: a data set's name, a folder of images, an .npz archive, or a data source's settings as JSON.

    A folder with train and test (or val) beside each other gives its test images; one of classes only gives all of them.
    Raises: SettingsError for something else, DataError for images that cannot be read.
    """
    if text.lstrip().startswith("{"):
        return read_json(DataSource, text, "--data").load(data_dir)  # type: ignore[type-abstract]
    known = registered(DataSource)  # type: ignore[type-abstract]
    if text in known and text not in ("Folder", "Npz"):
        return from_json(DataSource, {"type": text}).load(data_dir)  # type: ignore[type-abstract]
    given = Path(text).expanduser()
    path = given if given.exists() else data_directory(data_dir) / given
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() and path.suffix == ".npz":
        return Npz(path=str(path)).load(data_dir)
    if path.is_file():
        raise SettingsError(f"--data {text}: a file must be an .npz archive with x_train, y_train, x_test and y_test")
    hint = did_you_mean(text, known)
    raise SettingsError(f"--data {text!r} names no data set, and there is no such folder of images or .npz archive{hint}")


def _of_folder(path: Path) -> Data:
    """Folder/train with Folder/test or /val, one of the two alone, or one subfolder per class."""
    alone = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir():
        return Folder(path=str(path)).load()
    whole = Folder(path=str(alone or path)).whole()
    return dataclasses.replace(whole, name=path.name, notes=(*whole.notes, "all images of the folder"))


def evaluate_weights(
    weights: Path,
    model: str,
    data: str | Data,
    protocol: Protocol,
    out: Path | None = None,
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
    again: bool = False,
    search: Searching = Searching(),
) -> Path:
    """Evaluate a user's own checkpoint; `model` is a registered network or `module:function` that builds one, data as `data_named`.

    out: by default beside the weights, as WEIGHTS.record.json, with a few digits more where a record of other images or attacks is
    there. A record of the same weights, images and attacks is kept unless `again`. Under torchrun all ranks call this and share
    the work; the first one writes.
    Raises: SettingsError, also where `out` is the record of other images or attacks and not `again`; CheckpointError, DataError;
    InputError when the network does not give logits; Interrupted after SIGINT or SIGTERM.
    """
    world = join()
    progress = progress if progress is not None and world.leads else Progress()
    asked = out or weights.with_suffix(".record.json")
    check_writable(asked)
    loaded = world.in_turn(lambda: data_named(data, data_dir)) if isinstance(data, str) else data
    network, split = network_of(weights, model, loaded).to(choose_device(device)), protocol.images(loaded.test)
    wanted = Measurement.of(network, split, protocol.attacks, search).answering(network, split)
    if out is not None:
        wanted.check_free(out, again)
    path = out or wanted.place(asked)
    with shown(progress, weights.name, f"poise evaluate --weights {weights}") as watch:
        if world.decided(not again and wanted.done(path) is not None):
            progress.say(KEPT.format(path))
            return path
        about: dict[str, Any] = {**_about(weights, path, loaded), "journal": journal_of(asked, wanted)}
        evaluate(network, loaded, protocol, watch=watch, world=world, search=search, **about)
    return path


def corrupt_weights(
    weights: Path,
    model: str,
    data: str | Data,
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    first: int | None = None,
    progress: Progress | None = None,
    again: bool = False,
) -> Path:
    """`corrupt_run` for a user's own checkpoint (see `evaluate_weights`); what was measured is always measured anew.

    Raises: SettingsError where `out` is a record of anything but these weights under corruptions and not `again`; else as
    `evaluate_weights`.
    """
    world = join()
    progress = progress if progress is not None and world.leads else Progress()
    check_writable(out)
    if not again:
        world.led(lambda: _check_free(out, weights, folder))
    loaded = world.in_turn(lambda: data_named(data, data_dir)) if isinstance(data, str) else data
    network = network_of(weights, model, loaded).to(choose_device(device))
    with shown(progress, weights.name, f"poise evaluate --weights {weights} --corruptions {folder}") as watch:
        about = _about(weights, out, loaded)
        evaluate_corruptions(network, loaded, folder, first=first, watch=watch, world=world, **about)
    return out


def _check_free(out: Path, weights: Path, folder: Path) -> None:
    """Raises: SettingsError for a record of other weights, or of these under anything but these corruptions."""
    check_record(out)
    try:
        there = EvaluationRecord.read(out)
    except RunError:  # none, or damaged
        return
    if (there.group, (there.notes.get("corruptions") or {}).get("folder")) != (str(weights), folder.name):
        raise SettingsError(f"{out} is a record of other weights or images; give another --out, or --again to replace it")


def _about(weights: Path, out: Path, data: Data) -> dict[str, Any]:
    """What a record says of these weights, where it goes, and where its evaluation keeps what is finished."""
    notes = {"data": list(data.notes), "weights": str(weights)}
    facts = {"checkpoint": "file", "group": str(weights), "notes": notes}  # one word for all files: reports compare within a checkpoint
    return {"named": weights.stem, "journal": journal_of(out), "out": out, **facts}


def network_of(weights: Path, model: str, data: Data) -> nn.Module:
    """The network of a user's own checkpoint, in evaluating mode; see `evaluate_weights`."""
    network = _built(model, data)
    load_into(network, fitting(foreign_weights(weights), network), str(weights))
    return network.eval()


def _built(model: str, data: Data) -> nn.Module:
    if ":" not in model:
        return from_json(Network, {"type": model}).build(data.shape, len(data.classes), seed=0)  # type: ignore[type-abstract]
    module, _, function = model.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingsError(f"--model {model!r} must be a network's name or module:function that builds one, but {error}") from None
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise SettingsError(f"--model {model!r} returned {type(made).__name__}, must return a torch.nn.Module")
    return made
