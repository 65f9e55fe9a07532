"""What holds for every objective under every perturbation and method: exact resumption, a pure loss, microbatches that
equal one batch.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import Interrupted
from poise.core.modes import MODES, CraftMode, crafting, frozen_statistics
from poise.core.progress import Progress
from poise.core.settings import from_json, registered, settings, to_json
from poise.data import Data, Digits, Extra
from poise.engine import Experiment, Run, resume, train
from poise.engine.checkpoints import read_tensors
from poise.engine.training import Meters
from poise.learners import AWP, EMA, RWP, SGD, Learner, OwnAverage, Policy, WeightPerturbation
from poise.losses import divergence
from poise.methods import Generalist, Joint, Method
from poise.models import Collaboration, Ensemble, Mixture, Network, PlainModule
from poise.models.small_cnn import conv_bn
from poise.objectives import (
    ADP,
    ADR,
    AT,
    BAT,
    FAT,
    FGSMPGI,
    GAIRAT,
    GAIRRST,
    GAL,
    IAT,
    MART,
    NFGSM,
    NT,
    RPAT,
    RST,
    TRADES,
    CollaborativeTraining,
    FreeAT,
    MoRE,
    Natural,
    Objective,
    ReBAT,
    SqueezeTraining,
    SynergyOfExperts,
    Terms,
    TwoExamples,
    WeightedRST,
)
from poise.objectives.free_at import Replayed
from poise.threats import L2, Linf

UNIFORM = Ascent(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
GAUSSIAN = replace(UNIFORM, start="gaussian")
OBJECTIVES: dict[str, Objective] = {
    "NT": NT(),
    "AT": AT(inner=UNIFORM),
    "AT-half": AT(beta=0.5, inner=UNIFORM, label_smoothing=0.1),
    "AT-joint": AT(beta=0.5, inner=UNIFORM, joint_batch=True),
    "AT-L2": AT(inner=replace(UNIFORM, threat=L2(epsilon=0.5))),
    "TRADES": TRADES(inner=GAUSSIAN),
    "TRADES-js": TRADES(divergence="js", inner=GAUSSIAN, outer_order="adversarial_first"),
    "MART": MART(inner=GAUSSIAN),
    "SqueezeTraining": SqueezeTraining(inner=GAUSSIAN),
    "SqueezeTraining-js-l2": SqueezeTraining(
        divergence="js", inner_divergence="squared_l2", inner=replace(UNIFORM, start="unclamped_uniform")
    ),
    "SqueezeTraining-reversed": SqueezeTraining(divergence="reversed_js", inner=GAUSSIAN, released_swap=True),
    "FAT": FAT(objective=AT(inner=UNIFORM), tau=(0, 1), tau_from=(1, 2)),
    "FAT-TRADES": FAT(objective=TRADES(inner=GAUSSIAN), tau=(0, 1), tau_from=(1, 2)),
    "FAT-MART": FAT(objective=MART(inner=GAUSSIAN), tau=(0,), tau_from=(1,)),
    "IAT": IAT(inner=UNIFORM),
    "NFGSM": NFGSM().searching(UNIFORM),
    "FGSMPGI": FGSMPGI().searching(UNIFORM),
    "FreeAT": FreeAT(replays=2).searching(UNIFORM),
    "RPAT": RPAT(inner=UNIFORM),
    "ReBAT": ReBAT(inner=UNIFORM, from_epoch=2),
    "ADR": ADR(inner=UNIFORM),
    "RST": RST(inner=GAUSSIAN, entropy_weight=0.5),
    "WeightedRST": WeightedRST(inner=GAUSSIAN),
    "GAIRAT": GAIRAT(inner=UNIFORM, from_epoch=2),
    "GAIRRST": GAIRRST(inner=GAUSSIAN, from_epoch=2),
    "BAT": BAT(inner=UNIFORM),
    "CollaborativeTraining": CollaborativeTraining(inner=replace(UNIFORM, start="zero")),
    "TwoExamples": TwoExamples(objective=TRADES(inner=GAUSSIAN)),
    "TwoExamples-AT-max": TwoExamples(objective=AT(inner=UNIFORM), reduce="max"),
    "TwoExamples-MART": TwoExamples(objective=MART(inner=GAUSSIAN)),
    "TwoExamples-FAT": TwoExamples(objective=FAT(objective=AT(inner=UNIFORM), tau=(0, 1), tau_from=(1, 2))),
    "TwoExamples-WeightedRST-max": TwoExamples(objective=WeightedRST(inner=GAUSSIAN), reduce="max"),
}
PERTURBATIONS: dict[str, WeightPerturbation | None] = {
    "nothing": None,
    "AWP": AWP(gamma=0.05),
    "RWP": RWP(gamma=0.05, steps=2),
}
METHODS = ["joint", "natural", "robust"]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def moment(step: int) -> Now:
    """Two epochs of one step."""
    return Now(epoch=step + 1, step=step, epochs=2, steps_per_epoch=1, seed=3)


def batch(objective: Objective, dtype: torch.dtype = torch.float32, step: int = 0) -> Batch:
    """Twelve images of the digits' shape, a quarter from an extra pool; RST gets some without a label."""
    source = torch.Generator().manual_seed(step)
    made = Batch.of(torch.rand(12, 1, 8, 8, generator=source, dtype=dtype), torch.randint(5, (12,), generator=source))
    made = replace(made, extra=torch.arange(12) % 4 == 1)
    return replace(made, y=torch.where(made.extra, -1, made.y)) if isinstance(objective, RST) else made


