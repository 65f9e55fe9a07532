"""Sanity: whether accuracies under attack can be believed, check by check, written as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch

from poise.attacks import Attack
from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.errors import CheckpointError, RunError, SettingsError
from poise.core.files import check_writable
from poise.core.progress import Progress
from poise.core.settings import from_json, to_json
from poise.core.verdicts import Verdict
from poise.data import Split
from poise.engine.checkpoints import read_tensors
from poise.engine.devices import choose_device
from poise.engine.runs import Run
from poise.evaluation.digests import digest_of
from poise.evaluation.sanity import CHECKS, Claim, Effort, inspect
from poise.losses import Divergence
from poise.threats import Linf, Threat
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, by_name, subject_of
from poise.verbs.of_run import OfRun
from poise.verbs.results import Soundness
from poise.verbs.threats import threat_typed

IMAGES = 200
"""How many test images are inspected by default: enough for the tests, which need ten that differ, and cheap."""


@computed_plainly
def sanity(
    asked: Asked,
    data: Images | None = None,
    *,
    threat: Literal["Linf", "L2", "L1"] | Threat | None = None,
    epsilon: float | str | None = None,
    first: int = IMAGES,
    seed: int = 0,
    effort: Effort | None = None,
    surrogates: Sequence[Asked] = (),
    out: str | Path | None = None,
    progress: Progress | None = None,
    **kind: Any,
) -> Soundness:
    """Make every check on a subject's first test images: what `poise sanity` does.

    asked, data, kind: see `subject_of`. threat: by default that of a run's own protocol, else of its monitors, else
    Linf 8/255. What `poise attack` saved of a run's weights is judged too: whether the images give the accuracy
    reported. out: the file of findings to write; a run's lie in its folder, those of weights beside them, and of all
    others none is written.
    Raises: RunError, CheckpointError, SettingsError, DataError, InputError, StorageError.
    """
    subject, progress = subject_of(asked, data, **kind), default_progress(progress)
    path = Path(out) if out is not None else subject.place("sanity")
    if path is not None:
        check_writable(path)
    if path is not None and (out is not None or subject.folder is None):
        _check_free(path)
    if not isinstance(threat, Threat) and (threat is not None or epsilon is not None):
        threat = threat_typed(threat, epsilon, [subject.threat or Linf()])
    data_set = subject.data
    split = data_set.test.first(min(first, len(data_set.test)) if first == IMAGES else first)
    network, place = subject.network, choose_device(subject.device)
    dtype = next((tensor.dtype for tensor in network.parameters()), torch.float32)
    sources = by_name([subject_of(source, device=subject.device, data_dir=subject.data_dir) for source in surrogates])
    about: dict[str, Any] = {"named": subject.named, "checkpoint": subject.located, "dataset": data_set.name}
    if isinstance(subject, OfRun):
        about["run"] = subject.run.name
        about["claims"] = dict(_claims(subject.run, digest_of(network), split))
        about["divergences"] = divergences_of(to_json(subject.experiment.method))
    about["surrogates"] = {name: source.network for name, source in sources.items()}
    advance = progress.begin(f"{subject.title}: sanity", len(CHECKS), "checks")

    def began(name: str) -> None:
        progress.note(name.replace("_", " "))
        advance(1)

    ids = split.ids.to(place)
    x, y = split.pixels(dtype=dtype).to(place), split.labels.to(place)
    how: dict[str, Any] = {"seed": seed, "effort": effort, "ids": ids, "progress": began}
    how["classes"] = len(data_set.classes)
    findings = inspect(network, x, y, threat or subject.threat or Linf(), **how, **about)
    progress.end()
    if path is not None:
        findings.write(path)
    return Soundness.of(findings, path)


def _check_free(out: Path) -> None:
    """Raises: SettingsError for a file that holds no findings, such as the weights that are asked about."""
    try:
        Verdict.read(out)
    except RunError:
        if out.is_file():
            raise SettingsError(f"{out} is there and is no verdict; give another --out") from None


def divergences_of(settings: object) -> tuple[Divergence, Divergence] | None:
    """(inner, outer) divergence of the first objective, in a method's settings as JSON, that has both; None if there is
    none.
    """
    for part in _parts(settings):
        if "inner_divergence" in part and "divergence" in part:
            return cast(Divergence, part["inner_divergence"] or part["divergence"]), cast(
                Divergence, part["divergence"]
            )
    return None


def _parts(settings: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(settings, Mapping):
        yield settings
        settings = list(settings.values())
    for item in settings if isinstance(settings, list) else []:
        yield from _parts(item)


def _claims(run: Run, weights: str, split: Split) -> Iterator[tuple[str, Claim]]:
    """What `attack` saved of the weights of this digest, as far as it covers the images of the split."""
    for file in sorted((run.path / "adversarial").glob("*.safetensors")):
        try:
            tensors, facts = read_tensors(file.with_suffix(""))
            threat = from_json(Attack, facts["attack"]).threat  # type: ignore[type-abstract]
        except (
            CheckpointError,
            SettingsError,
            KeyError,
        ):  # SettingsError: an attack of the user's own that was not imported
            continue
        place = {number: row for row, number in enumerate(tensors["ids"].tolist())}
        rows = [place.get(number, -1) for number in split.ids.tolist()]
        if facts.get("weights") == weights and min(rows) >= 0:
            accuracy = float((tensors["predicted"][rows] == split.labels.cpu()).double().mean())
            yield f"saved {file.stem}", Claim(tensors["x_adv"][rows], accuracy, threat)
