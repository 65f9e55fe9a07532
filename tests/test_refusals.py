"""Bad input is refused by one sentence that names the argument, the value and what is allowed, and leaves nothing
behind.
"""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from poise.attacks import PGD
from poise.cli.attack import attack as attack_command
from poise.cli.evaluate import evaluate as evaluate_command
from poise.cli.listing import listing
from poise.cli.report import report
from poise.cli.shared import import_files
from poise.cli.train import train as train_command
from poise.core.documents import sealed
from poise.core.errors import PoiseError
from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.core.settings import from_json, read_file, to_json
from poise.data import CIFAR10, MNIST, Digits, Folder, Npz
from poise.engine import Experiment, Monitor, Run, load, resume, train
from poise.engine.checkpoints import foreign_weights, load_into
from poise.evaluation import Protocol
from poise.evaluation.predictions import predict_under
from poise.recipes import experiment as recipe
from poise.threats import L2, Linf
from poise.verbs.attack import attack
from poise.verbs.evaluate import evaluate
from poise.verbs.export import export

Act = Callable[[Path], object]


def tiny(**changes: Any) -> Experiment:
    quick = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=1)
    data = Digits(train_images=100, test_images=30)
    return dataclasses.replace(Experiment(data=data, epochs=2, protocol=Protocol(attacks=(quick,))), **changes)


X, Y = torch.full((4, 1, 8, 8), 0.5), torch.arange(4)


class Net(nn.Module):
    """Ten logits, or whatever `answer` makes of them."""

    def __init__(self, answer: Callable[[torch.Tensor], Any] = lambda logits: logits, classes: int = 10) -> None:
        super().__init__()
        self.linear, self.answer = nn.Linear(64, classes), answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(self.linear(x.flatten(1)))


def attacked(x: Any = X, y: Any = Y, model: nn.Module | None = None, target: Any = None) -> Act:
    return lambda folder: PGD(steps=1)(model or Net(), x, y, target=target)


def answering(answer: Callable[[torch.Tensor], Any]) -> Act:
    return attacked(model=Net(answer))


# -- files
# ------------------------------------------------------------------------------------------------------------------


