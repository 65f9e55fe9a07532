"""Evaluating weights, a run's or a user's own: records, galleries, adversarial images."""

from __future__ import annotations

import dataclasses
import importlib
import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from poise.attacks import Attack
from poise.core.errors import SettingsError
from poise.core.records import EvaluationRecord, check_writable, write_bytes
from poise.core.settings import from_json, to_json
from poise.data import Data, DataSource
from poise.engine.checkpoints import foreign_weights, load_into, write_tensors
from poise.engine.loop import choose_device
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.evaluation.predictions import Advance, accuracy, attacked, predict
from poise.evaluation.protocol import Protocol, digest_of, evaluate, gallery
from poise.models import Network


def evaluate_run(
    run: Run,
    which: str = "selected",
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    data: Data | None = None,
) -> Path:
    """Run the experiment's protocol (or another) on the weights `which`; returns the path of the record.

    If "last" and "selected" are the same weights, the record is copied, not computed again.
    Raises: RunError, CheckpointError, SettingsError, DataError, StorageError.
    """
    experiment, progress = run.experiment, progress or Progress()
    protocol = protocol or experiment.protocol
    suffix = "" if protocol == experiment.protocol else f"-{protocol.name}"
    path = run.path / "records" / f"{which.replace(' ', '_')}{suffix}.json"
    check_writable(path)
    network = run.network(which).to(choose_device(device))
    data = data or experiment.data.load(data_dir)
    if which == "last" and (same := _same_evaluation(path.with_name(f"selected{suffix}.json"), network, data, protocol)) is not None:
        return dataclasses.replace(same, checkpoint=which).write(path)

    def begin(name: str, count: int) -> Advance:
        return progress.begin(f"{experiment.name} ({which}): {name}", count, "images")

    notes: dict[str, object] = {"epoch": run.facts(which)["epoch"], "selection": experiment.selection, "data": list(data.notes)}
    if experiment.published is not None:
        row = experiment.published
        columns = {name: value for name, value in zip(row.columns, row.values, strict=True) if value is not None}
        spread = dict(zip(row.columns, row.spread, strict=False))
        notes["published"] = {"table": row.table, "row": row.row, "columns": columns, "spread": spread, "runs": row.runs, "note": row.note}
    record = evaluate(
        network,
        data,
        protocol,
        begin=begin,
        named=experiment.title or experiment.name,
        checkpoint=which,
        run=run.name,
        group=experiment.group,
        seed=experiment.seed,
        notes=notes,
    )
    progress.end()
    if protocol.attacks and not suffix:
        shown = gallery(network, data.test, protocol.attacks[0])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **shown)  # type: ignore[arg-type]
        write_bytes(run.path / "records" / "gallery.npz", buffer.getvalue())
    return record.write(path)


def _same_evaluation(path: Path, network: nn.Module, data: Data, protocol: Protocol) -> EvaluationRecord | None:
    """The record at `path` if it says what evaluating this network by this protocol would say."""
    if not path.exists():
        return None
    record = EvaluationRecord.read(path)
    found = (record.model_digest, [attack.settings for attack in record.attacks], record.count)
    wanted = (digest_of(network), [to_json(attack) for attack in protocol.attacks], protocol.first or len(data.test))
    return record if found == wanted else None


def evaluate_weights(
    weights: Path,
    model: str,
    data: str,
    protocol: Protocol,
    out: Path,
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluate a user's own checkpoint; `model` is a registered network or `module:function` that builds one.

    Raises: SettingsError, CheckpointError, DataError; InputError when the network does not give logits.
    """
    progress = progress or Progress()
    check_writable(out)
    source = from_json(DataSource, {"type": data})  # type: ignore[type-abstract]
    loaded = source.load(data_dir)
    network = _built(model, loaded)
    load_into(network, foreign_weights(weights), str(weights))
    network = network.to(choose_device(device)).eval()

    def begin(name: str, count: int) -> Advance:
        return progress.begin(f"{weights.name}: {name}", count, "images")

    record = evaluate(network, loaded, protocol, begin=begin, named=weights.stem, checkpoint=str(weights), group=weights.stem)
    progress.end()
    return record.write(out)


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


def save_adversarial(
    run: Run,
    attack: Attack,
    path: Path,
    *,
    which: str = "selected",
    first: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> tuple[float, float, int]:
    """Attack the test set and write x_adv, labels, predictions and ids as safetensors with the attack's settings beside.

    Returns natural accuracy, robust accuracy (both in [0, 1]) and the number of images.
    Raises: SettingsError for another suffix, InputError for more images than there are, StorageError.
    """
    if path.suffix != ".safetensors":
        raise SettingsError(f"--out {path}: the suffix must be .safetensors")
    check_writable(path)
    progress = progress or Progress()
    network = run.network(which).to(choose_device(device))
    split = run.experiment.data.load(data_dir).test
    split = split.first(first) if first is not None else split
    natural = accuracy(predict(network, split, batch_size), split)
    advance = progress.begin(attack.name, len(split), "images")
    batches = [(x_adv.cpu(), y.cpu()) for x_adv, y in attacked(network, split, attack, seed=seed, batch_size=batch_size, advance=advance)]
    progress.end()
    x_adv, predicted = (torch.cat(column) for column in zip(*batches, strict=True))
    robust = accuracy(predicted, split)
    facts = {"attack": to_json(attack), "run": run.name, "checkpoint": which, "seed": seed, "natural": natural, "robust": robust}
    tensors = {"x_adv": x_adv, "y": split.labels, "predicted": predicted, "ids": split.ids}
    write_tensors(path.with_suffix(""), tensors, facts)
    return natural, robust, len(split)
