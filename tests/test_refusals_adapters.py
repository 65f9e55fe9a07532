"""The drop-in names refuse bad input by one sentence that names the caller's own class and argument (see
test_refusals).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise.interop.foolbox as fb
from poise.core.errors import PoiseError
from poise.interop import torchattacks as ta
from poise.interop.autoattack import AutoAttack
from poise.interop.robustbench import benchmark, clean_accuracy

NET = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()
X = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
Act = Callable[[], object]


def attacks(kind: str, **given: Any) -> Act:
    return lambda: getattr(ta, kind)(NET, **given)(X, Y)


def on(x: Any = X, y: Any = Y, model: Any = NET) -> Act:
    return lambda: ta.PGD(model, steps=1)(x, y)


def targeted(y: Any) -> Act:
    def act() -> object:
        attack = ta.PGD(NET, steps=1)
        attack.set_mode_targeted_by_label()
        return attack(X, y)

    return act


def whole(x: Any = X, y: Any = Y, bs: Any = 2, **given: Any) -> Act:
    rest = {"eps": 0.03, "verbose": False, "version": "custom", "attacks_to_run": ["apgd-ce"], **given}
    return lambda: AutoAttack(NET, **rest).run_standard_evaluation(x, y, bs=bs)


def part(name: str, x: Any = X, y: Any = Y, **given: Any) -> Act:
    def act() -> object:
        sub = getattr(AutoAttack(NET, eps=0.03, verbose=False), name)
        for attribute, value in given.items():
            setattr(sub, attribute, value)
        return sub.perturb(x, y)

    return act


def box(
    kind: str = "LinfPGD", x: Any = X, criterion: Any = Y, epsilons: Any = 0.03, model: Any = None, **given: Any
) -> Act:
    return lambda: getattr(fb.attacks, kind)(**given)(model or fb.PyTorchModel(NET), x, criterion, epsilons=epsilons)


def accuracy(x: Any = X, y: Any = Y, model: Any = NET, **given: Any) -> Act:
    return lambda: clean_accuracy(model, x, y, **given)


REFUSALS: dict[str, tuple[Act, tuple[str, ...]]] = {
    # torchattacks
    "FGSM beyond the box": (attacks("FGSM", eps=2), ("FGSM.eps = 2", "1")),
    "FGSM below 0": (attacks("FGSM", eps=-0.1), ("FGSM.eps = -0.1",)),
    "FGSM of True": (attacks("FGSM", eps=True), ("FGSM.eps = True", "number")),
    "FGSM in words": (attacks("FGSM", eps="a"), ("FGSM.eps = 'a'",)),
    "FGSM of NaN": (attacks("FGSM", eps=math.nan), ("FGSM.eps = nan",)),
    "BIM of negative steps": (attacks("BIM", steps=-1), ("BIM.steps = -1",)),
    "BIM of half a step": (attacks("BIM", steps=1.5), ("BIM.steps = 1.5",)),
    "BIM without a step size": (attacks("BIM", alpha=0), ("BIM.alpha = 0",)),
    "PGD of no steps": (attacks("PGD", steps=0), ("PGD.steps = 0", "1")),
    "PGD of True steps": (attacks("PGD", steps=True), ("PGD.steps = True",)),
    "PGD of a negative step size": (attacks("PGD", alpha=-1), ("PGD.alpha = -1",)),
    "PGDL2 below 0": (attacks("PGDL2", eps=-1), ("PGDL2.eps = -1",)),
    "PGDL2 of infinity": (attacks("PGDL2", eps=math.inf), ("PGDL2.eps = inf",)),
    "PGDL2 of no steps": (attacks("PGDL2", steps=0), ("PGDL2.steps = 0",)),
    "TPGD of steps in words": (attacks("TPGD", steps="a"), ("TPGD.steps = 'a'",)),
    "MIFGSM of a negative decay": (attacks("MIFGSM", decay=-1), ("MIFGSM.decay = -1",)),
    "MIFGSM of no steps": (attacks("MIFGSM", steps=0), ("MIFGSM.steps = 0",)),
    "APGD of another norm": (attacks("APGD", norm="L1.5"), ("norm = 'L1.5'",)),
    "APGD of another loss": (attacks("APGD", loss="cw"), ("loss = 'cw'", "'ce' or 'dlr'")),
    "APGD of no restarts": (attacks("APGD", n_restarts=0), ("APGD.n_restarts = 0",)),
    "APGD of True restarts": (attacks("APGD", n_restarts=True), ("APGD.n_restarts = True",)),
    "APGD of no gradients": (attacks("APGD", eot_iter=0), ("APGD.eot_iter = 0",)),
    "APGD of a share above 1": (attacks("APGD", rho=2), ("APGD.rho = 2",)),
    "APGD below 0": (attacks("APGD", eps=-1), ("APGD.eps = -1",)),
    "APGDT of one class": (attacks("APGDT", n_classes=1), ("APGDT.n_classes = 1",)),
    "FAB of no steps": (attacks("FAB", steps=0), ("FAB.steps = 0",)),
    "FAB of a weight above 1": (attacks("FAB", alpha_max=1.5), ("FAB.alpha_max = 1.5",)),
    "FAB of no restarts": (attacks("FAB", n_restarts=0), ("FAB.n_restarts = 0",)),
    "Square of no queries": (attacks("Square", n_queries=0), ("Square.n_queries = 0",)),
    "Square of True queries": (attacks("Square", n_queries=True), ("Square.n_queries = True",)),
    "Square of a share above 1": (attacks("Square", p_init=2), ("Square.p_init = 2",)),
    "Square of another loss": (attacks("Square", loss="ce"), ("loss = 'ce'", "margin")),
    "AutoAttack of another version": (attacks("AutoAttack", version="best"), ("version = 'best'",)),
    "AutoAttack beyond the box": (attacks("AutoAttack", eps=3), ("AutoAttack.eps = 3",)),
    "torchattacks: images in an array": (on(x=X.numpy()), ("PGD", "images is ndarray")),
    "torchattacks: bytes": (on(x=(X * 255).byte()), ("PGD", "images has dtype torch.uint8")),
    "torchattacks: levels": (on(x=X * 255), ("PGD", "images has pixels", "255")),
    "torchattacks: NaN": (on(x=X * math.nan), ("PGD", "images contains NaN")),
    "torchattacks: no images": (on(x=X[:0], y=Y[:0]), ("PGD", "images has shape [0")),
    "torchattacks: labels in a list": (on(y=[0, 1, 2]), ("PGD", "labels is list")),
    "torchattacks: labels of 32 bits": (on(y=Y.int()), ("PGD", "labels has dtype torch.int32")),
    "torchattacks: labels too few": (on(y=Y[:1]), ("PGD", "labels has shape [1]")),
    "torchattacks: a label too large": (on(y=Y + 99), ("PGD", "labels has labels in [")),
    "torchattacks: a function": (on(model=lambda x: NET(x)), ("PGD", "model is function")),
    "torchattacks: targets too few": (targeted(Y[:1]), ("PGD", "target labels has shape [1]")),
    "torchattacks: a target too large": (targeted(Y + 99), ("PGD", "target labels has labels in [")),
    # autoattack
    "autoattack: beyond the box": (whole(eps=2), ("epsilon = 2",)),
    "autoattack: True": (whole(eps=True), ("epsilon = True",)),
    "autoattack: another norm": (whole(norm="L7"), ("norm = 'L7'",)),
    "autoattack: no batch": (whole(bs=0), ("bs = 0", "at least 1")),
    "autoattack: a batch in words": (whole(bs="a"), ("bs = 'a'", "whole number")),
    "autoattack: half a batch": (whole(bs=1.5), ("bs = 1.5", "whole number")),
    "autoattack: a batch of True": (whole(bs=True), ("bs = True", "whole number")),
    "autoattack: images in an array": (whole(x=X.numpy()), ("x_orig is ndarray",)),
    "autoattack: levels": (whole(x=X * 255), ("x_orig has pixels", "255")),
    "autoattack: no images": (whole(x=X[:0], y=Y[:0]), ("x_orig has shape [0",)),
    "autoattack: labels in a list": (whole(y=[0, 1, 2]), ("y_orig is list",)),
    "autoattack: labels too few": (whole(y=Y[:1]), ("y_orig has shape [1]", "[3]")),
    "autoattack: labels of 32 bits": (whole(y=Y.int()), ("y_orig has dtype torch.int32",)),
    "autoattack: a label too large": (whole(y=Y + 99), ("y_orig has labels in [",)),
    "a part of no steps": (part("apgd", n_iter=0), ("APGDAttack.n_iter = 0",)),
    "a part of True restarts": (part("fab", n_restarts=True), ("FABAttack.n_restarts = True",)),
    "a part of no queries": (part("square", n_queries=0), ("SquareAttack.n_queries = 0",)),
    "a part of no targets": (part("apgd_targeted", n_target_classes=0), ("APGDTargeted.n_target_classes = 0",)),
    "a part of labels in a list": (part("square", y=[0, 1, 2]), ("SquareAttack", "y is list")),
    "a part of bytes": (part("square", x=(X * 255).byte()), ("SquareAttack", "x has dtype torch.uint8")),
    # foolbox
    "foolbox: no steps": (box(steps=0), ("LinfProjectedGradientDescentAttack.steps = 0",)),
    "foolbox: True steps": (box(steps=True), ("steps = True",)),
    "foolbox: a negative step": (box(rel_stepsize=-1.0), ("abs_stepsize or rel_stepsize = -",)),
    "foolbox: a negative momentum": (box("MIFGSM", momentum=-1.0), ("momentum = -1",)),
    "foolbox: epsilon in words": (box(epsilons="a"), ("epsilons = 'a'", "numbers")),
    "foolbox: epsilon of True": (box(epsilons=True), ("epsilons = True",)),
    "foolbox: no epsilons": (box(epsilons=[]), ("epsilons = []",)),
    "foolbox: a negative epsilon": (box(epsilons=-0.1), ("epsilons = -0.1",)),
    "foolbox: NaN": (box(epsilons=math.nan), ("epsilons = nan",)),
    "foolbox: images in an array": (box(x=X.numpy()), ("inputs is ndarray",)),
    "foolbox: a network": (box(model=NET), ("model is Sequential", "PyTorchModel")),
    "foolbox: labels in a list": (box(criterion=[0, 1, 2]), ("criterion is list",)),
    "foolbox: labels too few": (box(criterion=Y[:1]), ("labels has shape [1]",)),
    "foolbox: a label too large": (box(criterion=Y + 99), ("labels has labels in [",)),
    "foolbox: targets in a list": (box(criterion=fb.TargetedMisclassification([0, 1, 2])), ("target_classes is list",)),  # type: ignore[arg-type]
    "foolbox: levels": (box(x=X * 255), ("bound", "255")),
    # robustbench
    "accuracy of a function": (accuracy(model=lambda x: NET(x)), ("model is function",)),
    "accuracy of an array": (accuracy(x=X.numpy()), ("x is ndarray",)),
    "accuracy of no images": (accuracy(x=X[:0], y=Y[:0]), ("x has shape [0",)),
    "accuracy of labels in a list": (accuracy(y=[0, 1, 2]), ("y is list",)),
    "accuracy of labels too few": (accuracy(y=Y[:1]), ("y has shape [1]",)),
    "accuracy in batches of 0": (accuracy(batch_size=0), ("batch_size = 0",)),
    "accuracy in batches of a": (accuracy(batch_size="a"), ("batch_size = 'a'",)),
    "a benchmark beyond the box": (lambda: benchmark(NET, eps=2.0), ("epsilon = 2",)),
    "a benchmark of another threat": (lambda: benchmark(NET, threat_model="L9", eps=0.1), ("threat_model = 'L9'",)),
}


@pytest.mark.parametrize(("act", "words"), REFUSALS.values(), ids=REFUSALS)
def test_adapters_refuse_bad_input_by_the_callers_own_names(act: Act, words: tuple[str, ...]) -> None:
    weights = [tensor.clone() for tensor in NET.state_dict().values()]
    with pytest.raises(PoiseError) as refused:
        act()
    sentence = str(refused.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence
    assert all(torch.equal(a, b) for a, b in zip(weights, NET.state_dict().values(), strict=True))


@pytest.mark.parametrize("eps", [0, 0.0, 1e-9])
@pytest.mark.parametrize("kind", ["FGSM", "BIM", "PGD", "PGDL2", "TPGD", "MIFGSM", "APGD", "APGDT", "FAB"])
def test_an_epsilon_of_0_gives_back_the_images(kind: str, eps: float) -> None:
    torch.testing.assert_close(getattr(ta, kind)(NET, eps=eps)(X, Y), X, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("eps", "steps"), [(0.5 / 255, 0), (0, 0), (4 / 255, 5), (8 / 255, 10)])
def test_bim_chooses_its_steps_by_epsilon(eps: float, steps: int) -> None:
    def images(**given: Any) -> Tensor:
        return ta.BIM(NET, eps=eps, **given)(X, Y)

    assert torch.equal(images(steps=0), images(steps=steps) if steps else X)
