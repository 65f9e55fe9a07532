"""Networks that give no gradient of their images are refused in words by every attack that needs one, and by no
other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, CW, FAB, FGSM, MIM, PGD, AutoAttack, Square
from poise.attacks.attack import Attack
from poise.core.errors import InputError


class Cut(nn.Module):
    """A linear network whose forward pass does something to the images first."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.cut, self.linear = cut, nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.cut(x).flatten(1))


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": Tensor.detach,
    "made a leaf": lambda x: x.detach().requires_grad_(True),
    "through numpy": lambda x: torch.from_numpy(x.detach().numpy().copy()),
}
X, Y = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "attack", [FGSM(), PGD(), MIM(), CW(), APGD(), FAB(), FAB(targeted=True), AutoAttack()], ids=lambda a: a.name
)
def test_an_attack_by_gradients_says_why_it_cannot_run_and_what_can(attack: Attack, cut: str) -> None:
    model = Cut(CUTS[cut]).eval()
    y = model(X).argmax(1)
    with pytest.raises(
        InputError, match=r"no gradient with respect to its images.*poise sanity.*--protocol soe-blackbox"
    ):
        attack(model, X, y)


def test_square_needs_none() -> None:
    assert Square(queries=5)(Cut(Tensor.detach), X, Y).shape == X.shape
