"""DVERGE (Yang et al. 2020, Algorithm 1): every expert learns to withstand what the other experts are deceived by.

z_i = argmin over |z - x_source| <= epsilon of || f_i^l(z) - f_i^l(x_target) ||^2        (Eq. 2: a feature distilled
from expert i) expert i minimises  sum over j != i of CE(f_i(z_j), y_source)                            (Eq. 5)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, Score, ascent, started
from poise.attacks.pgd import score_of
from poise.core import papers, seeds
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.exact import widened
from poise.core.modes import CraftMode, crafting
from poise.core.settings import NonNegative, PositiveCount, UnitInterval, settings
from poise.data.stream import Stream
from poise.learners import SGD, Learner, Metrics, Policy, Step
from poise.learners.averages import with_weights
from poise.losses import cross_entropy
from poise.methods.method import Build, Method
from poise.models.ensemble import EnsembleModule, Output
from poise.models.resnet import ResNetModule
from poise.models.small_cnn import PlainModule
from poise.objectives.natural import NT
from poise.objectives.objective import Examples, Objective, Terms
from poise.threats import Linf

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU)


@dataclass(frozen=True)
class Distilled(Examples):
    """others: images distilled from the other experts [B, M - 1, C, H, W]; x_adv: this expert's own PGD images, or none
    [B, 0].
    """

    others: Tensor
    x_adv: Tensor


@dataclass(frozen=True, eq=False)
class Diversified(Objective[Distilled]):
    """One expert's objective in one step; it exists for that step only, since it carries the other experts' images.

    others: [B, M - 1, C, H, W] for the whole of this rank's batch; first: the batch's first place in the global batch
    [1].
    """

    paper = papers.DVERGE
    others: Tensor
    first: Tensor
    diversity_weight: float
    adversarial: Ascent | None
    craft_mode: CraftMode
    label_smoothing: float = 0.0

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Distilled:
        other_images = self.others[batch.places - self.first]
        if self.adversarial is None:
            return Distilled(batch.y, other_images, batch.x.new_empty(len(batch), 0))
        score = score_of("cross_entropy", model, batch.x, batch.y)
        return Distilled(
            batch.y, other_images, self.adversarial.at(now).maximise(score, batch.x, now.draw("craft", batch))
        )

    def loss(self, model: nn.Module, examples: Distilled, now: Now) -> Terms:
        """Forwards: the other experts' images in their order, then the adversarial ones."""
        terms: Terms = {}
        if examples.others.shape[1]:
            losses = [
                cross_entropy(model(image_set), examples.y, self.label_smoothing)
                for image_set in examples.others.unbind(1)
            ]
            terms["diversity"] = self.diversity_weight * torch.stack(losses).sum(0)
        if self.adversarial is not None:
            terms["robust"] = cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)
        return terms


