"""What scripts for the other libraries use beside attacks: enums, loaders, criteria, bounds, base classes; and one
sentence for arguments that are none.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAssertTypeFailure=false
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise.interop.foolbox as fb
import poise.interop.torchattacks as ta
from poise.core.errors import PoiseError
from poise.data import CIFAR10, Data, Split
from poise.interop.autoattack import AutoAttack
from poise.interop.autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from poise.interop.autoattack.fab_pt import FABAttack_PT
from poise.interop.autoattack.square import SquareAttack
from poise.interop.robustbench import benchmark, clean_accuracy, load_model
from poise.interop.robustbench import data as rb_data
from poise.interop.robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
X = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = NETWORK(X).argmax(1)
SPLIT = Split.of((X * 255).round().to(torch.uint8), Y)
TEN = Data("CIFAR10", SPLIT, SPLIT, tuple("0123456789"))


@pytest.fixture
def _cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "load", lambda self, data_dir=None: TEN)


@pytest.mark.usefixtures("_cifar")
def test_robustbenchs_enums_stand_where_their_words_do(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = rb_data.load_clean_dataset(BenchmarkDataset.cifar_10, 4, "nowhere")
    assert torch.equal(x, rb_data.load_cifar10(4)[0]) and len(y) == 4
    quick = {"n_examples": 2, "eps": 0.0}
    by_enum = benchmark(NETWORK, dataset=BenchmarkDataset.cifar_10, threat_model=ThreatModel.Linf, **quick)
    by_default = benchmark(NETWORK, **quick)
    assert by_enum == by_default == benchmark(NETWORK, dataset="cifar10", threat_model="Linf", **quick)
    assert rb_data.get_preprocessing(BenchmarkDataset.cifar_10, ThreatModel.Linf, None, None) is None
    assert "Clean accuracy" in capsys.readouterr().out


@pytest.mark.usefixtures("_cifar")
def test_robustbenchs_corrupted_images_are_the_same_share_of_each_corruption(tmp_path: Path) -> None:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for number, name in enumerate(("fog", "snow")):
        np.save(
            folder / f"{name}.npy",
            np.full((30, 32, 32, 3), 10 * number, np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None],
        )
    np.save(folder / "labels.npy", np.tile(Y.numpy(), 5))
    x, y = rb_data.load_cifar10c(5, severity=2, data_dir=tmp_path, corruptions=("fog", "snow"))
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [6, 7, 16, 17] and torch.equal(y, Y[[0, 1, 0, 1]])


def test_foolboxs_bounds_have_names_and_can_be_others() -> None:
    fmodel = fb.PyTorchModel(NETWORK, bounds=(0, 1))
    wide = fmodel.transform_bounds((-1, 3))
    assert (fmodel.bounds.lower, fmodel.bounds.upper, wide.bounds) == (0, 1, (-1, 3))
    torch.testing.assert_close(wide(X * 4 - 1), fmodel(X))
    torch.testing.assert_close(wide.transform_bounds((0, 255))(X * 255), fmodel(X))
    assert fmodel.bounds == (0, 1)
    images, labels = fb.samples(fb.PyTorchModel(NETWORK, bounds=(0, 255)), dataset="digits", index=2, batchsize=3)
    assert images.shape == (3, 1, 8, 8) and float(images.max()) > 200 and labels.shape == (3,)


def test_foolboxs_criteria_can_be_joined() -> None:
    target = (Y + 1) % 10
    both = fb.Misclassification(Y) & fb.TargetedMisclassification(target)
    logits = torch.eye(10)[target]
    assert (
        both(X, logits).all() and not both(X, torch.eye(10)[Y]).any() and not both(X, torch.eye(10)[(Y + 2) % 10]).any()
    )
    fmodel = fb.PyTorchModel(NETWORK)
    _, clipped, success = fb.attacks.LinfPGD(steps=20)(fmodel, X, both, epsilons=0.5)
    assert torch.equal(success, fmodel(clipped).argmax(1) == target) and success.any()
    either = fb.Misclassification(Y) & fb.Misclassification((Y + 1) % 10)
    _, clipped, success = fb.attacks.LinfPGD(steps=5)(fmodel, X, either, epsilons=0.5)
    guess = fmodel(clipped).argmax(1)
    assert torch.equal(success, (guess != Y) & (guess != (Y + 1) % 10))


def test_foolboxs_momentum_may_sum_gradients_as_they_are() -> None:
    class Curved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NETWORK(x + 5 * (x - 0.5) ** 3)

    curved, epsilon, step = Curved().eval(), 0.1, 0.02
    z, velocity = X, torch.zeros_like(X)
    for _ in range(5):
        leaf = z.detach().requires_grad_(True)
        velocity = (
            velocity + torch.autograd.grad(nn.functional.cross_entropy(curved(leaf), Y, reduction="sum"), leaf)[0]
        )
        z = (z + step * velocity.sign()).clamp(X - epsilon, X + epsilon).clamp(0, 1).detach()
    raw = fb.MIFGSM(normalised=False, steps=5)(fb.PyTorchModel(curved), X, Y, epsilons=epsilon)[0]
    torch.testing.assert_close(raw, z)


def test_torchattacks_has_its_version_base_class_and_several_attacks() -> None:
    assert isinstance(ta.__version__, str)

    class Bright(ta.attack.Attack):
        def native(self) -> Any:
            return ta.FGSM(self.model, eps=0.1).native()

    torch.testing.assert_close(Bright(NETWORK)(X, Y), ta.FGSM(NETWORK, eps=0.1)(X, Y))
    several = ta.MultiAttack([ta.FGSM(NETWORK, eps=0.002), ta.PGD(NETWORK, eps=0.3, steps=10)])
    z = several(X, Y)
    first = ta.FGSM(NETWORK, eps=0.002)(X, Y)
    fooled = NETWORK(first).argmax(1) != Y
    assert torch.equal(z[fooled], first[fooled]) and bool((NETWORK(z).argmax(1) != Y).all())
    start = ta.TPGD(NETWORK, eps=1, steps=1, alpha=1e-9)(torch.zeros_like(X))
    assert float(start.max()) <= 1e-2 and float(start.min()) == 0


@pytest.mark.parametrize(
    "part",
    [
        APGDAttack(NETWORK, n_iter=5, eps=0.1),
        APGDAttack(NETWORK, n_iter=5, eps=0.5, norm="L2", loss="dlr"),
        APGDAttack_targeted(NETWORK, n_iter=5, eps=0.1, n_target_classes=2),
        SquareAttack(NETWORK, n_queries=20, eps=0.1),
        FABAttack_PT(NETWORK, n_iter=5, eps=0.1),
    ],
    ids=lambda part: f"{type(part).__name__}-{part.norm}",
)
def test_autoattacks_parts_are_had_alone(part: Any) -> None:
    z = part.perturb(X, Y)
    size = (z - X).flatten(1).abs().amax(1) if part.norm == "Linf" else (z - X).flatten(1).norm(dim=1)
    assert float(size.max()) <= part.eps * (1 + 1e-4) and bool((NETWORK(z).argmax(1) != Y).any())


Act = Callable[[], object]
MODEL: Any = lambda x: NETWORK(x)  # noqa: E731
FMODEL = fb.PyTorchModel(NETWORK)
REFUSED: dict[str, tuple[Act, str]] = {
    "more images than there are": (lambda: rb_data.load_cifar10(7), "n_examples = 7, but there are 6"),
    "no images": (lambda: rb_data.load_cifar10(0), "n_examples = 0"),
    "half an image": (lambda: rb_data.load_cifar10(1.5), "n_examples = 1.5"),
    "a transform": (lambda: rb_data.load_cifar10(2, transforms_test=len), "preprocessing = .* must be None"),
    "another data set": (
        lambda: rb_data.load_clean_dataset("cifar01", 2, "."),
        "dataset = 'cifar01'.*did you mean 'cifar10'",
    ),
    "ImageNet": (
        lambda: rb_data.load_clean_dataset(BenchmarkDataset.imagenet, 2, "."),
        "dataset = 'imagenet', must be one of",
    ),
    "no corruption": (lambda: rb_data.load_cifar10c(5, corruptions=()), r"corruptions = \(\)"),
    "one corruption's word": (lambda: rb_data.load_cifar10c(5, corruptions="fog"), "corruptions = 'fog'"),
    "a corruption that is none": (
        lambda: rb_data.load_cifar10c(5, corruptions=("fogg",)),
        "there is no corruption 'fogg'",
    ),
    "a severity that is none": (lambda: rb_data.load_cifar10c(5, severity=9, corruptions=("fog",)), "severity = 9"),
    "fewer images than corruptions": (lambda: rb_data.load_cifar10c(5), "n_examples = 5, must be at least 15"),
    "shuffled": (lambda: rb_data.load_cifar10c(15, shuffle=True), "shuffle = True"),
    "benchmark of a lambda": (lambda: benchmark(MODEL, eps=0.1), "model is function"),
    "benchmark of too many": (lambda: benchmark(NETWORK, 7, eps=0.1), "n_examples = 7"),
    "benchmark in words": (lambda: benchmark(NETWORK, 2, eps=0.1, batch_size="a"), "batch_size = 'a'"),
    "benchmark without eps": (lambda: benchmark(NETWORK, 2), "eps is None"),
    "benchmark under 3d corruptions": (
        lambda: benchmark(NETWORK, 2, threat_model=ThreatModel.corruptions_3d),
        "threat_model = 'corruptions_3d'",
    ),
    "benchmark under nothing": (lambda: benchmark(NETWORK, 2, threat_model=None), "threat_model = None"),
    "benchmark on nothing": (lambda: benchmark(NETWORK, 2, dataset=None, eps=0.1), "dataset = None|dataset = 'None'"),
    "a model of nowhere": (lambda: load_model("a", "nowhere", dataset="cifar01"), "cifar01"),
    "accuracy of arrays": (lambda: clean_accuracy(NETWORK, X.numpy(), Y), "x is ndarray"),
    "accuracy of labels in a list": (lambda: clean_accuracy(NETWORK, X, Y.tolist()), "y is list"),
    "accuracy of nothing": (lambda: clean_accuracy(NETWORK, X[:0], Y[:0]), r"x has shape \[0"),
    "accuracy in words": (lambda: clean_accuracy(NETWORK, X, Y, "a"), "batch_size = 'a'"),
    "accuracy of a lambda": (lambda: clean_accuracy(MODEL, X, Y), "model is function"),
    "bounds that are empty": (lambda: fb.PyTorchModel(NETWORK, bounds=(1, 1)), r"bounds = \(1, 1\)"),
    "bounds of three": (lambda: fb.PyTorchModel(NETWORK, bounds=(0, 1, 2)), r"bounds = \(0, 1, 2\)"),
    "bounds without end": (lambda: fb.PyTorchModel(NETWORK, bounds=(0, float("inf"))), r"bounds = \(0, inf\)"),
    "bounds of nothing": (lambda: FMODEL.transform_bounds(None), "bounds = None"),
    "bounds in words": (lambda: FMODEL.transform_bounds(("a", "b")), r"bounds = \('a', 'b'\)"),
    "a lambda in bounds": (lambda: fb.PyTorchModel(MODEL), "model is function"),
    "samples of nowhere": (lambda: fb.samples(FMODEL, "imagenette"), "dataset = 'imagenette'"),
    "samples beyond the end": (lambda: fb.samples(FMODEL, "digits", index=10**6), "index = 1000000"),
    "samples before the start": (lambda: fb.samples(FMODEL, "digits", index=-1), "index = -1"),
    "no samples": (lambda: fb.samples(FMODEL, "digits", batchsize=0), "batchsize = 0"),
    "samples of True": (lambda: fb.samples(FMODEL, "digits", batchsize=True), "batchsize = True"),
    "a criterion with labels": (lambda: fb.Misclassification(Y) & Y, "joined with Tensor"),
    "a criterion with nothing": (lambda: fb.Misclassification(Y) & None, "joined with NoneType"),
    "foolbox on arrays": (lambda: fb.LinfPGD()(FMODEL, X.numpy(), Y, epsilons=0.1), "inputs is ndarray"),
    "foolbox on labels in a list": (lambda: fb.LinfPGD()(FMODEL, X, Y.tolist(), epsilons=0.1), "criterion is list"),
    "foolbox on nothing": (lambda: fb.LinfPGD()(FMODEL, X[:0], Y[:0], epsilons=0.1), r"has shape \[0"),
    "foolbox at no epsilon": (lambda: fb.LinfPGD()(FMODEL, X, Y, epsilons=[]), r"epsilons = \[\]"),
    "foolbox at a word": (lambda: fb.LinfPGD()(FMODEL, X, Y, epsilons="a"), "epsilons = 'a'"),
    "foolbox beyond the bounds": (lambda: fb.LinfPGD()(FMODEL, X, Y, epsilons=1.5), "epsilons = 1.5"),
    "foolbox on a module": (lambda: fb.LinfPGD()(NETWORK, X, Y, epsilons=0.1), "must be a PyTorchModel"),
    "torchattacks on arrays": (lambda: ta.PGD(NETWORK)(X.numpy(), Y), "images is ndarray"),
    "torchattacks on labels in a list": (lambda: ta.PGD(NETWORK)(X, Y.tolist()), "labels is list"),
    "torchattacks on a lambda": (lambda: ta.PGD(MODEL)(X, Y), "model is function"),
    "torchattacks on nothing": (lambda: ta.PGD(NETWORK)(X[:0], Y[:0]), r"has shape \[0"),
    "CW of least distance": (lambda: ta.CW(NETWORK)(X, Y), r"poise.attacks.Torchattacks\(name='CW'\)"),
    "one attack of several": (lambda: ta.MultiAttack([ta.FGSM(NETWORK)]), "attacks has 1 entries"),
    "no attack of several": (lambda: ta.MultiAttack([]), "attacks has 0 entries"),
    "several of something else": (lambda: ta.MultiAttack([ta.FGSM(NETWORK), "PGD"]), "attacks is list"),
    "several on different models": (
        lambda: ta.MultiAttack([ta.FGSM(NETWORK), ta.FGSM(nn.Flatten())]),
        "different models",
    ),
    "APGD without eps": (lambda: APGDAttack(NETWORK), "APGDAttack.eps = None"),
    "APGD by topk": (lambda: APGDAttack(NETWORK, eps=0.1, topk=0.2), "topk = 0.2: is not had here"),
    "APGD of TensorFlow": (lambda: APGDAttack(NETWORK, eps=0.1, is_tf_model=True), "is_tf_model = True"),
    "Square with a target": (lambda: SquareAttack(NETWORK, eps=0.1, targeted=True), "targeted = True"),
    "Square on cross-entropy": (lambda: SquareAttack(NETWORK, eps=0.1, loss="ce"), "loss = 'ce'"),
    "FAB by a loss": (lambda: FABAttack_PT(NETWORK, eps=0.1, loss_fn=nn.functional.cross_entropy), "loss_fn = "),
    "APGD on arrays": (lambda: APGDAttack(NETWORK, eps=0.1).perturb(X.numpy(), Y), "x is ndarray"),
    "APGD on nothing": (lambda: APGDAttack(NETWORK, eps=0.1).perturb(X[:0], Y[:0]), r"x has shape \[0"),
    "APGD on labels in a list": (lambda: APGDAttack(NETWORK, eps=0.1).perturb(X, Y.tolist()), "y is list"),
    "AutoAttack in words": (lambda: AutoAttack(NETWORK, eps=0.1).run_standard_evaluation(X, Y, bs="a"), "bs = 'a'"),
    "AutoAttack on nothing": (lambda: AutoAttack(NETWORK, eps=0.1).run_standard_evaluation(X[:0], Y[:0]), r"\[0, 3"),
    "AutoAttack on arrays": (lambda: AutoAttack(NETWORK, eps=0.1).run_standard_evaluation(X.numpy(), Y), "ndarray"),
    "AutoAttack of no batch": (lambda: AutoAttack(NETWORK, eps=0.1).run_standard_evaluation(X, Y, bs=0), "bs = 0"),
    "AutoAttack of half a batch": (
        lambda: AutoAttack(NETWORK, eps=0.1).run_standard_evaluation(X, Y, bs=1.5),
        "bs = 1.5",
    ),
    "accuracy by AutoAttack in words": (lambda: AutoAttack(NETWORK, eps=0.1).clean_accuracy(X, Y, bs="a"), "bs = 'a'"),
    "AutoAttack of a number": (lambda: AutoAttack(3, eps=0.1), "model is int"),
}


@pytest.mark.usefixtures("_cifar")
@pytest.mark.parametrize(("act", "words"), REFUSED.values(), ids=REFUSED)
def test_an_argument_that_is_none_is_named(act: Act, words: str) -> None:
    with pytest.raises(PoiseError, match=words) as error:
        act()
    assert "\n" not in str(error.value)
