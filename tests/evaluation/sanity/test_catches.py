"""The inspection catches, by the right check, each known way of looking more robust than one is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.data import Digits
from poise.evaluation.sanity import Claim, Effort, Verdict, inspect
from poise.models import DigitsCNN
from poise.threats import L2, Linf

THREAT = Linf(epsilon=0.2)
SMALL = Effort(
    steps=8, autoattack_steps=15, targets=2, queries=60, gradient_examples=64, gradient_samples=12, substitute_steps=40
)


class Before(nn.Module):
    """A layer in front of a network."""

    def __init__(self, layer: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.layer, self.network = layer, network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.layer(x))


class After(nn.Module):
    """A function of the images and the network's logits."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.answer, self.network = answer, network

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x, self.network(x))


def digits(count: int = 96) -> tuple[Tensor, Tensor]:
    test = Digits().load().test.first(count)
    return test.pixels(), test.labels


def fitted(layer: Callable[[Tensor], Tensor], network: nn.Module, epochs: int = 3) -> nn.Module:
    """The network trained on natural digits behind a layer that is applied without gradient; in evaluating mode."""
    data = Digits().load().train
    x, y = layer(data.pixels()).detach(), data.labels
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def verdict(network: nn.Module, checks: Sequence[str], **changes: object) -> Verdict:
    x, y = digits()
    return inspect(network, x, y, THREAT, effort=SMALL, checks=checks, **changes)  # type: ignore[arg-type]


def test_quantised_input_is_caught(trained):
    found = verdict(
        Before(lambda x: (x * 255).round() / 255, trained("nt_digits")), ["quantisation", "vanishing_gradients"]
    )
    assert found["quantisation"].judgement == "flaw"
    assert found["quantisation"].numbers["rounding"] == ["round"]
    assert found["vanishing_gradients"].judgement == "flaw"


def test_quantised_input_with_a_made_up_gradient_is_a_warning(trained):
    found = verdict(
        Before(lambda x: x + ((x * 255).round() / 255 - x).detach(), trained("nt_digits")), ["quantisation"]
    )
    assert found["quantisation"].judgement == "warning"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_caught(trained, dtype):
    narrow = copy.deepcopy(trained("nt_digits")).to(dtype)
    found = verdict(Before(lambda x: x.to(dtype), nn.Sequential(narrow, Widen())), ["quantisation"])
    assert found["quantisation"].judgement in ("warning", "flaw")
    assert found["quantisation"].numbers["narrow_types"] == [str(dtype).removeprefix("torch.")]


class Widen(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.float()


def test_logits_times_ten_thousand_are_caught(trained):
    found = verdict(
        After(lambda x, logits: 1e4 * logits, trained("at_digits")), ["saturated_logits", "vanishing_gradients"]
    )
    assert found["saturated_logits"].judgement == "flaw"
    assert found["vanishing_gradients"].judgement == "flaw"
    assert "scale" in found["vanishing_gradients"].means


class NoisyInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


class AlwaysTraining(nn.Module):
    """Does not listen to `eval()`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def test_batch_normalisation_in_training_mode_with_noise_is_caught(trained):
    network = nn.Sequential(NoisyInTraining(), copy.deepcopy(trained("at_digits"))).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    found = verdict(network, ["batch_statistics", "randomised_output"])
    assert found["batch_statistics"].judgement == "flaw"
    assert "eval()" in found["batch_statistics"].then
    assert found["randomised_output"].judgement == "pass"  # in evaluating mode it is sound
    assert network.training
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])


def test_training_mode_that_cannot_be_left_is_caught(trained):
    found = verdict(
        AlwaysTraining(nn.Sequential(NoisyInTraining(), copy.deepcopy(trained("at_digits")))).train(),
        ["randomised_output"],
    )
    assert found["randomised_output"].judgement == "flaw"
    silent = AlwaysTraining(copy.deepcopy(trained("at_digits"))).train()
    found = verdict(silent, ["batch_statistics", "randomised_output"])
    assert found["batch_statistics"].judgement == "flaw"
    assert "stays so in evaluating mode" in found["batch_statistics"].means


class Step(torch.autograd.Function):
    """0 or 1, with a gradient that is noise: no rule for known functions sees through it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0.15).to(x.dtype)

    @staticmethod
    def backward(ctx, *towards):
        (x,) = ctx.saved_tensors
        return torch.sin(1e5 * x) * towards[0].abs().mean()


