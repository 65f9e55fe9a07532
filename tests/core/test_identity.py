"""Attacks are the same wherever their images lie."""

from __future__ import annotations

from poise.attacks import PGD, Saved
from poise.core.identity import identity
from poise.core.settings import to_json


def test_a_set_with_a_digest_is_the_same_wherever_it_lies() -> None:
    here, there = (
        to_json(Saved(path=path, digest="ab12")) for path in ("sets/a.safetensors", "/elsewhere/a.safetensors")
    )
    assert here != there
    assert identity(here) == identity(there)
    assert identity(here) != identity(to_json(Saved(path="sets/a.safetensors", digest="cd34")))
    assert identity(here) != identity(to_json(Saved(path="sets/a.safetensors", digest="ab12", surrogate="another")))


def test_without_a_digest_the_path_is_all_there_is() -> None:
    here, there = (to_json(Saved(path=path)) for path in ("a", "b"))
    assert identity(here) != identity(there)


def test_other_attacks_are_their_settings() -> None:
    assert identity(to_json(PGD())) == to_json(PGD())
