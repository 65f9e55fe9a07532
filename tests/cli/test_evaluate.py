"""poise evaluate: protocols by name and epsilon, own data, corruptions, records that are kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poise.cli import main
from poise.cli.shared import bytes_of
from poise.core.errors import SettingsError
from poise.core.records import EvaluationRecord
from poise.data import CORRUPTIONS, Digits
from poise.evaluation import PROTOCOLS

SMALL = (
    "data.train_images=100",
    "data.test_images=30",
    "epochs=1",
    "monitors.1.first=10",
    'protocol.attacks=[{"type": "PGD", "threat": {"type": "Linf", "epsilon": "0.2"}, "step_size": 0.1, "steps": 1}]',
)
Poise = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, not evaluated by the command that made it."""
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patched:
        command = [
            "poise",
            "train",
            "at_digits",
            "--quick",
            *SMALL,
            "--out",
            str(out),
            "--device",
            "cpu",
            "--no-evaluate",
        ]
        patched.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            main()
    return out


def record_of(err: str) -> Path:
    return Path(err.split("record: ")[-1].strip())


def test_list_names_every_protocol_with_its_paper(poise: Poise) -> None:
    status, out, _ = poise("list", "protocols")
    assert status == 0
    assert all(f"\n{name} " in out for name in PROTOCOLS)
    assert "the 11 columns of Zipper's Table 5 at L2 128/255" in out
    assert "zipper-linf" in poise("list")[1]


def test_two_epsilons_and_norms_of_one_protocol_make_records_of_their_own(poise: Poise, run: Path) -> None:
    made = []
    # by default what the run's own protocol has
    for scale in (
        ("--epsilon", "8/255"),
        (),
        ("--threat", "L2", "--epsilon", "0.5"),
    ):
        status, out, err = poise("evaluate", run, "--protocol", "gradient", "--first", 3, *scale)
        assert status == 0, err
        assert "CW-100" in out
        made.append(record_of(err))
    assert [path.name for path in made] == [
        f"selected-gradient{scale}-first3.json" for scale in ("", "-eps0.2", "-l2-eps0.5")
    ]
    settings = [EvaluationRecord.read(path).attacks[1].settings for path in made]
    epsilons = [(each["threat"]["type"], each["threat"]["epsilon"]) for each in settings]
    assert epsilons == [("Linf", 8 / 255), ("Linf", 0.2), ("L2", 0.5)]
    assert [each["step_size"] for each in settings] == pytest.approx([2 / 255, 0.05, 0.5 * 15 / 128])
    for same in (("--epsilon", "0.2"), ("--threat", "Linf")):
        _, _, err = poise("evaluate", run, "--protocol", "gradient", "--first", 3, *same)
        assert "is there already" in err
        assert record_of(err) == made[1]
    before = made[1].read_bytes()
    assert (
        "is there already"
        not in poise("evaluate", run, "--protocol", "gradient", "--first", 3, "--epsilon", "0.2", "--again")[2]
    )
    assert made[1].read_bytes() != before


def test_protocols_of_collaborations_run_on_any_test_set_at_the_runs_own_epsilon(poise: Poise, tmp_path: Path) -> None:
    small = (
        "data.train_images=60",
        "data.test_images=12",
        "epochs=1",
        "monitors.1.first=4",
        "model.member.width=4",
        "model.members=2",
    )
    status, _, err = poise(
        "train",
        "soe_ensembles_digits",
        "--quick",
        *small,
        "--out",
        tmp_path / "soe",
        "--device",
        "cpu",
        "--no-evaluate",
    )
    assert status == 0, err
    for first, said in (((), "here all 12 are evaluated"), (("--first", 5), "here the first 5 of 12 are evaluated")):
        status, _, err = poise("evaluate", tmp_path / "soe", "--protocol", "soe-whitebox", "--device", "cpu", *first)
        assert status == 0, err
        assert said in " ".join(err.split())
        record = EvaluationRecord.read(record_of(err))
        assert said in record.notes["protocol"]
        assert record.protocol == "soe-whitebox-eps0.2" + ("-first5" if first else "")
        assert record.count == (5 if first else 12)