def test_a_sign_like_layer_with_a_misleading_gradient_is_caught():
    network = Before(Step.apply, fitted(lambda x: (x > 0.15).float(), DigitsCNN().build((1, 8, 8), 10, 0)))  # type: ignore[arg-type]
    found = verdict(network, ["shattered_gradients"])
    assert found["shattered_gradients"].judgement == "flaw"
    assert "estimated from" in found["shattered_gradients"].seen


def thermometer(x: Tensor) -> Tensor:
    """[B, 1, H, W] to [B, 8, H, W]: whether the pixel reaches each of eight levels (Buckman et al. 2018)."""
    return (x >= torch.arange(1, 9).view(-1, 1, 1) / 9).float()


def test_an_eight_level_thermometer_is_caught():
    network = Before(thermometer, fitted(thermometer, DigitsCNN().build((8, 8, 8), 10, 0)))
    found = verdict(network, ["shattered_gradients", "vanishing_gradients"])
    assert found["vanishing_gradients"].judgement == "flaw"
    assert found["shattered_gradients"].judgement == "flaw"
    assert "straight through float, ge" in found["shattered_gradients"].seen


class RandomResize(nn.Module):
    """Shrinks the images by a random amount and puts them at a random place (Xie et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        side = int(torch.randint(5, 9, ()))
        top, left = (int(torch.randint(0, 9 - side, ())) for _ in range(2))
        small = F.interpolate(x, size=(side, side), mode="bilinear")
        return F.pad(small, (left, 8 - side - left, top, 8 - side - top))


def test_a_random_resize_defence_is_caught_and_the_callers_generator_stays(trained):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    network = Before(RandomResize(), trained("nt_digits"))
    found = [verdict(network, ["randomised_output"])["randomised_output"] for _ in range(2)]
    assert found[0].judgement == "flaw"
    assert found[0].numbers["labels_differ"] > 0.05
    assert found[0].numbers["draws"] == ["randint"]
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), state)


def refusing(x: Tensor, logits: Tensor) -> Tensor:
    """Constant logits for images with pixels between the sixteen grey levels of natural ones."""
    between = ((16 * x - (16 * x).round()).abs() > 0.05).float().mean((1, 2, 3))
    constant = torch.zeros_like(logits)
    constant[:, 0] = 1
    return torch.where(between[:, None] > 0.2, constant, logits)


def test_a_detector_that_returns_constant_logits_is_caught(trained):
    x, _ = digits()
    with torch.no_grad():
        refused = (refusing(x, torch.rand(len(x), 10)).amax(1) == 1).float().mean()
    assert refused == 0  # it lets natural images pass
    found = verdict(After(refusing, trained("nt_digits")), ["constant_logits"])
    assert found["constant_logits"].judgement == "flaw"
    assert "[1, 0, 0, 0, ...]" in found["constant_logits"].seen


def test_a_network_without_a_graph_is_caught_and_square_still_judges_it(trained):
    network = Before(lambda x: torch.from_numpy(x.detach().numpy().copy()), trained("nt_digits"))
    found = verdict(network, ["vanishing_gradients", "shattered_gradients", "black_box", "more_steps"])
    assert found["vanishing_gradients"].judgement == "flaw"
    assert found["shattered_gradients"].judgement == "flaw"
    assert found["more_steps"].judgement == "not applicable"
    assert found["black_box"].numbers["Square"] < 0.5


def test_epsilon_and_pixels_in_other_units_are_caught(trained):
    x, y = digits()
    nt = trained("nt_digits")

    def judged(network: nn.Module, x: Tensor, threat: Linf | L2) -> str:
        found = inspect(network, x, y, threat, effort=SMALL, checks=["pixel_units"])["pixel_units"]
        return found.judgement + ": " + found.seen

    assert judged(nt, x, THREAT).startswith("pass")
    assert "flaw: Twice epsilon = 128 reaches" in judged(nt, x, L2(epsilon=128))
    assert "less than half a grey level" in judged(nt, x, Linf(epsilon=8 / 255**2))
    assert "No pixel exceeds" in judged(nt, x / 255, THREAT)
    assert "multiplied by 255" in judged(Before(lambda x: (x / 255 - 0.1).clamp(min=0) * 1.1, nt), x, THREAT)


def test_a_wrong_report_is_caught(trained):
    x, _ = digits()
    outside = (x + 0.3).clamp(0, 1)
    claims = {"mine": Claim(x, 0.25), "theirs": Claim(outside, 0.0)}
    found = verdict(trained("nt_digits"), ["reported_accuracy"], claims=claims)["reported_accuracy"]
    assert found.judgement == "flaw"
    assert "mine was reported to leave 25.0 %" in found.seen
    assert "96 images of theirs lie outside" in found.seen
