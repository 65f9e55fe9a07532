"""SoE, ADP, GAL and MoRE as objectives: the paper's propositions, phases, gradients' reach, microbatches, refusals."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import crafting, frozen_statistics
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.learners import SGD, Learner, Policy
from poise.losses import cross_entropy
from poise.models import Collaboration, CollaborationModule, DigitsCNN, Ensemble, Network, log_votes
from poise.models.layers import Classifier
from poise.models.mixture import Mixture, MixtureModule
from poise.objectives.adp import ADP, log_determinant
from poise.objectives.gal import GAL, coherence
from poise.objectives.more import MoRE
from poise.objectives.objective import Objective
from poise.objectives.surrogates import combined, confidence_loss, smooth_minimum
from poise.objectives.synergy import SynergyOfExperts
from poise.threats import Linf

SHAPE = (1, 8, 8)
SHORT = Ascent(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)


class Smooth(Classifier):
    """Without batch normalisation, and with second derivatives."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 12)
        self.head = nn.Linear(12, classes)

    def trunk(self, x: Tensor) -> Tensor:
        return torch.tanh(self.hidden(x.flatten(1)))


class Tanh(Network):
    """An architecture for tests."""

    def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return Smooth(classes)


def images(count: int = 12, seed: int = 0) -> Batch:
    draw = everyone(seed, "images", count=count)
    return Batch.of(draw.uniform(*SHAPE, dtype=torch.float64), draw.within("labels").integers(10))


def now(step: int = 0, epochs: int = 6, per_epoch: int = 4, seed: int = 0) -> Now:
    return Now(step // per_epoch + 1, step, epochs, per_epoch, seed)


def built(network: Network) -> nn.Module:
    return network.build(SHAPE, 10, 1).double()


def collaboration(confidence: Any = "rectified", member: Network | None = None) -> CollaborationModule:
    whole = built(Collaboration(member=member or DigitsCNN(), confidence=confidence))
    assert isinstance(whole, CollaborationModule)
    return whole


SOE = SynergyOfExperts(inner=SHORT)
CASES: list[tuple[str, Objective[Any], Network]] = [
    ("soe-phase-1", SOE, Collaboration(member=Tanh())),
    (
        "soe-phase-2",
        SynergyOfExperts(inner=SHORT, phase_two_from=0.0, surrogate="released"),
        Collaboration(member=Tanh()),
    ),
    (
        "soe-per-source",
        SynergyOfExperts(inner=SHORT, update="per_source", surrogate="hard"),
        Collaboration(member=Tanh()),
    ),
    ("adp", ADP(), Ensemble(member=Tanh())),
    ("adp-adversarial", ADP(adversarial=SHORT), Ensemble(member=Tanh())),
    ("gal", GAL(), Ensemble(member=Tanh())),
    ("gal-adversarial", GAL(adversarial=SHORT), Ensemble(member=Tanh())),
    ("more", MoRE(adversarial=None), Mixture(member=Tanh(), gate=Tanh())),
    ("more-adversarial", MoRE(adversarial=SHORT), Mixture(member=Tanh(), gate=Tanh())),
]
over_cases = pytest.mark.parametrize(
    ("objective", "network"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)


def stepped(objective: Objective[Any], network: Network, microbatch: int | None) -> dict[str, Tensor]:
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.1), microbatch=microbatch)
    learner = Learner("joint", policy, built(network))
    learner.descend(objective, images(), now(5))
    return {name: tensor.clone() for name, tensor in learner.weights.items()}


@over_cases
def test_microbatches_equal_one_batch(objective, network):
    whole = stepped(objective, network, None)
    for size in (5, 1):
        for name, tensor in stepped(objective, network, size).items():
            torch.testing.assert_close(tensor, whole[name], atol=1e-12, rtol=0)


@over_cases
def test_every_parameter_moves_that_the_objective_speaks_of(objective, network):
    before = built(network).state_dict()
    after = stepped(objective, network, None)
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert not still


@over_cases
def test_the_loss_draws_nothing_and_terms_are_per_example(objective, network):
    model, batch = built(network).train(), images()
    with crafting(model, objective.craft_mode):
        examples = objective.craft(model, batch, now())
        again = objective.craft(model, batch, now())
        other = objective.craft(model, batch, now(seed=1))
    assert torch.equal(examples.x, again.x)
    assert torch.equal(examples.x_adv, again.x_adv)
    adversarial = getattr(objective, "adversarial", SHORT)
    if adversarial is not None:
        assert not torch.equal(examples.x_adv, other.x_adv)
    with frozen_statistics(model):
        first, second = objective.loss(model, examples, now()), objective.loss(model, examples, now())
    for name, values in first.items():
        assert values.shape == (12,)
        assert torch.equal(values, second[name])


