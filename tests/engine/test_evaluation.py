"""What evaluation says of weights, and what it leaves behind: records, adversarial images, exported networks."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import poise
from poise.attacks import PGD
from poise.core.errors import CheckpointError, DataError, SettingsError
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.core.settings import from_json, to_json
from poise.data import Digits
from poise.engine import Experiment, Run, train
from poise.engine.checkpoints import fitting, foreign_weights, read_facts
from poise.engine.experiment import Published
from poise.engine.own_weights import data_named
from poise.evaluation import Protocol, standard, strict
from poise.evaluation.predictions import predict, predict_under
from poise.models import DigitsCNN
from poise.reports import read_runs, table
from poise.threats import L2, Linf, Threat
from poise.verbs.attack import attack as make_adversarial
from poise.verbs.evaluate import evaluate
from poise.verbs.export import export
from poise.verbs.sanity import sanity

NETWORK_FILE = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
INVERTING_FILE = """
from torch import nn

class Inverting(nn.Sequential):
    def forward(self, x):
        return super().forward(1 - x)

def build():
    return Inverting(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def record(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> EvaluationRecord:
    return evaluate(trained)


def test_the_record_says_what_was_evaluated_on_what_and_how(trained: Run, record: EvaluationRecord) -> None:
    experiment, data = trained.experiment, trained.experiment.data.load()
    assert (record.model, record.checkpoint, record.run) == (experiment.name, "selected", trained.name)
    assert (record.group, record.seed, record.evaluation_seed) == (experiment.group, experiment.seed, 0)
    assert (record.dataset, record.split, record.classes, record.protocol) == (
        "Digits",
        "test",
        list("0123456789"),
        "tiny",
    )
    assert record.labels == data.test.labels[:40].tolist()
    assert record.attack_names == ["PGD-2", "PGD-margin-2"]
    assert [from_json(poise.attacks.Attack, attack.settings) for attack in record.attacks] == list(
        experiment.protocol.attacks
    )
    assert record.notes["epoch"] == trained.facts()["epoch"]
    assert set(record.versions) == {"poise", "torch", "numpy", "python"}
    assert record.started.endswith("+00:00")
    assert record.seconds >= sum(attack.seconds for attack in record.attacks) > 0


def test_a_record_keeps_the_rows_of_every_table_that_prints_its_run(tmp_path: Path, tiny_experiment: Any) -> None:
    first = Published(
        table="Table 1", row="AT", columns=("natural", "AA"), values=(82.4, None), spread=(0.1, None), runs=7
    )
    further = Published(table="Table 5", columns=("natural",), values=(82.66,))
    run = train(
        tiny_experiment(epochs=1, monitors=(), criterion="last", published=first, also_published=(further,)),
        tmp_path / "run",
    )
    notes = evaluate(run, checkpoint="last", protocol=Protocol(name="natural", attacks=())).notes
    assert {name: value for name, value in notes["published"].items() if name not in ("plus_minus", "measured")} == {
        "table": "Table 1",
        "row": "AT",
        "columns": {"natural": 82.4},
        "spread": {"natural": 0.1, "AA": None},
        "runs": 7,
        "note": "",
    }
    assert [(row["table"], row["columns"]) for row in notes["also_published"]] == [("Table 5", {"natural": 82.66})]


def test_predictions_are_those_of_the_network_and_the_worst_case_is_taken_per_example(
    trained: Run, record: EvaluationRecord
) -> None:
    network, split = trained.network(), trained.experiment.data.load().test.first(40)
    with torch.no_grad():
        assert record.natural == network(split.pixels()).argmax(1).tolist()
    columns = [
        np.array(predicted) == np.array(record.labels)
        for predicted in (record.natural, *(a.predicted for a in record.attacks))
    ]
    assert record.worst_case() == np.logical_and.reduce(columns).tolist()
    assert record.worst_case_accuracy == np.logical_and.reduce(columns).mean()
    assert record.accuracy("PGD-2") == columns[1].mean()
    assert (
        0
        < record.worst_case_accuracy
        <= min(record.accuracy(name) for name in record.attack_names)
        <= record.natural_accuracy
    )


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_predictions_do_not_depend_on_the_batch_size(trained: Run, record: EvaluationRecord, batch_size: int) -> None:
    network = trained.network().double()  # in float32 a sign step would amplify the last bit
    split = trained.experiment.data.load().test.first(40)
    attack = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=2, restarts=2)
    wanted = predict_under(network, split, attack, batch_size=13)
    assert torch.equal(predict_under(network, split, attack, batch_size=batch_size), wanted)
    assert torch.equal(predict(network, split, batch_size), predict(network, split, 13))
    assert not torch.equal(wanted, predict(network, split))


def state_of(model: nn.Module) -> dict[str, Any]:
    modes = {name: module.training for name, module in model.named_modules()}
    asks = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return {"modes": modes, "asks": asks, "gradients": [parameter.grad for parameter in model.parameters()]}


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_network_as_it_was(trained: Run, training: bool) -> None:
    model = trained.network().train(training)
    next(model.parameters()).requires_grad_(False)
    next(iter(model.children())).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = state_of(model)
    evaluate(model, trained.experiment.data.load(), trained.experiment.protocol)
    assert state_of(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_last_is_copied_only_where_it_would_be_evaluated_to_the_same(
    trained: Run, tmp_path: Path, tiny_experiment: Any
) -> None:
    run = train(tiny_experiment(criterion="last", epochs=1), tmp_path / "run")
    first = evaluate(run)
    copied = evaluate(run, checkpoint="last")
    assert copied == dataclasses.replace(first, checkpoint="last")
    protocol = run.experiment.protocol
    for index, changed in enumerate(
        (
            dataclasses.replace(protocol, first=30, name="other"),
            dataclasses.replace(protocol, attacks=(PGD(steps=2, step_size=0.1), *protocol.attacks[1:]), name="other"),
        )
    ):
        evaluate(run, protocol=dataclasses.replace(protocol, name="other"))
        again = evaluate(run, checkpoint="last", protocol=changed)
        assert [attack.settings for attack in again.attacks] == [to_json(attack) for attack in changed.attacks], index
        assert again.count == changed.first


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A user's own network, its data and weights, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net_of_test.py").write_text(NETWORK_FILE)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    data = Digits().load()
    with torch.no_grad():  # nearest class mean, as a linear rule
        means = torch.stack([data.train.pixels()[data.train.labels == label].mean(0).flatten() for label in range(10)])
        network.load_state_dict({"1.weight": means, "1.bias": -means.square().sum(1) / 2})
    protocol = Protocol(name="quick", attacks=(PGD(threat=Linf(epsilon=0.05), step_size=0.02, steps=2),), first=50)
    return SimpleNamespace(network=network, folder=tmp_path, protocol=protocol)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "net": lambda state: {"net": state, "acc": 93.0},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "both": lambda state: {"model": {f"module.model.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("form", [*WRAPPED, "safetensors"])
def test_a_users_own_checkpoint_is_evaluated_whatever_it_is_wrapped_in(own_code: SimpleNamespace, form: str) -> None:
    path = own_code.folder / ("mine.safetensors" if form == "safetensors" else "mine.pt")
    state = own_code.network.state_dict()
    if form == "safetensors":
        path.write_bytes(safetensors.torch.save(state))
    else:
        torch.save(WRAPPED[form](state), path)
    out = evaluate(
        path, "Digits", own_code.protocol, network="my_net_of_test:build", out=own_code.folder / "out.json"
    ).path
    record = EvaluationRecord.read(out)
    split = Digits().load().test.first(50)
    assert record.natural == own_code.network(split.pixels()).argmax(1).tolist()
    assert record.natural_accuracy > 0.8
    assert record.accuracy("PGD-2") < record.natural_accuracy
    assert (record.model, record.checkpoint, record.group, record.notes["weights"]) == (
        "mine",
        "file",
        str(path),
        str(path),
    )


def test_names_of_a_users_own_network_may_begin_as_those_of_wrappers_do(tmp_path: Path) -> None:
    network = nn.Module()
    network.model = nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    found = foreign_weights(tmp_path / "w.pt")
    assert fitting(found, network).keys() == network.state_dict().keys()
    assert set(fitting(found, network.model)) == {"weight", "bias"}


def test_another_forward_of_the_same_weights_is_another_network(own_code: SimpleNamespace) -> None:
    path = own_code.folder / "mine.pt"
    torch.save(own_code.network.state_dict(), path)
    (own_code.folder / "my_other_net_of_test.py").write_text(INVERTING_FILE)
    one, two = (
        evaluate(path, "Digits", own_code.protocol, network=f"{module}:build").path
        for module in ("my_net_of_test", "my_other_net_of_test")
    )
    assert one == two == own_code.folder / "mine.record.json"
    inverted = own_code.network(1 - Digits().load().test.first(50).pixels()).argmax(1)
    assert EvaluationRecord.read(two).natural == inverted.tolist()


def test_a_record_of_something_else_is_replaced_only_on_demand(own_code: SimpleNamespace) -> None:
    path, out = own_code.folder / "mine.pt", own_code.folder / "out.json"
    torch.save(own_code.network.state_dict(), path)
    other = dataclasses.replace(own_code.protocol, first=20)
    evaluate(path, "Digits", own_code.protocol, network="my_net_of_test:build", out=out)
    with pytest.raises(
        SettingsError, match=r"out\.json is a record of other images or attacks; give another --out, or --again"
    ):
        evaluate(path, "Digits", other, network="my_net_of_test:build", out=out)
    assert evaluate(path, "Digits", other, network="my_net_of_test:build", out=out, again=True).count == 20


def test_a_file_that_is_no_record_is_never_taken_for_a_free_place(own_code: SimpleNamespace) -> None:
    path, notes = own_code.folder / "mine.pt", own_code.folder / "notes.json"
    torch.save(own_code.network.state_dict(), path)
    notes.write_text('["mine"]')
    for out in (path, notes):
        before = out.read_bytes()
        with pytest.raises(SettingsError, match=rf"{out.name} is there and is no record; give another --out"):
            evaluate(path, "Digits", own_code.protocol, network="my_net_of_test:build", out=out)
        assert out.read_bytes() == before
    with pytest.raises(SettingsError, match=r"mine\.pt is there and is no verdict; give another --out"):
        sanity(path, "Digits", network="my_net_of_test:build", out=path)


def test_own_checkpoints_are_compared_with_each_other(own_code: SimpleNamespace) -> None:
    """Also where their files have one name."""
    records = []
    for folder in ("one", "two"):
        path = own_code.folder / folder / "mine.pt"
        path.parent.mkdir()
        torch.save(own_code.network.state_dict(), path)
        records.append(
            evaluate(
                path, "Digits", own_code.protocol, network="my_net_of_test:build", out=path.with_name("out.json")
            ).path
        )
    shown = table(read_runs(records))
    assert len({row.block for row in shown.rows}) == 1
    assert len({row.label for row in shown.rows}) == len(shown.rows) == 2


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("my_net_of_test:missing", SettingsError, "missing"),
        ("no_such_module_here:build", SettingsError, "no_such_module_here"),
        (":build", SettingsError, "module:function"),
        ("my_net_of_test:nn", SettingsError, "module:function"),
        ("DigitCNN", SettingsError, "DigitsCNN"),
        ("DigitsCNN", CheckpointError, "layers"),
    ],
)
def test_a_network_that_cannot_be_built_or_loaded_is_refused(
    own_code: SimpleNamespace, model: str, error: type[Exception], words: str
) -> None:
    path = own_code.folder / "mine.pt"
    torch.save(own_code.network.state_dict(), path)
    with pytest.raises(error, match=words):
        evaluate(path, "Digits", own_code.protocol, network=model, out=own_code.folder / "out.json")
    assert not (own_code.folder / "out.json").exists()


@pytest.mark.parametrize("threat", [Linf(epsilon=0.2), L2(epsilon=1.5)], ids=lambda threat: type(threat).__name__)
def test_saved_adversarial_images_lie_in_the_threat_and_give_the_accuracy_reported(
    trained: Run, tmp_path: Path, threat: Threat
) -> None:
    attack = PGD(threat=threat, step_size=0.1, steps=3)
    path = tmp_path / "adversarial.v2.safetensors"
    made = make_adversarial(trained, attack, out=path, first=45, batch_size=20)
    natural, robust, count = made.natural_accuracy, made.accuracy, len(made.split)
    stored = safetensors.torch.load(path.read_bytes())
    split = trained.experiment.data.load().test.first(45)
    x, x_adv = split.pixels(), stored["x_adv"]
    assert count == 45
    assert torch.equal(stored["y"], split.labels)
    assert torch.equal(stored["ids"], split.ids)
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    assert float(threat.norm(x_adv - x).max()) <= threat.epsilon + 1e-6
    network = trained.network()
    with torch.no_grad():
        predicted = network(x_adv).argmax(1)
        assert natural == pytest.approx(float((network(x).argmax(1) == split.labels).double().mean()), abs=1e-12)
    assert torch.equal(predicted, stored["predicted"])
    assert robust == pytest.approx(float((predicted == split.labels).double().mean()), abs=1e-12)
    assert robust < natural
    facts = read_facts(path.with_suffix(""))
    assert from_json(poise.attacks.Attack, facts["attack"]) == attack
    assert (facts["natural"], facts["robust"]) == (natural, robust)


def test_adversarial_images_of_a_float64_run_are_those_of_its_record(
    tmp_path: Path, tiny_experiment: Callable[..., Experiment]
) -> None:
    run = train(tiny_experiment(precision="float64", epochs=1), tmp_path / "run")
    record = evaluate(run)
    robust = make_adversarial(
        run, run.experiment.protocol.attacks[0], out=tmp_path / "x.safetensors", first=40
    ).accuracy
    assert robust == record.accuracy("PGD-2")


def test_an_exported_safetensors_file_gives_the_same_logits(trained: Run, tmp_path: Path) -> None:
    to = tmp_path / "network.v1.safetensors"
    export(trained, to)
    assert {path.name for path in tmp_path.iterdir()} == {"network.v1.safetensors", "network.v1.json"}
    facts = read_facts(tmp_path / "network.v1")
    network = DigitsCNN().build(tuple(facts["shape"]), len(facts["classes"]), seed=9)
    network.load_state_dict(safetensors.torch.load(to.read_bytes()))
    x = trained.experiment.data.load().test.first(5).pixels()
    with torch.no_grad():
        assert torch.equal(network.eval()(x), trained.network()(x))


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra: pip install 'poise[onnx]'")
@pytest.mark.parametrize("method", ["joint", "float64"])
def test_an_exported_onnx_graph_gives_the_same_logits(
    trained: Run, tmp_path: Path, method: str, tiny_experiment: Callable[..., Experiment]
) -> None:
    run = trained if method == "joint" else train(tiny_experiment(precision="float64", epochs=1), tmp_path / "run")
    to = tmp_path / "network.onnx"
    export(run, to)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference evaluator's own
        from onnx.reference import ReferenceEvaluator

        graph = ReferenceEvaluator(str(to))
        for count in (1, 3):
            x = run.experiment.data.load().test.first(count).pixels()
            outputs: Any = graph.run(["logits"], {"images": x.numpy()})
            logits = outputs[0]
            with torch.no_grad():
                wanted = run.network().float()(x)
            assert np.allclose(logits, wanted.numpy(), atol=1e-5)
            assert (logits.argmax(1) == wanted.argmax(1).numpy()).all()
    assert {path.name for path in tmp_path.iterdir()} <= {"network.onnx", "run"}


def test_the_standard_and_the_strict_protocol_are_what_their_names_say() -> None:
    threat = Linf(epsilon=0.1)
    gradient = ["FGSM", "PGD-20", "PGD-100", "MIM-20", "CW-100"]
    searched = ["APGD-CE", "APGD-T", "FAB-T", "Square", "AutoAttack"]
    assert [attack.name for attack in standard(threat, 0.01).attacks] == [*gradient, *searched]
    assert [attack.name for attack in strict(threat, 0.01).attacks] == ["PGD-20", "PGD-100x3", "PGD-margin-100"]
    assert all(attack.threat == threat for protocol in (standard, strict) for attack in protocol(threat, 0.01).attacks)


def again_of(run: Run, **changed: Any) -> tuple[Path, list[str]]:
    """The record's path, and what was said."""

    class Told(Progress):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, sentence: str) -> None:
            self.said.append(sentence)

    told = Told()
    return evaluate(run, progress=told, **changed).path, told.said


@pytest.fixture
def own_run(tmp_path: Path, tiny_experiment: Callable[..., Experiment]) -> Run:
    return train(tiny_experiment(epochs=1), tmp_path / "run")


def test_a_record_that_is_there_is_kept_and_it_is_said(own_run: Run) -> None:
    first, said = again_of(own_run)
    content = first.read_bytes()
    assert not said
    path, said = again_of(own_run)
    assert (path, path.read_bytes()) == (first, content)
    assert len(said) == 1
    assert f"{first} is there already" in said[0]
    assert "--again" in said[0]
    path, said = again_of(own_run, again=True)
    assert not said
    assert EvaluationRecord.read(path).natural == EvaluationRecord.read(first).natural
    assert path.read_bytes() != content  # computed anew: another time


def test_a_record_of_other_weights_or_a_damaged_one_is_made_anew(own_run: Run) -> None:
    path = evaluate(own_run).path
    record = EvaluationRecord.read(path)
    dataclasses.replace(record, model_digest="other", natural=[0] * record.count).write(path)
    assert evaluate(own_run).natural == record.natural
    path.write_text(path.read_text()[:100])
    assert evaluate(own_run).natural == record.natural


def test_two_protocols_of_one_name_do_not_overwrite_each_other(own_run: Run) -> None:
    def of(epsilon: float) -> Protocol:
        return Protocol(name="mine", attacks=(PGD(threat=Linf(epsilon=epsilon), step_size=0.05, steps=1),), first=10)

    paths = [evaluate(own_run, protocol=of(epsilon)).path for epsilon in (0.1, 0.2, 0.3)]
    assert len(set(paths)) == 3
    assert paths[0].name == "selected-mine.json"
    for path, epsilon in zip(paths, (0.1, 0.2, 0.3), strict=True):
        assert EvaluationRecord.read(path).attacks[0].settings["threat"]["epsilon"] == epsilon
        assert evaluate(own_run, protocol=of(epsilon)).path == path
    assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}  # and nothing unfinished


