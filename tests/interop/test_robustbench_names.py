"""The names, files and numbers of the `robustbench` package: weights as others saved them, `benchmark`, model_info."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, FAB, AutoAttack, Square
from poise.core.errors import CheckpointError, RunError, SettingsError
from poise.data import CIFAR10, Data, Split
from poise.data.corruptions import CORRUPTIONS
from poise.interop import robustbench
from poise.interop.autoattack import AutoAttack as AutoAttackByName
from poise.interop.robustbench import ModelInfo, benchmark, clean_accuracy, load_model, new_model_issue
from poise.models import Network, Normalisation, PreActResNet18, ResNet18, ResNet20, WideResNet
from poise.threats import L2, Linf

Weights = dict[str, Tensor]
CONSTANTS = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def as_trades(weights: Weights) -> Weights:
    """The names of TRADES' WideResNet, with its unused stage."""
    found = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[0] == "layers":
            inner = ".".join(parts[3:]).replace("shortcut", "convShortcut")
            name = f"block{int(parts[1]) + 1}.layer.{parts[2]}.{inner}"
            if parts[1] == "0":
                found[f"sub_{name}"] = torch.zeros_like(tensor)
        found[name.replace("bn.", "bn1.") if parts[0] == "bn" else name.replace("head.", "fc.")] = tensor
    return found


def as_pytorch_cifar(weights: Weights) -> Weights:
    """The names of "pytorch-cifar", without the batch counters that came later."""
    found = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[0] == "layers":
            name = ".".join([f"layer{int(parts[1]) + 1}", *parts[2:]]).replace("shortcut.weight", "shortcut.0.weight")
        if not name.endswith("num_batches_tracked"):
            found[name.replace("head.", "linear.")] = tensor
    return found


def plain(weights: Weights) -> Weights:
    return weights


CASES: list[tuple[Network, Callable[[Weights], Weights]]] = [
    (WideResNet(depth=16, width=1), as_trades),
    (WideResNet(depth=10, width=2), plain),
    (ResNet18(width=4), as_pytorch_cifar),
    (PreActResNet18(width=4), as_pytorch_cifar),
    (PreActResNet18(width=4, final_norm=False), as_pytorch_cifar),
    (ResNet20(width=4), as_pytorch_cifar),
    (ResNet20(width=4, shortcut="pad"), plain),
]
WRAPPED: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "bare": lambda weights: weights,
    "state_dict, module.": lambda weights: {
        "state_dict": {f"module.{name}": tensor for name, tensor in weights.items()},
        "epoch": 7,
    },
    "module.model.": lambda weights: {f"module.model.{name}": tensor for name, tensor in weights.items()},
}


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def built(settings: Network) -> nn.Module:
    """With running statistics of its own, so that batch normalisation tells which is which."""
    network = settings.build((3, 32, 32), 7, seed=1)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return network.eval()


@pytest.mark.parametrize(
    ("settings", "rename"), CASES, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
@pytest.mark.parametrize("wrap", WRAPPED)
def test_weights_of_others_give_the_network_that_they_are_of(
    tmp_path: Path, x: Tensor, settings: Network, rename: Callable[[Weights], Weights], wrap: str
) -> None:
    network = built(settings)
    path = tmp_path / "cifar10" / "L2" / "Some2020Paper.pt"
    path.parent.mkdir(parents=True)
    torch.save(WRAPPED[wrap](rename(network.state_dict())), path)
    loaded = load_model("Some2020Paper", model_dir=tmp_path, threat_model="L2")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
        normalised = load_model("other name", custom_checkpoint=path, normalise=CONSTANTS)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CONSTANTS.mean, CONSTANTS.std))
        assert torch.equal(normalised(x), network((x - mean) / std))


@pytest.mark.parametrize("names", [("mu", "sigma"), ("normalize.mean", "normalize.std"), ("module.mean", "module.std")])
def test_constants_among_the_weights_are_the_normalisation(tmp_path: Path, x: Tensor, names: tuple[str, str]) -> None:
    network = built(ResNet20(width=4))
    prefix = {"mu": "", "normalize.mean": "model.", "module.mean": "module."}[names[0]]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CONSTANTS.mean, CONSTANTS.std))
    weights = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()} | dict(
        zip(names, (mean, std), strict=True)
    )
    torch.save(weights, tmp_path / "net.pt")
    with torch.no_grad():
        assert torch.equal(load_model("net", custom_checkpoint=tmp_path / "net.pt")(x), network((x - mean) / std))


