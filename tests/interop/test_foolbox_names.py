"""The names, units and return values of the `foolbox` package, against Poise's attacks called directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise import attacks as ours
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import everyone
from poise.interop import foolbox as theirs
from poise.threats import L1, L2, Linf

Batch = tuple[Tensor, Tensor]
EPSILONS = [0.0, 0.02, 0.1]
TABLE: list[tuple[theirs.Attack, Callable[[float], ours.Attack]]] = [
    (theirs.FGSM(), lambda e: ours.PGD(threat=Linf(epsilon=e), step_size=e, steps=1, start="zero")),
    (theirs.FGM(random_start=True), lambda e: ours.PGD(threat=L2(epsilon=e), step_size=e, steps=1)),
    (theirs.PGD(), lambda e: ours.PGD(threat=Linf(epsilon=e), step_size=0.01 / 0.3 * e, steps=40)),
    (theirs.PGD(abs_stepsize=0.01, steps=5), lambda e: ours.PGD(threat=Linf(epsilon=e), step_size=0.01, steps=5)),
    (theirs.L2PGD(), lambda e: ours.PGD(threat=L2(epsilon=e), step_size=0.025 * e, steps=50)),
    (
        theirs.LinfBasicIterativeAttack(),
        lambda e: ours.PGD(threat=Linf(epsilon=e), step_size=0.2 * e, steps=10, start="zero"),
    ),
    (
        theirs.L2BasicIterativeAttack(),
        lambda e: ours.PGD(threat=L2(epsilon=e), step_size=0.2 * e, steps=10, start="zero"),
    ),
    (
        theirs.SparseL1DescentAttack(quantile=0.9),
        lambda e: ours.PGD(threat=L1(epsilon=e, density=1 - 0.9), step_size=0.2 * e, steps=10, start="zero"),
    ),
    (theirs.MIFGSM(), lambda e: ours.MIM(threat=Linf(epsilon=e), step_size=0.2 * e, steps=10, start="zero")),
    (theirs.FixedEpsilon(ours.APGD(steps=5)), lambda e: ours.APGD(threat=Linf(epsilon=e), steps=5)),
]


@pytest.mark.parametrize(("attack", "native"), TABLE, ids=lambda value: type(value).__name__)
def test_each_attack_is_poises_at_every_epsilon(
    net: nn.Module, batch: Batch, attack: theirs.Attack, native: Any
) -> None:
    x, y = batch
    draw = everyone(0, "foolbox", type(attack).__name__, 0, 0, count=20)
    raw, clipped, success = attack.repeat(1)(theirs.PyTorchModel(net), x, y, epsilons=EPSILONS)
    assert success.shape == (3, 20)
    assert success.dtype == torch.bool
    for place, epsilon in enumerate(EPSILONS):
        found = native(epsilon)(net, x, y, draw=draw) if epsilon else x
        assert torch.equal(raw[place], found)
        assert native(0.5).threat.norm(clipped[place] - x).max() <= epsilon + 1e-6
        with torch.no_grad():
            assert torch.equal(success[place], net(clipped[place]).argmax(1) != y)
    assert success[0].sum() == 1, "the one that is misclassified anyway"
    assert success.sum(1).diff().min() >= 0
    assert success[2].sum() > 1


def test_one_epsilon_gives_single_tensors_and_run_the_raw_images(net: nn.Module, batch: Batch) -> None:
    fmodel, attack = theirs.PyTorchModel(net), theirs.FGSM()
    raw, clipped, success = attack(fmodel, *batch, epsilons=0.1)
    assert raw.shape == clipped.shape == batch[0].shape
    assert success.shape == (20,)
    assert torch.equal(attack.run(fmodel, *batch, epsilon=0.1), raw)
    many = attack(fmodel, *batch, epsilons=[0.1])
    assert torch.equal(many[0][0], raw)
    assert torch.equal(attack(fmodel, batch[0], theirs.Misclassification(batch[1]), epsilons=0.1)[0], raw)


@pytest.mark.parametrize("name", ["PGD", "L2PGD"])
def test_bounds_are_the_unit_of_images_and_epsilons(net: nn.Module, batch: Batch, name: str) -> None:
    x, y = batch

    class Bytes(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return net((z + 10) / 200)

    make = getattr(theirs, name)
    wide, unit = theirs.PyTorchModel(Bytes(), bounds=(-10, 190)), theirs.PyTorchModel(net)
    raw, clipped, success = make(steps=5)(wide, x * 200 - 10, y, epsilons=[20.0, 60.0])
    plain, _, reached = make(steps=5)(unit, x, y, epsilons=[0.1, 0.3])
    for one, two in zip(raw, plain, strict=True):
        torch.testing.assert_close(one, two * 200 - 10, atol=2e-3, rtol=0)
    assert torch.equal(success, reached)
    assert min(images.min() for images in clipped) >= -10
    assert max(images.max() for images in clipped) <= 190
    assert theirs.accuracy(wide, x * 200 - 10, y) == theirs.accuracy(unit, x, y) == pytest.approx(0.95)


def test_preprocessing_is_inside_the_model(net: nn.Module, batch: Batch) -> None:
    x, y = batch

    class Normalised(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return net(z * 0.25 + 0.5)

    fmodel = theirs.PyTorchModel(Normalised(), preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3, "axis": -3})
    torch.testing.assert_close(fmodel(x), net(x).detach(), atol=1e-4, rtol=1e-4)
    same = theirs.PyTorchModel(Normalised(), preprocessing={"mean": 0.5, "std": 0.25})
    assert torch.equal(same(x), fmodel(x))
    assert theirs.accuracy(fmodel, x, y) == pytest.approx(0.95)


def test_a_target_is_reached(net: nn.Module, batch: Batch) -> None:
    x, y = batch
    target = (y + 4) % 10
    attack = theirs.PGD(abs_stepsize=0.05)
    _, clipped, success = attack(theirs.PyTorchModel(net), x, theirs.TargetedMisclassification(target), epsilons=0.5)
    with torch.no_grad():
        assert torch.equal(net(clipped).argmax(1) == target, success)
    assert success.all()


def test_repeating_keeps_the_first_success_of_each_example(net: nn.Module, batch: Batch) -> None:
    x, y = batch
    fmodel, epsilon = theirs.PyTorchModel(net), 0.02
    native = ours.PGD(threat=Linf(epsilon=epsilon), step_size=epsilon, steps=1)
    draws = [everyone(0, "foolbox", "LinfFastGradientAttack", 0, time, count=20) for time in range(3)]
    runs = [native(net, x, y, draw=draw) for draw in draws]
    with torch.no_grad():
        wins = [net(run).argmax(1) != y for run in runs]
    raw, _, success = theirs.FGSM(random_start=True).repeat(3)(fmodel, x, y, epsilons=epsilon)
    assert torch.equal(success, wins[0] | wins[1] | wins[2])
    assert success.sum() > wins[0].sum(), "repetition found something"
    for row in range(20):
        first = next((time for time in range(3) if wins[time][row]), 0)
        assert torch.equal(raw[row], runs[first][row])


def test_calls_draw_anew_and_a_new_attack_repeats(net: nn.Module, batch: Batch) -> None:
    fmodel = theirs.PyTorchModel(net)
    attack, again = (theirs.PGD(steps=1) for _ in range(2))
    first, second = (attack.run(fmodel, *batch, epsilon=0.1) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(again.run(fmodel, *batch, epsilon=0.1), first)


def test_what_is_not_supported_is_refused_in_one_sentence(net: nn.Module, batch: Batch) -> None:
    fmodel, attack = theirs.PyTorchModel(net), theirs.PGD()
    calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (SettingsError, "has no attack 'BoundaryAttack'; it has FGM", lambda: theirs.BoundaryAttack),
        (AttributeError, "has no attack 'BoundaryAttack'; it has FGM", lambda: theirs.attacks.BoundaryAttack),
        (SettingsError, "epsilons = None asks for the smallest", lambda: attack(fmodel, *batch, epsilons=[0.1, None])),  # type: ignore[list-item]
        (SettingsError, "bounds = ", lambda: theirs.PyTorchModel(net, bounds=(1, 1))),
        (SettingsError, "axis = -1, must be -3", lambda: theirs.PyTorchModel(net, preprocessing={"axis": -1})),
        (
            SettingsError,
            "preprocessing has 'flip_axis'",
            lambda: theirs.PyTorchModel(net, preprocessing={"flip_axis": -3}),
        ),
        (InputError, "has pixels in", lambda: attack(fmodel, batch[0] * 255, batch[1], epsilons=0.1)),
        (InputError, "criterion is str", lambda: attack(fmodel, batch[0], "labels", epsilons=0.1)),  # type: ignore[arg-type]
    ]
    for error, words, call in calls:
        with pytest.raises(error, match=words):
            call()
    assert not hasattr(theirs, "BoundaryAttack") and not hasattr(theirs, "_nothing")


def test_the_packages_usual_paths_lead_to_the_same_names(net: nn.Module, batch: Batch) -> None:
    from poise.interop.foolbox.attacks import LinfPGD
    from poise.interop.foolbox.criteria import Misclassification, TargetedMisclassification

    assert theirs.attacks.LinfPGD is theirs.attacks.LinfProjectedGradientDescentAttack is theirs.PGD is LinfPGD
    assert theirs.criteria.TargetedMisclassification is theirs.TargetedMisclassification is TargetedMisclassification
    assert set(theirs.attacks.__all__) <= set(theirs.__all__)
    x, y = batch
    fmodel = theirs.models.PyTorchModel(net)
    _, clipped, success = LinfPGD(steps=2)(fmodel, x, Misclassification(y), epsilons=0.05)
    assert torch.equal(Misclassification(y)(clipped, fmodel(clipped)), success)
    assert torch.equal(TargetedMisclassification(y)(clipped, fmodel(clipped)), ~success)
