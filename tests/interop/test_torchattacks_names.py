"""The names, defaults, modes and normalisation of the `torchattacks` package, against Poise's attacks called
directly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from poise import attacks as ours
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import everyone
from poise.interop import torchattacks as theirs
from poise.threats import L1, L2, Linf

Batch = tuple[Tensor, Tensor]
T, T2 = Linf(epsilon=8 / 255), L2(epsilon=1.0)
TABLE: list[tuple[Callable[[nn.Module], Any], ours.Attack]] = [
    (theirs.FGSM, ours.FGSM()),
    (theirs.BIM, ours.PGD(steps=10, start="zero")),
    (lambda net: theirs.BIM(net, eps=4 / 255, steps=0), ours.PGD(threat=Linf(epsilon=4 / 255), steps=5, start="zero")),
    (theirs.PGD, ours.PGD(steps=10)),
    (
        lambda net: theirs.PGD(net, 8 / 255, 1 / 255, 3, random_start=False),
        ours.PGD(step_size=1 / 255, steps=3, start="zero"),
    ),
    (theirs.PGDL2, ours.PGD(threat=T2, step_size=0.2, steps=10)),
    (theirs.TPGD, ours.PGD(steps=10, start="clamped_gaussian", loss="kl")),
    (theirs.MIFGSM, ours.MIM(steps=10, start="zero")),
    (theirs.APGD, ours.APGD(steps=10)),
    (
        lambda net: theirs.APGD(net, norm="L2", eps=1.0, loss="dlr", n_restarts=2),
        ours.APGD(threat=T2, steps=10, loss="dlr", restarts=2),
    ),
    (lambda net: theirs.APGD(net, norm="L1", eps=1.0), ours.APGD(threat=L1(epsilon=1.0), steps=10)),
    (lambda net: theirs.APGDT(net, steps=4), ours.APGD(steps=4, loss="targeted_dlr")),
    (theirs.FAB, ours.FAB(steps=10)),
    (lambda net: theirs.FAB(net, multi_targeted=True, steps=3), ours.FAB(steps=3, targeted=True)),
    (lambda net: theirs.Square(net, n_queries=20), ours.Square(queries=20)),
    (
        lambda net: theirs.AutoAttack(net, norm="L2", eps=0.3, version="plus"),
        ours.AutoAttack(threat=L2(epsilon=0.3), version="plus"),
    ),
]


def draw_of(atk: Any, call: int | str, count: int = 20) -> Any:
    seed = getattr(atk, "seed", None)
    return everyone(seed or 0, "torchattacks", atk.attack, "seeded" if seed is not None else call, count=count)


@pytest.mark.parametrize(
    ("make", "native"), TABLE, ids=lambda value: getattr(value, "name", None) or getattr(value, "__name__", "made")
)
def test_each_attack_is_poises_with_its_arguments(net: nn.Module, batch: Batch, make: Any, native: ours.Attack) -> None:
    atk = make(net)
    assert atk.native() == native
    if not isinstance(native, ours.AutoAttack):  # whose budgets are not for tests
        x, y = batch
        adv = atk(x, y)
        assert torch.equal(adv, native(net, x, y, draw=draw_of(atk, 0)))
        assert not torch.equal(adv, x)


def test_calls_draw_anew_and_new_attacks_and_seeds_repeat(net: nn.Module, batch: Batch) -> None:
    atk, again = (theirs.PGD(net, steps=1) for _ in range(2))
    first, second = atk(*batch), atk(*batch)
    assert not torch.equal(first, second)
    assert torch.equal(again(*batch), first)
    assert torch.equal(again(*batch), second)
    square = theirs.Square(net, n_queries=5, seed=1)
    assert torch.equal(square(*batch), square(*batch))
    assert not torch.equal(square(*batch), theirs.Square(net, n_queries=5, seed=2)(*batch))


def test_settings_may_be_changed_afterwards_as_in_the_package(net: nn.Module, batch: Batch) -> None:
    atk = theirs.PGD(net)
    atk.eps, atk.steps = 0.0, 1
    assert torch.equal(atk(*batch), batch[0])


def test_normalised_images_give_the_attack_in_pixels(net: nn.Module, batch: Batch) -> None:
    x, y = batch
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    scale = (torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1))

    class Normalised(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return net(z * scale[1] + scale[0])

    plain, atk = theirs.PGD(net), theirs.PGD(Normalised())
    atk.set_normalization_used(mean, std)
    given = (x - scale[0]) / scale[1]
    found = atk(given, y) * scale[1] + scale[0]
    torch.testing.assert_close(found, plain(x, y), atol=1e-5, rtol=0)
    assert (found - x).abs().max() <= 8 / 255 + 1e-5
    with pytest.raises(InputError, match=r"inputs \* std \+ mean has pixels in"):
        atk(given * 10, y)


def test_targeted_modes_reach_for_the_right_classes(net: nn.Module, batch: Batch) -> None:
    x, y = batch
    wide = theirs.PGD(net, eps=0.5, alpha=0.05, steps=40)
    with torch.no_grad():
        logits = net(x)

    def reached(atk: Any, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return net(atk(x, labels)).argmax(1)

    wide.set_mode_targeted_by_label()
    assert wide.get_mode() == "targeted(label)"
    assert wide.targeted
    target = (y + 3) % 10
    assert torch.equal(reached(wide, target), target)
    native = ours.PGD(threat=Linf(epsilon=0.5), step_size=0.05, steps=40)
    assert torch.equal(wide(x, target), native(net, x, y, target=target, draw=draw_of(wide, 1)))
    wide.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 10)
    assert torch.equal(reached(wide, y), (y + 1) % 10)
    others = logits.scatter(1, y[:, None], torch.inf)
    for kth in (1, 2):
        wide.set_mode_targeted_least_likely(kth)
        assert torch.equal(reached(wide, y), others.sort(dim=1).indices[:, kth - 1])
    wide.set_mode_targeted_random()
    drawn = reached(wide, y)
    assert (drawn != y).all()
    assert len(drawn.unique()) > 3
    wide.set_mode_default()
    assert wide.get_mode() == "default"
    assert (reached(wide, y) != y).all()


def test_the_model_keeps_its_modes(net: nn.Module, batch: Batch) -> None:
    net.train()
    net[0].eval()  # type: ignore[index]
    theirs.PGD(net, steps=1)(*batch)
    assert net.training
    assert not net[0].training  # type: ignore[index]


@pytest.mark.parametrize("save_type", ["float", "int"])
def test_saved_images_come_back(
    net: nn.Module, batch: Batch, tmp_path: Path, save_type: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = batch
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    atk, again = (theirs.PGD(net, steps=3) for _ in range(2))
    path = tmp_path / "adv.pt"
    told = atk.save(
        loader, path, return_verbose=True, save_predictions=True, save_clean_inputs=True, save_type=save_type
    )
    wanted = torch.cat([again(images, labels) for images, labels in loader])
    with torch.no_grad():
        predicted = net(wanted).argmax(1)
    assert told is not None
    assert told[0] == pytest.approx(100 * float((predicted == y).double().mean()))
    assert told[1] == pytest.approx(float((wanted - x)[predicted != y].flatten(1).norm(dim=1).mean()), rel=1e-5)
    assert "robust accuracy: " in capsys.readouterr().out
    columns = list(
        zip(*theirs.Attack.load(path, batch_size=8, load_predictions=True, load_clean_inputs=True), strict=True)
    )
    images, labels, preds, clean = (torch.cat(column) for column in columns)
    slack = 0 if save_type == "float" else 1 / 255
    assert (images - wanted).abs().max() <= slack
    assert (clean - x).abs().max() <= slack
    assert torch.equal(labels, y)
    assert torch.equal(preds, predicted)
    normalised = next(iter(theirs.Attack.load(path, batch_size=20, normalize={"mean": [0.5] * 3, "std": [0.5] * 3})))[0]
    torch.testing.assert_close(normalised, (images - 0.5) / 0.5)


def test_what_is_not_supported_is_refused_in_one_sentence(net: nn.Module, batch: Batch, tmp_path: Path) -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("has no attack 'DIFGSM'; it has APGD", lambda: theirs.DIFGSM),
        ("APGD has no targeted mode", lambda: theirs.APGD(net).set_mode_targeted_random()),
        ("only False is supported", lambda: theirs.PGD(net).set_model_training_mode(batchnorm_training=True)),
        ("loss = 'ce', must be 'margin'", lambda: theirs.Square(net, loss="ce")(*batch)),  # type: ignore[arg-type]
        ("loss = 'kl', must be 'ce' or 'dlr'", lambda: theirs.APGD(net, loss="kl")(*batch)),  # type: ignore[arg-type]
        ("norm = 'L3', must be", lambda: theirs.FAB(net, norm="L3")(*batch)),  # type: ignore[arg-type]
        ("version = 'custom', must be", lambda: theirs.AutoAttack(net, version="custom")(*batch)),  # type: ignore[arg-type]
        ("save_type = 'half'", lambda: theirs.PGD(net).save(DataLoader(TensorDataset(*batch)), save_type="half")),  # type: ignore[arg-type]
    ]
    for words, call in calls:
        with pytest.raises(SettingsError, match=words):
            call()
    atk = theirs.PGD(net)
    atk.set_mode_targeted_by_label()
    with pytest.raises(InputError, match="labels is None"):
        atk(batch[0])
    atk.set_mode_targeted_least_likely(10)
    with pytest.raises(SettingsError, match="kth_min = 10, must be from 1 to 9"):
        atk(*batch)
    theirs.PGD(net, steps=1).save(DataLoader(TensorDataset(*batch)), tmp_path / "adv.pt", verbose=False)
    with pytest.raises(InputError, match="holds no preds"):
        theirs.Attack.load(tmp_path / "adv.pt", load_predictions=True)
    assert not hasattr(theirs, "_nothing") and not hasattr(theirs, "DeepFool") and hasattr(theirs, "PGD")