def network(normalised: bool = True) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(6) if normalised else nn.Identity()
        return nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), norm, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))


def method_of(where: str, policy: Policy) -> Method:
    if where == "joint":
        return Joint(policy=policy, batch_size=12)
    other = Policy(optimizer=SGD(learning_rate=0.05))
    natural, robust = (policy, other) if where == "natural" else (other, policy)
    return Generalist(natural=natural, robust=robust, batch_size=12, redistribute_from=1.0, redistribute_every=2)


def started(method: Method) -> dict[str, Learner]:
    return method.learners(lambda name, policy: Learner(name, policy, network()))


@settings
class OneConvolution(Network):
    """The network of the runs."""

    def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return PlainModule([*conv_bn(shape[0], 4, 3, 2), nn.AvgPool2d(2), nn.Flatten()], 16, classes)


ENSEMBLES: dict[str, tuple[Objective[Any], Network]] = {
    "ADP": (ADP(adversarial=UNIFORM), Ensemble(member=OneConvolution(), members=2)),
    "GAL": (GAL(adversarial=UNIFORM), Ensemble(member=OneConvolution(), members=2)),
    "MoRE": (MoRE(adversarial=UNIFORM), Mixture(member=OneConvolution(), gate=OneConvolution(), members=2)),
    "SynergyOfExperts": (
        SynergyOfExperts(inner=UNIFORM, phase_two_from=0.5),
        Collaboration(member=OneConvolution(), members=2),
    ),
}
RUNS = {name: (objective, OneConvolution()) for name, objective in OBJECTIVES.items()} | ENSEMBLES


class StoppingAfterOneStep(Progress):
    """Sends SIGTERM to this process."""

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        return lambda done: signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits().read(Path())


