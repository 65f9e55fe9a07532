"""Any network is asked as its author wrote it: what it is given and its modes stay as they were, every answer is
checked.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import poise
import poise.interop.foolbox as fb
from poise.attacks import APGD, FAB, FGSM, MIM, PGD, Attack, AutoAttack, Square
from poise.core.errors import InputError, NetworkError, PoiseError, SettingsError
from poise.core.modes import crafting
from poise.core.papers import Paper
from poise.data import Data, Split
from poise.evaluation import Protocol, evaluate
from poise.evaluation.predictions import logits_of, predict
from poise.evaluation.sanity import inspect
from poise.interop import torchattacks
from poise.interop.autoattack import AutoAttack as TheirAutoAttack
from poise.interop.robustbench import clean_accuracy
from poise.models import EnsembleModule, Network
from poise.threats import Linf

THREAT = Linf(epsilon=0.03)
X = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ATTACKS: list[Attack] = [
    FGSM(threat=THREAT),
    PGD(threat=THREAT, steps=3, restarts=2),
    PGD(threat=THREAT, steps=2, loss="kl", start="gaussian"),
    MIM(threat=THREAT, steps=2),
    APGD(threat=THREAT, steps=3),
    FAB(threat=THREAT, steps=2),
    Square(threat=THREAT, queries=5),
    AutoAttack(threat=THREAT, version="custom", attacks=(APGD(steps=2), Square(queries=3))),
]


class Own(nn.Module):
    """Logits of flattened images, by `act`."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Any] = lambda net, x: net(x), classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body, self.act = nn.Sequential(nn.Flatten(), nn.Linear(108, classes)), act

    def forward(self, x: Tensor) -> Any:
        return self.act(self.body, x)


def through_numpy(net: nn.Module, x: Tensor) -> Tensor:
    x.detach().numpy()[:] -= 0.25
    return net(x)


SPOILING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "standardises in place": lambda net, x: net(x.sub_(0.5).div_(0.25)),
    "clamps in place": lambda net, x: net(x.clamp_(0, 1)),
    "writes an index": lambda net, x: net(torch.index_fill(x.mul_(1), 2, torch.tensor([0]), 0.0)),
    "writes a view": lambda net, x: (x[:, :1].fill_(0.5), net(x))[1],
    "relu in place": lambda net, x: net(torch.relu_(x.sub_(0.3))),
    "writes the data": lambda net, x: (x.data.mul_(0.9), net(x))[1],
    "writes through numpy": through_numpy,
}
PURE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "standardises in place": lambda net, x: net((x - 0.5) / 0.25),
    "clamps in place": lambda net, x: net(x.clamp(0, 1)),
    "writes an index": lambda net, x: net(x.index_fill(2, torch.tensor([0]), 0.0)),
    "writes a view": lambda net, x: net(torch.cat([torch.full_like(x[:, :1], 0.5), x[:, 1:]], 1)),
    "relu in place": lambda net, x: net(torch.relu(x - 0.3)),
    "writes the data": lambda net, x: net(x + (-0.1 * x).detach()),
    "writes through numpy": lambda net, x: net(x - 0.25),
}


@pytest.mark.parametrize("name", SPOILING)
def test_a_network_that_changes_its_images_is_attacked_like_one_that_does_not(name: str) -> None:
    spoiling, pure = Own(SPOILING[name]).eval(), Own(PURE[name]).eval()
    y = pure(X).argmax(1)
    for attack in ATTACKS:
        x = X.clone()
        torch.testing.assert_close(attack(spoiling, x, y), attack(pure, X, y), rtol=0, atol=1e-6)
        assert torch.equal(x, X), attack.name
    assert not spoiling._forward_pre_hooks


def test_members_of_an_ensemble_that_change_their_images_do_not_change_each_others() -> None:
    spoiling = EnsembleModule(
        [Own(SPOILING["standardises in place"]), Own(lambda net, x: net(x))], "mean_logits"
    ).eval()
    pure = EnsembleModule([Own(PURE["standardises in place"]), Own(lambda net, x: net(x))], "mean_logits").eval()
    y = pure(X).argmax(1)
    for attack in ATTACKS:
        torch.testing.assert_close(attack(spoiling, X.clone(), y), attack(pure, X, y), rtol=0, atol=1e-6)