@over_cases
def test_objectives_survive_json_and_refuse_other_networks(objective, network):
    assert from_json(Objective, to_json(objective)) == objective
    with pytest.raises(SettingsError, match=r"trains an? .* not PlainModule"):
        objective.craft(built(DigitsCNN()), images(), now())


@pytest.mark.parametrize("stop", [3, 16, 18])  # within phase I, between the phases, within phase II
@pytest.mark.parametrize("update", ["joint", "per_source"])
def test_a_run_resumed_in_or_between_phases_is_bit_identical(stop, update):
    objective = SynergyOfExperts(inner=SHORT, update=update)

    def learner() -> Learner:
        return Learner("joint", Policy(objective=objective, optimizer=SGD(learning_rate=0.05)), collaboration())

    def train(learner: Learner, first: int, last: int) -> None:
        for step in range(first, last):
            learner.descend(objective, images(seed=step), now(step))

    unbroken, broken, resumed = learner(), learner(), learner()
    train(unbroken, 0, 20)
    train(broken, 0, stop)
    resumed.load_state({name: tensor.clone() for name, tensor in broken.state().items()})
    train(resumed, stop, 20)
    expected = unbroken.state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state().items())


def test_a_step_forwards_no_image_more_often_than_the_algorithms_say():
    """Per expert and image. Phase I: 2 of its own attack, (experts + 1) of the loss; phase II: 2 of the attack, 2 of
    the loss.
    """
    count = []

    class Counting(Smooth):
        def trunk(self, x: Tensor) -> Tensor:
            count.append(len(x))
            return super().trunk(x)

    class Counted(Network):
        def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return Counting(classes)

    learner = Learner("joint", Policy(objective=SOE), collaboration(member=Counted()))
    for step, expected in ((0, 3 * (2 + 4)), (20, 3 * (2 + 2))):
        count.clear()
        learner.descend(SOE, images(), now(step))
        assert sum(count) == 12 * expected


def test_crafting_in_evaluating_mode_leaves_running_statistics_alone():
    model = collaboration().train()
    before = copy.deepcopy(model.state_dict())
    with crafting(model, SOE.craft_mode):
        SOE.craft(model, images(), now())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# -- the paper's propositions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2, 3, 8])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0, 4.0])
def test_equation_7_bounds_the_surrogate_and_its_weights_are_a_softmax(members, sigma):
    losses = (6 * everyone(members, "losses", count=members).uniform(500, dtype=torch.float64)).requires_grad_()
    value, least = smooth_minimum(losses, sigma), losses.amin(0)
    assert (value <= least + 1e-12).all()
    assert (value >= least - sigma * math.log(members) - 1e-12).all()
    (gradient,) = torch.autograd.grad(value.sum(), losses)
    torch.testing.assert_close(gradient, (-losses / sigma).softmax(0))