@pytest.mark.parametrize("where", METHODS)
@pytest.mark.parametrize("perturbation", PERTURBATIONS.values(), ids=PERTURBATIONS)
@pytest.mark.parametrize(("objective", "model"), RUNS.values(), ids=RUNS)
def test_a_run_on_digits_resumed_in_the_middle_ends_at_the_same_bits(
    objective: Objective[Any],
    model: Network,
    perturbation: WeightPerturbation | None,
    where: str,
    digits: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two epochs of one step, with Generalist's redistribution before the second."""
    monkeypatch.setattr(Digits, "read", lambda self, folder: digits)  # reading them takes longer than the run
    monkeypatch.setattr(os, "fsync", lambda file: None)  # so does the disk
    extra = Extra(pool=None, share=0.25) if isinstance(objective, RST | WeightedRST | GAIRRST) else None
    teacher = OwnAverage() if objective.asks_teacher else None
    policy = Policy(
        objective=objective,
        perturbation=perturbation,
        optimizer=SGD(learning_rate=0.05),
        average=EMA(),
        extra=extra,
        teacher=teacher,
    )
    experiment = Experiment(
        data=Digits(train_images=12, test_images=1),
        model=model,
        method=method_of(where, policy),
        epochs=2,
        selection="test",
        criterion="last",
        monitors=(),
        monitor_every=2,
        keep_last=1,
    )
    unbroken = train(experiment, tmp_path / "unbroken", device="cpu")
    with pytest.raises(Interrupted, match="stopped at step 1 of 2"):
        train(experiment, tmp_path / "broken", device="cpu", progress=StoppingAfterOneStep())
    (middle,) = Run(tmp_path / "broken").states()
    before, _ = read_tensors(middle)
    taken, add = list[int](), Meters.add
    monkeypatch.setattr(Meters, "add", lambda self, *given: taken.append(1) or add(self, *given))
    resumed = resume(tmp_path / "broken", device="cpu")
    assert len(taken) == 1, "the first step is not taken again"

    (end, _), (again, _) = (read_tensors(run.states()[0]) for run in (unbroken, resumed))
    assert unbroken.states()[0].name == resumed.states()[0].name == "step-000000002"
    assert all(bool(value.isfinite().all()) for value in end.values())
    assert any(not torch.equal(before[key], end[key]) for key in before)
    assert any("/optimizer/" in key for key in end)
    assert again.keys() == end.keys()
    assert [key for key in end if not torch.equal(again[key], end[key])] == []
    assert unbroken.facts("last")["sha256"] == resumed.facts("last")["sha256"]


def shown(objective: Objective, model: nn.Module, given: Batch, now: Now) -> Any:
    with crafting(model, objective.craft_mode):
        return objective.exchange([objective.craft(model, given, now)], now)[0]


@pytest.mark.parametrize("step", [0, 1])
@every_objective
def test_the_loss_is_the_same_when_taken_again_under_frozen_statistics(objective: Objective, step: int) -> None:
    model, now = network(), moment(step)
    examples = shown(objective, model, batch(objective), now)
    with frozen_statistics(model), torch.no_grad():
        before = copy.deepcopy(model.state_dict())
        first, second = objective.loss(model, examples, now), objective.loss(model, examples, now)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.shape == (12,)
        assert torch.equal(values, second[name])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def in_mode(objective: Any, mode: CraftMode) -> Any:
    if isinstance(objective, FAT | TwoExamples):
        return replace(objective, objective=in_mode(objective.objective, mode))
    return replace(objective, craft_mode=mode)


@pytest.mark.parametrize("mode", list(MODES))
@every_objective
def test_crafting_leaves_running_statistics_unless_in_training_mode(objective: Objective, mode: CraftMode) -> None:
    objective = in_mode(objective, mode)
    assert objective.craft_mode == mode
    model = network()
    before = copy.deepcopy(model.state_dict())
    examples = shown(objective, model, batch(objective), moment(1))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) == (mode == "training" and not isinstance(examples, Natural | Replayed))
    assert all("running" in name or "num_batches" in name for name in moved)
    assert model.training


@pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if name not in ("AT-L2", "IAT", "NT") and not name.startswith("Two")]
)
def test_examples_are_allowed_images(name: str) -> None:
    objective = OBJECTIVES[name]
    given = batch(objective)
    examples = shown(objective, network(), given, moment(1))
    for kind in ("x_adv", "x_col", "x_margin"):
        if hasattr(examples, kind):
            z = getattr(examples, kind)
            assert not z.requires_grad
            farthest = 0.3 if isinstance(objective, NFGSM) else 0.1  # noise of two epsilons and a step of one
            assert float((z - given.x).abs().max()) <= farthest + 1e-6
            assert float(z.min()) >= 0
            assert float(z.max()) <= 1


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("perturbation", PERTURBATIONS.values(), ids=PERTURBATIONS)
@every_objective
def test_microbatches_equal_one_batch(objective: Objective, perturbation: WeightPerturbation | None, step: int) -> None:
    ends, losses = [], []
    for microbatch in (None, 5):
        policy = Policy(
            objective=objective, perturbation=perturbation, microbatch=microbatch, optimizer=SGD(learning_rate=0.5)
        )
        learner = Learner("net", policy, network(normalised=False).double())
        losses.append(learner.descend(objective, batch(objective, torch.float64), moment(step)))
        ends.append(learner.state())
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-10, atol=1e-12)
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-10, atol=1e-12)


