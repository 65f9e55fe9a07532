"""The published methods' numbers (tests/vectors/README.md), in float64 to the tolerances given there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from poise import losses
from poise.attacks.ascent import ascent
from poise.attacks.pgd import score_of
from poise.core.batches import Now
from poise.core.modes import crafting
from poise.learners import Constant, Cosine, PiecewiseLinear, Schedule, Step
from poise.learners.averages import warmed_up
from poise.objectives import TRADES, Adversarial
from poise.threats import L2, Linf

pytestmark = pytest.mark.filterwarnings("error")


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours.to(expected.dtype), expected, atol=tolerance, rtol=tolerance)


# -- the network ------------------------------------------------------------------------------------------------------


def test_network_forwards_agree(vectors, network):
    common, expected = vectors("common"), vectors("net_forward")
    with torch.no_grad():
        close(network.eval()(common["x"]), expected["logits_eval"])
        close(network.train()(common["x"]), expected["logits_train"])
    for name, buffer in network.named_buffers():
        close(buffer, expected[f"bn_after_one_train_forward.{name}"])


# -- attacks ----------------------------------------------------------------------------------------------------------

STEP = 2 / 255
LINF = [
    # expected, loss, confidence, start, steps, momentum
    ("pgd_ce", "cross_entropy", None, "start_unif", 10, 0.0),
    ("pgd_ce_20", "cross_entropy", None, "start_unif", 20, 0.0),
    ("pgd_ce_gauss_start", "cross_entropy", None, "start_gauss_1", 10, 0.0),
    ("pgd_st_unclamped_start", "cross_entropy", None, "unclamped", 10, 0.0),
    ("mim", "cross_entropy", None, "start_unif", 10, 1.0),
    ("mim_20", "cross_entropy", None, "start_unif", 20, 1.0),
    ("cw_margin50_unclamped_start", "margin", 50.0, "unclamped", 10, 0.0),
    ("cw_st_unclamped_start", "margin", None, "unclamped", 10, 0.0),
    ("trades_kl", "kl", None, "start_gauss_1", 10, 0.0),
]


@pytest.mark.parametrize(
    ("expected", "loss", "confidence", "start", "steps", "momentum"), LINF, ids=[row[0] for row in LINF]
)
def test_linf_iterates_are_identical(vectors, network, expected, loss, confidence, start, steps, momentum):
    common, inner = vectors("common"), vectors("inner_linf")
    x, y = common["x"], common["y"]
    z = x + common["noise_unif"] if start == "unclamped" else common[start]
    with crafting(network, "evaluating"):
        score = score_of(loss, network, x, y, confidence=confidence)
        z = ascent(score, x, z, threat=Linf(epsilon=8 / 255), step_size=STEP, steps=steps, momentum=momentum)
        close(z, inner[expected], 1e-12)
        if f"pred_{expected}" in inner:
            assert torch.equal(network(z).argmax(1), inner[f"pred_{expected}"])


def test_fgsm_is_one_step_of_epsilon(vectors, network):
    common = vectors("common")
    with crafting(network, "evaluating"):
        score = score_of("cross_entropy", network, common["x"], common["y"])
        z = ascent(score, common["x"], common["x"], threat=Linf(epsilon=8 / 255), step_size=8 / 255, steps=1)
    close(z, vectors("inner_linf")["fgsm"], 1e-12)


def test_kappa_counts_the_iterates_still_classified_correctly(vectors, network):
    common, inner = vectors("common"), vectors("inner_linf")
    kappa = torch.zeros(len(common["y"]), dtype=torch.float64)

    def count(logits: Tensor) -> None:
        kappa.add_(logits.argmax(1) == common["y"])

    with crafting(network, "evaluating"):
        score = score_of("cross_entropy", network, common["x"], common["y"])
        ascent(
            score, common["x"], common["start_unif"], threat=Linf(epsilon=8 / 255), step_size=STEP, steps=10, stop=count
        )
    close(kappa, inner["kappa"])


@pytest.mark.parametrize("trainmode", [False, True], ids=["evaluating", "training"])
def test_pgd_of_the_rice_code_base(vectors, network, trainmode):
    common, inner = vectors("common"), vectors("inner_linf")
    x, y = common["x"], common["y"]
    start = (x + common["noise_unif"]).clamp(0, 1)
    with crafting(network, "training" if trainmode else "evaluating"):
        score = score_of("cross_entropy", network, x, y)
        z = ascent(score, x, start, threat=Linf(epsilon=8 / 255), step_size=STEP, steps=10)
        if trainmode:
            network(z)  # the released attack evaluates its own final loss
    close(z - x, inner["pgd_rice_delta_trainmode" if trainmode else "pgd_rice_delta"], 1e-12)
    if trainmode:
        for name, buffer in network.named_buffers():
            close(buffer, inner[f"bn_after_pgd_rice_trainmode.{name}"])


def test_l2_pgd_rescales_then_clips(vectors, network):
    common, inner = vectors("common"), vectors("inner_l2")
    x, y = common["x"], common["y"]
    start = (x + inner["pgd_ce_l2_start_delta"]).clamp(0, 1)
    with crafting(network, "evaluating"):
        score = score_of("cross_entropy", network, x, y)
        z = ascent(score, x, start, threat=L2(epsilon=128 / 255), step_size=15 / 255, steps=10)
    close(z - x, inner["pgd_ce_l2_delta"], 1e-8)
    close((z - x).flatten(1).norm(dim=1), inner["pgd_l2_final_norm"], 1e-8)


def test_l2_trades_clips_then_rescales(vectors, network):
    common, inner = vectors("common"), vectors("inner_l2")
    x, y, epsilon = common["x"], common["y"], 128 / 255
    with crafting(network, "evaluating"):
        score = score_of("kl", network, x, y)
        threat = L2(epsilon=epsilon, box_first=True)
        z = ascent(score, x, x + inner["trades_l2_start_delta"], threat=threat, step_size=2 * epsilon / 10, steps=10)
    close(z.clamp(0, 1), inner["trades_kl_l2"], 1e-8)
    close((z.clamp(0, 1) - x).flatten(1).norm(dim=1), inner["trades_l2_final_norm"], 1e-8)
    terms = TRADES(beta=6).loss(network.train(), Adversarial(y, x, z.clamp(0, 1)), Now(1, 0, 1, 1, seed=0))
    close(terms["natural"].mean() + terms["robust"].mean(), inner["trades_l2_loss"], 1e-8)


# -- losses -----------------------------------------------------------------------------------------------------------


def gradient_of(values: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), logits)[0]


LOGIT_LOSSES = {
    "ce": lambda z, y, t: losses.cross_entropy(z, y),
    "dlr": lambda z, y, t: losses.dlr(z, y),
    "dlr_targeted": lambda z, y, t: losses.targeted_dlr(z, y, t),
    "cw_st": lambda z, y, t: losses.margin(z, y),
    **dict.fromkeys(("cw_margin50", "cw_gairat_conf50"), lambda z, y, t: losses.margin(z, y, confidence=50)),
    "square_margin": lambda z, y, t: -losses.margin(z, y),
}
TIED = 4  # rows 0-3 have ties: their gradients pick an arbitrary class


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_logit_losses_agree(vectors, name):
    given = vectors("logit_losses")
    logits = given["logits"].requires_grad_()
    ours, expected = LOGIT_LOSSES[name](logits, given["y"], given["y_target"]), given[name]
    # released as -max(0, z_y - max other + 50): the same up to the constant 50
    if name in (
        "cw_margin50",
        "cw_gairat_conf50",
    ):
        expected = expected + 50
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)
    if f"{name}.grad" in given:
        close(gradient_of(ours, logits)[TIED:], given[f"{name}.grad"][TIED:], 1e-8)


def test_dlr_with_the_fewest_classes(vectors):
    given = vectors("logit_losses")
    torch.testing.assert_close(losses.dlr(given["logits4"], given["y4"]), given["dlr4"], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(losses.dlr(given["logits3"], given["y3"]), given["dlr3"], rtol=1e-8, atol=1e-9)
    targeted = losses.targeted_dlr(given["logits4"], given["y4"], given["y4_target"])
    torch.testing.assert_close(targeted, given["dlr_targeted4"], rtol=1e-8, atol=1e-9)


DIVERGENCES = {
    "symkl_detached_official": lambda p, q: losses.symmetric_kl(p, q, detach_target=True),
    "symkl_nodetach": losses.symmetric_kl,
    "js": losses.js,
    "js_reversed": lambda p, q: losses.js(p, q, reverse=True),
    "sq_l2": losses.squared_l2,
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_agree(vectors, name):
    given = vectors("st_divergences")
    p, q = given["logits_p"].requires_grad_(), given["logits_q"].requires_grad_()
    value = DIVERGENCES[name](p, q).mean()
    close(value, given[name])
    grad_p, grad_q = torch.autograd.grad(value, (p, q))
    close(grad_p, given[f"{name}.grad_p"])
    close(grad_q, given[f"{name}.grad_q"])


# -- schedules --------------------------------------------------------------------------------------------------------


def by_epoch(schedule: Schedule, epochs: int, base: float = 1.0) -> Tensor:
    """Values at epochs 1 .. epochs of runs of ten steps an epoch."""
    moments = [Now(epoch, 10 * (epoch - 1), epochs, 10, seed=0) for epoch in range(1, epochs + 1)]
    return torch.tensor([base * schedule.value(now) for now in moments], dtype=torch.float64)


SCHEDULES = [
    ("generalist_lr_resnet18_base0.01", PiecewiseLinear(values=(1, 1, 0.1, 0.01)), 0.01),
    ("generalist_lr_wrn_base0.1", PiecewiseLinear(values=(1, 1, 0.1, 0.05)), 0.1),
    ("generalist_gamma_code_end0.4", PiecewiseLinear(values=(1, 1, 1, 0.4)), 1.0),
    ("generalist_gamma_formula_end0", PiecewiseLinear(values=(1, 1, 1, 0)), 1.0),
    ("generalist_gamma_formula_end0.5", PiecewiseLinear(values=(1, 1, 1, 0.5)), 1.0),
    ("st_lr_120e_base0.1", Step(at=(80, 100), factors=(0.1, 0.01)), 0.1),
    ("st_lr_80e_base0.01", Step(at=(50, 65), factors=(0.1, 0.01)), 0.01),
    ("trades_code_lr_base0.1", Step(at=(75, 90, 100), factors=(0.1, 0.01, 0.001)), 0.1),
    ("mart_code_lr_base0.01", Step(at=(75, 90, 100), factors=(0.1, 0.01, 0.001)), 0.01),
    ("trades_awp_lr_base0.1", Step(at=(100, 150), factors=(0.1, 0.01)), 0.1),
    ("fat_lr_base0.1", Step(at=(60, 90, 110), factors=(0.1, 0.01, 0.005)), 0.1),
    ("gairat_wrn120_lr_base0.1_by_epoch_1based", Step(at=(60, 90, 110), factors=(0.1, 0.01, 0.005)), 0.1),
    ("gairat_resnet100_lr_base0.1_by_epoch_1based", Step(at=(30, 60), factors=(0.1, 0.01)), 0.1),
    ("rst_cosine_lr_base0.1_epochs200_formula", Cosine(), 0.1),
]


@pytest.mark.parametrize(("name", "schedule", "base"), SCHEDULES, ids=[row[0] for row in SCHEDULES])
def test_schedules_agree(vectors, name, schedule, base):
    expected = vectors("schedules")[name]
    close(by_epoch(schedule, len(expected), base), expected)


def test_fraction_schedule_is_that_of_the_rice_code_base(vectors):
    given = vectors("schedules")
    fractions = given["rice_piecewise_lr_base0.1_fraction_grid"]
    schedule = Step(at=(0.5, 0.75), factors=(0.1, 0.01), unit="fraction")
    steps = len(fractions) - 1
    ours = [0.1 * schedule.value(Now(1, round(float(fraction) * steps), 1, steps, 0)) for fraction in fractions]
    close(torch.tensor(ours, dtype=torch.float64), given["rice_piecewise_lr_base0.1"])


def test_ema_warm_up(vectors):
    expected = vectors("schedules")["ema_decay_step0to9999"]
    close(torch.tensor([warmed_up(0.999, step) for step in range(len(expected))], dtype=torch.float64), expected)


def test_constant_schedule_is_constant():
    assert set(by_epoch(Constant(at=0.3), 5).tolist()) == {0.3}


def test_the_vector_network_is_the_one_described(network):
    assert [type(module) for module in network][:3] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
