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
from poise.core.records import EvaluationRecord, write_bytes
from poise.core.seeds import Draw, key_of
from poise.core.settings import from_json, to_json
from poise.data import Data, DataSource
from poise.engine.checkpoints import foreign_weights, load_into, write_tensors
from poise.engine.loop import choose_device
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.evaluation.protocol import Advance, Protocol, evaluate, gallery
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
    """
    experiment, progress = run.experiment, progress or Progress()
    protocol = protocol or experiment.protocol
    suffix = "" if protocol == experiment.protocol else f"-{protocol.name}"
    path = run.path / "records" / f"{which.replace(' ', '_')}{suffix}.json"
    same = _same_weights(run, which, suffix)
    if same is not None and same.attack_names == [attack.name for attack in protocol.attacks]:
        return dataclasses.replace(same, checkpoint=which).write(path)
    network = run.network(which).to(choose_device(device))
    data = data or experiment.data.load(data_dir)

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


def _same_weights(run: Run, which: str, suffix: str) -> EvaluationRecord | None:
    """The record of "selected" when asked for "last" and both are the same weights."""
    other = run.path / "records" / f"selected{suffix}.json"
    if which != "last" or not other.exists() or run.facts("last")["sha256"] != run.facts("selected")["sha256"]:
        return None
    return EvaluationRecord.read(other)


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
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"--model {model!r} cannot be had: {error}") from None
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
    """Attack the test set and write x_adv, labels and ids as safetensors with the attack's settings beside.

    Returns natural accuracy, robust accuracy (both in [0, 1]) and the number of images.
    """
    progress, chosen = progress or Progress(), choose_device(device)
    network = run.network(which).to(chosen)
    split = run.experiment.data.load(data_dir).test
    split = split.first(min(first, len(split))) if first is not None else split
    advance = progress.begin(attack.name, len(split), "images")
    natural, robust, made = 0, 0, []
    for start in range(0, len(split), batch_size):
        part = split.subset(slice(start, start + batch_size)).to(chosen)
        x, y = part.pixels(), part.labels
        x_adv = attack(network, x, y, draw=Draw(key_of(seed, "evaluate", attack.name), part.ids))
        with torch.no_grad():
            natural += int((network(x).argmax(1) == y).sum())
            robust += int((network(x_adv).argmax(1) == y).sum())
        made.append(x_adv.cpu())
        advance(len(part))
    progress.end()
    facts = {"attack": to_json(attack), "run": run.name, "checkpoint": which, "seed": seed, "robust": robust, "natural": natural}
    write_tensors(path.with_suffix(""), {"x_adv": torch.cat(made), "y": split.labels, "ids": split.ids}, facts)
    return natural / len(split), robust / len(split), len(split)
