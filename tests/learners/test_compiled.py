"""What is recorded and what is compiled says what the plain step says."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.modes import crafting
from poise.learners import EMA, SGD, Learner, Policy
from poise.learners.compiled import FixedShape, compilation
from poise.learners.precision import precision
from poise.learners.recording import Recording, copied
from poise.learners.times import Uncapturable
from poise.models import Collaboration, DigitsCNN, Ensemble
from poise.objectives import (
    ADP,
    AT,
    BAT,
    FAT,
    GAIRAT,
    GAIRRST,
    GAL,
    IAT,
    MART,
    TRADES,
    Adversarial,
    Objective,
    SqueezeTraining,
    SynergyOfExperts,
    TwoExamples,
)
from poise.threats import L1, L2

CPU = torch.device("cpu")
NOW = Now(epoch=1, step=0, epochs=2, steps_per_epoch=8, seed=5, scope="joint")
INNER = Ascent(steps=3)
OBJECTIVES: list[Objective] = [
    AT(inner=INNER),
    AT(inner=replace(INNER, jitter=0.01)),
    TRADES(inner=replace(INNER, start="gaussian")),
    MART(inner=INNER),
    BAT(inner=INNER),
    FAT(objective=AT(inner=INNER), tau=(0, 1), tau_from=(1, 2)),
    GAIRAT(inner=INNER),
    IAT(inner=INNER),
    SqueezeTraining(inner=INNER),
    TwoExamples(objective=AT(inner=INNER)),
]


def network() -> nn.Module:
    return DigitsCNN().build((1, 8, 8), 10, seed=0)


def batch(step: int, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(torch.rand(count, 1, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator))


def at(step: int) -> Now:
    return replace(NOW, step=step, epoch=step // 8 + 1)


def tensors(examples: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in vars(examples).values():
        found += [value] if isinstance(value, Tensor) else list(value.values()) if isinstance(value, dict) else []
        found += tensors(value) if is_dataclass(value) else []
    return found


@pytest.mark.parametrize(
    "objective", OBJECTIVES, ids=[f"{number}-{type(each).__name__}" for number, each in enumerate(OBJECTIVES)]
)
def test_a_recording_follows_batch_and_draws(objective):
    """On a CPU a recording runs the call again, on the memory and with the bits that a graph would use."""
    model = network()
    with crafting(model, objective.craft_mode):
        recording = Recording.of(objective, model, batch(0), at(0), nullcontext)
        for step in (1, 2):
            assert recording.serves(objective, model, batch(step), at(step))
            ours, plain = recording.replay(batch(step), at(step)), objective.craft(model, batch(step), at(step))
            assert len(tensors(plain)) >= 3
            assert all(torch.equal(*pair) for pair in zip(tensors(ours), tensors(plain), strict=True))


def test_what_was_replayed_is_not_overwritten_by_the_next_replay():
    objective, model = AT(inner=INNER), network()
    with crafting(model, "evaluating"):
        recording = Recording.of(objective, model, batch(0), at(0), nullcontext)
        first = recording.replay(batch(1), at(1))
        kept = tensors(first)[-1].clone()
        recording.replay(batch(2), at(2))
    assert torch.equal(tensors(first)[-1], kept)


def test_a_recording_serves_one_shape_one_objective_and_what_it_read_of_the_moment():
    objective = GAIRRST(inner=INNER, from_epoch=2)
    with crafting(model := network(), "evaluating"):
        recording = Recording.of(objective, model, batch(0), at(0), nullcontext)
    assert recording.serves(objective, model, batch(1), at(7))
    assert not recording.serves(objective, model, batch(1), at(8))  # from here on there is a second attack
    assert not recording.serves(objective, model, batch(1, 4), at(1))
    assert not recording.serves(AT(inner=INNER), model, batch(1), at(1))
    assert not recording.serves(objective, model, batch(1), at(1).within("other"))
    # a graph reads the other one's weights
    assert not recording.serves(objective, copy.deepcopy(model), batch(1), at(1))


RAMPED = replace(INNER, ramp=0.75)


@pytest.mark.parametrize(
    "objective",
    [
        AT(inner=RAMPED),
        AT(inner=replace(RAMPED, threat=L2(epsilon=0.7))),
        AT(inner=replace(RAMPED, threat=L2(epsilon=0.7, box_first=True), start="zero")),
        AT(inner=replace(RAMPED, threat=L1(epsilon=3.0, density=0.3), step_size=1.0)),
        TRADES(inner=replace(RAMPED, start="gaussian")),
        FAT(objective=AT(inner=RAMPED), tau=(0, 3, 1), tau_from=(1, 2, 3)),
        GAIRAT(inner=INNER, from_epoch=3),
        GAIRAT(inner=RAMPED, from_epoch=2),
    ],
    ids=["ramp", "L2", "box first", "L1", "TRADES", "FAT", "GAIRAT", "GAIRAT ramp"],
)
def test_times_are_inputs_of_one_recording(objective):
    """Over all epochs, and to the end of the ramp, which is the one decision here."""
    model, whole = network(), replace(NOW, epochs=4, steps_per_epoch=3)
    moments = [replace(whole, step=step, epoch=step // 3 + 1) for step in range(12)]
    with crafting(model, objective.craft_mode):
        recordings = [
            Recording.of(objective, model, batch(0), moment, nullcontext) for moment in (moments[0], moments[-1])
        ]
        ours = []
        for step, moment in enumerate(moments):
            recording = next(each for each in recordings if each.serves(objective, model, batch(step), moment))
            ours.append(recordings.index(recording))
            plain = objective.craft(model, batch(step), moment)
            assert all(
                torch.equal(*pair)
                for pair in zip(tensors(recording.replay(batch(step), moment)), tensors(plain), strict=True)
            )
    assert ours == ([0] * 8 + [1] * 4 if objective != GAIRAT(inner=INNER, from_epoch=3) else [0] * 12)


class Reads(AT):
    """An objective of a user's, which reads the time in its own ways."""

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        late = 2.0 if now.epoch - 1 >= 0.5 * now.epochs else 1.0
        faded = late * batch.x * (1 - now.step / now.steps) ** 2
        turned = torch.where(faded > 0.1 * now.step_of_epoch, faded, -now.epoch + batch.x)
        return Adversarial(batch.y, turned, turned / (now.step + 1))


