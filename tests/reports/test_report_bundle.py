"""A reviewer's bundle: every number of Poise's tables from the predictions alone; whatever was changed is named."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

import poise
from poise.core.errors import RunError, SettingsError
from poise.core.records import EvaluationRecord
from poise.reports import verifier
from poise.reports.collect import read_runs
from poise.reports.proof import comparisons
from poise.reports.tables import table
from poise.verbs.bundle import Bundle

ADAPTIVE = {"type": "AdaptivePGD", "threat": {"type": "Linf", "epsilon": 0.03}, "steps": 50}
Make = Callable[..., Any]


@pytest.fixture
def runs(make_record: Make, make_run: Make) -> list[Path]:
    """Three methods, one of them of three seeds, with several attacks, adaptive forms, corruptions and last epochs."""

    def forms() -> list[Any]:
        aims = {"confidence": range(9), "mismatch": range(12)}
        return [
            make_record(attacks={f"AdaptivePGD-50-{aim}": wrong}, settings={**ADAPTIVE, "aims": [aim]}).attacks[0]
            for aim, wrong in aims.items()
        ]

    folders = []
    for model, seeds, shift in (("TRADES", 3, 0), ("AT", 1, 5), ("Generalist", 2, 9)):
        for seed in range(seeds):
            attacks = {"PGD-20": range(6 + shift + seed), "CW-30": range(seed, 11 + shift)}
            first = make_record(model, seed, natural_wrong=range(2 + seed), attacks=attacks)
            if model == "Generalist":
                first = dataclasses.replace(first, attacks=[*first.attacks, *forms()])
            last = dataclasses.replace(
                first, checkpoint="last", natural=first.natural[::-1], model_digest=f"last-{seed}"
            )
            rows = {name: [0.9, 0.8, 0.7, 0.6, 0.5] for name in ("fog", "snow")}
            mean = sum(map(sum, rows.values())) / 10
            corruptions = {"accuracies": rows, "images": 40, "folder": "c", "mean": mean}
            folder = make_run(first, last)
            if model == "AT":
                extra = dataclasses.replace(
                    first, attacks=[], notes={"corruptions": corruptions}, protocol="corruptions"
                )
                extra.write(folder / "records" / "selected-corruptions.json")
            folders.append(folder)
    return folders


@pytest.fixture
def made(runs: list[Path], tmp_path: Path) -> Bundle:
    return poise.bundle(runs, tmp_path / "bundle.zip")


def unpacked(made: Bundle, folder: Path) -> Path:
    for name, data in verifier.read(made.path).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("chosen", "labels"),
    [
        (slice(None), {"natural", "PGD-20", "corruptions", "AdaptivePGD-50, the stronger one as a whole"}),
        (slice(4), {"worst case"}),
        (slice(1), {"worst case"}),
    ],
)
def test_every_number_of_the_table_is_recomputed(
    runs: list[Path], tmp_path: Path, chosen: slice, labels: set[str]
) -> None:
    made = poise.bundle(runs[chosen], tmp_path / "bundle.zip")
    wrong, right = verifier.check(made.path, made.digest)
    assert wrong == []
    shown = table(read_runs(runs[chosen]), "all")
    cells = [cell for row in shown.rows for cell in row.cells if cell.value is not None]
    pairs = comparisons(shown).comparisons
    assert right[-1] == f"{3 * len(cells) + len(pairs)} printed numbers recomputed from the predictions"
    assert labels <= {column.label for column in shown.columns} and (chosen == slice(1) or len(pairs) > 1)
    results = verifier.read(made.path)["results.md"].decode()
    assert all(cell.text in results for cell in cells)
    assert "last |" in results and ("## Differences" in results) is bool(pairs)


def test_the_same_runs_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    one, two = (poise.bundle(runs, tmp_path / name) for name in ("one.zip", "two.zip"))
    assert one.path.read_bytes() == two.path.read_bytes() and one.digest == two.digest


def test_the_verifier_needs_numpy_alone(made: Bundle, tmp_path: Path) -> None:
    folder = unpacked(made, tmp_path / "unpacked")
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("numpy", "numpy.libs"):
        if (there := Path(np.__file__).parents[1] / name).exists():
            (packages / name).symlink_to(there)
    code = (
        f"import sys, runpy; sys.path.append({str(packages)!r}); sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for arguments in ([], [str(made.path), "--digest", made.digest]):
        command = [sys.executable, "-I", "-S", "-c", code, str(folder / "verify.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert made.digest in done.stdout and "Everything is as it was bundled." in done.stdout
    (folder / "results.md").write_text("| AT | 99.99 |")
    done = subprocess.run(command[:6], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "WRONG: results.md was changed" in done.stdout


def test_any_byte_of_any_member_is_named(made: Bundle) -> None:
    members = verifier.read(made.path)
    draw = random.Random(0)
    for name, data in members.items():
        for place in (0, len(data) - 1, *(draw.randrange(len(data)) for _ in range(4))):
            changed = bytearray(data)
            changed[place] ^= 1 << draw.randrange(8)
            try:
                wrong = verifier.tampering({**members, name: bytes(changed)})
            except verifier.Changed as error:
                wrong = [str(error)]
            assert len(wrong) == 1 and wrong[0].startswith(f"{name} was changed"), (name, place)


def test_any_byte_of_the_archive_is_noticed(made: Bundle, tmp_path: Path) -> None:
    whole, members = made.path.read_bytes(), verifier.read(made.path)
    draw, file = random.Random(1), tmp_path / "changed.zip"
    for _ in range(200):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        wrong, _ = verifier.check(file)
        # a bit beyond the end of a packed member changes nothing
        assert (len(wrong) > 0) or verifier.read(file) == members
    for changed in (whole[:-1], whole + b"x", whole[1:], b"", b"PK", whole[: len(whole) // 2]):
        file.write_bytes(changed)
        wrong, _ = verifier.check(file)
        assert len(wrong) == 1 and re.search("archive", wrong[0])


def test_members_that_were_removed_added_or_swapped_are_named(made: Bundle, tmp_path: Path) -> None:
    folder = unpacked(made, tmp_path / "unpacked")
    records = sorted(folder.rglob("records/selected.json"))
    first, second = records[0].read_bytes(), records[1].read_bytes()
    names = [record.relative_to(folder).as_posix() for record in records]
    records[0].write_bytes(second)
    records[1].write_bytes(first)
    assert verifier.check(folder)[0] == [f"{names[k]} holds what {names[1 - k]} should hold" for k in (0, 1)]
    records[0].write_bytes(first)
    records[1].unlink()
    assert verifier.check(folder)[0] == [f"{names[1]} is missing"]
    records[1].write_bytes(second)
    (folder / "more.txt").write_text("more")
    assert verifier.check(folder)[0] == ["more.txt was added: manifest.json does not know it"]
    (folder / "more.txt").unlink()
    assert verifier.check(folder)[0] == []
    (folder / "manifest.json").unlink()
    assert verifier.check(folder)[0] == ["manifest.json is missing"]


def forged(made: Bundle, change: Callable[[dict[str, bytes]], None]) -> tuple[list[str], list[str]]:
    """What is said of a bundle that was changed and given a new manifest."""
    members = verifier.read(made.path)
    change(members)
    del members["manifest.json"]
    members["manifest.json"] = verifier.manifest(members, "x")
    made.path.write_bytes(verifier.archived(members))
    return verifier.check(made.path)[0], verifier.check(made.path, made.digest)[0]


def test_a_forged_manifest_helps_nobody(made: Bundle) -> None:
    name = "runs/AT-0/records/selected.json"

    def better(members: dict[str, bytes]) -> None:
        record = json.loads(members[name])
        record["attacks"][0]["predicted"] = record["labels"]
        record = {key: value for key, value in record.items() if key != "sha256"}
        members[name] = json.dumps({**record, "sha256": verifier._digest(record)}).encode()

    wrong, published = forged(made, better)
    assert "AT, selected, PGD-20: printed text 72.50, recomputed 100.00" in wrong
    assert any(
        re.match(r"(TRADES|Generalist) minus .*, PGD-20: printed .*, recomputed", sentence) for sentence in wrong
    )
    assert any("it is another bundle than the one that was published" in sentence for sentence in published)


def test_a_record_that_does_not_fit_its_own_digest_is_named_under_a_forged_manifest(made: Bundle) -> None:
    name = "runs/AT-0/records/selected.json"

    def renamed(members: dict[str, bytes]) -> None:
        members[name] = members[name].replace(b'"device": "cpu"', b'"device": "gpu"')

    assert forged(made, renamed)[0] == [f"{name}: its sha256 is not the digest of what it says"]


def test_a_number_without_predictions_is_named(made: Bundle) -> None:
    def claimed(members: dict[str, bytes]) -> None:
        printed = json.loads(members["printed.json"])
        printed["rows"][0]["cells"][0] = {"text": "99.99"}
        members["printed.json"] = json.dumps(printed).encode()
        members["results.md"] = verifier.rendered(printed).encode()

    assert forged(made, claimed)[0] == ["TRADES, selected, natural: printed 99.99, of no predictions"]


@pytest.mark.parametrize("damage", [b"[]", b"{}", b"1", b'{"rows": 3}', b"\xff"])
def test_nonsense_is_a_sentence(made: Bundle, damage: bytes) -> None:
    wrong, _ = forged(made, lambda members: members.update({"printed.json": damage}))
    assert len(wrong) == 1 and "printed.json" in wrong[0]


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 9, 200])
def test_students_quantiles_are_scipys(freedom: float) -> None:
    for share in (0.5, 0.9, 0.975, 0.9999):
        assert verifier.t_quantile(share, freedom) == pytest.approx(float(stdtrit(freedom, share)), abs=1e-9, rel=1e-9)


def test_paths_of_the_author_are_said_and_refusals_are_sentences(runs: list[Path], tmp_path: Path) -> None:
    settings = runs[0] / "experiment.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "initial": "/home/somebody/weights.pt"}))
    made = poise.bundle(runs[0])
    assert made.path == runs[0] / "bundle.zip"
    assert made.cautions == (
        "runs/TRADES-0/experiment.json names /home/somebody/weights.pt, which whoever has the bundle will read",
    )
    with pytest.raises(SettingsError, match=r"bundle\.tar: the suffix must be \.zip"):
        poise.bundle(runs, tmp_path / "bundle.tar")
    with pytest.raises(SettingsError, match="runs is empty"):
        poise.bundle([])
    with pytest.raises(RunError, match="there is no run folder"):
        poise.bundle(tmp_path / "nothing")


def test_a_record_alone_is_bundled(runs: list[Path], tmp_path: Path, make_record: Make) -> None:
    record: EvaluationRecord = make_record()
    file = record.write(tmp_path / "mine" / "own.json")
    made = poise.bundle(file, tmp_path / "one.zip")
    assert "runs/mine/records/own.json" in verifier.read(made.path)
    assert verifier.check(made.path)[0] == []
