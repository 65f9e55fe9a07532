"""One step of an objective of the user's own on a few images, before a run folder exists: what it lacks is said in one
sentence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from poise.core.batches import Batch, Now
from poise.core.errors import PoiseError, SettingsError
from poise.core.modes import crafting, training
from poise.data import Feed
from poise.learners import Learner
from poise.objectives import Objective
from poise.objectives.objective import Examples
from poise.objectives.watch import WATCH

T = TypeVar("T")
IMAGES = 4
"""At most; networks of one's own are tried where they are built (`poise.models.own`)."""


def try_own_objectives(learners: Mapping[str, Learner], feeds: Mapping[str, Feed], now: Now) -> None:
    """Raises: SettingsError for an objective, not of Poise's own, that fails on a first step or returns what can't be
    minimised.
    """
    for name, learner in learners.items():
        objective, feed = learner.policy.objective, feeds.get(name) or next(iter(feeds.values()))
        if not type(objective).__module__.startswith(("poise.objectives.", "poise.methods.")):
            _try(learner, objective, feed.batch(now).split(IMAGES)[0], now.within(name))


def _try(learner: Learner, objective: Objective[Any], batch: Batch, now: Now) -> None:
    network, name = copy.deepcopy(learner.network), type(objective).__name__
    with torch.random.fork_rng(), learner.arithmetic.context():
        with crafting(network, objective.craft_mode):
            teacher = {"teacher": learner.asked_teacher()} if objective.asks_teacher else {}
            examples = _asked(f"{name}.craft", lambda: objective.craft(network, batch, now, **teacher))
            _check_examples(f"{name}.craft", examples, len(batch))
            (examples,) = _asked(f"{name}.exchange", lambda: objective.exchange([examples], now))
        with training(network):
            terms = _asked(f"{name}.loss", lambda: objective.loss(network, examples, now))
            _check_terms(f"{name}.loss", terms, len(batch))


def _asked(what: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except PoiseError:
        raise
    except Exception as error:  # whatever a user's code may raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise SettingsError(
            f"{what} fails on a first batch of {IMAGES} images: {type(error).__name__}: {first}"
        ) from error


def _check_examples(what: str, examples: object, count: int) -> None:
    if not isinstance(examples, Examples):
        raise SettingsError(
            f"{what} returned {_described(examples)}, must return Examples, such as Adversarial(y, x, x_adv)"
        )
    tensors = {part.name: getattr(examples, part.name) for part in dataclasses.fields(examples)}
    tensors |= {f"weights[{name!r}]": weight for name, weight in tensors.pop("weights").items()}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and (tensor.dim() == 0 or len(tensor) != count):
            raise SettingsError(
                f"{what}: {name} has shape {list(tensor.shape)}, must have one row for each of {count} images"
            )
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise SettingsError(f"{what}: {name} is not finite")


def _check_terms(what: str, terms: object, count: int) -> None:
    if not isinstance(terms, dict) or not terms or not all(isinstance(name, str) for name in terms):
        raise SettingsError(
            f"{what} returned {_described(terms)}, must return terms by name, such as {{'robust': values}}"
        )
    for name, values in terms.items():
        if not isinstance(values, Tensor) or values.shape != (count,):
            description = _described(values)
            raise SettingsError(
                f"{what}: {name!r} is {description}, must have one value for each of {count} images, [{count}]"
            )
        if not values.isfinite().all():
            raise SettingsError(f"{what}: {name!r} is not finite on a first batch of images")
    if not any(values.requires_grad for name, values in terms.items() if not name.startswith(WATCH)):
        raise SettingsError(f"{what}: no term depends on the network's weights, so nothing can be minimised")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
