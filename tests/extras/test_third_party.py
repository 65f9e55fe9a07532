"""Attacks of torchattacks, foolbox and ART as they are: they run by their names, repeat, and stay in the threat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from poise.attacks import ART, Foolbox, Torchattacks
from poise.attacks.third_party import ThirdParty
from poise.core.errors import InputError
from poise.threats import L2, Linf

NEAR, ROUND = Linf(epsilon=8 / 255), L2(epsilon=0.5)
ATTACKS: list[ThirdParty] = [
    *(Torchattacks(name=name) for name in ("FGSM", "PGD", "DIFGSM", "TIFGSM", "VMIFGSM", "APGD", "FAB", "PIFGSM")),
    Torchattacks(name="PGDL2", threat=ROUND, steps=5),
    Torchattacks(name="APGDT", threat=ROUND, steps=3),
    Torchattacks(name="Square", n_queries=20),
    Torchattacks(name="DeepFool", outside="natural"),
    Torchattacks(name="CW", threat=ROUND, steps=5, outside="project"),
    *(Foolbox(name=name) for name in ("LinfPGD", "LinfDeepFoolAttack", "MIFGSM", "LinfFastGradientAttack")),
    Foolbox(name="L2CarliniWagnerAttack", threat=ROUND, steps=10, binary_search_steps=2),
    Foolbox(name="L2PGD", threat=ROUND, steps=5),
    Foolbox(name="InversionAttack"),
    ART(name="ProjectedGradientDescent", max_iter=5),
    ART(name="FastGradientMethod", threat=ROUND),
    ART(name="DeepFool", max_iter=5, outside="project"),
]


AIMED = [Torchattacks(name="PGD"), Foolbox(name="LinfPGD"), ART(name="ProjectedGradientDescent")]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{type(attack).__name__}-{attack.name}")
def test_an_attack_of_a_library_runs_repeats_and_stays_in_its_threat(attack: ThirdParty) -> None:
    pytest.importorskip(attack.package)
    model = network()
    model.train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    z = attack(model, x, y)
    assert z.shape == x.shape and float(z.min()) >= 0 and float(z.max()) <= 1
    assert float(attack.threat.norm(z - x).max()) <= attack.threat.epsilon * (1 + 1e-5)
    assert torch.equal(attack(model, x, y), z)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert attack.facts(model)["third_party"].startswith(attack.distribution)


@pytest.mark.parametrize("attack", AIMED, ids=lambda attack: attack.package)
def test_an_attack_of_a_library_goes_towards_a_target(attack: ThirdParty) -> None:
    pytest.importorskip(attack.package)
    model = network().eval()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(1)
    target = (y + 1) % 6
    z = attack(model, x, y, target=target)
    before, after = (model(images).softmax(1).gather(1, target[:, None]) for images in (x, z))
    assert bool((after > before).all())


def test_what_a_library_cannot_is_one_sentence() -> None:
    pytest.importorskip("torchattacks")
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"TPGD of torchattacks does not work here, .*Targeted mode is not supported"):
        Torchattacks(name="TPGD")(network(), x, y, target=y)
    with pytest.raises(InputError, match=r"PGD of torchattacks left L2\(epsilon=0.1"):
        Torchattacks(name="PGD", threat=L2(epsilon=0.1))(network(), x, y)
