"""Dual heads, ensembles and the collaboration, against given numbers and slow references."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from poise.core.errors import SettingsError
from poise.core.settings import from_json, to_json
from poise.models import (
    CIFAR10_NORMALISATION,
    Collaboration,
    CollaborationModule,
    DualHead,
    DualHeadModule,
    Ensemble,
    EnsembleModule,
    Network,
    ResNet20,
    confidence_of,
    log_mean_probabilities,
    log_votes,
)

Vectors = Callable[[str], dict[str, torch.Tensor]]
SHAPE = (3, 8, 8)
THIN = ResNet20(width=4)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def collaboration(members: int = 3, confidence: str = "rectified") -> CollaborationModule:
    built = Collaboration(member=THIN, members=members, confidence=confidence).build(SHAPE, 10, 0)  # type: ignore[arg-type]
    assert isinstance(built, CollaborationModule)
    return built


def test_dual_head_answers_with_its_backbone_and_shares_the_features():
    model = DualHead(backbone=THIN).build(SHAPE, 10, 0)
    assert isinstance(model, DualHeadModule)
    model.eval()
    x = images(4)
    logits, evaluator = model.heads(x)
    assert evaluator.shape == (4, 1)
    torch.testing.assert_close(model(x), logits)
    torch.testing.assert_close(logits, model.head(model.features(x)))
    torch.testing.assert_close(evaluator, model.evaluator(model.features(x)))
    assert model.evaluator.in_features == model.feature_dim == 16


def test_neither_head_detaches_the_features():
    model = DualHead(backbone=THIN).build(SHAPE, 10, 0)
    assert isinstance(model, DualHeadModule)
    _, evaluator = model.heads(images(4))
    evaluator.sum().backward()
    stem = next(model.backbone.parameters()).grad
    assert stem is not None
    assert stem.abs().sum() > 0


def test_confidence_has_both_published_forms(vectors: Vectors):
    given = vectors("soe")
    rectified = confidence_of("rectified", given["logits"], given["evaluator"])
    torch.testing.assert_close(rectified, given["rectified_confidence"], atol=1e-12, rtol=0)
    evaluator = confidence_of("evaluator", given["logits"], given["evaluator"])
    assert evaluator.shape == (3, 16)
    assert ((rectified <= evaluator) & (evaluator < 1)).all()
    torch.testing.assert_close(evaluator[1, 2], 1 / (1 + torch.exp(-given["evaluator"][1, 2, 0])))


def test_selected_logits_and_experts_are_the_given_ones(vectors: Vectors):
    given = vectors("soe")
    model = collaboration()
    confidences = model.confidences(given["logits"], given["evaluator"])
    assert torch.equal(model.winners(confidences), given["selected_expert"])
    selected = model.select(given["logits"], confidences)
    assert torch.equal(selected, given["code.selected_logits"])
    assert torch.equal(selected, given["code.selected_logits_attack"])


def test_gradient_of_the_selection_is_the_given_one(vectors: Vectors):
    given = vectors("soe")
    model = collaboration()
    logits = given["logits"].clone().requires_grad_()
    selected = model.select(logits, model.confidences(logits, given["evaluator"]))
    (gradient,) = torch.autograd.grad(F.cross_entropy(selected, given["y"]), logits)
    torch.testing.assert_close(gradient, given["code.attack_ce_grad_logits"], atol=1e-12, rtol=0)


def test_ensemble_output_is_the_given_one(vectors: Vectors):
    soe, losses = vectors("soe"), vectors("ensemble_losses")
    torch.testing.assert_close(log_mean_probabilities(soe["logits"]), soe["ensemble_logmean"], atol=1e-12, rtol=0)
    mean = log_mean_probabilities(losses["member_logits_eval"])
    torch.testing.assert_close(mean, losses["ensemble_logmean_eval"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_probability_is_clamped_below_without_infinities(dtype):
    logits = torch.tensor([[[0.0, -500.0]], [[0.0, -90.0]]], dtype=dtype).requires_grad_()
    output = log_mean_probabilities(logits[:1])
    torch.testing.assert_close(output[0], torch.tensor([0.0, math.log(1e-40)], dtype=dtype))
    both = log_mean_probabilities(logits)
    torch.testing.assert_close(both[0, 1], torch.tensor(-90 - math.log(2), dtype=dtype))
    (gradient,) = torch.autograd.grad(both.sum(), logits)
    assert gradient.isfinite().all()


def test_votes_are_counted_and_ties_go_to_the_larger_mean_probability():
    logits = torch.tensor([[[3.0, 0.0, 0.0]], [[0.0, 9.0, 0.0]], [[0.0, 0.1, 0.2]]])
    assert log_votes(logits).argmax(1).tolist() == [1]  # one vote each; class 1 has the largest mean
    assert log_votes(logits[[0, 0, 1]]).argmax(1).tolist() == [0]  # two votes beat any probability
    generator = torch.Generator().manual_seed(0)
    many = 3 * torch.randn(5, 200, 4, generator=generator)
    winners = log_votes(many).argmax(1)
    for b in range(200):
        votes = torch.bincount(many[:, b].argmax(1), minlength=4)
        tied = [k for k in range(4) if votes[k] == votes.max()]
        mean = F.softmax(many[:, b], 1).mean(0)
        assert winners[b] == max(tied, key=lambda k: float(mean[k]))
    torch.testing.assert_close(log_votes(many).exp().sum(1), torch.ones(200))


@pytest.mark.parametrize("output", ["mean_probabilities", "mean_logits", "vote"])
def test_an_ensembles_output_combines_its_members(output):
    model = Ensemble(member=THIN, members=4, output=output).build(SHAPE, 10, 0).eval()
    assert isinstance(model, EnsembleModule)
    x = images(5)
    logits = model.all_logits(x)
    assert logits.shape == (4, 5, 10)
    torch.testing.assert_close(model(x), model.combine(logits))
    if output == "mean_probabilities":
        torch.testing.assert_close(
            model(x), torch.stack([F.softmax(member(x), 1) for member in model.members]).mean(0).log()
        )
    if output == "mean_logits":
        torch.testing.assert_close(model(x), (logits[0] + logits[1] + logits[2] + logits[3]) / 4)


@pytest.mark.parametrize(
    "network", [Ensemble(member=THIN), Collaboration(member=THIN)], ids=["ensemble", "collaboration"]
)
def test_members_start_from_different_weights_that_depend_on_the_seed_only(network):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    model = network.build(SHAPE, 10, 7)
    assert torch.equal(torch.rand(2), expected)
    again = network.build(SHAPE, 10, 7).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    first, second, third = [list(member.parameters()) for member in model.members]
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(second[0], third[0])
    assert not torch.equal(first[-1], second[-1])


@pytest.mark.parametrize("confidence", ["rectified", "evaluator"])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_collaboration_answers_as_its_most_confident_expert_does(confidence, batch):
    model = collaboration(confidence=confidence).eval()
    x = images(batch)
    output = model(x)
    assert output.shape == (batch, 10)
    for b in range(batch):
        best, answer = -1.0, None
        for member in model.members:
            assert isinstance(member, DualHeadModule)
            logits, evaluator = (head.detach() for head in member.heads(x[b : b + 1]))
            trust = float(torch.sigmoid(evaluator))
            trust *= float(F.softmax(logits, 1).max()) if confidence == "rectified" else 1.0
            if trust > best:
                best, answer = trust, logits[0]
        assert answer is not None
        torch.testing.assert_close(output[b], answer)


def test_all_experts_win_somewhere_and_only_winners_receive_gradients():
    model = collaboration()
    logits = torch.randn(3, 12, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    confidences = torch.rand(3, 12, generator=torch.Generator().manual_seed(2)).requires_grad_()
    winners = model.winners(confidences)
    assert set(winners.tolist()) == {0, 1, 2}
    by_logits, by_confidence = torch.autograd.grad(
        model.select(logits, confidences).sum(), (logits, confidences), allow_unused=True
    )
    assert by_confidence is None
    assert torch.equal(by_logits, F.one_hot(winners, 3).T[:, :, None].expand(3, 12, 10).float())


def test_equal_confidences_choose_the_first_expert():
    model = collaboration()
    assert model.winners(torch.full((3, 4), 0.5)).tolist() == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 5])
def test_collaboration_compiles_to_one_graph(batch):
    model = collaboration().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = images(batch).requires_grad_()
    torch.testing.assert_close(compiled(x), model(x))
    expected = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), x), expected)


def test_normalisation_belongs_to_the_members():
    inside = Ensemble(member=ResNet20(width=4, normalise=CIFAR10_NORMALISATION)).build(SHAPE, 10, 0).eval()
    outside = Ensemble(member=THIN).build(SHAPE, 10, 0).eval()
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (CIFAR10_NORMALISATION.mean, CIFAR10_NORMALISATION.std)
    )
    x = images(3)
    torch.testing.assert_close(inside(x), outside((x - mean) / std))
    for refused in (
        lambda: Ensemble(member=THIN, normalise=CIFAR10_NORMALISATION),
        lambda: DualHead(backbone=THIN, normalise=CIFAR10_NORMALISATION),
    ):
        with pytest.raises(SettingsError, match="set it on the network inside"):
            refused()


def test_a_backbone_must_be_one_network_and_large_enough_images():
    with pytest.raises(SettingsError, match="Ensemble cannot be the backbone"):
        DualHead(backbone=Ensemble(member=THIN)).build(SHAPE, 10, 0)
    with pytest.raises(SettingsError, match="ResNet20 needs images"):
        Collaboration(member=THIN).build((3, 3, 3), 10, 0)
    with pytest.raises(SettingsError, match="greater than or equal to 1"):
        Ensemble(member=THIN, members=0)


@pytest.mark.parametrize(
    "network",
    [
        DualHead(backbone=THIN, confidence="evaluator"),
        Ensemble(member=THIN, members=5, output="vote"),
        Collaboration(member=ResNet20(normalise=CIFAR10_NORMALISATION), members=2),
    ],
    ids=["dual_head", "ensemble", "collaboration"],
)
def test_collectives_survive_json(network):
    assert from_json(Network, to_json(network)) == network
