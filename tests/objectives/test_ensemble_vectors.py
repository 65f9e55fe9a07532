"""ADP, GAL and Synergy-of-Experts against the given numbers (tests/vectors/README.md), in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, ascent
from poise.attacks.pgd import score_of
from poise.core.batches import Now
from poise.core.modes import crafting
from poise.losses import cross_entropy
from poise.models import Collaboration, CollaborationModule, EnsembleModule, ResNet20, log_mean_probabilities
from poise.objectives.adp import ADP, entropy_of_mean, log_determinant
from poise.objectives.at import Adversarial
from poise.objectives.gal import GAL, coherence
from poise.objectives.surrogates import combined, confidence_loss, smooth_minimum
from poise.threats import Linf

NOW = Now(epoch=1, step=0, epochs=1, steps_per_epoch=1, seed=0)


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def ensemble(vectors, network) -> EnsembleModule:
    """The three given networks; all that is drawn is where they are."""
    members, given = [], vectors("ensemble_nets")
    for number in range(3):
        member, prefix = copy.deepcopy(network), f"net{number}."
        member.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}
        )
        members.append(member)
    return EnsembleModule(members, "mean_probabilities")


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([values.mean() for values in terms.values()]).sum()


def check_gradients(ensemble: EnsembleModule, expected: dict[str, Tensor], prefix: str) -> None:
    for number, member in enumerate(ensemble.members):
        for name, parameter in member.named_parameters():
            assert parameter.grad is not None
            key = f"{prefix}.grad{number}.{name}"
            if key in expected:
                close(parameter.grad, expected[key])
        squares = [parameter.grad.square().sum() for parameter in member.parameters() if parameter.grad is not None]
        close(torch.stack(squares).sum().sqrt(), expected[f"{prefix}.grad{number}_total_l2norm"])


def check_buffers(ensemble: EnsembleModule, expected: dict[str, Tensor], prefix: str) -> None:
    found = 0
    for number, member in enumerate(ensemble.members):
        for name, buffer in member.named_buffers():
            if (key := f"{prefix}.bn_after{number}.{name}") in expected:
                close(buffer, expected[key])
                found += 1
    assert found == 12


def attacked(ensemble: nn.Module, common: dict[str, Tensor], mode: str, momentum: float = 0.0) -> Tensor:
    with crafting(ensemble, mode):  # type: ignore[arg-type]
        score = score_of("cross_entropy", ensemble, common["x"], common["y"])
        threat = Linf(epsilon=8 / 255)
        return ascent(
            score, common["x"], common["start_unif"], threat=threat, step_size=2 / 255, steps=10, momentum=momentum
        )


def test_attacks_on_the_ensemble_are_the_given_ones(vectors, ensemble):
    common, given = vectors("common"), vectors("ensemble_losses")
    with crafting(ensemble, "evaluating"):
        close(ensemble.all_logits(common["x"]), given["member_logits_eval"])
        close(ensemble(common["x"]), given["ensemble_logmean_eval"])
    close(attacked(ensemble, common, "evaluating"), given["ens_pgd_eval"], 1e-12)
    close(attacked(ensemble, common, "evaluating", momentum=1.0), given["ens_mpgd_eval"], 1e-12)
    close(attacked(ensemble, common, "training"), given["ens_pgd_train"], 1e-12)


def test_adp_loss_gradients_and_buffers_are_the_given_ones(vectors, ensemble):
    common, given = vectors("common"), vectors("ensemble_losses")
    examples = Adversarial(common["y"], common["x"], common["x"][:0])
    terms = ADP().loss(ensemble.train(), examples, NOW)
    assert set(terms) == {"natural", "entropy", "diversity"}
    assert all(values.shape == common["y"].shape for values in terms.values())
    close(terms["natural"].mean(), given["adp.ce_loss"])
    close(terms["entropy"].mean(), -2 * given["adp.ee_loss"])
    close(terms["diversity"].mean(), 0.5 * given["adp.det_loss"])
    close(total(terms), given["adp.loss"])
    total(terms).backward()
    check_gradients(ensemble, given, "adp")
    check_buffers(ensemble, given, "adp")


def test_adp_in_adversarial_training_is_the_given_one(vectors, ensemble):
    common, given = vectors("common"), vectors("ensemble_losses")
    x_adv = attacked(ensemble, common, "training")
    terms = ADP(adversarial=Ascent()).loss(ensemble.train(), Adversarial(common["y"], common["x"], x_adv), NOW)
    close(terms["natural"].mean(), given["adp_adv.ce_loss"])
    close(terms["entropy"].mean(), -2 * given["adp_adv.ee_loss"])
    close(terms["diversity"].mean(), 0.5 * given["adp_adv.det_loss"])
    close(terms["robust"].mean(), given["adp_adv.adv_loss"])
    close(total(terms), given["adp_adv.loss"])
    total(terms).backward()
    check_gradients(ensemble, given, "adp_adv")
    check_buffers(ensemble, given, "adp_adv")


def test_adps_regulariser_on_given_logits(vectors):
    given = vectors("ensemble_losses")
    logits, y = given["adp_given.logits"].clone().requires_grad_(), given["adp_given.y"]
    entropy, logdet = entropy_of_mean(logits), log_determinant(logits, y)
    close(entropy.mean(), given["adp_given.entropy"])
    close(logdet.mean(), given["adp_given.logdet"])
    regulariser = -2 * entropy.mean() - 0.5 * logdet.mean()
    close(regulariser, given["adp_given.regulariser"])
    (gradient,) = torch.autograd.grad(regulariser, logits)
    close(gradient, given["adp_given.grad"])


def test_gal_loss_and_its_gradients_through_gradients_are_the_given_ones(vectors, ensemble):
    common, given = vectors("common"), vectors("ensemble_losses")
    terms = GAL().loss(ensemble.train(), Adversarial(common["y"], common["x"], common["x"][:0]), NOW)
    close(terms["natural"].mean(), given["gal.ce_loss"] / 3)
    close(terms["coherence"].mean(), 0.5 * given["gal.coh_loss"])
    close(total(terms), given["gal.loss"])
    total(terms).backward()
    check_gradients(ensemble, given, "gal")


def test_coherence_of_given_gradients(vectors):
    given = vectors("ensemble_losses")
    gradients = given["gal_given.input_grads"].clone().requires_grad_()
    value = coherence(gradients).mean()
    close(value, given["gal_given.coherence"])
    (gradient,) = torch.autograd.grad(value, gradients)
    close(gradient.norm(), given["gal_given.grad_norm"])


# -- Synergy-of-Experts -----------------------------------------------------------------------------------------------


@pytest.fixture
def soe(vectors) -> dict[str, Tensor]:
    return vectors("soe")


def collaboration(confidence: str) -> CollaborationModule:
    whole = Collaboration(member=ResNet20(width=2), confidence=confidence).build((3, 8, 8), 10, 0)  # type: ignore[arg-type]
    assert isinstance(whole, CollaborationModule)
    return whole


def members_losses(logits: Tensor, y: Tensor) -> Tensor:
    return torch.stack([cross_entropy(each, y) for each in logits])


def mean_bce(form: str, logits: Tensor, evaluator: Tensor, y: Tensor) -> Tensor:
    return torch.stack([confidence_loss(form, *pair, y) for pair in zip(logits, evaluator, strict=True)]).mean()  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", ["0.1", "0.5", "1", "2"])
def test_surrogate_and_its_gradients_are_the_given_ones(soe, sigma):
    losses = soe["given_losses"].clone().requires_grad_()
    value = smooth_minimum(losses, float(sigma))
    close(value, soe[f"surrogate_sigma{sigma}"])
    close(torch.autograd.grad(value.sum(), losses)[0], soe[f"surrogate_sigma{sigma}.grad"])
    logits = soe["logits"].clone().requires_grad_()
    value = smooth_minimum(members_losses(logits, soe["y"]), float(sigma)).mean()
    close(value, soe[f"surrogate_ce_sigma{sigma}"])
    close(torch.autograd.grad(value, logits)[0], soe[f"surrogate_ce_sigma{sigma}.grad_logits"])


def test_released_loss_and_its_gradients_are_the_given_ones(soe):
    whole = collaboration("rectified")
    logits, evaluator = (soe[name].clone().requires_grad_() for name in ("logits", "evaluator"))
    losses = members_losses(logits, soe["y"])
    confidences = whole.confidences(logits, evaluator)
    bce = mean_bce("rectified", logits, evaluator, soe["y"])
    close(bce, soe["code.loss_bce"])
    close(bce, soe["bce_rectified"])
    close(cross_entropy(whole.select(logits, confidences), soe["y"]).mean(), soe["code.loss_selected"])
    value = combined("released", losses, 1.0, confidences).mean() + bce
    close(value, soe["code.loss_total"])
    by_logits, by_evaluator = torch.autograd.grad(value, (logits, evaluator))
    close(by_logits, soe["code.grad_logits"])
    close(by_evaluator, soe["code.grad_evaluator"])


def test_evaluators_loss_of_the_paper_is_the_given_one(soe):
    close(mean_bce("evaluator", soe["logits"], soe["evaluator"], soe["y"]), soe["bce_evaluator_paper"])


def test_mean_of_the_experts_is_the_given_ensemble(soe):
    close(log_mean_probabilities(soe["logits"]), soe["ensemble_logmean"])
