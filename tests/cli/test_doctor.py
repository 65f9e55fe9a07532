"""What poise doctor sees, and what the shell completes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from poise.cli import doctor, main
from poise.cli.doctor import examined

Poise = Callable[..., tuple[int, str, str]]
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured and trained."""
    monkeypatch.setattr(doctor, "_trains", lambda: doctor.Finding("training", "good", ""))
    monkeypatch.setattr("poise.core.processors.bfloat16_gain", lambda: 1.5)


def test_a_healthy_machine_ends_with_status_zero(poise: Poise, tmp_path: Path) -> None:
    status, out, _ = poise("doctor", "--data-dir", tmp_path)
    assert status == 0
    for seen in ("Python", "torch", "processor", "times as fast as float32", "an epoch on 64 digits", str(tmp_path)):
        assert seen in out
    assert "fetched when it is first used, or: https://" in out


@pytest.mark.usefixtures("quick")
def test_data_that_lies_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "MNIST" / "raw" / f"{part}-{kind}-ubyte").touch()
    states = {one.what: one.state for one in examined(tmp_path)}
    assert (states["MNIST"], states["CIFAR10"]) == ("good", "missing")


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_ends_with_status_one_and_says_what_to_do(
    poise: Poise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    status, out, err = poise("doctor", "--data-dir", tmp_path / "file")
    assert status == 1 and err == "wrong: data folder\n"
    assert "name another by POISE_DATA or --data-dir" in out
    monkeypatch.setattr(doctor, "_required", lambda: [("torch", "99.0"), ("nothing-of-that-name", "1")])
    status, out, err = poise("doctor", "--data-dir", tmp_path)
    assert status == 1 and err == "wrong: torch, nothing-of-that-name\n"
    assert "pip install 'torch>=99.0'" in out and "pip install 'nothing-of-that-name>=1'" in out


@pytest.mark.usefixtures("quick")
def test_extras_are_there_or_have_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = 'absent-package>=1; extra == "zebra"'
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.5", 'numpy>=1; extra == "ant"', extra])
    monkeypatch.setattr(metadata, "metadata", lambda name: Offered())
    seen = {one.what: one for one in examined(tmp_path)}
    assert seen["poise[ant]"].state == "good"
    assert (seen["poise[zebra]"].state, seen["poise[zebra]"].remedy) == ("missing", "pip install 'poise[zebra]'")


class Offered:
    def get_all(self, name: str) -> list[str]:
        return ["ant", "zebra", "dev"]


def test_all_is_all_extras_but_the_developers() -> None:
    extras = PROJECT["optional-dependencies"]
    (line,) = extras["all"]
    assert sorted(line.removeprefix("poise[").removesuffix("]").split(",")) == sorted(set(extras) - set(doctor.OWN))


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("poise tr", {"train", "transfer", "track"}),
        ("poise train generalist_d", {"generalist_digits", "generalist_diagnosed_digits"}),
        ("poise show squeeze", set()),
        ("poise evaluate runs/x --protocol zip", {"zipper-linf", "zipper-l2", "zipper-mnist", "zipper-compat"}),
        ("poise evaluate runs/x --sear", {"--search-precision"}),
    ],
)
def test_the_shell_completes_verbs_options_recipes_and_protocols(
    typed: str, completions: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_POISE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit):
        main()
    words = set(capsys.readouterr().out.split())
    assert completions <= words if completions else not words
