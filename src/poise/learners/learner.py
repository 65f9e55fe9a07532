"""Learner: what ONE loss trains. The only object that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from poise.core.batches import Batch, Now
from poise.core.distributed import ALONE, World
from poise.core.errors import CheckpointError, NumericalError, SettingsError
from poise.core.finite import not_finite
from poise.core.modes import MODES, crafting, frozen_statistics, training
from poise.core.seeds import seeded
from poise.core.settings import Positive, PositiveCount, Settings, called, newer, settings
from poise.data.augment import Augmentation
from poise.data.extra import Extra
from poise.data.mixing import Mixing
from poise.learners.averages import Average, Weights, accumulate, copied, load_weights, weights_of, with_weights
from poise.learners.compiled import Compilation, FixedShape
from poise.learners.memory import Memory
from poise.learners.optimizers import SGD, Optimizer, gradients_of, load_state, state_of
from poise.learners.perturbations import Keep, WeightPerturbation, perturbed
from poise.learners.precision import Precision, precision
from poise.learners.recording import in_order
from poise.learners.reduction import Denominators, counted, denominators_of, reduced
from poise.learners.schedules import Constant, Schedule
from poise.learners.synchronised import Statistics
from poise.learners.teachers import OwnAverage, Teacher
from poise.models.folding import surrogate
from poise.objectives import NT, Examples, Objective
from poise.objectives.watch import WATCH, minimised

Metrics = dict[str, Tensor]
"""Named scalars of one step, still on the device."""


@settings
class Policy(Settings):
    """How one learner is trained: its objective and everything its paper lets one customise (Generalist's "policy")."""

    transparent = "objective"
    objective: Objective = NT()
    optimizer: Optimizer = SGD()
    schedule: Schedule = Constant()
    """Factor on the optimizer's learning rate."""
    average: Average | None = None
    perturbation: WeightPerturbation | None = None
    augmentation: Augmentation | None = None
    extra: Extra | None = None
    """Pseudo-labelled or generated images in every batch."""
    teacher: Teacher | None = newer(default=None)
    """A second network that the objective asks while it crafts."""
    mixing: Mixing | None = newer(default=None)
    """Mix the images of a batch, and their labels, with each other."""
    clip: Positive | None = None
    """Largest Euclidean norm of the whole gradient."""
    microbatch: PositiveCount | None = None
    """Examples that go through the network at a time; the step is the same, memory is less. Joint batch statistics need
    None.
    """

    def __post_init__(self) -> None:
        if self.schedule.least < 0:
            least = f"Policy.schedule = {type(self.schedule).__name__}, which falls to {self.schedule.least:g}"
            raise SettingsError(f"{least}: must be at least 0, as a factor on the learning rate")
        if not self.optimizer.follows and not isinstance(self.schedule, Constant):
            name = f"{type(self.optimizer).__name__} {getattr(self.optimizer, 'name', '')}".strip()
            raise SettingsError(
                f"Policy.schedule = {type(self.schedule).__name__}: {name} follows no schedule, as only its first step"
                " follows the learning rate; leave it at 1"
            )
        if self.mixing is not None and not self.objective.takes_soft_labels:
            requirement = "AT and NT do; set mixing to none"
            raise SettingsError(
                f"Policy.mixing: {type(self.objective).__name__} does not learn from labels of several classes;"
                f" {requirement}"
            )
        if self.teacher is not None and not self.objective.asks_teacher:
            raise SettingsError(
                f"Policy.teacher: {type(self.objective).__name__} asks no teacher; ReBAT and ADR do; set teacher to"
                " none"
            )
        if self.objective.remembers == "images":
            name = f"{type(self.objective).__name__} remembers what it found at each pixel of an image"
            if self.extra is not None:
                raise SettingsError(f"Policy.extra: {name}, and images of a pool seldom come again; set extra to none")
            if self.augmentation is not None and not self.augmentation.moves:
                requirement = "CropFlip, Shift, Flip or none"
                changes = f"{type(self.augmentation).__name__} does more than move pixels"
                raise SettingsError(f"Policy.augmentation: {name}, and {changes}; set it to {requirement}")
        if isinstance(self.teacher, OwnAverage) and self.average is None:
            raise SettingsError(
                "Policy.teacher = OwnAverage: the policy keeps no average; set average=EMA, or another teacher"
            )
        pool = None if self.extra is None else self.extra.pool
        if pool is not None and not pool.labelled and not self.objective.takes_unlabelled:
            raise SettingsError(
                f"Policy.extra: {pool.path} is without labels, and {type(self.objective).__name__} learns from labels;"
                " label its images first (poise pseudo-label RUN --images ...), or train RST, which asks of them only"
                " that predictions don't change"
            )

    @classmethod
    def coerce(cls, value: object) -> object:
        """An objective, or its name, stands for the default policy with that objective."""
        if isinstance(value, Objective):
            return cls(objective=value)
        name = value.get("type") if isinstance(value, dict) else value
        around = isinstance(name, str) and called(cls, name) is None and called(Objective, name) is not None
        return {"objective": value} if around else value


def _draws(network: nn.Module) -> bool:
    """Whether the network draws random numbers in training: dropout, or stochastic depth as timm's networks have it."""
    return any(getattr(part, "p" if isinstance(part, _DropoutNd) else "drop_prob", 0) for part in network.modules())


class Learner:
    """A network with all that changes while one loss trains it: optimizer, average, accumulators."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        network: nn.Module,
        world: World = ALONE,
        arithmetic: Precision | None = None,
        compilation: Compilation | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.network = network
        self.world = world
        """The ranks that hold this learner, each with its part of the batch."""
        self.across = ALONE
        """The ranks over which the run's learners are spread; alone where every rank holds all of them."""
        self.statistics: Statistics = "averaged"
        """What becomes of BatchNorm's running statistics where several ranks hold this learner (see `agree`)."""
        self.arithmetic = arithmetic or precision("float32", torch.device("cpu"))
        self.layout = self.arithmetic.layout(network)
        """Order in memory of images, and of what the network computes from them."""
        network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = policy.optimizer.build(network)
        self.average: Weights | None = copied(weights_of(network)) if policy.average is not None else None
        self.accumulators: dict[str, Weights] = {}
        self.unbounded = {name for name in not_finite(self.weights) if name in dict(network.named_buffers())}
        """Buffers that were infinite from the beginning, such as masks: nothing that training did."""
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        """The policy's `Trained` teacher, or the network on which the average is asked."""
        self.memory: Memory | None = None
        """What an objective that remembers has found; `remember_of` makes it."""
        self._fixed = (
            None
            if compilation is None or policy.objective.remembers
            else FixedShape(name, self.arithmetic, compilation)
        )

    @property
    def compilation(self) -> Compilation | None:
        """As it was given."""
        return None if self._fixed is None else self._fixed.compilation

    def remember_of(self, objective: Objective, images: int, shape: tuple[int, int, int], batch_size: int) -> None:
        """Make room for what the objective remembers, of so many images [C, H, W] or places; nothing where it
        remembers nothing.
        """
        if objective.remembers:
            count = images if objective.remembers == "images" else batch_size
            like = torch.zeros((), dtype=self.arithmetic.dtype, device=self.arithmetic.device)
            self.memory = Memory(objective.remembers, count, objective.memory_shape(shape), like)

    @property
    def weights(self) -> Weights:
        """The raw weights (the network's own tensors)."""
        return weights_of(self.network)

    @property
    def averaged(self) -> Weights:
        """The average if the policy keeps one, else the raw weights."""
        return self.weights if self.average is None else self.average

    def descend(self, objective: Objective, batch: Batch, now: Now) -> Metrics:
        """One step. The order is: craft all microbatches; perturb; loss; reduce; backward; sum over ranks; step;
        restore; average.

        The loss is, for each term, the sum of weight * value over microbatches and ranks divided by the sum of weights,
        so k microbatches, or uneven shards, equal one batch.
        """
        now = now.within(self.name)
        learning_rate = self.learning_rate(now)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("scale", 1.0)
        turns = [
            self._update(objective, batch, replace(now, turn=turn))
            for turn in range(objective.turns(self.network, now))
        ]
        if self.memory is not None and self.memory.rows == "places":
            self.memory.agree(self.world)
        if self.policy.average is not None and self.average is not None:
            self.policy.average.update(self.average, self.weights, now)
        return (
            {name: torch.stack([metrics[name] for metrics in turns]).mean() for name in turns[0]}
            if len(turns) > 1
            else turns[0]
        )

    def _update(self, objective: Objective, batch: Batch, now: Now) -> Metrics:
        """Everything of a step between learning rate and average."""
        self.optimizer.zero_grad(set_to_none=True)  # before crafting, which then has their memory
        parts, shown = self.craft(objective, batch, now)
        denominators = denominators_of(shown, batch, self.world)

        moves = self._perturb(objective, shown, denominators, now)
        with training(self.network):
            backward = partial(self._backward, objective, shown, denominators, now)
            metrics = backward() if self._fixed is None else self._fixed.differentiated(self.network, parts, backward)
        for part, examples in zip(parts, shown, strict=True) if self.memory is not None else ():
            self.memory.keep(part, objective.remember(examples, now))  # type: ignore[union-attr]
        self.world.sum_(gradients_of(self.network))
        if self.policy.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.policy.clip)
        self.optimizer.step()
        with torch.no_grad():
            for parameter, move in moves:
                parameter.sub_(move)
        return metrics

    def craft(self, objective: Objective, batch: Batch, now: Now) -> tuple[list[Batch], Sequence[Examples]]:
        """The microbatches of a batch and what the network is shown for each; nothing moves. `now` is within this
        learner.
        """
        with crafting(self.network, objective.craft_mode), self.arithmetic.context():
            batch = replace(batch, x=batch.x.contiguous(memory_format=self.layout))
            if self.memory is not None:
                batch = replace(batch, prior=self.memory.recall(batch))
            parts = batch.split(self.policy.microbatch or max(1, len(batch)))
            model = self._crafted_on(objective)
            craft = (
                objective.craft
                if self._fixed is None or not objective.asks_network
                else partial(self._fixed.craft, objective)
            )
            if objective.asks_teacher:  # it is not recorded: a recording serves one network
                craft = partial(objective.craft, teacher=self.asked_teacher())
            with MODES[objective.craft_mode](model):
                examples = [in_order(craft(model, part, now), self.layout) for part in parts]
            return parts, objective.exchange(examples, now, self.world)

    def asked_teacher(self) -> nn.Module | None:
        """The policy's teacher as it is at this step; None where it names none."""
        if isinstance(self.policy.teacher, OwnAverage):
            if self.teacher is None:
                self.teacher = with_weights(self.network, self.averaged).requires_grad_(False).eval()
            load_weights(self.teacher, self.averaged)
        return self.teacher

    def _crafted_on(self, objective: Objective) -> nn.Module:
        """The network as it is now in the objective's mode: in evaluating mode its folded copy."""
        if not objective.asks_network or objective.craft_mode != "evaluating":
            return self.network
        return surrogate(self.network)

    def _backward(
        self, objective: Objective, shown: Sequence[Examples], denominators: Denominators, now: Now
    ) -> Metrics:
        metrics: Metrics = {}
        for number, examples in enumerate(shown):
            with self.arithmetic.context(), self._drawing(now, number):
                shares = reduced(objective.loss(self.network, examples, now), examples, denominators)
            torch.stack(list(minimised(shares).values())).sum().backward()
            for name, value in shares.items():
                watch = name.startswith(WATCH)
                key = f"{WATCH}{self.name}/{name.removeprefix(WATCH)}" if watch else f"loss/{self.name}/{name}"
                metrics[key] = metrics[key] + value.detach() if key in metrics else value.detach()
        return metrics

    def _drawing(self, now: Now, number: int) -> AbstractContextManager[None]:
        """What a network draws itself (dropout, stochastic depth) goes by seed, step and microbatch, so that resuming
        changes nothing.
        """
        if not _draws(self.network):
            return nullcontext()
        return seeded(
            now.seed, now.scope, "network", now.step, now.turn, number, self.world.rank, device=self.arithmetic.device
        )

    def _perturb(
        self, objective: Objective, shown: Sequence[Examples], denominators: Denominators, now: Now
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Move the weights uphill; returns what must be taken back after the step."""
        perturbation = self.policy.perturbation
        if perturbation is None or not perturbation.active(now):
            return []
        parameters = perturbed(self.network)

        def uphill(keep: Keep | None) -> list[Tensor]:
            sums = [torch.zeros_like(parameter) for parameter in parameters]
            for number, examples in enumerate(shown):
                with torch.enable_grad(), self.arithmetic.context(), self._drawing(now, number):
                    terms = minimised(objective.loss(self.network, examples, now))
                    if keep is not None:
                        differences = keep(torch.stack(list(counted(terms, examples).values())).sum(0).detach())
                        terms = {name: values * differences for name, values in terms.items()}
                    total = torch.stack(list(reduced(terms, examples, denominators).values())).sum()
                gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
                sums = [old + new for old, new in zip(sums, gradients, strict=True)]
            self.world.sum_(sums)
            return sums

        with frozen_statistics(self.network), torch.no_grad():
            moves = perturbation.move(parameters, uphill)
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.add_(move)
        return list(zip(parameters, moves, strict=True))

    def gradient(self, objective: Objective, batch: Batch, now: Now) -> list[Tensor]:
        """The gradient of the loss on a batch in the batch's own statistics, one tensor per parameter; nothing moves.

        Every rank that asks holds the whole batch, so nothing is summed over ranks.
        """
        mode = "evaluating" if objective.craft_mode == "evaluating" else "frozen_statistics"
        now = now.within(f"{self.name} observed")
        with crafting(self.network, mode), self.arithmetic.context():
            examples = objective.exchange([objective.craft(self.network, batch, now)], now)
        with frozen_statistics(self.network), torch.enable_grad(), self.arithmetic.context():
            terms = minimised(objective.loss(self.network, examples[0], now))
            total = torch.stack(
                list(reduced(terms, examples[0], denominators_of(examples, batch, ALONE)).values())
            ).sum()
        gradients = torch.autograd.grad(
            total, list(self.network.parameters()), allow_unused=True, materialize_grads=True
        )
        return [gradient.detach() for gradient in gradients]

    def begin(self, accumulator: str, share: float) -> None:
        """Start a named accumulator at `share` times the present weights."""
        zeros = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}
        accumulate(zeros, 0.0, self.weights, share)
        self.accumulators[accumulator] = zeros

    def accumulate(self, accumulator: str, decay: float, source: Weights, weight: float) -> None:
        """A <- decay * A + (1 - decay) * weight * source, parameters and floating buffers; integer buffers are
        copied.
        """
        accumulate(self.accumulators[accumulator], decay, source, weight)

    def load(self, weights: Weights, reset_momentum: bool = False, reset_average: bool = False) -> None:
        """Take over weights in place; the optimizer's state and the learner's own average stay unless they are
        reset.
        """
        load_weights(self.network, weights)
        if reset_momentum:  # some have a state before their first step
            self.optimizer = self.policy.optimizer.build(self.network)
        if reset_average and self.average is not None:
            self.average = copied(weights)

    def agree(self) -> None:
        """Make BatchNorm's running statistics the same on the ranks that share the learner; between two calls each
        gathers its own.

        They become their mean over the ranks ("averaged") or the first rank's ("local"); synchronised ones are the same
        already.
        """
        if self.memory is not None:
            self.memory.agree(self.world)
        if self.world.size == 1 or self.statistics == "synchronised":
            return
        sets = [self.weights, *([] if self.average is None else [self.average]), *self.accumulators.values()]
        running = [
            tensor
            for tensors in sets
            for name, tensor in tensors.items()
            if name.endswith(("running_mean", "running_var"))
        ]
        if self.statistics == "local" and not self.world.leads:
            for tensor in running:
                tensor.zero_()
        self.world.sum_(running)
        if self.statistics == "averaged":
            for tensor in running:
                tensor.div_(self.world.size)

    def learning_rate(self, now: Now) -> float:
        """The optimizer's times the schedule's factor. Raises: NumericalError for one that is negative or not
        finite.
        """
        rate, factor = self.policy.optimizer.learning_rate, self.policy.schedule.value(now)
        if not 0 <= rate * factor < math.inf:
            subject = f"the schedule's factor on the learning rate {rate:g} is {factor}"
            raise NumericalError(f"learner {self.name!r}, epoch {now.epoch}: {subject}, must be finite and at least 0")
        return rate * factor

    def check_finite(self, now: Now | None = None) -> None:
        """Raises: NumericalError when anything of `state` is NaN or infinite (one host synchronisation). now: the step
        that was taken.
        """
        bad = [name for name in not_finite(self.state()) if name.rpartition("/")[2] not in self.unbounded]
        if bad:
            subject = bad[0].removeprefix("network/") + (f", in epoch {now.epoch}," if now is not None else "")
            rate = self.policy.optimizer.learning_rate if now is None else self.learning_rate(now)
            raise NumericalError(
                f"learner {self.name!r}: {subject} is no longer finite; lower optimizer.learning_rate (now {rate:g}) or"
                " set clip"
            )

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, as flat named tensors."""
        state = {f"network/{name}": tensor for name, tensor in self.weights.items()}
        if self.average is not None:
            state |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        if self.memory is not None:
            state["memory"] = self.memory.table
        for accumulator, total in self.accumulators.items():
            state |= {f"accumulator/{accumulator}/{name}": tensor for name, tensor in total.items()}
        optimizer_tensors = state_of(self.optimizer, self.network.parameters())
        return state | {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. Raises: CheckpointError when a tensor is missing or has another shape."""
        targets = {name: tensor for name, tensor in self.state().items() if not name.startswith("optimizer/")}
        for name, tensor in targets.items():
            if name not in state or state[name].shape != tensor.shape:
                problem = "missing" if name not in state else f"of shape {list(state[name].shape)}"
                raise CheckpointError(
                    f"learner {self.name!r}: {name} is {problem}, must be of shape {list(tensor.shape)}"
                )
            tensor.copy_(state[name])
        tensors = {
            name.removeprefix("optimizer/"): tensor for name, tensor in state.items() if name.startswith("optimizer/")
        }
        load_state(self.optimizer, self.network.parameters(), tensors)
