"""Every attack finds on a pretended GPU what it finds on a CPU, and no step of it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.gpu_cases import ATTACKS, AUTOATTACK, CNN, examples
from benchmarks.pretended import pretended_gpu

from poise.attacks import AutoAttack, Saved, Square, ThirdParty
from poise.attacks.attack import Attack
from poise.attacks.autoattack.compact import CompactAttack
from poise.core.settings import registered


def longer(attack: Any) -> Any:
    name = "queries" if isinstance(attack, Square) else "steps"
    return replace(attack, **{name: 2 * getattr(attack, name)}) if hasattr(attack, name) else attack


def test_every_attack_is_among_the_cases() -> None:
    """AutoAttack has a test of its own; Saved reads images from a file, those of other libraries do as they do."""
    ours = {kind for kind in registered(Attack).values() if not issubclass(kind, ThirdParty)}  # type: ignore[type-abstract]
    assert {type(attack) for _, attack in ATTACKS.values()} | {AutoAttack, Saved} == ours


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_finds_the_cpus_images_and_no_step_of_it_waits(name: str) -> None:
    """Those in lanes look at their flags every eight steps."""
    model, attack = ATTACKS[name]
    network, x, y = examples(model)
    plain = attack(network, x, y)
    with pretended_gpu() as gpu:
        on, images, labels = network.to("cuda"), x.to("cuda"), y.to("cuda")
        waits = []
        for tried in (attack, longer(attack)):
            gpu.waits.clear()
            found = tried(on, images, labels)
            waits.append(gpu.waits.total())
            if tried is attack:
                torch.testing.assert_close(found.cpu(), plain, atol=1e-6, rtol=0)
        assert waits[1] - waits[0] <= (2 if isinstance(attack, CompactAttack) else 0), gpu.waits
        assert not gpu.faults


@pytest.mark.parametrize("lanes", [4, 1024])  # refilled or not
def test_autoattack_breaks_what_it_breaks_on_a_cpu(monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    network, x, y = examples(CNN)
    plain = AUTOATTACK.run(network, x, y, batch_size=min(lanes, 64))
    monkeypatch.setattr("poise.attacks.autoattack.compact.ACCELERATOR_LANES", lanes)
    monkeypatch.setattr("poise.attacks.autoattack.lanes.ACCELERATOR_LANES", lanes)
    with pretended_gpu() as gpu:
        ours = AUTOATTACK.run(network.to("cuda"), x, y)
        assert 0 < plain.robust_accuracy < 1 and torch.equal(ours.robust, plain.robust)
        assert ours.survivors == plain.survivors and not gpu.faults and not ours.notes
        inside = [wait for wait in gpu.waits if " @ attacks/autoattack/lanes.py" in wait]
        assert all(wait.startswith("event.synchronize") for wait in inside), inside