def test_a_record_of_the_same_attacks_under_another_name_is_copied(
    own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(own_run)
    monkeypatch.setattr("poise.verbs.evaluate.measuring.evaluate", None)
    path = evaluate(own_run, protocol=dataclasses.replace(own_run.experiment.protocol, name="other")).path
    assert path.name == "selected-other.json"
    assert EvaluationRecord.read(path) == dataclasses.replace(first, protocol="other")


def test_a_run_is_tested_on_other_images_of_its_shape_and_classes_only(own_run: Run) -> None:
    data = own_run.experiment.data.load()
    other = dataclasses.replace(data, name="rows", test=data.test.subset(slice(10, 55)))
    path = evaluate(own_run, data=other).path
    record = EvaluationRecord.read(path)
    assert (path.name, record.dataset, record.labels) == (
        "selected-on-rows.json",
        "rows",
        data.test.labels[10:50].tolist(),
    )
    with pytest.raises(
        DataError, match=r"rows: images are \[1, 8, 8\] of 11 classes, must be \[1, 8, 8\] and 10 classes"
    ):
        evaluate(own_run, data=dataclasses.replace(other, classes=(*data.classes, "more")))
    with pytest.raises(
        DataError, match=r"rows: its classes are those of .* in another order, must be in the order 0, 1, 2"
    ):
        evaluate(own_run, data=dataclasses.replace(other, classes=data.classes[::-1]))


def picture(path: Path, shade: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), shade, dtype=np.uint8)).save(path)


