"""The names, defaults, return values and log lines of the `autoattack` package."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, Square
from poise.attacks.autoattack import AutoAttack as NativeAutoAttack
from poise.core.errors import InputError, SettingsError
from poise.interop.autoattack import AutoAttack
from poise.interop.autoattack_flags import flags
from poise.threats import L1, L2, Linf


def quick(net: Any, **settings: object) -> AutoAttack:
    adversary = AutoAttack(net, eps=0.05, **settings)  # type: ignore[arg-type]
    adversary.apgd.n_iter = adversary.apgd_targeted.n_iter = adversary.fab.n_iter = 5
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 2
    adversary.square.n_queries = 30
    return adversary


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_each_version_is_the_published_protocol(net: nn.Module, version: str, norm: str) -> None:
    adversary = AutoAttack(net, norm=norm, eps=0.25, version=version)  # type: ignore[arg-type]
    threat = {"Linf": Linf, "L2": L2, "L1": L1}[norm](epsilon=0.25)
    native = NativeAutoAttack(version=version, threat=threat)  # type: ignore[arg-type]
    assert tuple(adversary._native(name) for name in adversary.attacks_to_run) == native.components()


def test_it_returns_images_and_labels_and_repeats_without_a_seed(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    x_adv, labels = quick(net, verbose=False).run_standard_evaluation(x, y, bs=8, return_labels=True)
    assert isinstance(x_adv, Tensor)
    with torch.no_grad():
        assert torch.equal(net(x_adv).argmax(1), labels)
    assert (x_adv - x).abs().max() <= 0.05 + 1e-6
    assert int((labels != y).sum()) > 0
    assert torch.equal(quick(net, verbose=False).run_standard_evaluation(x, y, bs=8), x_adv)


def test_each_attack_alone_gives_a_dictionary(
    net: nn.Module, batch: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = batch
    images = quick(net).run_standard_evaluation_individual(x, y)
    assert list(images) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert re.search(r"robust accuracy by FAB-T \t \d+\.\d\d% \t \(time attack: \d+\.\d s\)", capsys.readouterr().out)
    pairs = quick(net, verbose=False).run_standard_evaluation_individual(x, y, return_labels=True)
    for name, (x_adv, labels) in pairs.items():
        alone = images[name]
        assert isinstance(alone, Tensor)
        assert torch.equal(x_adv, alone)
        with torch.no_grad():
            assert torch.equal(net(x_adv).argmax(1), labels)


def test_the_log_has_the_lines_that_people_read(
    net: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = batch
    log = tmp_path / "log.txt"
    x_adv = quick(net, log_path=log).run_standard_evaluation(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines == log.read_text().splitlines()
    assert lines[0] == "using standard version including apgd-ce, apgd-t, fab-t, square."
    assert lines[1] == "initial accuracy: 95.00%"
    for place, name in enumerate(("APGD-CE", "APGD-T", "FAB-T", "SQUARE"), start=2):
        assert re.fullmatch(rf"robust accuracy after {name}: \d+\.\d\d% \(total time \d+\.\d s\)", lines[place])
    assert re.fullmatch(
        r"max Linf perturbation: 0\.0\d{4}, nan in tensor: 0, max: \d\.\d{5}, min: \d\.\d{5}", lines[-2]
    )
    with torch.no_grad():
        accuracy = float((net(x_adv).argmax(1) == y).double().mean())
    assert lines[-1] == f"robust accuracy: {accuracy:.2%}"


def test_a_state_file_brings_back_images_too(net: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x, y = batch
    asked: list[int] = []
    net.register_forward_hook(lambda *given: asked.append(1))
    first = quick(net, verbose=False).run_standard_evaluation(x, y, state_path=tmp_path / "state")
    once = len(asked)
    again = quick(net, verbose=False).run_standard_evaluation(x, y, state_path=tmp_path / "state")
    assert torch.equal(first, again) and len(asked) - once < once / 4


def test_sub_attacks_run_on_their_own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    adversary = quick(net, version="custom")
    assert adversary.apgd.n_restarts == 5
    assert adversary.clean_accuracy(x, y, bs=7) == pytest.approx(0.95)
    for part in (adversary.apgd, adversary.apgd_targeted, adversary.fab, adversary.square):
        x_adv = part.perturb(x, y)
        assert x_adv.shape == x.shape
        assert (x_adv - x).abs().max() <= 0.05 + 1e-6


def test_any_function_of_images_is_attacked(net: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x, y = batch
    wanted = quick(net, verbose=False).run_standard_evaluation(x, y)
    for model in (lambda z: net(z), net.forward, partial(lambda scale, z: scale * net(z), 1)):
        adversary = quick(model, verbose=False, device="cpu", log_path=tmp_path / "log.txt")
        assert torch.equal(adversary.run_standard_evaluation(x, y), wanted)
        assert adversary.clean_accuracy(x, y) == pytest.approx(0.95)
        assert torch.equal(adversary.get_logits(x), net(x))
        assert adversary.fab.perturb(x, y).shape == x.shape
    assert "robust accuracy after SQUARE" in (tmp_path / "log.txt").read_text()
    with pytest.raises(SettingsError, match="model is str, must be a network or a function"):
        quick("net")


def test_attributes_that_users_read_and_set_are_there(
    net: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = batch
    adversary = quick(net, seed=5, device="cpu", log_path=tmp_path / "log.txt")
    assert (adversary.get_seed(), quick(net).get_seed()) == (5, 0)
    adversary.logger.log("a line of one's own")
    assert capsys.readouterr().out == (tmp_path / "log.txt").read_text() == "a line of one's own\n"
    for part in (adversary.apgd, adversary.apgd_targeted, adversary.fab, adversary.square):
        assert (part.device, part.verbose, part.eps) == ("cpu", False, 0.05)
    assert adversary.apgd.thr_decr == 0.75
    adversary.apgd.thr_decr = 0.5
    assert adversary._native("apgd-ce") == APGD(threat=Linf(epsilon=0.05), steps=5, rho=0.5)
    adversary.square.rescale_schedule, adversary.square.predict = True, net
    assert adversary._native("square") == Square(threat=Linf(epsilon=0.05), queries=30)
    adversary.apgd.verbose = True
    adversary.apgd.perturb(x, y)
    assert re.fullmatch(r"initial accuracy: 95.00%, robust accuracy: \d+\.\d\d%\n", capsys.readouterr().out)
    said = []
    adversary.logger, adversary.verbose = SimpleNamespace(log=said.append), True
    adversary.clean_accuracy(x, y)
    assert said == ["clean accuracy: 95.00%"]


def test_what_is_assigned_to_the_whole_reaches_its_parts_and_nothing_is_ignored(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    adversary = quick(net, verbose=False)
    adversary.epsilon, adversary.norm, adversary.seed = 0.5, "L2", 3
    assert adversary._native("fab-t").threat == L2(epsilon=0.5)
    assert (adversary.square.seed, adversary.apgd.eps) == (3, 0.5)
    adversary.apgd_targeted.eps = 0.1
    with pytest.raises(
        SettingsError, match=r"apgd_targeted has norm 'L2' and eps 0.1, must be the whole's, 'L2' and 0.5"
    ):
        adversary.run_standard_evaluation(*batch)
    for owner, name, words in (
        (adversary, "eps", "AutoAttack has no attribute 'eps'; did you mean 'epsilon'?"),
        (adversary.apgd, "n_iters", "APGDAttack has no attribute 'n_iters'; did you mean 'n_iter'?"),
        (adversary.square, "use_rs", "SquareAttack has no attribute 'use_rs'; known: "),
    ):
        for act in (
            lambda owner=owner, name=name: setattr(owner, name, 1),
            lambda owner=owner, name=name: getattr(owner, name),
        ):
            with pytest.raises(AttributeError) as refused:
                act()
            assert words in str(refused.value)
            assert isinstance(refused.value, SettingsError)
        assert not hasattr(owner, name)
    with pytest.raises(InputError, match="bs = 0, must be at least 1"):
        quick(net, verbose=False).run_standard_evaluation(*batch, bs=0)


def test_what_the_package_refuses_is_refused(net: nn.Module) -> None:
    with pytest.raises(SettingsError, match="use version='custom'"):
        AutoAttack(net, attacks_to_run=["square"])
    with pytest.raises(SettingsError, match="norm = 'L3', must be 'Linf', 'L2' or 'L1'"):
        AutoAttack(net, norm="L3")
    with pytest.raises(SettingsError, match="version = 'strong'"):
        AutoAttack(net, version="strong")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'apgd-t'"):
        AutoAttack(net, version="custom", attacks_to_run=["apgdt"])


class Odd(nn.Module):
    """A network whose logits are changed by `how`, which is told how often it was asked."""

    def __init__(self, net: nn.Module, how: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.net, self.how, self.calls = net, how, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.how(self.net(x), self.calls)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda logits, calls: logits * (1 + 0.01 * (calls % 2) * torch.arange(10)), "randomized defense"),
        (lambda logits, calls: logits.softmax(1), "probability distribution"),
        (lambda logits, calls: logits.round(), "there are 20 points with zero gradient"),
        (lambda logits, calls: logits.detach(), "there are 20 points with zero gradient"),
    ],
    ids=["random", "probabilities", "rounded", "without gradient"],
)
def test_signs_of_an_unreliable_evaluation_are_said(
    net: nn.Module, batch: tuple[Tensor, Tensor], how: Callable[[Tensor, int], Tensor], words: str
) -> None:
    said = flags(Odd(net, how), *batch, "standard")
    assert [words in sentence for sentence in said] == [True]
    assert flags(net, *batch, "standard") == []


def test_the_signs_stand_in_the_log_and_a_random_network_is_fit_for_rand(
    net: nn.Module, batch: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = batch
    adversary = AutoAttack(
        Odd(net, lambda logits, calls: logits.softmax(1)), eps=0.01, version="custom", attacks_to_run=["apgd-ce"]
    )
    adversary.apgd.n_iter = 2
    adversary.run_standard_evaluation(x, y)
    assert "Warning: the output seems to be a probability distribution" in capsys.readouterr().out
    assert flags(Odd(net, lambda logits, calls: logits + calls * torch.arange(10)), x, y, "rand") == []
