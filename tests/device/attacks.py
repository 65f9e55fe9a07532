"""Every attack finds on a pretended GPU what it finds on a CPU, and no step of it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.pretended import pretended_gpu
from torch import Tensor, nn

from poise import attacks as A
from poise.attacks.attack import Attack
from poise.core.settings import registered
from poise.models import Collaboration, DigitsCNN, Network, ResNet20
from poise.threats import L1, L2, Linf

SHAPE, COUNT = (3, 8, 8), 8
CNN, TEAM = DigitsCNN(width=4), Collaboration(member=DigitsCNN(width=4), members=2)
NEAR, BALL, SUM = Linf(epsilon=0.02), L2(epsilon=0.3), L1(epsilon=2.0, density=0.1)
CASES: dict[str, tuple[Network, Any, int]] = {
    "FGSM": (CNN, A.FGSM(threat=NEAR), 0),
    "PGD": (CNN, A.PGD(threat=NEAR, steps=3), 0),
    "PGD L2": (CNN, A.PGD(threat=BALL, steps=3), 0),
    "PGD L1": (CNN, A.PGD(threat=SUM, steps=3, step_size=0.5), 0),
    "PGD of several runs": (CNN, A.PGD(threat=NEAR, steps=3, restarts=2, keep="largest_margin", loss="kl"), 0),
    "MIM": (CNN, A.MIM(threat=NEAR, steps=3), 0),
    "CW": (CNN, A.CW(threat=NEAR, steps=3), 0),
    "Collaborative": (CNN, A.Collaborative(threat=NEAR, steps=3), 0),
    "APGD": (CNN, A.APGD(threat=NEAR, steps=4), 1),
    "APGD-T": (CNN, A.APGD(threat=NEAR, steps=4, loss="targeted_dlr", targets=2), 2),
    "APGD L2": (CNN, A.APGD(threat=BALL, steps=4), 1),
    "APGD L1": (CNN, A.APGD(threat=SUM, steps=4), 1),
    "FAB-T": (CNN, A.FAB(threat=NEAR, steps=4, targeted=True, targets=2), 2),
    "FAB L2": (CNN, A.FAB(threat=BALL, steps=4), 1),
    "FAB L1": (CNN, A.FAB(threat=SUM, steps=4), 1),
    "Square": (CNN, A.Square(threat=NEAR, queries=8), 2),
    "Square L2": (CNN, A.Square(threat=BALL, queries=8), 2),
    "Square L1": (CNN, A.Square(threat=SUM, queries=8), 2),
    "MPGD": (ResNet20(width=2), A.MPGD(threat=NEAR, steps=3), 0),
    "SGM": (ResNet20(width=2), A.SGM(threat=NEAR, steps=3), 0),
    "MDI2FGSM": (ResNet20(width=2), A.MDI2FGSM(threat=NEAR, steps=3), 0),
    "AimedPGD": (TEAM, A.AimedPGD(threat=NEAR, steps=2), 0),
    "AdaptivePGD": (TEAM, A.AdaptivePGD(threat=NEAR, steps=2, restarts=1, lambdas=(0.5,)), 0),
    "SoftMixturePGD": (TEAM, A.SoftMixturePGD(threat=NEAR, steps=2, restarts=1), 0),
    "TransferFromExperts": (TEAM, A.TransferFromExperts(threat=NEAR, steps=2, restarts=1), 0),
}
"""With how often more each may wait when it takes twice the steps: those in lanes look at their flags every eight steps."""
WHOLE = {A.AutoAttack, A.Saved}
"""AutoAttack has a test of its own; Saved reads images from a file."""


def examples(model: Network) -> tuple[nn.Module, Tensor, Tensor]:
    """Images with the labels that the network gives them."""
    x = torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1))
    network = model.build(SHAPE, 10, seed=0).eval()
    with torch.no_grad():
        return network, x, network(x).argmax(1)


def longer(attack: Any) -> Any:
    name = "queries" if isinstance(attack, A.Square) else "steps"
    return replace(attack, **{name: 2 * getattr(attack, name)}) if hasattr(attack, name) else attack


def test_every_attack_is_among_the_cases() -> None:
    assert {type(attack) for _, attack, _ in CASES.values()} | WHOLE == set(registered(Attack).values())


@pytest.mark.parametrize("name", CASES)
def test_an_attack_finds_the_cpus_images_and_no_step_of_it_waits(name: str) -> None:
    model, attack, rounds = CASES[name]
    network, x, y = examples(model)
    plain = attack(network, x, y)
    with pretended_gpu() as gpu:
        on, images, labels = network.to("cuda"), x.to("cuda"), y.to("cuda")
        waits = []
        for each in (attack, longer(attack)):
            gpu.waits.clear()
            made = each(on, images, labels)
            waits.append(gpu.waits.total())
            if each is attack:
                torch.testing.assert_close(made.cpu(), plain, atol=1e-6, rtol=0)
        assert waits[1] - waits[0] <= rounds, gpu.waits
        assert not gpu.faults


@pytest.mark.parametrize("lanes", [4, 1024])  # refilled or not
def test_autoattack_breaks_what_it_breaks_on_a_cpu(monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    attacks = (
        A.APGD(steps=6),
        A.APGD(steps=4, loss="targeted_dlr", targets=2),
        A.FAB(steps=3, targeted=True, targets=2),
        A.Square(queries=12),
    )
    attack = A.AutoAttack(threat=NEAR, version="custom", attacks=attacks)
    network, x, y = examples(CNN)
    plain = attack.run(network, x, y, batch_size=min(lanes, 64))
    monkeypatch.setattr("poise.attacks.autoattack.compact.ACCELERATOR_LANES", lanes)
    monkeypatch.setattr("poise.attacks.autoattack.lanes.ACCELERATOR_LANES", lanes)
    with pretended_gpu() as gpu:
        ours = attack.run(network.to("cuda"), x, y)
        assert 0 < plain.robust_accuracy < 1 and torch.equal(ours.robust, plain.robust)
        assert ours.survivors == plain.survivors and not gpu.faults and not ours.notes
        inside = {wait: count for wait, count in gpu.waits.items() if " @ attacks/autoattack/lanes.py" in wait}
        assert all(wait.startswith("event.synchronize") for wait in inside), inside