class ConfidentHeads:
    """Networks whose logits are large, so that probabilities reach 0 and 1; `exactly` hands them on in float64."""

    def __init__(self, model: nn.Module) -> None:
        self.heads = [part for part in model.modules() if isinstance(part, nn.Linear)]
        for head in self.heads:
            head.weight.data.mul_(30)

    def exactly(self, loss: Callable[[], Terms]) -> Terms:
        handles = [head.register_forward_hook(lambda *given: given[2].double()) for head in self.heads]
        try:
            return loss()
        finally:
            for handle in handles:
                handle.remove()


@pytest.mark.parametrize(("objective", "model"), RUNS.values(), ids=RUNS)
def test_under_autocast_only_the_network_rounds_to_bfloat16(objective: Objective[Any], model: Network) -> None:
    """From what the network answers in bfloat16 the loss is that of float64, also where it is sure; logarithms of
    bfloat16 are far off.
    """
    now, given = moment(1), batch(objective)
    built = model.build((1, 8, 8), 5, seed=0) if (objective, model) in ENSEMBLES.values() else network()
    heads = ConfidentHeads(built)
    with torch.autocast("cpu", torch.bfloat16):
        examples = shown(objective, built, given, now)
        with frozen_statistics(built):
            rounded = objective.loss(built, examples, now)
            wanted = heads.exactly(lambda: objective.loss(built, examples, now))
    with frozen_statistics(built):
        plain = objective.loss(built, examples, now)
    size = max(float(head.weight.detach().abs().amax()) for head in heads.heads)
    for name, values in rounded.items():
        assert values.dtype == torch.float32, name
        torch.testing.assert_close(values.double(), wanted[name].double(), rtol=1e-3, atol=1e-5)
        # bfloat16's own error: of logits of this size, and of what they are multiplied by
        if not name.startswith("watch/"):
            torch.testing.assert_close(values, plain[name], rtol=0.3, atol=0.1 * size * getattr(objective, "beta", 1.0))


@every_objective
def test_settings_survive_json(objective: Objective) -> None:
    assert from_json(Objective, json.loads(json.dumps(to_json(objective)))) == objective


def test_the_jensen_shannon_divergences_differ_by_the_order_of_their_arguments() -> None:
    p, q = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    mean = (p.softmax(1) + q.softmax(1)) / 2
    reversed_js = torch.stack([(mean * (mean.log() - each.log_softmax(1))).sum(1) for each in (p, q)]).mean(0)
    torch.testing.assert_close(divergence("reversed_js", p, q), reversed_js)
    assert not torch.allclose(divergence("js", p, q), reversed_js)


def test_every_objective_is_in_the_table() -> None:
    ours = {name for name, member in registered(Objective).items() if member.__module__.startswith("poise.objectives.")}
    assert ours == {type(objective).__name__ for objective, _ in RUNS.values()}


def test_a_new_objective_is_one_class() -> None:
    @settings
    class Toy(Objective[Natural]):
        """Squared logits."""

        craft_mode: CraftMode = "evaluating"

        def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Natural:
            return Natural(batch.y, batch.x)

        def loss(self, model: nn.Module, examples: Natural, now: Now) -> Terms:
            return {"size": model(examples.x).square().sum(1)}

    method = from_json(Method, {"type": "Joint", "policy": "Toy"})
    learners = started(method)
    first = method.step(learners, {"joint": batch(Toy())}, moment(0))
    second = method.step(learners, {"joint": batch(Toy())}, moment(1))
    assert float(second["loss/joint/size"]) < float(first["loss/joint/size"])
