"""Synergy-of-Experts, the ensembles and one network of as many parameters, on digits: white-box, adaptive, transfer,
AutoAttack.

    python -m experiments.ensembles --out runs/cv                    surrogates of every fold, attacked (minutes; once)
    python -m experiments.cross_validation ensembles --out runs/cv   five folds, three seeds

The surrogates are three networks of another seed, trained on natural images of the same fold. What is made on them is
one set of all 1,797 images for each attack, found by the image's number, so that every fold looks up its own. The suite
looks for the sets in surrogates/ under its --out and refuses to begin without them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.suites import AUTOATTACK, Claim, Suite
from poise import engine, recipes
from poise.attacks import AdversarialSet, Attack, Saved
from poise.core.errors import DataError
from poise.core.overrides import override
from poise.core.settings import to_json
from poise.data.digits import FOLDS
from poise.engine.runs import Run
from poise.evaluation import Protocol, make_set, soe_benchmark, soe_transfer
from poise.evaluation.digests import digest_of
from poise.recipes.digits import THREAT
from poise.recipes.ensembles_digits import BENCHMARK, HELD_OUT
from poise.reports.statistics import NATURAL, WORST

RECIPE, SURROGATE = "surrogate_ensembles_digits", "three networks"
ATTACKS = soe_transfer("soe-transfer-30", THREAT, residual=False).attacks
"""Both losses, three starts of M-PGD, and M-DI2-FGSM; SGM needs residual blocks."""
PAPER = {
    "white-box": "Synergy-of-Experts, Table 1",
    "transfer": "Synergy-of-Experts, Tables 2 and 3, but for epsilon .01",
}
ASKED = "no paper; asked here: does it win?"


def joined(sets: Sequence[AdversarialSet]) -> AdversarialSet:
    """One set of the sets' images, which one attack made on surrogates of different folds."""
    parts = {name: torch.cat([getattr(part, name) for part in sets]) for name in ("x_adv", "labels", "ids")}
    return AdversarialSet(
        **parts, attack=sets[0].attack, surrogate=_named([part.surrogate for part in sets]), seed=sets[0].seed
    )


def _named(digests: Sequence[str]) -> str:
    """All folds' surrogates, in one word each."""
    return " ".join(digest[:12] for digest in digests)


def surrogates(out: Path) -> list[Run]:
    """The trained surrogate of every fold; those that are there are taken, and gone on with where they were broken
    off.
    """
    trained = []
    for fold in range(FOLDS):
        made = override(recipes.experiment(RECIPE, False), [f"data.fold={fold}", f"seed={HELD_OUT}"])
        made = dataclasses.replace(made, monitor_every=made.epochs, save_every=made.epochs)
        trained.append(engine.train_or_resume(made, out / f"fold-{fold}"))
    return trained


def prepare(out: Path) -> None:
    """Make the sets that are not there, or are of other weights, settings or images."""
    trained = surrogates(out)
    networks, tests = [run.network("last") for run in trained], [run.experiment.data.load().test for run in trained]
    weights, ids = _named([digest_of(network) for network in networks]), torch.cat([test.ids for test in tests])
    for attack in ATTACKS:
        path, kept = out / f"{attack.name}.safetensors", found(out, attack)
        if kept is None or kept.surrogate != weights or not torch.equal(kept.ids, ids):
            sets = [make_set(network, test, attack) for network, test in zip(networks, tests, strict=True)]
            joined(sets).save(path)
            print(f"made: {path}", flush=True)


def found(out: Path, attack: Attack) -> AdversarialSet | None:
    """The attack's set in `out`; None where there is none that can be read, or one of other settings."""
    try:
        kept = AdversarialSet.load(out / f"{attack.name}.safetensors")
    except DataError:
        return None
    return kept if kept.attack == to_json(attack) else None


def transferred(out: Path) -> tuple[Saved, ...]:
    """What shows the sets in `out`. Raises: SystemExit with the command that makes them, where they are not all
    there.
    """
    kept = [(attack, found(out, attack)) for attack in ATTACKS]
    there = [(out / f"{attack.name}.safetensors", each) for attack, each in kept if each is not None]
    if len(there) < len(kept):
        raise SystemExit(
            f"the transfer sets are not in {out}; make them: python -m experiments.ensembles --out {out.parent}"
        )
    return tuple(Saved.of(path, each, SURROGATE) for path, each in there)


WHITE_BOX, ADAPTIVE, TRANSFER = "white-box", "adaptive", "transfer"
COLUMNS = {WHITE_BOX: ("PGD-50",), ADAPTIVE: ("AimedPGD-50-15runs",), TRANSFER: (SURROGATE,)}
"""An image stands transfer if it stands every set."""
EXPERTS = (NATURAL, "PGD-50x5", "AimedPGD-50-15runs", AUTOATTACK)
CLAIMS = tuple(
    Claim(
        "soe_ensembles_digits",
        f"{other}_ensembles_digits",
        column,
        ASKED if other in ("vote", "wide") else PAPER.get(column, ASKED),
    )
    for other in ("gal", "dverge", "more", "adp", "vote", "wide")
    for column in (NATURAL, *COLUMNS, AUTOATTACK, WORST)
)


def suite(protocol: Protocol) -> Suite:
    return Suite(BENCHMARK, "wide_ensembles_digits", protocol, columns=COLUMNS, claims=CLAIMS, experts=EXPERTS)


SUITES = {"ensembles": lambda out: suite(soe_benchmark(THREAT, transferred(out / "surrogates")))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cv"))
    torch.set_num_threads(1)
    prepare(parser.parse_args().out / "surrogates")
