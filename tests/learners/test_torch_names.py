"""torch's optimizers and schedulers as settings: what is allowed is torch's own to the bit, the rest is refused with
its reason.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import poise
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.learners import Cosine, Learner, Optimizer, Policy, Schedule, Torch, TorchSchedule
from poise.learners.optimizers import AdamW
from poise.learners.torch_optimizer import OPTIMIZERS
from poise.learners.torch_optimizer import REFUSED as NO_OPTIMIZER
from poise.learners.torch_schedule import REFUSED as NO_SCHEDULE
from poise.learners.torch_schedule import SCHEDULES

NEEDED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": (2, 5)},
    "ExponentialLR": {"gamma": "9/10"},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1, "step_size_up": 3},
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(torch.rand(6, 1, 8, 8, generator=generator), torch.randint(3, (6,), generator=generator))


def steps(learner: Learner, first: int, count: int) -> None:
    for step in range(first, first + count):
        learner.descend(learner.policy.objective, batch(step), Now(1 + step // 4, step, 3, 4, 0))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_to_the_bit(name: str) -> None:
    policy = Policy(optimizer=Torch(name=name, learning_rate=0.01))
    whole, begun, resumed = (Learner("one", policy, network()) for _ in range(3))
    steps(whole, 0, 6)
    steps(begun, 0, 3)
    resumed.load_state({key: value.clone() for key, value in begun.state().items()})
    steps(resumed, 3, 3)
    assert same(whole.state(), resumed.state())
    assert any(key.startswith("optimizer/") for key in whole.state()) or name == "SGD"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_optimizer_is_a_new_one(name: str) -> None:
    learner = Learner("one", Policy(optimizer=Torch(name=name)), network())
    untouched = {key: value.clone() for key, value in learner.state().items()}
    steps(learner, 0, 2)
    learner.load({key: value.clone() for key, value in network().state_dict().items()}, reset_momentum=True)
    assert same(learner.state(), untouched)
    steps(learner, 0, 1)


def test_it_is_torchs_own() -> None:
    ours, theirs = (Learner("one", Policy(optimizer=made), network()) for made in (Torch(), AdamW()))
    steps(ours, 0, 3)
    steps(theirs, 0, 3)
    assert same(ours.state(), theirs.state())


def test_biases_may_be_left_out_of_weight_decay() -> None:
    built = Torch(name="SGD", weight_decay=0.1, momentum=0.5, decay_vectors=False).build(network())
    decays = [group["weight_decay"] for group in built.param_groups for _ in group["params"]]
    assert {decay: decays.count(decay) for decay in decays} == {0.1: 2, 0.0: 4}
    assert {group["momentum"] for group in built.param_groups} == {0.5}
    assert [group["scale"] for group in Torch(layer_decay=0.5).build(network()).param_groups] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_a_schedule_is_torchs_at_every_moment_in_any_order(name: str, unit: Any) -> None:
    given = NEEDED.get(name, {})
    schedule = TorchSchedule(name=name, unit=unit, **given)
    length = 6 if unit == "epoch" else 24
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = {**{key: 0.9 if value == "9/10" else value for key, value in given.items()}}
    arguments |= {"CosineAnnealingLR": {"T_max": length}, "OneCycleLR": {"max_lr": 1.0, "total_steps": length}}.get(
        name, {}
    )
    kind = getattr(lr_scheduler, name)
    if "cycle_momentum" in inspect.signature(kind).parameters:
        arguments["cycle_momentum"] = False
    scheduler, rates = kind(optimizer, **arguments), []
    for at in range(length):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if at + 1 < length:
            scheduler.step()
    moments = [Now(1 + step // 4, step, 6, 4, 0) for step in range(24)]
    for now in reversed(moments):
        assert schedule.value(now) == rates[now.epoch - 1 if unit == "epoch" else now.step]


def test_settings_by_paths_and_json() -> None:
    paths = [
        "method.optimizer=Torch",
        "method.optimizer.name=NAdam",
        "method.optimizer.betas=.9,0.95",
        "method.optimizer.weight_decay=1/100",
        "method.schedule=TorchSchedule",
        "method.schedule.eta_min=.1",
    ]
    made = override(poise.recipe("at_digits"), paths)
    policy = next(iter(made.method.policies().values()))
    assert policy.optimizer == Torch(name="NAdam", betas=(0.9, 0.95), weight_decay=0.01)
    assert policy.schedule == TorchSchedule(eta_min=0.1)
    assert from_json(type(made), to_json(made)) == made
    assert to_json(policy.optimizer)["arguments"] == {"betas": [0.9, 0.95], "weight_decay": 0.01}
    assert hash(policy.optimizer) == hash(from_json(Optimizer, to_json(policy.optimizer)))  # type: ignore[type-abstract]
    assert made.group != override(made, ["method.optimizer.betas=.9,0.96"]).group


def test_every_class_of_torchs_is_allowed_or_refused_with_its_reason() -> None:
    for module, base, family, allowed, refused in (
        (torch.optim, torch.optim.Optimizer, Torch, OPTIMIZERS, NO_OPTIMIZER),
        (lr_scheduler, lr_scheduler.LRScheduler, TorchSchedule, SCHEDULES, NO_SCHEDULE),
    ):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, base) and not name.startswith("_") and name not in allowed:
                with pytest.raises(SettingsError, match=refused.get(name, "never tried")[:20]):
                    family(name=name)


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (Torch, {"name": "adamw"}, r"Torch\.name = 'adamw' is unknown to this torch; did you mean 'AdamW'\?"),
        (Torch, {"name": "LBFGS"}, r"closure.*must be one of AdamW, Adam, SGD"),
        (Torch, {"beta": (0.9, 0.9)}, r"no argument 'beta'; did you mean 'betas'\?; it takes betas, eps, weight_decay"),
        (Torch, {"betas": (0.9, 1.5)}, r"Torch\.name = 'AdamW' refuses betas = \(0\.9, 1\.5\): Invalid beta"),
        (Torch, {"betas": 0.9}, r"Torch\.betas = 0\.9: must be a list of 2 numbers"),
        (Torch, {"eps": -1}, r"Torch\.eps = -1: must be a finite number that is at least 0"),
        (Torch, {"eps": float("nan")}, r"Torch\.eps = nan: must be a finite number"),
        (Torch, {"amsgrad": 1}, r"Torch\.amsgrad = 1: must be true or false"),
        (Torch, {"lr": 0.1}, r"lr is not to be given, as it is the setting learning_rate"),
        (Torch, {"maximize": True}, r"maximize is not to be given, as a loss is minimised"),
        (Torch, {"name": "Rprop", "decay_vectors": False}, r"Rprop has no weight decay"),
        (Torch, {"eps": print}, r"Torch\.eps = .*must be a finite number"),
        (TorchSchedule, {"name": "LambdaLR"}, r"keeps a function.*must be one of CosineAnnealingLR"),
        (TorchSchedule, {"name": "ReduceLROnPlateau"}, r"goes by a metric"),
        (TorchSchedule, {"name": "StepLR"}, r"the argument step_size is missing; it takes step_size, gamma"),
        (TorchSchedule, {"name": "StepLR", "step_size": 0}, r"step_size = 0: must be a whole number from 1"),
        (TorchSchedule, {"name": "MultiStepLR", "milestones": 3}, r"milestones = 3: must be a list of whole numbers"),
        (TorchSchedule, {"eta_min": -0.1}, r"eta_min = -0\.1: must be a finite number that is at least 0"),
        (TorchSchedule, {"name": "OneCycleLR", "total_steps": 9}, r"total_steps .* as it is the run's length"),
        (TorchSchedule, {"name": "OneCycleLR", "anneal_strategy": "x"}, r"refuses anneal_strategy = 'x'"),
        (TorchSchedule, {"unit": "hour"}, r"TorchSchedule\.unit = 'hour'"),
    ],
)
def test_refusals(kind: Any, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refusal:
        kind(**given)
    assert "\n" not in str(refusal.value)


def test_no_schedule_goes_with_what_follows_none() -> None:
    with pytest.raises(SettingsError, match=r"Torch Rprop follows no schedule"):
        Policy(optimizer=Torch(name="Rprop"), schedule=Cosine())
    assert dataclasses.replace(Policy(optimizer=Torch(name="Rprop")), clip=1.0).clip == 1.0


def test_schedules_stay_a_family() -> None:
    assert from_json(Schedule, {"type": "TorchSchedule", "name": "LinearLR"}) == TorchSchedule(name="LinearLR")  # type: ignore[type-abstract]
