"""Names may change and numbers may not: groups, random draws and orders of batches are those of the runs and records
that exist.

What is stored is exact on every processor: digests of settings, and of the keys that draws and batches are hashed from.
`python tests/recipes/test_same_numbers.py` writes it again; that is right only where a change says which numbers become
others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from poise.attacks import AutoAttack
from poise.core import seeds
from poise.core.overrides import override
from poise.core.settings import families, field_names
from poise.engine import train
from poise.engine.experiment import Experiment
from poise.evaluation import PROTOCOLS
from poise.recipes import experiment, recipes

STORED = Path(__file__).parent / "numbers"
TRAINED = (
    *(
        "generalist_digits",
        "at_digits",
        "trades_digits",
        "fat_mart_digits",
        "iat_digits",
        "rst_digits",
        "gair_rst_digits",
    ),
    *(
        "st_js_digits",
        "at_rwp_digits",
        "two_trades_digits",
        "soe_ensembles_digits",
        "gal_ensembles_digits",
        "dverge_ensembles_digits",
        "more_ensembles_digits",
    ),
)


def groups() -> list[str]:
    """The group of every recipe and of its small variant."""
    return sorted(f"{experiment(name).group} {experiment(name, quick=True).group}" for name in recipes())


@contextmanager
def keys_kept() -> Iterator[set[int]]:
    """The keys that anything asks for while this is entered."""
    keys: set[int] = set()
    original = seeds.key_of

    def noting(*parts: int | str) -> int:
        keys.add(key := original(*parts))
        return key

    homes = [module for name, module in sys.modules.items() if name.startswith("poise.") and hasattr(module, "key_of")]
    with pytest.MonkeyPatch.context() as patched:
        for home in homes:
            patched.setattr(home, "key_of", noting)
        yield keys


def shortened(name: str) -> Experiment:
    """A recipe on digits with two steps in each of its three epochs."""
    made = experiment(name, quick=True)
    data = dataclasses.replace(made.data, train_images=64, test_images=16)  # pyright: ignore[reportCallIssue]
    return override(dataclasses.replace(made, data=data, monitor_every=3), ["method.batch_size=32"])


def draws(name: str, folder: Path) -> str:
    """A digest of all keys that a short training draws by."""
    with keys_kept() as keys:
        train(shortened(name), folder / name)
    return hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:16]


def words() -> list[str]:
    """Each word that JSON of settings may hold: family, class and setting."""
    ours = [
        (family, tag, cls) for family, members in families().items() for tag, cls in members.items() if _is_ours(cls)
    ]
    settings = [
        " ".join([family, tag, *(cls.written.get(name, name) for name in field_names(cls))])
        for family, tag, cls in ours
    ]
    protocols = [
        f"protocol {name}: {' '.join(attack.name for attack in made.at().attacks)}" for name, made in PROTOCOLS.items()
    ]
    return sorted(
        [*settings, *protocols, f"AutoAttack: {' '.join(attack.name for attack in AutoAttack().components())}"]
    )


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("poise.")


def stored(name: str) -> list[str]:
    return (STORED / f"{name}.txt").read_text().splitlines()


def test_every_recipe_is_in_the_group_that_its_runs_were_made_in() -> None:
    lost = sorted(set(stored("groups")) - set(groups()))
    assert not lost, f"{len(lost)} recipes have other groups, among them {lost[:3]}"


@pytest.mark.parametrize("line", stored("draws"))
def test_a_training_draws_by_the_keys_that_it_always_drew_by(line: str, tmp_path: Path) -> None:
    name, digest = line.split()
    assert draws(name, tmp_path) == digest


def test_no_word_that_settings_were_written_with_is_lost() -> None:
    """More settings and classes may come."""
    now = {tuple(line.split()[:2]): line.split()[2:] for line in words()}
    lost = {line: sorted(set(line.split()[2:]) - set(now.get(tuple(line.split()[:2]), ()))) for line in stored("words")}
    assert not [line for line, names in lost.items() if names or tuple(line.split()[:2]) not in now]


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        found: dict[str, Any] = {
            "groups": groups(),
            "draws": [f"{name} {draws(name, Path(place))}" for name in TRAINED],
            "words": words(),
        }
    for kind, lines in found.items():
        (STORED / f"{kind}.txt").write_text("\n".join(lines) + "\n")
