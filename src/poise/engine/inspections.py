"""Inspecting weights, a run's or a user's own: the verdict on whether accuracies under attack can be believed, written as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from poise.attacks import Attack
from poise.core.errors import CheckpointError, RunError, SettingsError
from poise.core.files import check_writable
from poise.core.settings import from_json, to_json
from poise.core.verdicts import Verdict
from poise.data import Data, Split
from poise.engine.checkpoints import read_tensors
from poise.engine.devices import choose_device
from poise.engine.experiment import Experiment
from poise.engine.own_weights import data_named, network_of
from poise.engine.progress import Progress
from poise.engine.runs import Run, by_name
from poise.evaluation.digests import digest_of
from poise.evaluation.sanity import CHECKS, Claim, Effort, inspect
from poise.losses import Divergence
from poise.threats import Linf, Threat

IMAGES = 200
"""How many test images are inspected by default: enough for the tests, which need ten that differ, and cheap."""


def inspect_run(
    run: Run,
    which: str = "selected",
    *,
    threat: Threat | None = None,
    first: int = IMAGES,
    seed: int = 0,
    effort: Effort | None = None,
    surrogates: Sequence[Run] = (),
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Inspect the weights `which` on the first test images; returns the path of the verdict, RUN/records/sanity.json.

    threat: by default that of the run's own protocol, else of its monitors, else Linf 8/255. What `poise attack` saved of the same
    weights is judged too: whether the images give the accuracy reported.
    Raises: RunError, CheckpointError, SettingsError, DataError, InputError, StorageError.
    """
    suffix = "" if which == "selected" else f"-{which.replace(' ', '_')}"
    path = run.path / "records" / f"sanity{suffix}.json"
    check_writable(path)
    experiment, progress = run.experiment, progress or Progress()
    data = experiment.data.load(data_dir)
    split = data.test.first(min(first, len(data.test)))
    network = run.network(which)
    verdict = _inspected(
        network,
        data,
        split,
        threat or threat_of(experiment),
        device,
        progress,
        f"{experiment.name} ({which})",
        seed=seed,
        effort=effort,
        claims=dict(_claims(run, digest_of(network), split)),
        surrogates={name: other.network() for name, other in by_name(surrogates).items()},
        divergences=divergences_of(to_json(experiment.method)),
        named=experiment.label,
        checkpoint=which,
        run=run.name,
    )
    return verdict.write(path)


def inspect_weights(
    weights: Path,
    model: str,
    data: str | Data,
    out: Path,
    *,
    threat: Threat | None = None,
    first: int = IMAGES,
    seed: int = 0,
    effort: Effort | None = None,
    surrogates: Sequence[Run] = (),
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """`inspect_run` for a user's own checkpoint; model and data are named as for `evaluate_weights`."""
    check_writable(out)
    try:
        Verdict.read(out)
    except RunError:
        if out.is_file():
            raise SettingsError(f"{out} is there and is no verdict; give another --out") from None
    loaded = data_named(data, data_dir) if isinstance(data, str) else data
    split = loaded.test.first(min(first, len(loaded.test)))
    verdict = _inspected(
        network_of(weights, model, loaded),
        loaded,
        split,
        threat or Linf(),
        device,
        progress or Progress(),
        weights.name,
        seed=seed,
        effort=effort,
        surrogates={name: other.network() for name, other in by_name(surrogates).items()},
        named=weights.stem,
        checkpoint=str(weights),
    )
    return verdict.write(out)


def _inspected(
    network: nn.Module, data: Data, split: Split, threat: Threat, device: str, progress: Progress, title: str, **given: Any
) -> Verdict:
    place = choose_device(device)
    network = network.to(place)
    given["surrogates"] = {name: other.to(place) for name, other in given["surrogates"].items()}
    dtype = next((tensor.dtype for tensor in network.parameters()), torch.float32)
    advance = progress.begin(f"{title}: sanity", len(CHECKS), "checks")

    def began(name: str) -> None:
        progress.note(name.replace("_", " "))
        advance(1)

    ids = split.ids.to(place)
    x, y = split.pixels(dtype=dtype).to(place), split.labels.to(place)
    verdict = inspect(network, x, y, threat, ids=ids, progress=began, dataset=data.name, **given)
    progress.end()
    return verdict


def threat_of(experiment: Experiment) -> Threat:
    """The first threat that the experiment's protocol, else its monitors, else nobody names: Linf 8/255."""
    attacks: list[Attack | None] = [*experiment.protocol.attacks, *(monitor.attack for monitor in experiment.monitors)]
    return next((attack.threat for attack in attacks if attack is not None), Linf())


def divergences_of(settings: object) -> tuple[Divergence, Divergence] | None:
    """(inner, outer) divergence of the first objective, in a method's settings as JSON, that has both; None if there is none."""
    for part in _parts(settings):
        if "inner_divergence" in part and "divergence" in part:
            return cast(Divergence, part["inner_divergence"] or part["divergence"]), cast(Divergence, part["divergence"])
    return None


def _parts(settings: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(settings, Mapping):
        yield settings
        settings = list(settings.values())
    for item in settings if isinstance(settings, list) else []:
        yield from _parts(item)


def _claims(run: Run, weights: str, split: Split) -> Iterator[tuple[str, Claim]]:
    """What `save_adversarial` saved of the weights of this digest, as far as it covers the images of the split."""
    for file in sorted((run.path / "adversarial").glob("*.safetensors")):
        try:
            tensors, facts = read_tensors(file.with_suffix(""))
            threat = from_json(Attack, facts["attack"]).threat  # type: ignore[type-abstract]
        except (CheckpointError, SettingsError, KeyError):  # SettingsError: an attack of the user's own that was not imported
            continue
        place = {number: row for row, number in enumerate(tensors["ids"].tolist())}
        rows = [place.get(number, -1) for number in split.ids.tolist()]
        if facts.get("weights") == weights and min(rows) >= 0:
            accuracy = float((tensors["predicted"][rows] == split.labels.cpu()).double().mean())
            yield f"saved {file.stem}", Claim(tensors["x_adv"][rows], accuracy, threat)