class Reusing(Own):
    """Writes every answer into the same memory."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.kept = kind, torch.zeros(64, 4)
        self.register_buffer("buffer", torch.zeros(64, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(x)
        if logits.requires_grad:
            return logits
        place = self.buffer if self.kind == "buffer" else self.kept
        assert isinstance(place, Tensor)
        return place[: len(x)].copy_(logits)


@pytest.mark.parametrize("kind", ["buffer", "attribute"])
def test_a_network_that_writes_its_answers_into_one_memory_is_judged_by_each_answer(kind: str) -> None:
    reusing, pure = Reusing(kind).eval(), Own().eval()
    y = pure(X).argmax(1)
    assert torch.equal(logits_of(reusing, X, 2), logits_of(pure, X, 2))
    for attack in ATTACKS:
        torch.testing.assert_close(attack(reusing, X, y), attack(pure, X, y), rtol=0, atol=1e-6)


def test_every_other_entrance_leaves_images_as_they_were_too() -> None:
    net = Own(SPOILING["standardises in place"]).eval()
    y = Own(PURE["standardises in place"])(X).argmax(1)
    calls: list[Callable[[Tensor], object]] = [
        lambda x: logits_of(net, x),
        lambda x: clean_accuracy(net, x, y),
        lambda x: fb.accuracy(fb.PyTorchModel(net), x, y),
        lambda x: fb.attacks.LinfPGD(steps=1)(fb.PyTorchModel(net), x, y, epsilons=[0.0, 0.03]),
        lambda x: torchattacks.PGD(net, steps=1)(x, y),
        lambda x: TheirAutoAttack(
            net, eps=0.03, version="custom", attacks_to_run=["apgd-ce"], verbose=False
        ).clean_accuracy(x, y),
    ]
    for call in calls:
        x = X.clone()
        result = call(x)
        assert torch.equal(x, X)
        if isinstance(result, float):
            assert result == 1


# -- answers
# ----------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclass
class Output:
    logits: Tensor


class Mapped(dict[str, Tensor]):
    """As the outputs of well-known libraries: a dict with attributes."""

    __getattr__ = dict.__getitem__


ANSWERS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "a tuple": lambda net, x: (net(x), x.mean()),
    "a list": lambda net, x: [net(x)],
    "a dict": lambda net, x: {"logits": net(x)},
    "a named tuple": lambda net, x: Pair(net(x), x),
    "a dataclass": lambda net, x: Output(net(x)),
    "a model output": lambda net, x: Mapped(logits=net(x)),
    "nothing": lambda net, x: None,
    "an array": lambda net, x: net(x).detach().numpy(),
    "a number": lambda net, x: 3.0,
    "one axis": lambda net, x: net(x)[:, 0],
    "one logit": lambda net, x: net(x)[:, :1],
    "three axes": lambda net, x: net(x)[:, :, None],
    "a batch too many": lambda net, x: torch.cat([net(x), net(x)]),
    "labels": lambda net, x: net(x).argmax(1, keepdim=True).repeat(1, 4),
    "NaN": lambda net, x: net(x) * torch.nan,
    "infinity": lambda net, x: net(x) / 0,
}
ERRORS: list[type[Exception]] = [
    ValueError,
    AssertionError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OSError,
]


def raising(error: type[Exception]) -> Callable[[nn.Module, Tensor], Any]:
    def act(net: nn.Module, x: Tensor) -> Any:
        raise error("12 is not 16")

    return act


def entrances(net: nn.Module) -> Iterator[tuple[str, Callable[[], object]]]:
    y = torch.zeros(5, dtype=torch.int64)
    bytes_ = (X * 255).to(torch.uint8)
    split = Split.of(bytes_, y)
    data = Data("own", split, split, tuple("abcd"))
    for attack in ATTACKS:
        yield attack.name, lambda attack=attack: attack(net, X, y)
    yield "AutoAttack.run", lambda: ATTACKS[-1].run(net, X, y)  # type: ignore[attr-defined]
    yield "nearest", lambda: FAB(steps=1).nearest(net, X, y)
    yield "predict", lambda: predict(net, split)
    yield "evaluate", lambda: evaluate(net, data, Protocol(attacks=()))
    yield "sanity", lambda: inspect(net, X.repeat(4, 1, 1, 1), y.repeat(4), THREAT)
    yield "torchattacks", lambda: torchattacks.PGD(net, steps=1)(X, y)
    targeted = torchattacks.PGD(net, steps=1)
    targeted.set_mode_targeted_random()
    yield "torchattacks targeted", lambda: targeted(X, y)
    theirs = TheirAutoAttack(net, eps=0.03, verbose=False)
    yield "autoattack", lambda: theirs.run_standard_evaluation(X, y)
    yield "autoattack individual", lambda: theirs.run_standard_evaluation_individual(X, y)
    yield "autoattack clean", lambda: theirs.clean_accuracy(X, y)
    yield "autoattack part", lambda: theirs.square.perturb(X, y)
    yield "robustbench", lambda: clean_accuracy(net, X, y)
    yield "foolbox", lambda: fb.attacks.FGSM()(fb.PyTorchModel(net), X, y, epsilons=[0.0, 0.1])
    yield "foolbox accuracy", lambda: fb.accuracy(fb.PyTorchModel(net), X, y)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_is_no_logits_is_refused_by_every_entrance(answer: Callable[[nn.Module, Tensor], Any]) -> None:
    for name, call in entrances(Own(answer).eval()):
        with pytest.raises(InputError, match="the network returned") as refused:
            call()
        assert "\n" not in str(refused.value), name


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_network_raises_is_a_sentence_with_the_images_shape_at_every_entrance(
    error: type[Exception],
) -> None:
    for name, call in entrances(Own(raising(error)).eval()):
        with pytest.raises(
            NetworkError, match=r"images of shape \[\d+, 3, 6, 6\], it raised .*12 is not 16"
        ) as refused:
            call()
        assert type(refused.value.__cause__) is error or name == "sanity"


def test_a_network_for_other_images_says_both_shapes() -> None:
    for net in (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(99, 4)),
    ):
        for _, call in entrances(net.eval()):
            with pytest.raises(NetworkError, match=r"\[\d+, 3, 6, 6\].*(\[2, 1, 3, 3\]|99x4)"):
                call()


def test_a_backward_pass_that_fails_is_a_sentence() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            raise RuntimeError("there is no gradient of this")

    net = Own(lambda net, x: net(Broken.apply(x))).eval()
    for attack in ATTACKS[:6]:
        with pytest.raises(NetworkError, match="backward pass fails: there is no gradient of this"):
            attack(net, X, net(X).argmax(1))


# -- modes and the caller's surroundings
# --------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A module whose mode does something: as layers that merge their weights for evaluation."""

    def __init__(self, returns: bool = True) -> None:
        super().__init__()
        self.body, self.merged, self.returns = (
            nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(108, 4)),
            False,
            returns,
        )

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.merged = not mode
        return self if self.returns else None

    def forward(self, x: Tensor) -> Tensor:
        assert self.merged is not self.training
        return self.body(x)