def test_a_folder_of_classes_is_tested_on_whole_and_one_with_train_and_test_on_its_test_images(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(5):
            picture(tmp_path / "plain" / name / f"{number}.png", 100 * label + number)
            picture(tmp_path / "split" / "train" / name / f"{number}.png", 100 * label + number)
            picture(tmp_path / "alone" / "test" / name / f"{number}.png", 100 * label + number)
        picture(tmp_path / "split" / "val" / name / "x.png", 100 * label + 50)
    plain, parts, alone = (data_named(str(tmp_path / name)) for name in ("plain", "split", "alone"))
    shades = [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]  # from every class in turn
    assert plain.test.images[:, 0, 0, 0].tolist() == alone.test.images[:, 0, 0, 0].tolist() == shades
    assert plain.test.labels.tolist() == [0, 1] * 5
    assert (plain.name, plain.classes, alone.name) == ("plain", ("cat", "dog"), "alone")
    assert parts.test.images[:, 0, 0, 0].tolist() == [50, 150]
    assert data_named("plain", tmp_path).test.images.equal(plain.test.images)
    for number in range(1, 5):
        (tmp_path / "plain" / "dog" / f"{number}.png").unlink()
    # a single dog is enough to be tested on
    assert data_named("plain", tmp_path).test.labels.tolist() == [
        0,
        1,
        0,
        0,
        0,
        0,
    ]


def test_data_are_named_by_type_archive_or_settings(tmp_path: Path) -> None:
    images = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4, 1)
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    assert data_named(str(tmp_path / "mine.npz")).test.images.shape == (2, 1, 4, 4)
    assert data_named("Digits").name == "Digits"
    assert len(data_named('{"type": "Digits", "test_images": 7}').test) == 7


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("Digit", SettingsError, "'Digit' names no data set.*did you mean 'Digits'"),
        ("Folder", SettingsError, "'Folder' names no data set"),
        ("notes.txt", SettingsError, "must be an .npz archive with x_train"),
        ("empty", DataError, "0 subfolders"),
        ("bad.npz", DataError, "bad.npz is not an .npz archive"),
        ('{"type": "Digits", "images": 7}', SettingsError, "no setting 'images'"),
        ("{oops", SettingsError, "--data is not JSON"),
    ],
)
def test_data_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("x")
    Path("bad.npz").write_text("x")
    Path("empty").mkdir()
    with pytest.raises(error, match=words):
        data_named(text)
