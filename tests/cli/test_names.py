"""A mistyped name is answered at once, and a list can be searched by people and by programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from poise.recipes import experiment

Poise = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "numpy", "scipy", "sklearn", "poise.recipes", "poise.evaluation")
ASKED = """
import sys
from poise.cli import main
sys.argv = ["poise", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("trian", "at_digits"), "'train'"),
        (("train", "at_digit"), "there is no recipe 'at_digit'; did you mean 'at_digits'?"),
        (("show", "generalist_cifar_resnet18"), "did you mean 'generalist_cifar10_resnet18'?"),
        (("show", "qqqqqqq"), "known names is near: poise list"),
        (("evaluate", "runs/a", "--protocol", "standrd"), "--protocol 'standrd' is unknown; must be one of "),
        (("list", "recipies"), "did you mean 'recipes'?"),
    ],
)
def test_a_mistyped_name_is_answered_before_anything_heavy_is_imported(words: tuple[str, ...], answer: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert answer in done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


def test_a_list_is_narrowed_by_words(poise: Poise) -> None:
    status, out, _ = poise("list", "recipes", "AWP", "svhn")
    assert status == 0
    assert (
        "\nst_awp_svhn_resnet18 " in out
        and "\nst_awp_cifar10_resnet18 " not in out
        and "\nst_svhn_resnet18 " not in out
    )
    everywhere = poise("list", "all", "trades")[1]
    assert all(f"\n{title}" in f"\n{everywhere}" for title in ("objectives", "protocols", "recipes: "))
    assert "nothing in recipes has 'awp' and 'nowhere'" in poise("list", "recipes", "awp", "nowhere")[2]


def test_a_list_is_read_by_programs(poise: Poise) -> None:
    rows = json.loads(poise("list", "recipes", "generalist_cifar10_resnet18", "--json")[1])
    published = experiment("generalist_cifar10_resnet18").published
    assert published is not None
    row = next(row for row in rows if row["name"] == "generalist_cifar10_resnet18")
    assert (row["kind"], row["table"], row["row"]) == ("recipes", published.table, published.row)
    assert row["published"] == dict(zip(published.columns, published.values, strict=True))
    objectives = json.loads(poise("list", "objectives", "--json")[1])
    assert {"kind", "name", "what", "paper"} == set(objectives[0]) and "TRADES" in {
        entry["name"] for entry in objectives
    }
    assert json.loads(poise("list", "recipes", "nowhere", "--json")[1]) == []