@settings
class DVERGE(Method):
    """The members of an ensemble, each a learner of its own. `Experiment.model` is an Ensemble, `Experiment.initial` a
    trained one if any.

    Each epoch distils the features of one layer, drawn at random. All experts distil first, then each takes its step.
    Of its steps only the losses are compiled (see `Experiment.compile`): objectives are made anew each time, and
    distilling stops in mid-network.
    """

    transparent = "policy"
    paper = papers.DVERGE
    policy: Policy = Policy(
        optimizer=SGD(learning_rate=0.1, weight_decay=1e-4),
        schedule=Step(at=(0.5, 0.75), factors=(0.1, 0.01), unit="fraction"),
    )
    """How every expert is trained. DVERGE brings its own losses; the policy's objective says only what a diagnosis
    measures.
    """
    batch_size: PositiveCount = 128
    experts: PositiveCount = 3
    distillation: Ascent = Ascent(threat=Linf(epsilon=0.07), step_size=0.007, start="zero")
    momentum: NonNegative = 1.0
    """Decay of the accumulated gradient in the distillation."""
    include_logits: bool = True
    """Whether the logits are among the layers drawn from; the port in Synergy-of-Experts leaves them out."""
    adversarial: Ascent | None = None
    """PGD on each expert itself, for adversarial training; None: distilled images only."""
    diversity_weight: NonNegative = 1.0
    """Factor on the distilled images' loss."""
    natural_until: UnitInterval = 0.0
    """Share of the epochs in which every expert first trains by itself on natural images, where no trained ensemble is
    at hand.
    """
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"
    """Mode of the experts while images are distilled and attacked."""
    output: Output = "mean_probabilities"
    """What the deployed ensemble answers; must be that of `Experiment.model`."""

    def __post_init__(self) -> None:
        if self.experts == 1 and self.adversarial is None:
            raise SettingsError(
                "DVERGE.experts = 1: one expert has no other to learn from; take at least 2, or set adversarial"
            )
        if self.policy.mixing is not None:
            raise SettingsError(
                "DVERGE.policy.mixing: its images are distilled towards others' labels and not mixed; set it to none"
            )
        if self.distillation.jitter:
            raise SettingsError(
                f"DVERGE.distillation.jitter = {self.distillation.jitter}: must be 0, momentum is its only addition"
                " to PGD"
            )

    @property
    def names(self) -> list[str]:
        """The learners' names, in the order of the ensemble's members."""
        return [f"expert-{number}" for number in range(1, self.experts + 1)]

    def policies(self) -> dict[str, Policy]:
        return dict.fromkeys(self.names, self.policy)

    def streams(self) -> dict[str, Stream]:
        """Source and target images, shuffled and augmented independently of each other."""
        common = {"batch_size": self.batch_size, "augmentation": self.policy.augmentation, "extra": self.policy.extra}
        return {"source": Stream(**common), "target": Stream(order="target", **common)}

    def check_networks(self, learners: Mapping[str, Learner]) -> None:
        """`learners` has asked what there is to ask, and the policy's objective is not trained."""

    def learners(self, build: Build) -> dict[str, Learner]:
        """One learner per member. Raises: SettingsError unless the model is an ensemble of `experts` members with this
        output.
        """
        whole = build(self.names[0], self.policy)
        ensemble = whole.network
        if not isinstance(ensemble, EnsembleModule):
            raise SettingsError(
                f"DVERGE trains the members of an Ensemble, not {type(ensemble).__name__}; set"
                " model=Ensemble(member=...)"
            )
        form_here = (len(ensemble.members), ensemble.output)
        if form_here != (self.experts, self.output):
            form_needed = f"experts = {self.experts}, output = {self.output!r}"
            raise SettingsError(
                f"DVERGE has {form_needed}, but the model has {form_here[0]} members and output {form_here[1]!r}"
            )
        for member in ensemble.members:
            count_layers(member)  # refuses a network whose layers are unknown before any work
        pairs = zip(self.names, ensemble.members, strict=True)
        return {
            name: Learner(name, self.policy, member, whole.world, whole.arithmetic, whole.compilation)
            for name, member in pairs
        }

    def step(self, learners: Mapping[str, Learner], batches: Mapping[str, Batch], now: Now) -> Metrics:
        source, target = batches["source"], batches["target"]
        if now.epoch <= self.natural_until * now.epochs + 1e-9:
            natural = NT(label_smoothing=self.label_smoothing)
            return {
                key: value for name in self.names for key, value in learners[name].descend(natural, source, now).items()
            }
        images_distilled = [self.distil(learners[name], source, target, now) for name in self.names]
        metrics: Metrics = {}
        for index, name in enumerate(self.names):
            images_of_others = [images for place, images in enumerate(images_distilled) if place != index]
            objective = Diversified(
                others=torch.stack(images_of_others, 1) if images_of_others else source.x.new_empty(len(source), 0),
                first=source.places[:1],
                diversity_weight=self.diversity_weight,
                adversarial=self.adversarial,
                craft_mode=self.craft_mode,
                label_smoothing=self.label_smoothing,
            )
            metrics |= learners[name].descend(objective, source, now)
        return metrics

    def deployed(self, learners: Mapping[str, Learner]) -> nn.Module:
        members = [with_weights(learners[name].network, learners[name].averaged) for name in self.names]
        return EnsembleModule(members, self.output)

    def layer(self, network: nn.Module, now: Now) -> int:
        """The 1-based layer whose features are distilled in this epoch: a function of seed and epoch only."""
        count = count_layers(network) - (not self.include_logits)
        return 1 + int(seeds.everyone(now.seed, "dverge", "layer", now.epoch, count=1).integers(count)[0])

    def distil(self, learner: Learner, source: Batch, target: Batch, now: Now) -> Tensor:
        """Images near the source [B, C, H, W] that the learner's network takes, at this epoch's layer, for the
        target.
        """
        if not len(source):
            return source.x
        network, layer = learner.network, self.layer(learner.network, now)
        settings = self.distillation.at(now)
        size = self.policy.microbatch or len(source)
        images = []
        with crafting(network, self.craft_mode), learner.arithmetic.context():
            for part, towards in zip(source.split(size), target.split(size), strict=True):
                z = started(settings.start, settings.threat, part.x, now.within(learner.name).draw("distil", part))
                score = distillation_score(network, layer, towards.x, recompute=self.craft_mode == "training")
                z = ascent(
                    score,
                    part.x,
                    z,
                    threat=settings.threat,
                    step_size=settings.step_size,
                    steps=settings.steps,
                    momentum=self.momentum,
                )
                images.append(z)
        return torch.cat(images)


def distillation_score(network: nn.Module, layer: int, target: Tensor, recompute: bool = False) -> Score:
    """z -> minus the mean squared distance of layer `layer`'s features to those of `target` [B], and the features [B,
    D].

    recompute: forward the target anew with every z, as released; this changes nothing but how often running statistics
    move.
    """
    features_target = None if recompute else features_at(network, layer, target).detach()

    def score(z: Tensor) -> tuple[Tensor, Tensor]:
        features = widened(features_at(network, layer, z))
        features_wanted = features_at(network, layer, target).detach() if features_target is None else features_target
        return -(features - widened(features_wanted)).square().mean(1), features

    return score


def features_at(network: nn.Module, layer: int, x: Tensor) -> Tensor:
    """The output of the 1-based layer before its activation, flat [B, D]; the layers above it are not computed."""
    for number, output in enumerate(layers_of(network, x), 1):
        if number == layer:
            return output.flatten(1)
    raise SettingsError(f"layer = {layer}: {type(network).__name__} has {count_layers(network)} layers")


def layers_of(network: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Every layer's output before its activation, the logits last; computed as they are asked for."""
    if isinstance(network, ResNetModule):
        yield from network.block_outputs(x)
        return
    for module in _sequence_of(network):
        if isinstance(module, _ACTIVATIONS):
            yield x
        x = module(x)
    yield x


def count_layers(network: nn.Module) -> int:
    """How many layers `layers_of` gives: 20 of a ResNet-20. Raises: SettingsError for a network whose layers are
    unknown.
    """
    if isinstance(network, ResNetModule):
        return 2 + 2 * len(network.blocks())
    return 1 + sum(isinstance(module, _ACTIVATIONS) for module in _sequence_of(network))


def _sequence_of(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, PlainModule):
        return [network.normalise, *network.layers, network.head]
    if isinstance(network, nn.Sequential):
        return list(network)
    raise SettingsError(
        f"DVERGE knows the layers of ResNets and plain sequences of layers, not of {type(network).__name__}"
    )