class Runs:
    """Pickles to a call that writes a file, as a malicious one would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.target}",))


def files(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def put(name: str, content: bytes | str) -> Act:
    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def settings_file(content: bytes | str) -> tuple[Act, Act]:
    return put("s.json", content), lambda folder: read_file(Experiment, folder / "s.json")


def mnist(damage: Callable[[bytes], bytes] = lambda data: data) -> Act:
    def write(folder: Path) -> None:
        for part in ("train", "t10k"):
            images = struct.pack(">4I", 0x803, 12, 28, 28) + bytes(12 * 784)
            labels = struct.pack(">2I", 0x801, 12) + bytes(range(10)) + b"\0\1"
            for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
                put(f"MNIST/raw/{part}-{kind}-ubyte.gz", damage(gzip.compress(content, mtime=0)))(folder)

    return write


def malicious_cifar(folder: Path) -> None:
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        put(f"cifar-10-batches-py/{name}", pickle.dumps({"data": Runs(folder / "ran"), "labels": []}))(folder)


def npz(**changes: Any) -> tuple[Act, Act]:
    arrays = {"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.arange(4) % 2}
    arrays |= {"x_test": np.zeros((2, 8, 8), np.uint8), "y_test": np.arange(2)}
    kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}

    def write(folder: Path) -> None:
        np.savez(folder / "mine.npz", **kept)

    return write, lambda folder: Npz(path="mine.npz").load(folder)


def one_class(folder: Path) -> None:
    (folder / "images" / "cats").mkdir(parents=True)


def torch_file(content: Any) -> Act:
    def write(folder: Path) -> None:
        torch.save(content(folder) if callable(content) else content, folder / "w.pt")

    return write


def cut(name: str, keep: float = 0.5) -> Act:
    def truncate(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return truncate


def first(*acts: Act) -> Act:
    def write(folder: Path) -> None:
        for act in acts:
            act(folder)

    return write


def weights(folder: Path) -> object:
    return foreign_weights(folder / "w.pt")


def nothing(folder: Path) -> None:
    """No preparation."""


def run_with(change: Act) -> Act:
    """A copy of a finished run in `run`, changed."""

    def write(folder: Path) -> None:
        shutil.copytree(FINISHED[0], folder / "run")
        change(folder / "run")

    return write


FINISHED: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train(tiny(), tmp_path_factory.mktemp("finished") / "run", device="cpu")
    evaluate(run)
    FINISHED[:] = [run.path]
    return run.path


def changed_number(folder: Path) -> None:
    path = folder / "checkpoints" / "selected.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))


def lacking_a_prediction(folder: Path) -> None:
    path = folder / "records" / "selected.json"
    record = json.loads(path.read_text())
    record["natural"].pop()
    path.write_text(json.dumps(sealed({name: value for name, value in record.items() if name != "sha256"})))


def other_network(folder: Path) -> None:
    torch.save({"linear.weight": torch.zeros(10, 32), "linear.bias": torch.zeros(10)}, folder / "w.pt")


def not_experiment(**data: Any) -> Act:
    return lambda folder: from_json(Experiment, data)


def keywords(**changes: Any) -> Act:
    return lambda folder: Experiment(**changes)


def of(cls: Any, **changes: Any) -> Act:
    return lambda folder: cls(**changes)


IMPORTS = '{"type": "Experiment", "method": {"type": "evil:Method"}, "import": ["evil.py"]}'
EVIL = put("evil.py", "import pathlib; pathlib.Path('ran').touch()")
ZIP = b"PK\x03\x04" + bytes(200)

ROWS: dict[str, tuple[Act, Act, tuple[str, ...]]] = {
    # what is given to an attack
    "pixels up to 255": (nothing, attacked(X * 255), ("x has pixels", "[127.5, 127.5]", "[0, 1]", "divide by 255")),
    "normalised pixels": (nothing, attacked(X - 1), ("x has pixels", "-0.5", "[0, 1]", "Normalisation")),
    "infinite pixels": (nothing, attacked(X / 0), ("x has pixels", "inf", "[0, 1]")),
    "uint8 images": (nothing, attacked(X.to(torch.uint8)), ("x", "uint8", "[0, 1]", "255")),
    "NaN images": (nothing, attacked(X * torch.nan), ("x", "NaN", "[0, 1]")),
    "images as an array": (nothing, attacked(X.numpy()), ("x", "ndarray", "tensor")),
    "images without batch axis": (nothing, attacked(X[0, 0, 0]), ("x", "[8]", "[B, C, H, W]")),
    "empty batch": (nothing, attacked(X[:0], Y[:0]), ("x", "[0, 1, 8, 8]", "at least 1")),
    "label too large": (nothing, attacked(y=Y + 8), ("y", "[8, 11]", "[0, 9]")),
    "negative label": (nothing, attacked(y=Y - 1), ("y", "[-1, 2]", "[0, 9]")),
    "labels of int32": (nothing, attacked(y=Y.int()), ("y", "int32", "int64")),
    "labels as a list": (nothing, attacked(y=[0, 1, 2, 3]), ("y", "list", "int64")),
    "one-hot labels": (nothing, attacked(y=torch.eye(4, 10).long()), ("y", "[4, 10]", "[4]")),
    "too few labels": (nothing, attacked(y=Y[:3]), ("y", "[3]", "[4]")),
    "target out of range": (nothing, attacked(target=Y + 7), ("target", "[7, 10]", "[0, 9]")),
    # what a network returns
    "network returns a tuple": (
        nothing,
        answering(lambda logits: (logits, logits)),
        ("network", "tuple", "one tensor"),
    ),
    "network returns features": (
        nothing,
        answering(lambda logits: logits[..., None, None]),
        ("network", "[1, 10, 1, 1]", "[1, classes]"),
    ),
    "network returns one logit": (
        nothing,
        answering(lambda logits: logits[:, :1]),
        ("network", "[1, 1]", "at least 2"),
    ),
    "network drops the batch": (nothing, answering(lambda logits: logits[0]), ("network", "[10]", "[1, classes]")),
    "network returns NaN": (nothing, answering(lambda logits: logits * torch.nan), ("network", "NaN", "finite")),
    "network returns labels": (nothing, answering(lambda logits: logits.long()), ("network", "int64", "floating")),
    "network knows fewer classes": (
        nothing,
        lambda folder: evaluate(Net(classes=5), tiny().data.load(), Protocol()),
        ("[0, 9]", "[0, 4]"),
    ),
    "network fails later": (
        nothing,
        lambda folder: predict_under(Net(lambda logits: logits / 0), tiny().data.load().test, PGD(steps=1)),
        ("network", "NaN", "finite"),
    ),
    # settings
    "epsilon above 1": (nothing, of(Linf, epsilon=8), ("Linf.epsilon", "8", "less than or equal to 1")),
    "negative epsilon": (nothing, of(Linf, epsilon=-0.1), ("Linf.epsilon", "-0.1", "greater than or equal to 0")),
    "negative radius": (nothing, of(L2, epsilon=-1), ("L2.epsilon", "-1", "greater than or equal to 0")),
    "epsilon NaN": (nothing, of(Linf, epsilon=float("nan")), ("Linf.epsilon", "nan", "finite")),
    "epsilon of a bool": (nothing, of(Linf, epsilon=True), ("Linf.epsilon", "True", "number")),
    "epsilon 8/0": (nothing, of(Linf, epsilon="8/0"), ("Linf.epsilon", "8/0", "8/255")),
    "threat by a string": (nothing, of(PGD, threat="linf"), ("PGD.threat", "'linf'", "did you mean 'Linf'")),
    "no steps": (nothing, of(PGD, steps=0), ("PGD.steps", "0", "greater than or equal to 1")),
    "steps in words": (nothing, of(PGD, steps="many"), ("PGD.steps", "'many'", "integer")),
    "half a step": (nothing, of(PGD, steps=2.5), ("PGD.steps", "2.5", "integer")),
    "unknown setting": (nothing, of(PGD, epsilon=0.1), ("PGD", "'epsilon'", "known", "threat")),
    "settings by position": (nothing, lambda folder: PGD(0.1), ("PGD", "keyword")),  # type: ignore[call-arg]
    "unknown choice": (nothing, of(PGD, loss="hinge"), ("PGD.loss", "'hinge'", "'margin'")),
    "no epochs": (nothing, keywords(epochs=0), ("Experiment.epochs", "0", "1")),
    "unknown criterion": (nothing, keywords(criterion="best"), ("Experiment.criterion", "'best'", "'sum'")),
    "an epoch kept beyond the end": (
        nothing,
        keywords(epochs=3, keep_epochs=(4,)),
        ("keep_epochs", "4", "at most epochs = 3"),
    ),
    "all held out": (nothing, keywords(held_out=1.0), ("held_out", "1.0", "below 1")),
    "robust without attack": (
        nothing,
        keywords(criterion="robust"),
        ("criterion", "'robust'", "monitor with an attack"),
    ),
    "monitors of one name": (
        nothing,
        keywords(monitors=(Monitor(), Monitor())),
        ("monitors", "natural", "another name"),
    ),
    "attacks of one name": (
        nothing,
        of(Protocol, attacks=(PGD(), PGD())),
        ("Protocol.attacks", "PGD-20", "another name"),
    ),
    "unknown method": (
        nothing,
        not_experiment(type="Experiment", method={"type": "Jont"}),
        ("'Jont'", "did you mean 'Joint'"),
    ),
    "wrong nested setting": (
        nothing,
        not_experiment(
            type="Experiment", method={"type": "Joint", "policy": {"optimizer": {"type": "SGD", "learning_rate": -1}}}
        ),
        ("SGD.learning_rate", "-1", "greater than 0", "method"),
    ),
    "override of nothing": (
        nothing,
        lambda folder: override(tiny(), ["method.batchsize=3"]),
        ("'method.batchsize'", "did you mean 'batch_size'"),
    ),
    "override without =": (nothing, lambda folder: override(tiny(), ["epochs"]), ("'epochs'", "name=value")),
    "override through a number": (nothing, lambda folder: override(tiny(), ["epochs.x=3"]), ("'epochs.x'",)),
    # settings files
    "no settings file": (nothing, lambda folder: train_command("s.json"), ("s.json", "no settings file")),
    "settings of no JSON": (*settings_file("{'epochs': 3}"), ("s.json", "not JSON")),
    "settings of bytes": (*settings_file(b"\xff\xfe\x00"), ("s.json", "cannot be read")),
    "settings of a list": (*settings_file("[1, 2]"), ("Experiment", "must be")),
    "settings that name an import": (first(EVIL, settings_file(IMPORTS)[0]), settings_file("")[1], ("'import'",)),
    "settings that name a module": (
        first(EVIL, put("s.json", IMPORTS.replace(', "import": ["evil.py"]', ""))),
        settings_file("")[1],
        ("'evil:Method'", "registered method"),
    ),
    # data
    "data missing": (
        nothing,
        lambda folder: MNIST(download=False).load(folder),
        ("MNIST", "missing", "download=True", "https://"),
    ),
    "data truncated": (
        mnist(lambda data: data[:-20]),
        lambda folder: MNIST(verify=False).load(folder),
        ("ubyte.gz", "whole gzip"),
    ),
    "data tampered with": (mnist(), lambda folder: MNIST().load(folder), ("ubyte.gz", "MD5", "verify=False")),
    "data that run code": (
        malicious_cifar,
        lambda folder: CIFAR10(verify=False).load(folder),
        ("data_batch_1", "system", "not read"),
    ),
    "array of objects": (
        *npz(x_train=np.array([{"a": 1}] * 4, dtype=object)),
        ("mine.npz", "pickled objects", "not read"),
    ),
    "array missing": (*npz(y_test=None), ("mine.npz", "'y_test'", "x_train, y_train")),
    "float images too large": (*npz(x_train=np.full((4, 8, 8), 255.0)), ("mine.npz", "[0, 1]", "255")),
    "images of NaN": (*npz(x_test=np.full((2, 8, 8), np.nan)), ("mine.npz", "not finite")),
    "labels of floats": (*npz(y_train=np.zeros(4)), ("mine.npz", "y_train", "float64", "whole number")),
    "test labels beyond the classes": (*npz(y_test=np.array([0, 5])), ("mine.npz", "y_test", "0 to 5", "0 to 1")),
    "more labels than images": (*npz(y_test=np.array([0, 1, 0])), ("mine.npz", "2 images", "3 labels")),
    "one class only": (one_class, lambda folder: Folder(path="images").load(folder), ("images", "at least 2 classes")),
    "more images than there are": (
        nothing,
        lambda folder: Digits(train_images=9999).load(),
        ("train_images", "9999", "Digits"),
    ),
    # weights
    "no weights": (nothing, weights, ("w.pt", "no weights file")),
    "weights that run code": (
        torch_file(lambda folder: {"net": Runs(folder / "ran")}),
        weights,
        ("w.pt", "system", "could run code", "not read"),
    ),
    "weights truncated": (first(torch_file({"a": torch.zeros(999)}), cut("w.pt")), weights, ("w.pt", "whole")),
    "weights of garbage": (put("w.pt", ZIP), weights, ("w.pt", "whole")),
    "weights without tensors": (torch_file({"epoch": 3}), weights, ("w.pt", "no state dict")),
    "safetensors truncated": (
        first(put("w.safetensors", safetensors.torch.save({"a": torch.zeros(99)})), cut("w.safetensors")),
        lambda folder: foreign_weights(folder / "w.safetensors"),
        ("w.safetensors", "valid safetensors"),
    ),
    "weights of another network": (
        other_network,
        lambda folder: load_into(Net(), weights(folder), "w.pt"),  # type: ignore[arg-type]
        ("w.pt", "linear.weight", "[10, 32]", "[10, 64]"),
    ),
    # runs
    "no run": (nothing, lambda folder: load(folder / "run"), ("run", "no run folder")),
    "a folder that is no run": (
        put("run/notes.txt", ""),
        lambda folder: load(folder / "run"),
        ("run", "not a run folder"),
    ),
    "the folder above runs": (
        run_with(nothing),
        lambda folder: load(folder),
        ("experiment.json", "runs inside it are run"),
    ),
    "occupied run folder": (
        run_with(nothing),
        lambda folder: train(tiny(), folder / "run"),
        ("run", "not empty", "poise train --resume"),
    ),
    "occupied by something else": (
        put("run/notes.txt", ""),
        lambda folder: train(tiny(), folder / "run"),
        ("run", "not empty"),
    ),
    "a file where the run should be": (
        put("run", ""),
        lambda folder: train(tiny(), folder / "run"),
        ("run", "not empty"),
    ),
    "a run below a file": (
        put("file", ""),
        lambda folder: train(tiny(), folder / "file" / "run"),
        ("run", "cannot be written"),
    ),
    "folder that may not be written": (
        nothing,
        lambda folder: train(tiny(), "/proc/poise/run"),
        ("/proc/poise/run", "cannot be written"),
    ),
    "weights of a run truncated": (
        run_with(cut("checkpoints/selected.safetensors")),
        lambda folder: load(folder / "run"),
        ("selected", "SHA-256"),
    ),
    "facts of a run changed": (
        run_with(changed_number),
        lambda folder: load(folder / "run"),
        ("selected.json", "damaged"),
    ),
    "facts of a run truncated": (
        run_with(cut("checkpoints/selected.json")),
        lambda folder: load(folder / "run"),
        ("selected.json", "damaged"),
    ),
    "no such weights": (
        run_with(nothing),
        lambda folder: load(folder / "run", "epoch 9"),
        ("'epoch 9'", "last, selected"),
    ),
    "settings of a run truncated": (
        run_with(cut("experiment.json")),
        lambda folder: resume(folder / "run"),
        ("experiment.json", "not JSON"),
    ),
    "run.json truncated": (run_with(cut("run.json")), lambda folder: resume(folder / "run"), ("run.json", "damaged")),
    "record truncated": (
        run_with(cut("records/selected.json")),
        lambda folder: EvaluationRecord.read(folder / "run/records/selected.json"),
        ("selected.json", "cannot be read"),
    ),
    "record incomplete": (
        run_with(lacking_a_prediction),
        lambda folder: EvaluationRecord.read(folder / "run/records/selected.json"),
        ("selected.json", "30 labels", "29"),
    ),
    "report of nothing": (nothing, lambda folder: report([folder / "run"]), ("run", "no run folder")),
    # the rest
    "unknown device": (
        nothing,
        lambda folder: train(tiny(), folder / "run", device="gpu"),
        ("device", "'gpu'", "'auto'"),
    ),
    "absent device": (
        nothing,
        lambda folder: train(tiny(), folder / "run", device="cuda:99"),
        ("device", "'cuda:99'", "'auto'"),
    ),
    "more images evaluated than there are": (
        nothing,
        lambda folder: train(tiny(protocol=Protocol(first=31)), folder / "run"),
        ("Protocol.first", "31", "at most 30"),
    ),
    "initial weights missing": (
        nothing,
        lambda folder: train(tiny(initial=str(folder / "w.pt")), folder / "run"),
        ("w.pt", "no weights file"),
    ),
    "export to another format": (
        run_with(nothing),
        lambda folder: export(Run.open(folder / "run"), folder / "net.pt"),
        ("--to", "net.pt", ".safetensors or .onnx"),
    ),
    "export to a folder": (
        run_with(lambda folder: (folder / "x.safetensors").mkdir()),
        lambda folder: export(Run.open(folder / "run"), folder / "run" / "x.safetensors"),
        ("x.safetensors", "cannot be written", "must be a file"),
    ),
    "adversarial images to another format": (
        run_with(nothing),
        lambda folder: attack(folder / "run", PGD(steps=1), out=folder / "x.npz"),
        ("--out", "x.npz", ".safetensors"),
    ),
    "more images attacked than there are": (
        run_with(nothing),
        lambda folder: attack_command(folder / "run", "PGD", ["steps=1"], first=31),
        ("first(31)", "30"),
    ),
    "unknown recipe": (nothing, lambda folder: recipe("at_cifar100"), ("'at_cifar100'", "did you mean")),
    "unknown kind": (nothing, lambda folder: listing("object"), ("'object'", "did you mean 'objectives'")),
    "unknown protocol": (
        nothing,
        lambda folder: evaluate_command(weights=Path("w.pt"), protocol="AA"),
        ("--protocol", "'AA'", "standard"),
    ),
    "step size in words": (
        nothing,
        lambda folder: evaluate_command(weights=Path("w.pt"), model="ResNet18", step_size="small"),
        ("step_size", "'small'", "number"),
    ),
    "epsilon without protocol": (
        nothing,
        lambda folder: evaluate_command(runs=[folder / "run"], epsilon="4/255"),
        ("--epsilon", "--protocol standard"),
    ),
    "record of a run elsewhere": (
        nothing,
        lambda folder: evaluate_command(runs=[folder], out=folder / "r.json"),
        ("--out", "--weights"),
    ),
    "neither runs nor weights": (nothing, lambda folder: evaluate_command(), ("--weights",)),
    "weights without network": (
        nothing,
        lambda folder: evaluate_command(weights=Path("w.pt")),
        ("--weights", "--model"),
    ),
    "import of a missing file": (
        nothing,
        lambda folder: import_files([folder / "mine.py"]),
        ("--import", "mine.py", "no such file"),
    ),
    "import under a taken name": (
        put("random.py", ""),
        lambda folder: import_files([folder / "random.py"]),
        ("random.py", "'random'", "rename"),
    ),
    "import of no Python": (
        put("mine.txt", ""),
        lambda folder: import_files([folder / "mine.txt"]),
        ("mine.txt", "Python file"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_refused_by_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    prepare, act, words = ROWS[name]
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    before = files(tmp_path)
    with pytest.raises(PoiseError) as refused:
        act(tmp_path)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert 20 < len(sentence) < 1000
    assert not sentence.endswith(".")  # the command sets it behind "poise: "
    missing = [word for word in words if word not in sentence]
    assert not missing, f"{missing} not in: {sentence}"
    assert files(tmp_path) == before


def test_the_table_is_as_long_as_promised() -> None:
    assert len(ROWS) >= 45


# -- no space
# -----------------------------------------------------------------------------------------------------------------

WRITES = 14
"""Files that a run of two epochs writes: run.json, experiment.json; per epoch selected and state (2 each), metrics;
last (2).
"""


@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_a_write_that_fails_harms_nothing_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path, number: int
) -> None:
    experiment, count, fsync = tiny(), 0, os.fsync

    def failing(handle: int) -> None:
        nonlocal count
        # not a folder, nor who holds the lock, whose fsync may fail without harm
        needed = stat.S_ISREG(os.fstat(handle).st_mode) and ".holder" not in str(
            Path(f"/proc/self/fd/{handle}").readlink()
        )
        count += needed
        if count == number and needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with (
        monkeypatch.context() as patched,
        pytest.raises(PoiseError, match=r"/run/.* cannot be written: no space is left or a size limit"),
    ):
        patched.setattr(os, "fsync", failing)
        train(experiment, tmp_path / "run")
    assert not list(tmp_path.rglob("*.part"))
    if number <= 2:
        assert not (tmp_path / "run").exists(), "a folder that could not be made whole is not left behind"
        return
    run = resume(tmp_path / "run")
    for which in ("last", "selected"):
        assert run.facts(which)["sha256"] == Run.open(finished).facts(which)["sha256"]
    assert [json.loads(line)["epoch"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from poise.cli import main
main()
"""


def test_a_disk_limit_ends_training_with_one_sentence_and_the_run_goes_on(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(to_json(tiny())))
    # the weights fit, a complete checkpoint does not
    limit = (finished / "checkpoints" / "selected.safetensors").stat().st_size + 1000
    arguments = [str(limit), "train", "s.json", "--out", "run", "--no-evaluate"]
    command = [sys.executable, "-c", LIMITED, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    *said, sentence = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert sentence.startswith("poise: run/checkpoints/step-")
    assert ".safetensors cannot be written: no space is left or a size limit is reached" in sentence
    assert all(" epoch " in line for line in said)
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    run = resume(tmp_path / "run")
    assert run.facts("last")["sha256"] == Run.open(finished).facts("last")["sha256"]