def test_autoattack_by_name_says_its_survivors_and_has_a_column_for_each_component(poise: Poise, run: Path) -> None:
    status, out, err = poise("evaluate", run, "--protocol", "autoattack", "--epsilon", "0.9", "--first", 2)
    assert status == 0, err
    assert "of 2 images stand after APGD-CE" in err
    record = EvaluationRecord.read(record_of(err))
    assert record.attack_names == ["APGD-CE", "APGD-T", "FAB-T", "Square", "AutoAttack"]
    assert record.accuracy("AutoAttack") == record.worst_case_accuracy
    assert all(name in out for name in record.attack_names)


def test_a_protocol_may_be_named_as_a_setting(poise: Poise) -> None:
    status, out, err = poise("show", "at_digits", "protocol=zipper-l2", "--no-estimate")
    assert status == 0, err
    assert json.loads(out[out.index("{") :])["protocol"]["name"] == "zipper-l2"


def test_own_weights_are_tested_on_a_folder_and_an_archive(
    poise: Poise, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test = Digits().load().test.first(20)
    images, labels = test.images.numpy(), test.labels.numpy()
    everyone = np.arange(10)
    np.savez("mine.npz", x_train=images[:10], y_train=everyone, x_test=images, y_test=labels)
    weights = (
        "--weights",
        run / "checkpoints" / "last.safetensors",
        "--model",
        "DigitsCNN",
        "--protocol",
        "gradient",
        "--first",
        4,
    )
    status, _, err = poise("evaluate", *weights, "--data", "mine.npz", "--out", "mine.json")
    assert status == 0, err
    record = EvaluationRecord.read("mine.json")
    assert (record.dataset, record.labels) == ("mine", labels[:4].tolist())
    assert "is there already" in poise("evaluate", *weights, "--data", "mine.npz", "--out", "mine.json")[2]
    Path("photos").mkdir()
    status, out, err = poise("evaluate", *weights, "--data", "photos")
    assert (status, out) == (2, "")
    assert "photos holds 0 subfolders" in " ".join(err.split())


def digits_c(folder: Path) -> Path:
    """The test digits themselves under 15 names, but for fog, which is all black."""
    folder.mkdir()
    test = Digits().load().test.first(30)
    images = np.tile(test.images.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1))
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", images * (name != "fog"))
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5))
    return folder