def test_the_lower_bound_is_reached_by_equal_losses_and_the_upper_one_as_sigma_vanishes():
    equal = torch.full((4, 3), 1.5, dtype=torch.float64)
    torch.testing.assert_close(smooth_minimum(equal, 0.7), equal[0] - 0.7 * math.log(4))
    losses = torch.tensor([[0.3, 2.0], [0.9, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(smooth_minimum(losses, 1e-3), losses.amin(0))
    torch.testing.assert_close(combined("hard", losses, 1.0, losses), losses.amin(0))


def predictions(members: int, classes: int) -> tuple[Tensor, Tensor]:
    draw = everyone(members, classes, "predictions", count=members)
    return 3 * draw.normal(2000, classes, dtype=torch.float64), everyone(classes, "labels", count=2000).integers(
        classes
    )


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("classes", [2, 10])
def test_proposition_1_some_expert_is_right_wherever_the_vote_is(members, classes):
    logits, y = predictions(members, classes)
    right = logits.argmax(-1) == y
    vote = log_votes(logits).argmax(1) == y
    best_by_error = (~right).to(torch.float64).argmin(0)  # Definition 1 with the 0-1 loss
    collaborating = right.gather(0, best_by_error[None])[0]
    assert (collaborating >= vote).all()
    assert collaborating.sum() > vote.sum()
    if classes == 2:  # then the lowest cross-entropy belongs to a right expert, if there is one
        best = torch.stack([cross_entropy(each, y) for each in logits]).argmin(0)
        assert (right.gather(0, best[None])[0] >= vote).all()


def test_proposition_1_can_fail_by_cross_entropy_with_three_classes():
    """Two experts are right with probability 0.4, one is wrong with 0.45 on the true class: it has the lowest loss."""
    p = torch.tensor([[0.40, 0.35, 0.25], [0.40, 0.25, 0.35], [0.45, 0.55, 0.00]], dtype=torch.float64).clamp(min=1e-9)
    logits, y = p.log()[:, None], torch.tensor([0])
    best = torch.stack([cross_entropy(each, y) for each in logits]).argmin(0)
    assert log_votes(logits).argmax(1) == y
    assert best.item() == 2
    assert logits[2].argmax(1) != y


def test_proposition_2_highest_true_probability_is_lowest_loss():
    logits, y = predictions(4, 10)
    confidence = F.softmax(logits, -1).gather(-1, y.expand(4, -1)[..., None])[..., 0]
    losses = torch.stack([cross_entropy(each, y) for each in logits])
    assert torch.equal(confidence.argmax(0), losses.argmin(0))


# -- Synergy-of-Experts -----------------------------------------------------------------------------------------------


def test_phases_follow_the_epoch_only():
    def phases(**kwargs: Any) -> list[int]:
        return [SynergyOfExperts(**kwargs).phase(now(step)) for step in range(0, 24, 2)]

    assert phases() == [1] * 8 + [2] * 4  # epochs 5 and 6 of 6
    assert phases(phase_two_from=1.0) == [1] * 12
    assert phases(phase_two_from=0.0) == [2] * 12
    assert phases(phase_two_from=0.5) == [1] * 6 + [2] * 6


def test_sources_are_all_experts_together_or_in_turn_or_the_collaboration():
    model, batch = collaboration().eval(), images()
    both = SOE.craft(model, batch, now(0)).x_adv
    assert both.shape == (12, 3, *SHAPE)
    assert not torch.equal(both[:, 0], both[:, 1])
    turns = SynergyOfExperts(inner=SHORT, update="per_source")
    assert [turns.turns(model, now(step)) for step in (0, 20)] == [3, 1]
    assert SOE.turns(model, now(0)) == 1
    for turn in range(3):
        one = turns.craft(model, batch, replace(now(0), turn=turn)).x_adv
        assert one.shape == (12, 1, *SHAPE)
        torch.testing.assert_close(one[:, 0], both[:, turn])
    assert (
        SOE.craft(model, batch, now(20)).x_adv.shape
        == turns.craft(model, batch, now(20)).x_adv.shape
        == (12, 1, *SHAPE)
    )


def test_per_source_updates_all_experts_after_each_source_on_the_same_batch_as_algorithm_1():
    rate, batch = 0.1, images()
    turns = SynergyOfExperts(inner=SHORT, update="per_source", clean_term=False)
    learner = Learner(
        "joint", Policy(objective=turns, optimizer=SGD(learning_rate=rate, momentum=0, weight_decay=0)), collaboration()
    )
    metrics = learner.descend(turns, batch, now(0))

    by_hand, losses = collaboration(), []
    for source in range(3):  # lines 2 to 11
        moment = replace(now(0).within("joint"), turn=source)
        with crafting(by_hand, "evaluating"):
            x_adv = by_hand_attack(by_hand.members[source], batch, moment, source)
        by_hand.train()
        logits, evaluator = by_hand.all_heads(x_adv)
        fit = -torch.logsumexp(-torch.stack([cross_entropy(each, batch.y) for each in logits]), 0).mean()
        trust = [confidence_loss("rectified", *heads, batch.y).mean() for heads in zip(logits, evaluator, strict=True)]
        losses.append(float(fit.detach()))
        gradients = torch.autograd.grad(fit + sum(trust) / 3, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
    for ours, theirs in zip(learner.network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert float(metrics["loss/joint/robust"]) == pytest.approx(sum(losses) / 3)


def by_hand_attack(member: nn.Module, batch: Batch, moment: Now, source: int) -> Tensor:
    """PGD with SHORT's settings on one expert."""
    epsilon, step = SHORT.threat.epsilon, SHORT.step_size
    z = SHORT.threat.random_start(batch.x, moment.draw("craft", batch).within("source", source).within("start"))
    for _ in range(SHORT.steps):
        z = z.detach().requires_grad_()
        cross_entropy(member(z), batch.y).sum().backward()
        assert z.grad is not None
        z = (z + step * z.grad.sign()).clamp(batch.x - epsilon, batch.x + epsilon).clamp(0, 1)
    return z.detach()


def test_phase_one_attacks_each_expert_alone_and_phase_two_chooses_anew_at_every_step():
    batch, model = images(), collaboration("evaluator").eval()
    strong = SynergyOfExperts(inner=Ascent(threat=Linf(epsilon=0.3), step_size=0.1, steps=6), phase_two_from=0.5)
    x_adv = strong.craft(model, batch, now(0)).x_adv
    for number, member in enumerate(model.members):
        rise = [float(cross_entropy(member(x_adv[:, source]), batch.y).mean().detach()) for source in range(3)]
        assert max(range(3), key=lambda source: rise[source]) == number
    seen: list[Tensor] = []

    class Watching(CollaborationModule):
        def winners(self, confidences: Tensor) -> Tensor:
            seen.append(super().winners(confidences))
            return seen[-1]

    watching = Watching(list(model.members), "evaluator").eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for member, outputs in zip(watching.members, watching.all_heads(batch.x)[1], strict=True):
            member.evaluator.bias.sub_(outputs.mean())  # type: ignore[union-attr,operator]
    strong.craft(watching, batch, now(20))
    assert len(seen) == 6
    assert not all(torch.equal(chosen, seen[0]) for chosen in seen)


@pytest.mark.parametrize("confidence", ["evaluator", "rectified"])
def test_detached_features_confine_the_evaluators_loss_to_the_evaluators(confidence):
    batch = images()

    def reached(detach_features: bool) -> set[str]:
        model = collaboration(confidence).train()
        objective = SynergyOfExperts(inner=SHORT, detach_features=detach_features)
        with crafting(model, "evaluating"):
            examples = objective.craft(model, batch, now())
        terms = objective.loss(model, examples, now())
        (terms["natural_confidence"].sum() + terms["robust_confidence"].sum()).backward()
        return {
            name.split(".")[2]
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }

    assert reached(True) == {"evaluator"} or reached(True) == {"weight", "bias"}
    assert len(reached(False)) > len(reached(True))


def test_both_ways_to_the_features_give_the_same_values():
    batch, model = images(), collaboration().train()
    with crafting(model, "evaluating"):
        examples = SOE.craft(model, batch, now())
    with frozen_statistics(model):
        plain = SOE.loss(model, examples, now())
        detached = SynergyOfExperts(inner=SHORT, detach_features=True).loss(model, examples, now())
    for name, values in plain.items():
        torch.testing.assert_close(detached[name], values)


def test_clean_term_and_weight_of_the_evaluators_loss():
    batch, model = images(), collaboration().eval()
    examples = SOE.craft(model, batch, now())
    terms = SOE.loss(model, examples, now())
    assert {"natural", "natural_confidence", "robust", "robust_confidence"} <= set(terms)
    bare = SynergyOfExperts(inner=SHORT, clean_term=False, confidence_weight=2.0).loss(model, examples, now())
    assert not any(name.startswith("natural") for name in bare)
    torch.testing.assert_close(bare["robust"], terms["robust"])
    torch.testing.assert_close(bare["robust_confidence"], 2 * terms["robust_confidence"])


def test_the_loss_is_the_mean_over_sources_of_the_surrogate_written_out():
    batch, model = images(), collaboration().eval()
    examples = SOE.craft(model, batch, now())
    terms = SOE.loss(model, examples, now())
    slow, doubt = torch.zeros(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for source in range(3):
        logits, evaluator = (head.detach() for head in model.all_heads(examples.x_adv[:, source]))
        for b in range(12):
            p = [float(F.softmax(logits[i, b], 0)[batch.y[b]]) for i in range(3)]
            slow[b] -= math.log(sum(p)) / 3  # sigma = 1: -log sum exp(log p)
            for i in range(3):
                r = float(F.softmax(logits[i, b], 0).max() * evaluator[i, b, 0].sigmoid())
                doubt[b] -= (p[i] * math.log(r) + (1 - p[i]) * math.log(1 - r)) / 9
    torch.testing.assert_close(terms["robust"].detach(), slow)
    torch.testing.assert_close(terms["robust_confidence"].detach(), doubt)


def test_sure_experts_give_finite_losses_and_gradients():
    model, batch = collaboration().float(), images()
    with torch.no_grad():
        for member in model.members:
            member.head.weight.mul_(1e4)  # type: ignore[union-attr,operator]
            member.evaluator.bias.fill_(100.0)  # type: ignore[union-attr,operator]
    x = batch.x.float()
    examples = type(SOE.craft(model.eval(), Batch.of(x, batch.y), now()))(batch.y, x, x[:, None])
    terms = SOE.loss(model, examples, now())
    sum(values.sum() for values in terms.values()).backward()  # type: ignore[union-attr]
    assert all(values.isfinite().all() for values in terms.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


# -- ADP, GAL, MoRE ---------------------------------------------------------------------------------------------------


def test_adps_diversity_is_largest_where_wrong_classes_are_orthogonal():
    orthogonal = torch.tensor(
        [[[0.0, 9.0, -9.0, -9.0]], [[0.0, -9.0, 9.0, -9.0]], [[0.0, -9.0, -9.0, 9.0]]], dtype=torch.float64
    )
    y = torch.tensor([0])
    assert abs(float(log_determinant(orthogonal, y))) < 1e-4
    same = orthogonal[:1].expand(3, -1, -1)
    assert float(log_determinant(same, y)) < -20
    moved = orthogonal.clone()
    moved[..., 0] += 3  # the true class doesn't count
    torch.testing.assert_close(log_determinant(moved, y), log_determinant(orthogonal, y), atol=1e-6, rtol=0)


def test_without_regularisers_the_members_train_as_if_alone():
    policy = Policy(objective=ADP(alpha=0, beta=0), optimizer=SGD(learning_rate=0.1))
    together = Learner("joint", policy, built(Ensemble(member=DigitsCNN())))
    alone = Learner("joint", Policy(optimizer=SGD(learning_rate=0.1)), copy.deepcopy(together.network.members[1]))  # type: ignore[index]
    for step in range(3):
        assert set(together.descend(policy.objective, images(seed=step), now(step))) == {"loss/joint/natural"}
        alone.descend(alone.policy.objective, images(seed=step), now(step))
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(together.weights[f"members.1.{name}"], tensor, atol=1e-12, rtol=0)


def test_coherence_lies_between_opposite_and_parallel_gradients():
    g = everyone(0, "gradients", count=1).normal(5, 7, dtype=torch.float64)
    parallel = coherence(torch.cat([g, 2 * g, 5 * g]))
    torch.testing.assert_close(parallel, torch.full((5,), math.log(3 * math.e), dtype=torch.float64))
    opposite = coherence(torch.cat([g, -g]))
    torch.testing.assert_close(opposite, torch.full((5,), -1.0, dtype=torch.float64))
    assert torch.equal(coherence(g), torch.zeros(5, dtype=torch.float64))
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(coherence(zero).sum(), zero)[0].isfinite().all()


def test_gals_noise_reaches_about_half_of_the_images_and_is_keyed_by_example():
    model, batch = built(Ensemble(member=Tanh())), images(400)
    shown = GAL().craft(model, batch, now()).x
    noised = (shown != batch.x).flatten(1).any(1)
    assert 160 < int(noised.sum()) < 240
    assert abs(float((shown - batch.x)[noised].std()) - 0.045) < 0.002
    assert torch.equal(GAL().craft(model, batch.split(150)[1], now()).x, shown[150:300])
    assert torch.equal(GAL(noise=0.0).craft(model, batch, now()).x, batch.x)


def test_a_mixture_weighs_its_experts_by_the_gate():
    model = built(Mixture(member=DigitsCNN(), gate=DigitsCNN(), members=4)).eval()
    assert isinstance(model, MixtureModule)
    x = images(5).x
    shares = model.gate(x).softmax(1)
    assert shares.shape == (5, 4)
    slow = sum(shares[:, i, None] * member(x) for i, member in enumerate(model.members))
    torch.testing.assert_close(model(x), slow)
    assert from_json(Network, to_json(Mixture(member=DigitsCNN(), gate=DigitsCNN()))) == Mixture(
        member=DigitsCNN(), gate=DigitsCNN()
    )
    with pytest.raises(SettingsError, match=r"Mixture\.members"):
        Mixture(member=DigitsCNN(), gate=DigitsCNN(), members=1)


def test_a_vote_is_trained_against_attacks_on_the_members_mean_probabilities():
    inner = Ascent(threat=Linf(epsilon=0.1), step_size=0.04, steps=3)
    objective, now = ADP(alpha=0, beta=0, adversarial=inner, craft_mode="evaluating"), Now(1, 0, 1, 1, 0)
    draw = everyone(0, "vote", count=6)
    batch = Batch.of(draw.uniform(1, 8, 8, dtype=torch.float64), draw.within("labels").integers(10))
    crafted = []
    for output in ("vote", "mean_probabilities", "mean_logits"):
        model = Ensemble(member=DigitsCNN(width=4), output=output).build((1, 8, 8), 10, 1).double()
        with crafting(model, "evaluating"):
            crafted.append(objective.craft(model, batch, now).x_adv)
    assert torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[0], crafted[2])
