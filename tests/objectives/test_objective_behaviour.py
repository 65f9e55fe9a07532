"""Each objective's own promises: what it reduces to, what it counts, when it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.attacks.ascent import started
from poise.attacks.collaborative import Collaborative
from poise.core.batches import Batch, Now
from poise.core.errors import InputError
from poise.core.modes import crafting
from poise.core.seeds import everyone
from poise.learners import AWP, RWP, Learner, Policy, WeightPerturbation
from poise.learners.perturbations import Uphill
from poise.losses import cross_entropy, margin
from poise.objectives import (
    AT,
    BAT,
    FAT,
    GAIRAT,
    GAIRRST,
    IAT,
    MART,
    NT,
    RST,
    TRADES,
    CollaborativeTraining,
    Objective,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
)
from poise.objectives.gairat import TwoAttacks
from poise.threats import L2, Linf

UNIFORM = Ascent(threat=Linf(epsilon=0.1), step_size=0.03, steps=4)
GAUSSIAN = replace(UNIFORM, start="gaussian")


def moment(epoch: int = 1, epochs: int = 200) -> Now:
    return Now(epoch=epoch, step=epoch - 1, epochs=epochs, steps_per_epoch=1, seed=5)


def shown(objective: Objective, model: nn.Module, batch: Batch, now: Now) -> Any:
    with crafting(model, objective.craft_mode):
        return objective.exchange([objective.craft(model, batch, now)], now)[0]


def mean_loss(objective: Objective, model: nn.Module, batch: Batch, now: Now) -> float:
    """The loss that a learner would minimise."""
    metrics = Learner("net", Policy(objective=objective), model).descend(objective, batch, now)
    return float(torch.stack([value for name, value in metrics.items() if name.startswith("loss/")]).sum())


DESCENT = CollaborativeTraining(inner=replace(UNIFORM, start="zero"))
SAME = [
    # objective, what it is the same as, epoch
    (BAT(bridges=1, maximised="kl", inner=GAUSSIAN), TRADES(inner=GAUSSIAN), 1),
    (RST(inner=GAUSSIAN), TRADES(inner=GAUSSIAN), 1),
    (GAIRRST(inner=GAUSSIAN), RST(inner=GAUSSIAN), 99),
    (GAIRAT(inner=UNIFORM), AT(inner=UNIFORM), 59),
    (GAIRAT(inner=UNIFORM, shift=40), AT(inner=UNIFORM), 60),
    (WeightedRST(inner=GAUSSIAN), AT(beta=0.5, inner=GAUSSIAN), 1),
    (FAT(objective=AT(inner=UNIFORM), tau=(4,), tau_from=(1,), jitter=0), AT(inner=UNIFORM), 1),
    (AT(beta=0, inner=UNIFORM), NT(), 1),
    (SqueezeTraining(beta=0, inner=GAUSSIAN), NT(), 1),
    (TwoExamples(objective=DESCENT, reduce="max"), DESCENT, 1),
]


@pytest.mark.parametrize(("objective", "other", "epoch"), SAME, ids=lambda value: type(value).__name__)
def test_reduces_to(objective: Objective, other: Objective, epoch: int, plain: nn.Module, batch: Batch) -> None:
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    found = mean_loss(objective, plain, batch, moment(epoch))
    plain.load_state_dict(before)
    assert found == pytest.approx(mean_loss(other, plain, batch, moment(epoch)), rel=1e-12)


DIFFERENT = [
    (GAIRAT(inner=UNIFORM), 59, 60),
    (GAIRRST(inner=GAUSSIAN), 99, 100),
    (FAT(objective=AT(inner=UNIFORM)), 50, 51),
    (FAT(objective=AT(inner=UNIFORM)), 90, 91),
]


@pytest.mark.parametrize(("objective", "last", "first"), DIFFERENT)
def test_changes_at_its_epoch(objective: Objective, last: int, first: int, plain: nn.Module, batch: Batch) -> None:
    """Draws depend on the step only, so that the two moments differ by the schedule alone."""
    found = []
    for epoch in (last - 1, last, first):
        before = {name: value.clone() for name, value in plain.state_dict().items()}
        found.append(mean_loss(objective, plain, batch, replace(moment(epoch), step=0)))
        plain.load_state_dict(before)
    assert found[0] == found[1] != found[2]


# -- Squeeze Training -------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts the forwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.model(x)


def test_squeeze_training_forwards_the_natural_images_once(plain: nn.Module, batch: Batch) -> None:
    model = Counted(plain)
    examples = shown(SqueezeTraining(inner=GAUSSIAN), model, batch, moment())
    assert model.forwards == 1 + 2 * GAUSSIAN.steps
    SqueezeTraining().loss(model, examples, moment())
    assert model.forwards == 1 + 2 * GAUSSIAN.steps + 3


def test_squeeze_training_widens_the_gap(plain: nn.Module, batch: Batch) -> None:
    gaps = []
    for steps in (0, 1, 4):
        objective = SqueezeTraining(inner=replace(GAUSSIAN, steps=steps))
        gaps.append(objective.loss(plain, shown(objective, plain, batch, moment()), moment())["robust"].mean())
    assert gaps[0] < gaps[1] < gaps[2]


def test_squeeze_training_shows_pairs_around_the_natural_loss(plain: nn.Module, batch: Batch) -> None:
    objective = SqueezeTraining(inner=GAUSSIAN)
    terms = objective.loss(plain, shown(objective, plain, batch, moment()), moment())
    natural, adversarial, collaborative = (
        terms[f"watch/{name}/first"] for name in ("natural", "adversarial", "collaborative")
    )
    assert bool((collaborative <= natural).all())
    assert bool((natural <= adversarial).all())
    assert bool((collaborative < adversarial).any())


def test_inner_divergence_changes_the_pair_only(plain: nn.Module, batch: Batch) -> None:
    same, other = SqueezeTraining(inner=GAUSSIAN), SqueezeTraining(inner=GAUSSIAN, inner_divergence="js")
    named = SqueezeTraining(inner=GAUSSIAN, inner_divergence="symmetric_kl")
    examples = shown(same, plain, batch, moment())
    assert torch.equal(shown(named, plain, batch, moment()).x_adv, examples.x_adv)
    assert not torch.equal(shown(other, plain, batch, moment()).x_adv, examples.x_adv)
    assert torch.equal(other.loss(plain, examples, moment())["robust"], same.loss(plain, examples, moment())["robust"])


def test_pseudo_labelled_images_get_cross_entropy_in_squeeze_training(plain: nn.Module, batch: Batch) -> None:
    extra = replace(batch, extra=torch.ones(len(batch), dtype=torch.bool))
    assert mean_loss(SqueezeTraining(beta=0, inner=GAUSSIAN), plain, extra, moment()) > 1


def test_the_unclamped_start_is_uniform_and_may_leave_the_pixel_box() -> None:
    x, draw = torch.zeros(200, 1, 8, 8, dtype=torch.float64), everyone(0, "start", count=200)
    noise = started("unclamped_uniform", Linf(epsilon=0.1), x, draw)
    assert -0.1 <= float(noise.min()) < -0.099
    assert 0.099 < float(noise.max()) <= 0.1
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    clamped = started("uniform", Linf(epsilon=0.1), x, draw)
    torch.testing.assert_close(noise.clamp(0, 1), clamped)


# -- FAT, GAIRAT ------------------------------------------------------------------------------------------------------


def test_friendly_examples_stay_close_to_the_boundary(plain: nn.Module, batch: Batch) -> None:
    """With tau 0 the margin of an example that was right is less than that of PGD's, and the naturally wrong stay at
    their start.
    """
    inner = replace(UNIFORM, start="zero")
    friendly = shown(FAT(objective=AT(inner=inner), tau=(0,), tau_from=(1,), jitter=0), plain, batch, moment())
    strong = shown(AT(inner=inner), plain, batch, moment())
    with torch.no_grad():
        wrong = plain(batch.x).argmax(1) != batch.y
        assert bool(wrong.any())
        assert not bool(wrong.all())
        assert torch.equal(friendly.x_adv[wrong], batch.x[wrong])
        assert bool((margin(plain(friendly.x_adv), batch.y) <= margin(plain(strong.x_adv), batch.y) + 1e-12).all())


def test_the_jitter_of_fat_is_drawn_per_step_and_example(plain: nn.Module, batch: Batch) -> None:
    whole, parts = (
        shown(FAT(objective=AT(inner=UNIFORM), jitter=0.01), plain, part, moment()).x_adv
        for part in (batch, batch.split(20)[1])
    )
    still = shown(FAT(objective=AT(inner=UNIFORM), jitter=0), plain, batch, moment()).x_adv
    torch.testing.assert_close(whole[20:], parts)
    assert not torch.equal(whole, still)
    assert float((whole - batch.x).abs().max()) <= 0.1 + 1e-9


def test_gairat_weighs_what_is_attacked_easily(plain: nn.Module, batch: Batch) -> None:
    examples = shown(GAIRAT(inner=UNIFORM), plain, batch, moment(60))
    weight = examples.weights["robust"]
    with torch.no_grad():
        wrong = plain(batch.x).argmax(1) != batch.y
    assert float(weight[wrong].mean()) > float(weight[~wrong].mean())


def test_gair_rst_mixes_kl_and_margin_examples_by_kappa(plain: nn.Module, batch: Batch) -> None:
    objective = GAIRRST(inner=GAUSSIAN, shift=0)
    examples = shown(objective, plain, batch, moment(100))
    assert isinstance(examples, TwoAttacks)
    assert examples.x_margin is not None
    kappa = torch.atanh(2 * examples.share - 1)
    torch.testing.assert_close((GAUSSIAN.steps / 2 - kappa).round(), GAUSSIAN.steps / 2 - kappa, atol=1e-9, rtol=0)
    natural, by_kl, by_margin = (plain(z) for z in (batch.x, examples.x_adv, examples.x_margin))
    expected = sum(
        share * (natural.softmax(1) * (natural.log_softmax(1) - logits.log_softmax(1))).sum(1)
        for share, logits in ((examples.share, by_kl), (1 - examples.share, by_margin))
    )
    torch.testing.assert_close(objective.loss(plain, examples, moment(100))["robust"], 6 * expected)


# -- IAT, RST ---------------------------------------------------------------------------------------------------------


def test_iat_mixes_with_a_permutation_of_the_whole_step(plain: nn.Module, batch: Batch) -> None:
    objective, now = IAT(inner=UNIFORM), moment()
    with crafting(plain, "evaluating"):
        parts = [objective.craft(plain, part, now) for part in batch.split(9)]
    together = objective.exchange(parts, now)
    x = torch.cat([part.natural.x for part in together])
    other = torch.cat([part.natural.other for part in together])
    share = together[0].natural.share[0]
    partners = (x - share * batch.x) / (1 - share)
    nearest = torch.cdist(partners.flatten(1), batch.x.flatten(1)).argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(batch)))
    assert nearest.tolist() != list(range(len(batch)))
    assert torch.equal(batch.y[nearest], other)
    assert not torch.equal(together[0].natural.share, together[0].adversarial.share)
    assert not torch.equal(together[0].natural.key, together[0].adversarial.key)


def test_iat_draws_lambda_uniformly(plain: nn.Module, batch: Batch) -> None:
    objective = IAT(inner=replace(UNIFORM, steps=0))
    small = batch.split(2)[0]
    shares = torch.stack(
        [objective.craft(plain, small, replace(moment(), step=step)).natural.share[0] for step in range(400)]
    )
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(shares.std()) == pytest.approx(1 / math.sqrt(12), abs=0.03)


def test_rst_takes_no_cross_entropy_where_there_is_no_label(plain: nn.Module, batch: Batch) -> None:
    unlabelled = torch.arange(len(batch)) % 2 == 0
    learner = Learner("net", Policy(), plain)
    expected = cross_entropy(plain(batch.x), batch.y)[~unlabelled].mean()
    metrics = learner.descend(RST(inner=GAUSSIAN), replace(batch, y=torch.where(unlabelled, -1, batch.y)), moment())
    torch.testing.assert_close(metrics["loss/net/natural"], expected.detach())


def test_friendly_examples_of_images_without_label_take_all_steps(plain: nn.Module, batch: Batch) -> None:
    unlabelled = torch.arange(len(batch)) % 2 == 0
    given = replace(batch, y=torch.where(unlabelled, -1, batch.y))
    whole = shown(RST(inner=GAUSSIAN), plain, given, moment())
    friendly = shown(FAT(objective=RST(inner=GAUSSIAN), tau=(0,), tau_from=(1,), jitter=0), plain, given, moment())
    same = (friendly.x_adv == whole.x_adv).flatten(1).all(1)
    assert bool(same[unlabelled].all()) and not bool(same[~unlabelled].all())
    for name, weights in whole.weights.items():
        assert torch.equal(friendly.weights[name], weights)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_what_an_example_has_no_weight_in_is_no_part_of_the_loss_rwp_compares(
    weight: float, plain: nn.Module, batch: Batch
) -> None:
    compared = []

    def keep(values: Tensor) -> Tensor:
        compared.append(values)
        return torch.ones_like(values)

    class Comparing(RWP):
        def move(self, weights: Sequence[Tensor], uphill: Uphill) -> list[Tensor]:
            uphill(keep)
            return [torch.zeros_like(each) for each in weights]

    objective = RST(inner=GAUSSIAN, entropy_weight=weight)
    unlabelled = torch.arange(len(batch)) % 2 == 0
    given = replace(batch, y=torch.where(unlabelled, -1, batch.y))
    with torch.no_grad():
        terms = objective.loss(plain, shown(objective, plain, given, moment().within("net")), moment())
    expected = terms["robust"] + torch.where(unlabelled, terms.get("entropy", torch.zeros(())), terms["natural"])
    Learner("net", Policy(perturbation=Comparing()), plain).descend(objective, given, moment())
    torch.testing.assert_close(compared, [expected])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_mean_over_no_examples_is_zero(weight: float, plain: nn.Module, batch: Batch) -> None:
    nothing = replace(batch, y=torch.full_like(batch.y, -1))
    learner = Learner("net", Policy(), plain)
    metrics = learner.descend(RST(inner=GAUSSIAN, entropy_weight=weight), nothing, moment())
    assert float(metrics["loss/net/natural"]) == 0
    learner.check_finite()
    everything = learner.descend(RST(inner=GAUSSIAN, entropy_weight=0.5), batch, moment())
    assert float(everything["loss/net/entropy"]) == 0


@pytest.mark.parametrize(("natural", "robust"), [(0.9, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_weighted_rst_weighs_extra_images(natural: float, robust: float, plain: nn.Module, batch: Batch) -> None:
    extra = torch.arange(len(batch)) < 20
    objective = WeightedRST(extra_natural=natural, extra_robust=robust, inner=GAUSSIAN)
    losses = cross_entropy(plain(batch.x), batch.y).detach()
    metrics = Learner("net", Policy(), plain).descend(objective, replace(batch, extra=extra), moment())
    above = (1 - natural) * losses[~extra].sum() + natural * losses[extra].sum()
    below = (1 - natural) * int((~extra).sum()) + natural * int(extra.sum())
    torch.testing.assert_close(metrics["loss/net/natural"], 0.5 * above / below)


@pytest.mark.parametrize(
    "perturbation", [None, AWP(gamma=0.1), RWP(gamma=0.1, steps=2, largest_loss=1.6)], ids=["nothing", "AWP", "RWP"]
)
def test_extra_images_of_no_weight_change_nothing(
    perturbation: WeightPerturbation | None, plain: nn.Module, batch: Batch
) -> None:
    """Also not under a weight perturbation, which ascends the same weighted loss."""
    labelled = batch.split(20)[0]
    ends, before = [], {name: value.clone() for name, value in plain.state_dict().items()}
    for given in (replace(labelled, total=20), replace(batch, extra=torch.arange(len(batch)) >= 20)):
        plain.load_state_dict(before)
        learner = Learner("net", Policy(perturbation=perturbation), plain)
        learner.descend(WeightedRST(extra_natural=0, extra_robust=0, inner=GAUSSIAN), given, moment())
        ends.append({name: value.clone() for name, value in learner.weights.items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-10, atol=1e-12)


# -- collaborative and two examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.5)], ids=["Linf", "L2"])
def test_collaborative_examples_have_lower_loss_and_are_allowed(
    threat: Linf | L2, plain: nn.Module, batch: Batch
) -> None:
    attack = Collaborative(threat=threat, step_size=0.02, steps=20)
    z = attack(plain, batch.x, batch.y)
    with torch.no_grad():
        assert bool((cross_entropy(plain(z), batch.y) < cross_entropy(plain(batch.x), batch.y)).all())
    assert float(threat.norm(z - batch.x).max()) <= threat.epsilon + 1e-9
    assert attack.name == "Collaborative-20"
    assert (Collaborative().steps, Collaborative().step_size, Collaborative().start) == (100, 1 / 255, "zero")


def test_collaborative_training_shows_what_the_attack_finds(plain: nn.Module, batch: Batch) -> None:
    attack = Collaborative(threat=UNIFORM.threat, step_size=UNIFORM.step_size, steps=UNIFORM.steps)
    examples = shown(CollaborativeTraining(inner=replace(UNIFORM, start="zero")), plain, batch, moment())
    assert torch.equal(examples.x_adv, attack(plain, batch.x, batch.y))


def test_collaborative_refuses_a_target(plain: nn.Module, batch: Batch) -> None:
    with pytest.raises(InputError, match="target is given, must be None"):
        Collaborative()(plain, batch.x, batch.y, target=batch.y)


@pytest.mark.parametrize(
    "inner", [AT(inner=UNIFORM), TRADES(inner=GAUSSIAN), MART(inner=GAUSSIAN)], ids=lambda value: type(value).__name__
)
def test_two_examples_are_reduced_by_mean_or_max(inner: AT | TRADES | MART, plain: nn.Module, batch: Batch) -> None:
    now, losses = moment(), {}
    examples = shown(TwoExamples(objective=inner), plain, batch, now)
    assert not torch.equal(examples.first.x_adv, examples.second.x_adv)
    first, second = (whole(inner.loss(plain, part, now)) for part in (examples.first, examples.second))
    for reduce in ("mean", "max"):
        losses[reduce] = whole(TwoExamples(objective=inner, reduce=reduce).loss(plain, examples, now))
    torch.testing.assert_close(losses["mean"], (first + second) / 2)
    torch.testing.assert_close(losses["max"], torch.maximum(first, second))


def whole(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([values for name, values in terms.items() if not name.startswith("watch/")]).sum(0)