def test_corruptions_make_a_record_a_matrix_and_a_column(poise: Poise, run: Path, tmp_path: Path) -> None:
    folder = digits_c(tmp_path / "Digits-C")
    status, out, err = poise("evaluate", run, "--corruptions", folder)
    assert status == 0, err
    path = record_of(err)
    assert path == run / "records" / "selected-corruptions.json"
    record = EvaluationRecord.read(path)
    rows = record.notes["corruptions"]["accuracies"]
    black = record.labels.count(max(set(record.labels), key=record.labels.count)) / 30
    assert rows["snow"] == [pytest.approx(record.natural_accuracy)] * 5
    assert rows["fog"][0] <= black
    assert record.corruption_accuracy == pytest.approx((14 * record.natural_accuracy + rows["fog"][0]) / 15)
    assert "corruptions" in out
    assert "gaussian_noise" in out
    assert "corruptions" in poise("report", run, "--format", "markdown")[1]
    weights = ("--weights", run / "checkpoints" / "last.safetensors", "--model", "DigitsCNN", "--data")
    given = '{"type": "Digits", "test_images": 30}'
    status, _, err = poise("evaluate", *weights, given, "--corruptions", folder, "--out", tmp_path / "c.json")
    assert status == 0, err
    assert EvaluationRecord.read(tmp_path / "c.json").notes["corruptions"]["accuracies"] == rows


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "zipper"), "must be one of standard, gradient, strict"),
        (("--protocol", "soe-transfer-30"), "by: poise transfer RUN --surrogate RUN --protocol soe-transfer-30"),
        (("--protocol", "zipper-l2", "--threat", "Linf"), "'zipper-l2' is defined for L2 only, not for Linf"),
        (("--protocol", "standard", "--threat", "L7"), "'L7'"),
        (("--protocol", "standard", "--epsilon", "8"), "less than or equal to 1"),
        (("--protocol", "standard", "--epsilon", "0"), "--epsilon 0: must be positive"),
        (("--protocol", "autoattack", "--step-size", "0.1"), "no step size"),
        (("--threat", "L2"), "--threat belongs to a protocol named here"),
        (("--corruptions", "nowhere"), "no folder nowhere"),
        (("--corruptions", "nowhere", "--protocol", "standard"), "leave --protocol"),
        (("--corruptions", "nowhere", "--data", "Digits"), "leave --data out"),
        (("--memory-limit", "4X"), "--memory-limit 4X: must be a positive number of bytes such as 4GiB"),
        (
            ("--search-precision", "bf16"),
            "--search-precision is of AutoAttack and its components, of which protocol 'strict' has none",
        ),
        (("--memory-limit", "1kB", "--protocol", "gradient"), "--memory-limit is of AutoAttack and its components"),
        (("--memory-limit", "1kB", "--protocol", "autoattack"), "memory_limit = 1000 bytes, must be at least"),
        (("--corruptions", "nowhere", "--memory-limit", "4GiB"), "an evaluation of its own"),
        (("--data", "CIFAR11"), "did you mean 'CIFAR10'"),
        (("--data", "{oops"), "--data is not JSON"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_evaluated_is_refused_in_a_sentence(
    poise: Poise, run: Path, arguments: tuple[str, ...], words: str
) -> None:
    before = sorted(path.name for path in (run / "records").glob("*")) if (run / "records").exists() else []
    status, out, err = poise("evaluate", run, *arguments)
    assert (status, out) == (2, "")
    assert words in " ".join(err.split())
    assert err.count("\n") == 1
    assert (sorted(path.name for path in (run / "records").glob("*")) if (run / "records").exists() else []) == before


def test_a_checkpoint_of_a_run_does_not_go_with_weights(poise: Poise, run: Path, tmp_path: Path) -> None:
    weights = ("--weights", run / "checkpoints" / "last.safetensors", "--model", "DigitsCNN", "--data", "Digits")
    for verb in ("evaluate", "sanity"):
        status, _, err = poise(verb, *weights, "--out", tmp_path / "x.json", "--checkpoint", "last")
        assert status == 2
        assert "--checkpoint is one of a run's" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_search_in_bfloat16_is_said_and_one_in_float32_serves_for_both(poise: Poise, run: Path) -> None:
    command = ("evaluate", run, "--protocol", "autoattack", "--epsilon", "0.8", "--first", 2, "--device", "cpu")
    status, _, err = poise(*command, "--search-precision", "bf16", "--memory-limit", "64MiB")
    assert status == 0, err
    path = record_of(err)
    assert {attack.notes["search"] for attack in EvaluationRecord.read(path).attacks} == {"bfloat16"}
    assert "is there already" in poise(*command, "--search-precision", "bfloat16")[2]
    assert "is there already" not in poise(*command)[2]
    assert {attack.notes["search"] for attack in EvaluationRecord.read(path).attacks} == {"float32"}
    assert "is there already" in poise(*command, "--search-precision", "bf16")[2]


def test_bytes_have_units() -> None:
    assert [bytes_of(text, "--x") for text in ("4096", "4kB", "1.5 MB", "4GiB")] == [4096, 4000, 1_500_000, 2**32]
    for text in ("", "0", "-1", "4 gigabytes", "GiB"):
        with pytest.raises(SettingsError, match=f"--x {text}: must be"):
            bytes_of(text, "--x")