def test_a_users_own_reckoning_with_times_is_followed():
    objective, model, x = Reads(), network(), batch(0)
    recording = Recording.of(objective, model, x, at(2), nullcontext)
    for step in (0, 5, 7):
        assert recording.serves(objective, model, x, at(step))
        ours, plain = recording.replay(x, at(step)), objective.craft(model, x, at(step))
        assert all(torch.equal(*pair) for pair in zip(tensors(ours), tensors(plain), strict=True))
    assert not recording.serves(objective, model, x, at(8))  # the second half


@pytest.mark.parametrize("number", [int, float, hash, range], ids=lambda number: number.__name__)
def test_what_is_another_number_at_every_step_is_not_recorded_and_an_epoch_is_recorded_as_it_is(number):
    class Odd(AT):
        def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
            number(now.step if self.beta == 1 else now.epoch)
            return super().craft(model, batch, now, teacher)

    model = network()
    with pytest.raises(Uncapturable, match="step"):
        Recording.of(Odd(inner=INNER), model, batch(0), at(0), nullcontext)
    recording = Recording.of(Odd(inner=INNER, beta=0.5), model, batch(0), at(0), nullcontext)
    assert [recording.serves(recording.objective, model, batch(0), at(step)) for step in (7, 8)] == [True, False]


def test_what_depends_on_the_turn_is_not_recorded():
    objective = SynergyOfExperts(inner=INNER, update="per_source")
    model = Collaboration(member=DigitsCNN(), members=2).build((1, 8, 8), 10, seed=0)
    with pytest.raises(Uncapturable, match="turn"):
        Recording.of(objective, model, batch(0), at(0), nullcontext)


@dataclass(frozen=True)
class Odd(Adversarial):
    what: object


def test_examples_that_hold_what_a_graph_cannot_renew_are_refused():
    x = torch.zeros(1)
    assert copied(Odd(x, x, x, what=(x, 3))).what == (x, 3)
    with pytest.raises(Uncapturable, match="hold a object"):
        copied(Odd(x, x, x, what=object()))


def learner(model: nn.Module, objective: Objective, said: list[str] | None) -> Learner:
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.9))
    wanted = None if said is None else compilation("on", CPU, said.append)
    return Learner("joint", policy, model, compilation=wanted)


def steps(trained: Learner, counts: tuple[int, ...]) -> dict[str, Tensor]:
    for step, count in enumerate(counts):
        trained.descend(trained.policy.objective, batch(step, count), at(step))
    return trained.state()


def test_where_nothing_can_be_compiled_it_is_said_once_and_the_step_is_the_plain_one(monkeypatch):
    def refused(function):
        def call(*args, **kwargs):
            raise RuntimeError("no compiler\nand more")

        return call

    monkeypatch.setattr("poise.learners.compiled.compiled_call", refused)
    said: list[str] = []
    counts = (6, 6, 6, 4, 6)
    ours = steps(learner(network(), AT(inner=INNER), said), counts)
    plain = steps(learner(network(), AT(inner=INNER), None), counts)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in ours.items())
    assert said == [
        "joint: crafting cannot be compiled (RuntimeError: no compiler); it is done step by step",
        "joint: the loss cannot be compiled (RuntimeError: no compiler); it is computed as it is",
    ]