def test_a_module_of_ones_own_takes_the_weights(tmp_path: Path) -> None:
    class Own(nn.Module):
        mu: Tensor
        sigma: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("mu", torch.zeros(3))
            self.register_buffer("sigma", torch.ones(3))

        def forward(self, z: Tensor) -> Tensor:
            return self.layer((z - self.mu) / self.sigma)

    saved = Own()
    saved.mu += 1
    torch.save({f"module.{name}": tensor for name, tensor in saved.state_dict().items()}, tmp_path / "own.pt")
    loaded = load_model("own", custom_checkpoint=tmp_path / "own.pt", network=Own())
    z = torch.rand(4, 3)
    assert torch.equal(loaded(z), saved(z))


@pytest.fixture
def tiny() -> Data:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (24, 3, 4, 4), generator=generator, dtype=torch.uint8)
    split = Split.of(images, torch.randint(0, 10, (24,), generator=generator))
    return Data("tiny", split, split, tuple("abcdefghij"))


def labelled(data: Data, net: nn.Module) -> Data:
    """The data with the network's labels, the first one excepted."""
    with torch.no_grad():
        labels = net(data.test.pixels()).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    split = Split.of(data.test.images, labels)
    return Data("tiny", split, split, data.classes)


class Quick(AutoAttackByName):
    """With budgets for tests."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 3
        self.square.n_queries = 10


@pytest.mark.parametrize(("threat_model", "threat"), [("Linf", Linf(epsilon=16 / 255)), ("L2", L2(epsilon=16 / 255))])
def test_benchmark_is_autoattack_on_the_first_images(
    net: nn.Module,
    tiny: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threat_model: str,
    threat: Any,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(robustbench.eval, "AutoAttack", Quick)
    data = labelled(tiny, net)
    x, y = data.test.first(6).pixels(), data.test.labels[:6]
    options: dict[str, Any] = {
        "threat_model": threat_model,
        "eps": 16 / 255,
        "to_disk": True,
        "model_name": "Own2026Net",
    }
    found = benchmark(net, 6, data, **options)
    parts = (
        APGD(steps=3),
        APGD(steps=3, loss="targeted_dlr"),
        FAB(steps=3, targeted=True),
        Square(queries=10, rescale=False),
    )
    result = AutoAttack(threat=threat, version="custom", attacks=parts).run(net, x, y)
    assert found == (result.natural_accuracy, result.robust_accuracy)
    assert found[0] == 5 / 6
    said = capsys.readouterr().out
    assert "Clean accuracy: 83.33%" in said
    assert f"Adversarial accuracy: {found[1]:.2%}" in said
    info = json.loads((tmp_path / "model_info" / "tiny" / threat_model / "Own2026Net.json").read_text())
    assert list(info) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
        "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
    ]  # fmt: skip
    assert (info["eps"], info["clean_acc"], info["autoattack_acc"]) == ("16/255", "83.33", f"{100 * found[1]:.2f}")


def test_benchmark_on_corruptions_is_the_mean_over_75_sets(
    net: nn.Module, tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = labelled(tiny, net)
    folder = tmp_path / "tiny-C"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (len(CORRUPTIONS), 120, 4, 4, 3), dtype=np.uint8)
    for name, images in zip(CORRUPTIONS, rows, strict=True):
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(data.test.labels.numpy(), 5))
    options: dict[str, Any] = {"threat_model": "corruptions", "to_disk": True, "model_name": "Own2026Net"}
    _, found = benchmark(net, 12, data, corruptions_data_dir=tmp_path, **options)
    pixels = torch.from_numpy(rows).permute(0, 1, 4, 2, 3).float() / 255
    with torch.no_grad():
        right = [
            net(images.reshape(5, 24, 3, 4, 4)[severity, :12]).argmax(1) == data.test.labels[:12]
            for images in pixels
            for severity in range(5)
        ]
    assert found == pytest.approx(float(torch.stack(right).double().mean()))
    info = json.loads((tmp_path / "model_info" / "tiny" / "corruptions" / "Own2026Net.json").read_text())
    assert info["corruptions_acc"] == f"{100 * found:.2f}"
    assert info["eps"] is None


def test_an_earlier_model_info_keeps_what_is_not_known_anew(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    about = {
        "name": "A Paper",
        "authors": "A. Body",
        "additional_data": False,
        "architecture": "ResNet-18",
        "link": "https://a.b",
    }
    ModelInfo.of("cifar10", "Linf", 8 / 255, 0.9, 0.5, **about).write(path)
    ModelInfo.of("cifar10", "Linf", 8 / 255, 0.91234, 0.5).write(path)
    info = ModelInfo.read(path)
    assert (info.name, info.clean_acc, info.autoattack_acc, info.eps) == ("A Paper", "91.23", "50.00", "8/255")
    assert ModelInfo.of("cifar10", "Linf", 0.031, 1, 1).eps == "0.031"
    assert ModelInfo.of("cifar10", "L2", 0.5, 1, 1).eps == "0.5"
    text = new_model_issue(info, "Body2026Paper", "Linf", "https://a.b/code")
    for line in (
        "[New Model] Body2026Paper",
        "- **Paper Title**: A Paper",
        "- **Threat Model**: Linf",
        "- **eps**: 8/255",
        "- **Clean accuracy**: 91.23",
        "- **Robust accuracy**: 50.00",
        "- **Additional data**: false",
        "- **Checkpoint and code**: https://a.b/code",
    ):
        assert line in text.splitlines()
    common = ModelInfo.of("cifar10", "corruptions", None, 0.9, 0.8)
    assert "- **eps**: N/A" in new_model_issue(common, "Body2026Paper", "corruptions")
    path.write_text("[1]")
    with pytest.raises(RunError, match="cannot be read as a model_info file"):
        ModelInfo.read(path)


def test_clean_accuracy_asks_in_evaluation_mode() -> None:
    class Mode(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.eye(2)[torch.full((len(z),), int(self.training))]

    model = Mode()
    assert clean_accuracy(model, torch.rand(5, 1), torch.tensor([0, 0, 0, 1, 1]), batch_size=2) == 0.6
    assert model.training


def test_what_is_not_supported_is_refused_before_any_work(net: nn.Module, tiny: Data, tmp_path: Path) -> None:
    linf: dict[str, Any] = {"dataset": tiny, "eps": 0.1}
    calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (SettingsError, "threat_model = 'L1'", lambda: benchmark(net, threat_model="L1")),
        (SettingsError, "threat_model = 'corruptions_3d'", lambda: benchmark(net, threat_model="corruptions_3d")),
        (
            SettingsError,
            "dataset = 'imagenet', must be one of cifar10, cifar100",
            lambda: benchmark(net, dataset="imagenet", eps=0.1),
        ),
        (SettingsError, "eps is None", lambda: benchmark(net, dataset=tiny)),
        (SettingsError, "eps = 0.1, must be None", lambda: benchmark(net, threat_model="corruptions", **linf)),
        (SettingsError, "model_name is None", lambda: benchmark(net, to_disk=True, **linf)),
        (SettingsError, "preprocessing = 'Res256'", lambda: benchmark(net, preprocessing="Res256", **linf)),
        (
            SettingsError,
            "dataset = 'cifa10' is unknown, and there is no folder .*; did you mean 'cifar10'",
            lambda: load_model("A", "m", "cifa10"),
        ),
        (
            CheckpointError,
            "no address of .Nobody2020Nothing. is known",
            lambda: load_model("Nobody2020Nothing", model_dir=tmp_path),
        ),
        (
            CheckpointError,
            "give your own module as network=",
            lambda: load_model("", custom_checkpoint=saved(tmp_path, net.state_dict())),
        ),
        (
            CheckpointError,
            "lacks 1.weight",
            lambda: load_model("", custom_checkpoint=saved(tmp_path, {"a": torch.ones(1)}), network=net),
        ),
    ]
    for error, words, call in calls:
        with pytest.raises(error, match=words):
            call()


def saved(folder: Path, weights: Weights) -> Path:
    torch.save(weights, folder / "net.pt")
    return folder / "net.pt"


def test_the_data_readers_give_pixels_and_labels(monkeypatch: pytest.MonkeyPatch, tiny: Data) -> None:
    asked = []

    def load(source: CIFAR10, data_dir: Path) -> Data:
        asked.append(data_dir)
        return tiny

    monkeypatch.setattr(CIFAR10, "load", load)
    x, y = robustbench.load_cifar10(5, "here")
    assert torch.equal(x, tiny.test.images[:5].float() / 255)
    assert torch.equal(y, tiny.test.labels[:5])
    assert len(robustbench.load_cifar10()[0]) == 24
    assert asked == [Path("here"), Path("data")]


def test_the_packages_usual_paths_lead_to_the_same_names() -> None:
    from poise.interop.robustbench.data import load_cifar10
    from poise.interop.robustbench.eval import benchmark as whole
    from poise.interop.robustbench.utils import clean_accuracy as accuracy
    from poise.interop.robustbench.utils import load_model as load

    assert (load_cifar10, whole, accuracy, load) == (robustbench.load_cifar10, benchmark, clean_accuracy, load_model)


def test_norm_is_the_former_name_of_the_threat_model(tmp_path: Path) -> None:
    network = built(ResNet20(width=4))
    for folder in ("cifar10/L2", "own/L2"):  # a folder of one's own is a data set, too
        (tmp_path / folder).mkdir(parents=True)
        torch.save(network.state_dict(), tmp_path / folder / "Some2020Paper.pt")
    with pytest.warns(DeprecationWarning, match="threat_model='L2'"):
        found = load_model("Some2020Paper", model_dir=tmp_path, threat_model="Linf", norm="L2")
    assert found.state_dict().keys() == network.state_dict().keys()
    assert load_model("Some2020Paper", tmp_path, "own", "L2").training is False
