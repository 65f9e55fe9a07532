"""Networks that carry what builds them: an exported file, a folder that was pushed; nothing of either is executed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import poise
from poise.core.errors import CheckpointError, DataError, RunError, SettingsError
from poise.core.settings import to_json
from poise.data import Digits
from poise.engine import Run
from poise.engine.blueprint import Blueprint, _offline
from poise.models import Ensemble, Timm

Runs = dict[str, Run]


@pytest.fixture(scope="module")
def pushed(finished: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finished["seed-3"]
    poise.evaluate(run)
    folder = tmp_path_factory.mktemp("pushed") / "small"
    assert poise.push(run, f"folder:{folder}") == f"folder:{folder}"
    return folder


@pytest.fixture
def copied(pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(pushed, tmp_path / "small"))


def same(left: nn.Module, right: nn.Module) -> bool:
    x = Digits().load().test.first(6).pixels()
    return torch.equal(left(x), right(x))


def test_a_pushed_folder_gives_the_same_verdicts(copied: Path, finished: Runs) -> None:
    run = finished["seed-3"]
    record, again = poise.evaluate(run), poise.evaluate(f"folder:{copied}")
    assert (again.natural, again.labels) == (record.natural, record.labels)
    assert [attack.predicted for attack in again.attacks] == [attack.predicted for attack in record.attacks]
    assert again.model_digest == record.model_digest and again.evaluation_seed == 3
    assert again.path.parent.parent == Path("runs/hub"), "what was pushed stays as it is"
    assert same(poise.load(copied), poise.load(run))
    assert poise.push(copied, f"folder:{copied.parent / 'twice'}")
    assert (copied.parent / "twice" / "config.json").read_bytes() == (copied / "config.json").read_bytes()


def test_the_card_has_the_records_numbers_and_no_others(copied: Path, finished: Runs) -> None:
    text, record = (copied / "README.md").read_text(), poise.evaluate(finished["seed-3"])
    numbers = set(re.findall(r"\d+\.\d\d(?= \|)", text))
    shares = [record.natural_accuracy, record.accuracy(record.attack_names[0]), record.worst_case_accuracy]
    assert numbers == {f"{100 * share:.2f}" for share in shares}
    assert "Nobody asked yet whether these numbers can be believed" in text
    assert str(finished["seed-3"].path) not in "".join(file.read_text(errors="replace") for file in copied.glob("*.*"))


def test_an_exported_file_builds_its_network(finished: Runs, tmp_path: Path) -> None:
    run = finished["seed-0"]
    file = poise.export(run, tmp_path / "small.safetensors")
    assert same(poise.load(file), poise.load(run))
    assert poise.evaluate(file, protocol=poise.evaluation.Protocol(name="natural", attacks=())).count == 40
    with pytest.raises(DataError, match=r"must be \[1, 8, 8\] and 10 classes, as .*small\.safetensors was trained on"):
        poise.evaluate(file, (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)))
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(poise.load(run).state_dict(), plain)
    with pytest.raises(SettingsError, match="holds weights alone; say by network="):
        poise.load(plain)


def test_damage_is_a_sentence(copied: Path, finished: Runs, tmp_path: Path) -> None:
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="is damaged: its weights are not those"):
        poise.load(copied)
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="is not a valid safetensors file"):
        poise.load(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        poise.load(copied)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 4}, "is damaged: its sha256 is not the digest"),
        ("{", "is damaged"),
        ("[1]", "is none of Poise's: it has no poise_format"),
        ({"poise_format": None, "sha256": None}, "has poise_format None, must be 1"),
        ({"poise_format": 99}, "has poise_format 99, must be 1"),
    ],
)
def test_a_changed_or_foreign_config_is_a_sentence(copied: Path, change: Any, sentence: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(change if isinstance(change, str) else json.dumps(config | change))
    with pytest.raises(CheckpointError, match=rf"config\.json.*{sentence}") as refusal:
        poise.load(copied)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network": {"type": "os.system"}}, r"names no registered network 'os\.system'.*--import its file"),
        ({"network": {"type": "DigitsCNN", "width": "x"}}, "its network cannot be built"),
        ({"network": {"type": "DigitsCNN", "width": 5}}, "has shape"),
        ({"shape": [0, 8, 8]}, "are none"),
        ({"classes": 3}, "classes is 3, must be a list"),
        ({"data": {"type": "Folder", "path": "/etc"}}, "names a path of another machine"),
    ],
)
def test_what_a_config_says_is_settings_and_nothing_else(copied: Path, change: dict[str, Any], sentence: str) -> None:
    plan = json.loads((copied / "config.json").read_text()) | change
    from poise.core.documents import sealed

    (copied / "config.json").write_text(json.dumps(sealed({k: v for k, v in plan.items() if k != "sha256"})))
    with pytest.raises(CheckpointError, match=sentence):
        poise.load(copied)
        poise.evaluate(copied)


def test_what_others_add_to_a_config_is_passed_over(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(
        json.dumps({"transformers_version": "9", "auto_map": {"x": "evil.py"}, **config})
    )
    assert poise.load(copied)


def test_a_network_that_fetches_weights_does_not_when_it_is_loaded() -> None:
    asked = to_json(Ensemble(member=Timm(pretrained=True), members=2))
    assert _offline(asked)["member"]["pretrained"] is False


def test_what_cannot_be_pushed_is_refused(finished: Runs, tmp_path: Path) -> None:
    run = finished["seed-0"]
    fresh = Run.open(shutil.copytree(run.path, tmp_path / "fresh"))
    for record in (fresh.path / "records").glob("*.json") if (fresh.path / "records").exists() else ():
        record.unlink()
    with pytest.raises(RunError, match=r"was not evaluated yet, .*: poise evaluate"):
        poise.push(fresh, f"folder:{tmp_path / 'out'}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    poise.evaluate(fresh)
    with pytest.raises(SettingsError, match="holds other files and no network of Poise's"):
        poise.push(fresh, f"folder:{tmp_path / 'full'}")
    for name in ("me", "me/../x", "a/b/c", "me/-x", ""):
        with pytest.raises(SettingsError, match="must be owner/name"):
            poise.push(fresh, name)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(SettingsError, match="nobody else could build it"):
        poise.push(module, f"folder:{tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_blueprint_without_weights_of_its_own_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{")
    assert Blueprint.in_file(tmp_path / "broken.safetensors") is None
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"poise": "{}"})
    with pytest.raises(CheckpointError, match="is none of Poise's"):
        poise.load(tmp_path / "odd.safetensors")
    assert safe_open(str(tmp_path / "odd.safetensors"), "pt").metadata() == {"poise": "{}"}