@pytest.mark.parametrize("returns", [True, False])
def test_what_a_network_does_when_its_mode_changes_is_undone(returns: bool) -> None:
    net = Counting(returns)
    y = torch.zeros(5, dtype=torch.int64)
    for attack in ATTACKS[:4]:
        attack(net, X, y)
        assert net.training
        assert not net.merged
    assert predict(net, Split.of((X * 255).to(torch.uint8), y)).shape == (5,)
    assert not net.merged


@pytest.mark.filterwarnings("ignore:parts of the network")
@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_back_the_mode_it_had_and_every_weight_its_flag(fails: bool) -> None:
    torch.manual_seed(0)
    act: Any = raising(ValueError) if fails else lambda net, x: net(x)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), Own(act))
    for training in ([True, False, True, False], [False, True, False, True], [False] * 4, [True] * 4):
        for module, mode in zip((net, *net), training, strict=False):
            module.training = mode
        net[1].weight.requires_grad_(False)
        before = [(module.training) for module in net.modules()], [weight.requires_grad for weight in net.parameters()]
        for _, call in entrances(net):
            try:
                call()
            except PoiseError:
                assert fails
            assert before == (
                [module.training for module in net.modules()],
                [weight.requires_grad for weight in net.parameters()],
            )


DROPPED: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.9),
    "dropout of channels": lambda: nn.Dropout2d(0.9),
    "batch normalisation": lambda: nn.BatchNorm2d(3),
}


@pytest.mark.parametrize("layer", DROPPED.values(), ids=DROPPED)
def test_parts_left_in_training_mode_are_said(layer: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(layer(), nn.Flatten(), nn.Linear(108, 4)).eval()
    net[0].train()
    y = torch.zeros(5, dtype=torch.int64)
    calls = [
        lambda: ATTACKS[0](net, X, y),
        lambda: clean_accuracy(net, X, y),
        lambda: TheirAutoAttack(net, eps=0.03, version="rand", verbose=False).clean_accuracy(X, y),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="in training mode, 0 .* evaluation mode, in which dropout is off"):
            call()
    net.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calls[0]()  # a network that is trained, and attacked as it will be evaluated


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "enable_grad": torch.enable_grad,
}


@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacks_find_the_same_whatever_the_caller_differentiates(around: Callable[[], Any], attack: Attack) -> None:
    net = Own().eval()
    y = net(X).argmax(1)
    right = attack(net, X, y)
    with around():
        assert torch.equal(attack(net, X, y), right)
        assert torch.equal(attack(net, X.clone(), y.clone()), right)
        assert attack(net, X.clone().requires_grad_(torch.is_grad_enabled()), y).requires_grad is False
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_attacks_find_the_same_under_another_default_dtype() -> None:
    net = Own().eval()
    y = net(X).argmax(1)
    right = [attack(net, X, y) for attack in ATTACKS]
    torch.set_default_dtype(torch.float64)
    try:
        for attack, images in zip(ATTACKS, right, strict=True):
            assert torch.equal(attack(net, X, y), images), attack.name
    finally:
        torch.set_default_dtype(torch.float32)


