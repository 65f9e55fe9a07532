"""t-SNE of what base learners make of the same images, at the epochs whose complete checkpoints a run kept (Zipper,
Appendix C.1).

Fig. 6 there is of the adversarial images that the natural and the robust learner each make of the same natural images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks import PGD, Attack
from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.documents import sealed
from poise.core.errors import RunError, SettingsError
from poise.core.files import check_writable, write_text
from poise.core.modes import evaluating
from poise.core.progress import Progress
from poise.data import Split
from poise.engine.checkpoints import load_into, read_tensors
from poise.engine.devices import choose_device
from poise.engine.diagnostics import described
from poise.engine.experiment import Experiment
from poise.engine.runs import Run
from poise.evaluation.predictions import attacked, device_of
from poise.models import Classifier
from poise.verbs.kinds import Asked, run_of, subject_of
from poise.verbs.of_run import threat_of

Embedded = Literal["adversarial", "features"]
"""Adversarial images, as pixels, that each learner makes (Fig. 6), or each learner's penultimate features of the
natural images.
"""
IMAGES = 200
"""All, where there are fewer."""
EMBEDDING = "t-sne.json"
"""The file in the run folder, which the page draws."""


@computed_plainly
def embed(
    asked: Asked,
    *,
    of: Embedded = "adversarial",
    images: int = IMAGES,
    perplexity: float = 30.0,
    progress: Progress | None = None,
    **kind: Any,
) -> Path:
    """Embed what the learners of a run make of the first `images` test images, all of an epoch together; returns the
    JSON file written.

    asked, kind: see `subject_of`; of: see `Embedded`; adversarial images are made by one attack for all learners
    (`attack_on`), from the same starts. The page draws the file. With few images the perplexity is lowered to a third
    of the points.
    Raises: RunError for what is no run, or kept no epoch; SettingsError for too few images, or for features of a
    network without penultimate ones.
    """
    subject, progress = (
        run_of(subject_of(asked, **kind), "an embedding of learners at the epochs kept"),
        default_progress(progress),
    )
    run, experiment, path = subject.run, subject.experiment, subject.folder / EMBEDDING
    check_writable(path)
    if of not in get_args(Embedded):
        raise SettingsError(f"of = {of!r}: must be one of {', '.join(map(repr, get_args(Embedded)))}")
    if images < 3 or perplexity <= 0:
        raise SettingsError(f"images = {images}, perplexity = {perplexity}: must be at least 3, and above 0")
    epochs_kept = kept_epochs(run)
    data, where = subject.data, choose_device(subject.device)
    if images > len(data.test) and images != IMAGES:
        raise SettingsError(f"images = {images:,} is more than the {len(data.test):,} test images")
    split = data.test.first(min(images, len(data.test)))
    attack = attack_on(experiment) if of == "adversarial" else None
    advance = progress.begin(f"{experiment.name}: t-SNE", len(epochs_kept), "epochs")
    epochs = []
    for epoch, checkpoint in epochs_kept.items():
        clouds, (state, facts) = {}, read_tensors(checkpoint)
        run.check_unchanged(facts)
        for name, weights in learners_of(state).items():
            network = experiment.model.build(data.shape, len(data.classes), experiment.seed)
            network = network.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
            load_into(network, weights, str(checkpoint))
            network = network.to(where)
            points = (
                features(network, split) if attack is None else adversarial(network, split, attack, experiment.seed)
            )
            clouds[name] = points.double().cpu().numpy()
        epochs.append({"epoch": epoch, "points": placed(clouds, perplexity, experiment.seed)})
        advance(1)
    progress.end()
    by = None if attack is None else described(attack)
    about = {"of": of, "attack": by, "images": len(split), "perplexity": perplexity, "seed": experiment.seed}
    document = {**about, "labels": split.labels.tolist(), "classes": list(data.classes), "epochs": epochs}
    return write_text(path, json.dumps(sealed(document)))


def attack_on(experiment: Experiment) -> Attack:
    """The diagnosis's attack where there is one, else PGD-20 within the run's own threat, by the paper's steps of
    epsilon / 4.
    """
    if experiment.diagnosis is not None:
        return experiment.diagnosis.against(experiment.method.policies())
    threat = threat_of(experiment)
    return PGD(threat=threat, step_size=threat.epsilon / 4)


def kept_epochs(run: Run) -> dict[int, Path]:
    """The epochs whose complete checkpoint was kept for good, with its path. Raises: RunError where there is none."""
    steps = {line["step"]: line["epoch"] for line in run.metrics()}
    epochs_wanted = set(run.experiment.keep_epochs)
    checkpoints = {steps.get(int(path.name.removeprefix("step-")), 0): path for path in run.states()}
    epochs_kept = {epoch: checkpoints[epoch] for epoch in sorted(checkpoints) if epoch in epochs_wanted}
    if not epochs_kept:
        raise RunError(
            f"{run.path} kept no complete checkpoint to embed; train with, for example, keep_epochs=79,80,84,85"
        )
    return epochs_kept


def learners_of(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Each learner's raw weights in a complete checkpoint."""
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        kind, _, rest = key.partition("/")
        name, _, rest = rest.partition("/")
        if kind == "learner" and rest.startswith("network/"):
            weights.setdefault(name, {})[rest.removeprefix("network/")] = tensor
    return dict(sorted(weights.items()))


def adversarial(network: nn.Module, split: Split, attack: Attack, seed: int) -> Tensor:
    """The pixels [N, C * H * W] of the images that the attack makes against the network."""
    return torch.cat([x_adv.flatten(1) for x_adv, _ in attacked(network, split, attack, seed=seed)])


def features(network: nn.Module, split: Split) -> Tensor:
    """`features_of` the natural images."""
    return features_of(network, split.pixels())


@torch.no_grad()
def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Penultimate features [N, F] of images [N, ...]. Raises: SettingsError for a network that is no `Classifier`."""
    if not isinstance(network, Classifier):
        raise SettingsError(
            f"of = 'features': {type(network).__name__} has no penultimate features; embed its adversarial images"
            " instead"
        )
    device, dtype = device_of(network)
    with evaluating(network):
        return torch.cat([network.features(part.to(device, dtype)) for part in images.split(256)])


def placed(clouds: dict[str, np.ndarray[Any, Any]], perplexity: float, seed: int) -> dict[str, list[list[float]]]:
    """Points in the plane for what each network made [N, F], embedded together."""
    from sklearn.manifold import TSNE

    together = np.concatenate(list(clouds.values()))
    near = min(perplexity, max(1.0, (len(together) - 1) / 3))
    flat = TSNE(2, perplexity=near, init="pca", random_state=seed, n_jobs=1).fit_transform(together)
    cuts = np.cumsum([len(cloud) for cloud in clouds.values()])[:-1]
    return {name: np.round(part, 3).tolist() for name, part in zip(clouds, np.split(flat, cuts), strict=True)}
