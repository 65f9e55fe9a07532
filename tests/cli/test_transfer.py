"""`poise transfer`: sets made once and found again, records in the targets' folders, the matrix as table and heat
map.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from poise.attacks import PGD, AdversarialSet, Ascent
from poise.core.records import EvaluationRecord
from poise.data import Digits
from poise.engine import Experiment, Run, train
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.models import Collaboration, DigitsCNN, Network
from poise.objectives import AT, NT
from poise.threats import Linf

Poise = Callable[..., tuple[int, str, str]]
OTHER = "is no ensemble of standard ResNet-20 on CIFAR-10"
COMMON = ("--no-sgm", "--epsilon", "0.2", "--steps", 2, "--first", 12, "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks trained for a moment; the collaboration's experts show in its record."""
    folder = tmp_path_factory.mktemp("runs")
    policy = Policy(objective=NT(), optimizer=SGD(learning_rate=0.05))
    attack = PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=1)
    networks: dict[str, Network] = {
        "plain": DigitsCNN(width=4),
        "several": Collaboration(member=DigitsCNN(width=4), members=2),
    }
    made = Experiment(
        data=Digits(train_images=60, test_images=20),
        method=Joint(policy=policy, batch_size=30),
        epochs=1,
        criterion="last",
        protocol=Protocol(name="toy", attacks=(attack,)),
    )
    return {
        name: train(dataclasses.replace(made, name=name, model=network), folder / name, device="cpu").path
        for name, network in networks.items()
    }


def test_sets_are_made_once_and_the_matrix_is_written(poise: Poise, runs: dict[str, Path], tmp_path: Path) -> None:
    command = ("transfer", *runs.values(), "--surrogate", runs["plain"], "--out", tmp_path, *COMMON)
    status, out, err = poise(*command)
    assert status == 0, err
    assert err.count("made:") == 2
    said = " ".join(err.split())
    assert (
        f"here: 2 steps without SGM on surrogates of size 1, 12 images; surrogate plain {OTHER}; target plain has the"
        " very" in said
    )
    assert (
        "target several has the seed of surrogate plain, 0. So the record is called soe-transfer-3-part-0.2-first12."
        in said
    )
    assert "all surrogates" in out
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "sets" / "plain").iterdir()} == {
        "MPGD-2-0.2",
        "MDI2FGSM-2-0.2",
    }
    record = EvaluationRecord.read(runs["several"] / "records" / "selected-soe-transfer-3-part-0.2-first12.json")
    assert (record.count, record.attack_names) == (12, ["plain: MPGD-2", "plain: MDI2FGSM-2"])
    assert len(record.notes["experts"]["members"]) == len(record.attacks[0].notes["experts"]["members"]) == 2
    name = "soe-transfer-3-part-0.2-first12"
    assert f"{100 * record.natural_accuracy:.2f}" in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.svg").read_text().startswith("<svg ")
    table = (tmp_path / f"{name}.md").read_bytes()
    status, _, err = poise(*command)
    assert (status, err.count("found:"), err.count("made:")) == (0, 2, 0)
    assert (tmp_path / f"{name}.md").read_bytes() == table
    out = poise("report", runs["several"], "--format", "markdown")[1]
    assert "all fooled" in out


def test_targets_that_differ_in_their_experts_only_show_the_gain_per_expert(
    poise: Poise, runs: dict[str, Path], tmp_path: Path
) -> None:
    alone = train(
        dataclasses.replace(
            Run.open(runs["several"]).experiment,
            name="alone",
            model=Collaboration(member=DigitsCNN(width=4), members=1),
        ),
        tmp_path / "alone",
        device="cpu",
    )
    status, out, err = poise(
        "transfer", runs["several"], alone.path, "--surrogate", runs["plain"], "--out", tmp_path / "t", *COMMON
    )
    assert status == 0, err
    values = [
        100
        * EvaluationRecord.read(path / "records" / "selected-soe-transfer-3-part-0.2-first12.json").worst_case_accuracy
        for path in (alone.path, runs["several"])
    ]
    lines = [f"1 expert: {values[0]:.2f} %, +0.00", f"2 experts: {values[1]:.2f} %, {values[1] - values[0]:+.2f}"]
    assert all(line in out for line in lines)
    kept = (tmp_path / "t" / "soe-transfer-3-part-0.2-first12.md").read_text().splitlines()
    assert [line for line in kept if "expert" in line] == lines