# -- training
# -----------------------------------------------------------------------------------------------------------------


def made(change: Callable[[nn.Module], object] = lambda net: None, **attributes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        whole = type("Whole", (nn.Module,), {"forward": lambda self, x: self.body(x), **attributes})()
        whole.body = net
        change(whole)
        return whole

    return build


def doubled(module: nn.Module, given: object, logits: Tensor) -> Tensor:
    return logits * 2


def none_from_train(self: nn.Module, mode: bool = True) -> None:
    nn.Module.train(self, mode)


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "a lock": (made(lambda net: setattr(net, "lock", threading.Lock())), "cannot be copied, .*keep locks"),
    "an open stream": (made(lambda net: setattr(net, "log", sys.__stdout__)), "cannot be copied"),
    "a generator": (made(lambda net: setattr(net, "draws", (n for n in range(3)))), "cannot be copied"),
    "a deep copy of nothing": (made(__deepcopy__=lambda self, memo: None), "copied"),
    "itself as its deep copy": (made(__deepcopy__=lambda self, memo: self), "copied by copy.deepcopy"),
    "an extra state": (
        made(get_extra_state=lambda self: {"t": 1}, set_extra_state=lambda self, state: None),
        "extra state",
    ),
    "no weights": (lambda: nn.Flatten(), r"shape \[1, 64\]|logits|no weights"),
    "frozen weights": (made(lambda net: net.requires_grad_(False)), "no weights to train"),
    "no module": (lambda: lambda x: x, "module returned function"),
    "nothing": (lambda: None, "module returned NoneType"),
    "a tuple": (made(forward=lambda self, x: (self.body(x), x)), "returned tuple"),
    "a tuple in training mode only": (
        made(forward=lambda self, x: (self.body(x), x) if self.training else self.body(x)),
        "returned tuple",
    ),
    "too few logits": (
        made(lambda net: setattr(net, "body", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))),
        "3 logits for 10 classes",
    ),
    "another size": (
        made(lambda net: setattr(net, "body", nn.Sequential(nn.Flatten(), nn.Linear(65, 10)))),
        r"\[1, 1, 8, 8\]",
    ),
    "a train() that fails": (made(train=lambda self, mode=True: 1 / 0), "train"),
}
GOOD: dict[str, Callable[[], Any]] = {
    "lazy layers": lambda: nn.Sequential(nn.LazyConv2d(2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)),
    "a lazy layer inside": made(lambda net: setattr(net, "body", nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))),
    "None from train()": made(train=none_from_train),
    "weights by length and direction": made(lambda net: nn.utils.parametrizations.weight_norm(net.body[1])),  # type: ignore[index, union-attr, arg-type]
    "hooks": made(lambda net: net.register_forward_hook(doubled)),
    "images changed in place": made(forward=lambda self, x: self.body(x.sub_(0.5))),
}


@poise.settings
class OfThisTest(Network):
    """One of the above."""

    paper = Paper("ours", "An example", "here")
    kind: str = "a lock"

    def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return {**{name: build for name, (build, _) in KINDS.items()}, **GOOD}[self.kind]()


def experiment(kind: str) -> Any:
    quick = poise.recipe("at_digits", quick=True)
    return replace(
        quick, model=OfThisTest(kind=kind), epochs=1, data=replace(quick.data, train_images=128, test_images=32)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_networks_that_cannot_be_trained_are_refused_before_any_work(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SettingsError, match=KINDS[kind][1]) as refused:
        poise.train(experiment(kind), out=tmp_path / "run", device="cpu")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", GOOD)
def test_networks_of_any_kind_are_trained_and_read_back(tmp_path: Path, kind: str) -> None:
    run = poise.train(experiment(kind), out=tmp_path / "run", device="cpu")
    x = torch.rand(3, 1, 8, 8)
    assert run.network()(x.clone()).shape == (3, 10)


def test_an_own_network_keeps_the_modes_its_author_gave_it() -> None:
    frozen = made(lambda net: setattr(net, "norm", nn.BatchNorm2d(1).eval()))
    GOOD["frozen"] = frozen
    try:
        network = OfThisTest(kind="frozen").build((1, 8, 8), 10, seed=0)
    finally:
        del GOOD["frozen"]
    assert network.training
    assert not network.norm.training  # type: ignore[union-attr]
    with crafting(network, "evaluating"):
        assert not network.training
    assert network.training


def test_training_says_nothing_of_modes(tmp_path: Path) -> None:
    quick = poise.recipe("at_digits", quick=True)
    short = replace(quick, epochs=1, data=replace(quick.data, train_images=128, test_images=32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poise.train(short, out=tmp_path / "run", device="cpu")