class Keeping(nn.Module):
    """Keeps an activation, so that it has no folded copy, or another one in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.kept = network(), None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.inside(x)
        return self.kept


PAIR = partial(Ensemble(member=DigitsCNN(), members=2).build, (1, 8, 8), 10, seed=0)
IN_TRAINING_MODE = AT(inner=INNER, craft_mode="training")


@pytest.mark.parametrize(
    ("build", "objective"),
    [
        (network, AT(inner=INNER)),
        (network, IN_TRAINING_MODE),
        (PAIR, ADP(adversarial=INNER)),
        (Keeping, AT(inner=INNER)),
        (Keeping, IN_TRAINING_MODE),
    ],
    ids=["folded", "training mode", "ensemble", "keeping", "keeping in training mode"],
)
def test_recorded_crafting_searches_on_the_network_as_it_is_in_every_step(monkeypatch, build, objective):
    """What a GPU does, but for the graph: recorded from the second step on, the loss through its compiled form."""
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    said: list[str] = []
    ours, plain = (learner(build(), objective, messages) for messages in (said, None))
    assert ours._fixed is not None
    ours._fixed._ways = [(False, True)]
    counts, replays = (6, 6, 6, 4, 6, 6, 4, 6), []  # an odd batch at the end of every epoch
    replay = Recording.replay
    monkeypatch.setattr(Recording, "replay", lambda self, *given: replays.append(1) or replay(self, *given))
    moved, wanted = steps(ours, counts), steps(plain, counts)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in moved.items())
    assert build is Keeping or len(replays) == 5


TEAM = partial(Collaboration(member=DigitsCNN(), members=2).build, (1, 8, 8), 10, seed=0)


@pytest.mark.parametrize(
    ("build", "objective"),
    [
        (PAIR, ADP(adversarial=INNER)),
        (PAIR, GAL(adversarial=INNER)),
        (TEAM, SynergyOfExperts(inner=INNER, phase_two_from=1)),
    ],
    ids=["ADP", "GAL", "SoE"],
)
def test_members_are_compiled_where_an_objective_calls_them_one_by_one(monkeypatch, build, objective):
    called: list[object] = []

    def compiled(method):
        def call(*given, **named):
            called.append((getattr(method, "__self__", None), method.__name__))
            return method(*given, **named)

        return call

    monkeypatch.setattr("poise.learners.compiled.compiled_call", compiled)
    monkeypatch.setattr("poise.learners.compiled._MOVES", {})
    said: list[str] = []
    ours = learner(build(), objective, said)
    moved, wanted = steps(ours, (6, 6, 6)), steps(learner(build(), objective, None), (6, 6, 6))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in moved.items())
    assert [sentence.split(" in ")[0] for sentence in said] == [
        "joint: crafting was compiled",
        "joint: the loss was compiled",
    ]
    method = "heads" if build is TEAM else "_call_impl"
    assert {(member, method) for member in ours.network.get_submodule("members").children()} <= set(called)
    assert not any(
        "heads" in vars(module) or "_compiled_call_impl" in vars(module) for module in ours.network.modules()
    )


def test_compiled_calls_of_a_network_that_is_asked_no_more_are_let_go(monkeypatch):
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    monkeypatch.setattr("poise.learners.compiled._MOVES", {})
    fixed, objective = FixedShape("joint", precision("float32", CPU), compilation("on", CPU)), AT(inner=INNER)  # type: ignore[arg-type]
    models = [network().eval() for _ in range(3)]
    gone = [weakref.ref(model) for model in models]
    while models:
        for step in (0, 1):
            fixed.craft(objective, models[0], batch(step), at(step))
        del models[0]
    gc.collect()
    assert [model() is None for model in gone] == [True, True, False]


def test_auto_compiles_on_gpus_only():
    assert compilation("auto", CPU) is None and compilation("off", torch.device("cuda")) is None
    assert compilation("auto", torch.device("cuda")) is not None and compilation("on", CPU) is not None


def test_copied_learners_prepare_their_own_network():
    fixed = FixedShape("joint", precision("float32", CPU), compilation("on", CPU))  # type: ignore[arg-type]
    fixed._calls["loss"] = network(), []
    assert copy.deepcopy(fixed)._calls == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_move_the_weights_where_plain_steps_do():
    """In float64, through an odd batch; about a minute: the C++ compiler runs."""
    objective, counts = AT(inner=INNER), (6, 6, 6, 4, 6)

    def moved(messages: list[str] | None) -> dict[str, Tensor]:
        trained = learner(network().double(), objective, messages)
        for step, count in enumerate(counts):
            part = batch(step, count)
            trained.descend(objective, replace(part, x=part.x.double()), at(step))
        return trained.state()

    said: list[str] = []
    ours, plain = moved(said), moved(None)
    for name, tensor in plain.items():
        torch.testing.assert_close(
            ours[name], tensor, atol=1e-9, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert [sentence.split(" in ")[0] for sentence in said] == [
        "joint: crafting was compiled",
        "joint: the loss was compiled",
    ]