def test_repeats_of_an_experiment_are_told_apart_by_the_folder_they_lie_in(
    poise: Poise, runs: dict[str, Path], tmp_path: Path
) -> None:
    given = Run.open(runs["plain"]).experiment
    repeats = [
        train(dataclasses.replace(given, name=name, seed=seed), tmp_path / name / f"seed-{seed}", device="cpu").path
        for name in ("one", "other")
        for seed in (1, 2)
    ]
    sources = [part for path in repeats[:2] for part in ("--surrogate", path)]
    status, _, err = poise("transfer", *repeats, *sources, "--out", tmp_path / "t", *COMMON)
    assert status == 0, err
    assert "target one/seed-1 has the very weights of surrogate seed-1" in " ".join(err.split())
    table = (tmp_path / "t" / "soe-transfer-3-part-0.2-first12.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if "seed-" in line.split("|")[1]]
    assert len(rows) == len(set(rows)) == 4, table
    sources = [part for path in (repeats[0], repeats[2]) for part in ("--surrogate", path)]
    assert poise("transfer", repeats[1], *sources, "--out", tmp_path / "t", *COMMON)[0] == 0
    assert {path.name for path in (tmp_path / "t" / "sets" / "other").iterdir()} == {"seed-1"}


def test_thirty_variants_and_the_compatible_loss(poise: Poise, runs: dict[str, Path], tmp_path: Path) -> None:
    command = ("transfer", runs["several"], "--surrogate", runs["plain"], "--out", tmp_path, *COMMON)
    assert poise(*command, "--protocol", "soe-transfer-30", "--compat-cw", "--every-attack")[0] == 0
    names = {path.name for path in (tmp_path / "sets" / "plain").iterdir()}
    assert len(names) == 8  # 2 losses x (3 starts of M-PGD, M-DI2-FGSM)
    assert any(name.startswith("MPGD-2-CW-compat-start2-0.2-") for name in names)
    assert "plain: MPGD-2-CW-compat-start1" in (
        tmp_path / "soe-transfer-30-part-compat-0.2-first12.md"
    ).read_text().replace("\\", "")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (("--protocol", "soe-transfer"), "no transfer protocol 'soe-transfer'"),
        (("--epsilon", "2"), "epsilon"),
        (("--epsilon", "0"), "--epsilon 0: must be positive"),
        (("--surrogate", "{plain}"), "every run is to be named once"),
        (("--surrogate", "{nowhere}"), "no run folder"),
        (
            ("--sgm",),
            (
                "SGM needs a ResNet of basic blocks (ResNet18, ResNet20) or an Ensemble of them; leave it out with"
                " --no-sgm"
            ),
        ),
        (("--first", 99), "the split has 20 images, so the count must be from 1 to 20"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_sentence(
    poise: Poise, runs: dict[str, Path], tmp_path: Path, extra: tuple[object, ...], sentence: str
) -> None:
    given = [str(part).format(plain=runs["plain"], nowhere=tmp_path / "nowhere") for part in extra]
    status, _, err = poise(
        "transfer", runs["several"], "--surrogate", runs["plain"], "--out", tmp_path, *COMMON, *given
    )
    assert status == 2
    assert sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [], "nothing was made before it was refused"


def test_a_part_of_a_set_is_found_and_never_replaces_it(poise: Poise, runs: dict[str, Path], tmp_path: Path) -> None:
    command = [
        "transfer",
        runs["several"],
        "--surrogate",
        runs["plain"],
        "--out",
        tmp_path,
        "--no-sgm",
        "--steps",
        2,
        "--device",
        "cpu",
    ]
    for extra, made in (((), 2), (("--first", 5), 0), ((), 0)):  # by default the targets' own epsilon
        status, _, err = poise(*command, *extra)
        assert status == 0, err
        assert (err.count("made:"), err.count("found:")) == (made, 2 - made)
    assert {AdversarialSet.load(path).x_adv.shape[0] for path in (tmp_path / "sets" / "plain").iterdir()} == {20}
    assert (runs["several"] / "records" / "selected-soe-transfer-3-part-0.1-first5.json").exists()


def test_surrogates_that_are_not_held_out_or_trained_adversarially_are_named(
    poise: Poise, runs: dict[str, Path], tmp_path: Path
) -> None:
    given = Run.open(runs["plain"]).experiment
    begun = train(
        dataclasses.replace(given, name="begun", seed=1, initial=str(runs["plain"])), tmp_path / "begun", device="cpu"
    )
    inner = Ascent(threat=Linf(epsilon=0.1), step_size=0.05, steps=1)
    robust = dataclasses.replace(
        given, name="robust", seed=2, method=Joint(policy=Policy(objective=AT(inner=inner)), batch_size=30)
    )
    attacked = train(robust, tmp_path / "robust", device="cpu")
    sources = ("--surrogate", runs["plain"], "--surrogate", attacked.path)
    status, _, err = poise("transfer", begun.path, *sources, "--out", tmp_path / "t", *COMMON)
    assert status == 0, err
    said = " ".join(err.split())
    assert (
        f"surrogate robust {OTHER}; surrogate robust is not naturally trained; target begun was trained from surrogate"
        " plain. So" in said
    )
    wide = train(
        dataclasses.replace(
            given,
            name="wide",
            protocol=Protocol(attacks=(PGD(threat=Linf(epsilon=0.3), step_size=0.1, steps=1),)),
            monitors=(),
        ),
        tmp_path / "wide",
        device="cpu",
    )
    status, _, err = poise("transfer", begun.path, wide.path, *sources, "--out", tmp_path / "t", "--no-sgm")
    assert status == 2
    same_name = Path(shutil.copytree(begun.path, tmp_path / "elsewhere" / "wide"))
    status, _, said = poise("transfer", same_name, wide.path, *sources, "--out", tmp_path / "t", "--no-sgm")
    assert status == 2
    assert "elsewhere/wide within Linf 0.1" in " ".join(said.split())
    each = "begun within Linf 0.1, wide within Linf 0.3"
    assert f"the targets are not all evaluated within one Linf epsilon ({each}); name one with --epsilon" in " ".join(
        err.split()
    )


def test_help_teaches_by_example(poise: Poise) -> None:
    status, out, _ = poise("transfer", "--help")
    assert status == 0
    assert "Examples:" in out
    assert "poise transfer runs/soe runs/adp --surrogate" in out


def test_a_record_is_found_again_where_the_folder_of_sets_is_spelled_otherwise(
    poise: Poise, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("transfer", runs["several"], "--surrogate", runs["plain"], *COMMON)
    assert poise(*command, "--out", "t")[0] == 0
    path = runs["several"] / "records" / "selected-soe-transfer-3-part-0.2-first12.json"
    before = path.read_bytes()
    Path("t").rename("moved")
    status, _, err = poise(*command, "--out", tmp_path / "moved")
    assert status == 0, err
    assert "is there already" in err
    assert path.read_bytes() == before
