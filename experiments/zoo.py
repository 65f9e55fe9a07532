"""Making a zoo network of a run: `python -m experiments.zoo RUN NAME --line ... --good-for ... --not-for ... [--first
N]`.

The weights are rounded first; record and verdict are of the rounded ones. With `--autoattack` APGD-CE and APGD-T are
added to the run's own protocol.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from poise.attacks import APGD, AutoAttack
from poise.core.files import write_bytes
from poise.core.settings import to_json
from poise.engine import Run
from poise.engine.checkpoints import load_into
from poise.evaluation import Protocol
from poise.evaluation.protocol import evaluate
from poise.verbs.of_run import threat_of
from poise.verbs.of_zoo import OfZoo
from poise.verbs.sanity import sanity
from poise.zoo.shelf import (
    RECORD,
    SETTINGS,
    SHELF,
    VERDICT,
    WEIGHTS,
    Card,
    ZooNetwork,
    rounded_weights,
    widened_weights,
)


def make(run: Run, name: str, card: dict[str, str], first: int | None, searched: bool, shelf: Path = SHELF) -> Path:
    """Lay the run's last weights on the shelf, with all that belongs to them; returns the folder."""
    folder, experiment, facts = shelf / name, run.experiment, run.facts("last")
    threat, data = threat_of(experiment), experiment.data.load()
    weights = rounded_weights(run.network("last").state_dict())
    network = run.network("last").float()
    load_into(network, widened_weights(weights), name)
    pair = AutoAttack(threat=threat, version="custom", attacks=(APGD(), APGD(loss="targeted_dlr")))
    attacks = (*experiment.protocol.attacks, *((pair,) if searched else ()))
    protocol = Protocol(name="zoo", attacks=attacks, first=first or experiment.protocol.first)
    about = {
        "checkpoint": "zoo",
        "run": f"zoo:{name}",
        "group": f"zoo:{name}",
        "notes": {"trained_in": run.about["precision"]},
    }
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
    write_bytes(folder / SETTINGS, (run.path / "experiment.json").read_bytes())
    evaluate(network, data, protocol, seed=experiment.seed, named=f"zoo:{name}", out=folder / RECORD, **about)
    known: dict[str, Any] = {
        "shape": list(facts["shape"]),
        "classes": list(facts["classes"]),
        "protocol": to_json(protocol),
    }
    Card(**card, **known, files=digests(folder, WEIGHTS, SETTINGS, RECORD)).write(folder)
    sanity(OfZoo(ZooNetwork(name, folder), data), threat=threat, out=folder / VERDICT)
    Card(**card, **known, files=digests(folder, WEIGHTS, SETTINGS, RECORD, VERDICT)).write(folder)
    return folder


def digests(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 of the files by name."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.zoo", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    for option in ("--line", "--good-for", "--not-for"):
        parser.add_argument(option, required=True)
    parser.add_argument("--first", type=int)
    parser.add_argument("--autoattack", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    card = {"line": given.line, "good_for": given.good_for, "not_for": given.not_for}
    print(make(Run.open(given.run), given.name, card, given.first, given.autoattack))


if __name__ == "__main__":
    main()
