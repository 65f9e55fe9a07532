"""Zoo networks: whole by their digests, what their records say, and asked like everything else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from experiments.zoo import make
from typer.testing import CliRunner

import poise
from poise.attacks import PGD
from poise.cli import app
from poise.cli.demo import zoo_line
from poise.core.errors import CheckpointError, DataError, SettingsError
from poise.data import Digits
from poise.engine import Experiment, train
from poise.models import DigitsCNN
from poise.recipes import experiment
from poise.threats import Linf
from poise.verbs.kinds import subject_of
from poise.verbs.of_zoo import FOLDER
from poise.zoo import ZooNetwork, shelf, zoo, zoo_network

MOST = 12 * 2**20
"""Bytes of all zoo networks together."""
CARD = {"line": "a test's", "good_for": "tests", "not_for": "anything else"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network made of a run of one epoch on digits."""
    folder = tmp_path_factory.mktemp("zoo")
    recipe = experiment("at_digits", quick=True)
    short = dataclasses.replace(
        recipe, data=Digits(train_images=200, test_images=60), model=DigitsCNN(width=4), epochs=1
    )
    run = train(short, folder / "run", device="cpu")
    return make(run, "tiny", CARD, first=20, searched=False, shelf=folder / "shelf")


@pytest.fixture
def shelved(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A shelf with a copy of that network alone, in a working folder of its own."""
    shutil.copytree(made, tmp_path / "shelf" / "tiny")
    monkeypatch.setattr(shelf, "SHELF", tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    shelf._names.cache_clear()
    yield tmp_path / "shelf" / "tiny"
    shelf._names.cache_clear()


def test_shipped_networks_are_whole_and_small() -> None:
    assert zoo(), "there is a zoo"
    for name, entry in zoo().items():
        assert entry.verdict.judgement in ("pass", "warning"), name
        assert entry.record.run == entry.verdict.model == f"zoo:{name}"
        assert isinstance(entry.experiment, Experiment)
        assert entry.network()(torch.zeros(2, *entry.card.shape)).shape == (2, len(entry.card.classes))
        assert min(map(len, (entry.card.line, entry.card.good_for, entry.card.not_for))) > 10
        assert entry.protocol.name == entry.record.protocol
    assert sum(path.stat().st_size for path in shelf.SHELF.rglob("*") if path.is_file()) <= MOST


def test_a_network_is_evaluated_as_it_is_shipped(shelved: Path) -> None:
    entry = zoo_network("zoo:tiny")
    network, record = poise.load("zoo:tiny"), entry.record
    half = [name for name, part in network.state_dict().items() if part.dim() > 1]
    assert half and all(
        torch.equal(part, part.half().float()) for name, part in network.state_dict().items() if name in half
    )
    shown = Digits().load().test.first(20)
    assert network(shown.pixels()).argmax(1).tolist() == record.natural
    assert (record.count, record.notes["trained_in"]) == (20, "float32")


def test_the_shipped_record_is_kept_and_again_gives_its_verdicts(
    shelved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = (shelved / "record.json").read_bytes()
    kept = poise.evaluate("zoo:tiny")
    assert kept.path == FOLDER / "tiny" / "record-zoo.json" and kept.path.read_bytes() == shipped
    again = poise.evaluate("zoo:tiny", again=True)
    assert again.started >= kept.started and kept.path.read_bytes() != shipped
    assert [attack.predicted for attack in again.attacks] == [attack.predicted for attack in kept.attacks]
    assert again.natural == kept.natural and again.model_digest == kept.model_digest
    assert (shelved / "record.json").read_bytes() == shipped, "the package's own files stay"


def test_a_zoo_network_is_a_subject_that_sanity_can_ask(shelved: Path) -> None:
    subject = subject_of("zoo:tiny")
    assert (subject.spelled, subject.checkpoint, subject.seed) == ("zoo:tiny", "zoo", 0)
    assert poise.sanity("zoo:tiny", first=16).model == "zoo:tiny"
    with pytest.raises(SettingsError, match="checkpoint = 'last' is nothing of a zoo network"):
        subject_of("zoo:tiny", checkpoint="last")
    with pytest.raises(DataError, match=r"must be \[1, 8, 8\] and 10 classes, as zoo:tiny was trained on"):
        _ = subject_of("zoo:tiny", (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))).data


def test_an_unknown_name_is_refused_with_the_nearest(shelved: Path) -> None:
    for asked in ("zoo:tinny", Path("zoo:tinny")):
        with pytest.raises(SettingsError, match=r"there is no zoo network 'tinny'; did you mean 'tiny'\?"):
            poise.load(asked)


@pytest.mark.parametrize("name", ["weights.safetensors", "experiment.json", "record.json", "sanity.json"])
def test_a_damaged_file_is_named(shelved: Path, name: str) -> None:
    content = bytearray((shelved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (shelved / name).write_bytes(content)
    entry = ZooNetwork("tiny", shelved)
    with pytest.raises(
        CheckpointError, match=rf"{name} is damaged: its SHA-256 is not the one on the card of zoo:tiny"
    ):
        _ = (entry.network(), entry.record, entry.verdict)


def test_a_changed_card_is_refused(shelved: Path) -> None:
    card = json.loads((shelved / "card.json").read_text())
    for changed in ({**card, "line": "the best"}, {name: card[name] for name in card if name != "files"}, "{"):
        (shelved / "card.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
        with pytest.raises(CheckpointError, match="zoo:tiny: its card is damaged"):
            ZooNetwork("tiny", shelved).network()


def test_a_zoo_network_is_attacked_and_exported_like_a_run(shelved: Path, tmp_path: Path) -> None:
    attacked = poise.attack("zoo:tiny", PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=2), first=8)
    assert attacked.path.parent == FOLDER / "tiny" and len(attacked.predicted) == 8
    again = poise.export("zoo:tiny", tmp_path / "tiny.safetensors")
    x = Digits().load().test.first(8).pixels()
    assert torch.equal(poise.load(again)(x), poise.load("zoo:tiny")(x))
    with pytest.raises(SettingsError, match=r"the suffix must be \.safetensors or \.onnx"):
        poise.export("zoo:tiny", tmp_path / "tiny.pt")
    kept = shutil.copy(shelved / "card.json", tmp_path / "before.json")
    assert (shelved / "card.json").read_bytes() == Path(kept).read_bytes(), "the package's own files stay"


@pytest.mark.parametrize(
    "typed",
    [
        ["attack", "zoo:tiny", "FGSM", "threat.epsilon=0.1", "--first", "8"],
        ["sanity", "zoo:tiny", "--first", "16", "--set", "queries=10", "--set", "substitute_steps=2"],
        ["export", "zoo:tiny", "--to", "tiny.safetensors"],
        ["evaluate", "zoo:tiny"],
        ["push", "zoo:tiny", "folder:pushed"],
    ],
    ids=lambda typed: typed[0],
)
def test_the_commands_know_it(shelved: Path, typed: list[str]) -> None:
    answer = CliRunner().invoke(app, typed)
    assert answer.exit_code in (0, 1 if typed[0] == "sanity" else 0), answer.output + repr(answer.exception)
    written = {"export": Path("tiny.safetensors"), "push": Path("pushed/config.json")}
    assert written.get(typed[0], FOLDER / "tiny").exists()


def test_its_card_says_what_it_is_good_for_and_what_not(shelved: Path) -> None:
    shown = CliRunner().invoke(app, ["show", "zoo:tiny"]).output
    record = zoo_network("zoo:tiny").record
    for part in ("**Good for.** tests", "**Not for.** anything else", f"{100 * record.natural_accuracy:.2f}", "Sanity"):
        assert part in shown
    unknown = CliRunner().invoke(app, ["show", "zoo:tinny"])
    assert "did you mean 'tiny'?" in str(unknown.exception)


def test_the_demo_ends_with_a_line_on_one() -> None:
    name, entry = next(iter(zoo().items()))
    line = zoo_line()
    assert f"poise show zoo:{name}" in line and f"{100 * entry.record.worst_case_accuracy:.1f} %" in line
