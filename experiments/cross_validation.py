"""Methods on small data: on digits by cross-validation, five folds, so that all 1,797 images are tested; on MNIST on
its test images.

    python -m experiments.cross_validation objectives --out runs/cv     (resumable: start it again and it goes on)
    python -m experiments.cross_validation objectives --seeds 1 --summary

Suites: objectives, objectives_mnist, ablations, ensembles. Seeds are the outer loop, so that a run that was stopped has
whole seeds to show. Writes results/DATE-SUITE-MACHINE.md: a line per recipe, each against the suite's baseline with a
paired 95 % interval over images and seeds, the orderings that the papers claim beside those seen, and the trends of
ablations.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import write

from experiments.suites import Suite
from experiments.verdicts import Found, Table, page
from poise import engine, recipes
from poise.core.identity import identity
from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.core.settings import to_json
from poise.evaluation import Protocol
from poise.verbs.evaluate import evaluate

MODULES = {
    "objectives": "objectives",
    "objectives_mnist": "objectives",
    "ablations": "ablations",
    "ensembles": "ensembles",
}
"""The module of this package whose SUITES has the suite."""
SECONDS = "training_seconds.txt"
"""In a run's folder: processor seconds of its training, monitors among them."""


def suite(name: str, out: Path) -> Suite:
    """The suite of that name, for runs under `out`."""
    suites: dict[str, Callable[[Path], Suite]] = import_module(f"experiments.{MODULES[name]}").SUITES
    return suites[name](out)


def runs(chosen: Suite, seeds: int, out: Path) -> Iterator[tuple[str, int, int, Path]]:
    """Recipe, fold, seed and folder of every run, whole seeds first."""
    for seed in range(seeds):
        for recipe in chosen.recipes:
            for fold in range(chosen.folds):
                yield recipe, fold, seed, out / recipe / f"seed-{seed}-fold-{fold}"


def work(chosen: Suite, seeds: int, out: Path) -> None:
    """Train and evaluate what is not yet done; all runs first under the main protocol. Monitors run once, at the
    end.
    """
    for protocol in chosen.protocols:
        for recipe, fold, seed, path in runs(chosen, seeds, out):
            if record_of(path, protocol) is not None:
                continue
            made = override(recipes.experiment(recipe, False), chosen.overrides(fold, seed))
            made = dataclasses.replace(
                made, monitor_every=made.epochs, save_every=made.epochs, selection="test", criterion="last"
            )
            unbroken, begun = not (path / "experiment.json").exists(), time.process_time()
            run = engine.train_or_resume(made, path)
            if unbroken:
                (path / SECONDS).write_text(f"{time.process_time() - begun:.1f}")
            evaluate(run, checkpoint="last", protocol=protocol)
            print(f"{recipe} seed {seed} fold {fold}: {protocol.name} done", flush=True)


def record_of(path: Path, protocol: Protocol) -> EvaluationRecord | None:
    """The run's record under this protocol, if it is there."""
    asked = [identity(to_json(attack)) for attack in protocol.attacks]
    for file in sorted((path / "records").glob("last*.json")):
        record = EvaluationRecord.read(file)
        if record.protocol == protocol.name and [identity(attack.settings) for attack in record.attacks] == asked:
            return record
    return None


def whole(records: Sequence[EvaluationRecord]) -> EvaluationRecord:
    """One record of one seed over all folds, as if one network had been tested on all images."""
    first, counts = records[0], [record.count for record in records]
    attacks = [
        dataclasses.replace(
            attack,
            predicted=[guess for record in records for guess in record.attacks[place].predicted],
            notes=joined([record.attacks[place].notes for record in records], counts),
        )
        for place, attack in enumerate(first.attacks)
    ]
    labels = [label for record in records for label in record.labels]
    natural = [guess for record in records for guess in record.natural]
    notes = joined([record.notes for record in records], counts)
    return dataclasses.replace(first, labels=labels, natural=natural, attacks=attacks, notes=notes)


def joined(notes: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """Of what folds say in their records, the experts' measures: means over all images."""
    return (
        {"experts": weighted([each["experts"] for each in notes], counts)}
        if all("experts" in each for each in notes)
        else {}
    )


def weighted(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """Means of numbers within dictionaries and lists; lists are of experts, which differ between folds, so largest
    first.
    """
    if isinstance(parts[0], Mapping):
        return {name: weighted([part[name] for part in parts], counts) for name in parts[0]}
    if isinstance(parts[0], list):
        return [
            weighted(ranked, counts) for ranked in zip(*(sorted(part, reverse=True) for part in parts), strict=True)
        ]
    return (
        None if parts[0] is None else sum(part * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
    )


def pooled(record: EvaluationRecord, columns: Mapping[str, tuple[str, ...]]) -> EvaluationRecord:
    """The record with, for each heading, one attack more: an image stands it if it stands all whose names begin so."""
    more = []
    for heading, beginnings in columns.items():
        members = [attack for attack in record.attacks if attack.name.startswith(beginnings)]
        stands = zip(*(record.correct_under(attack.name) for attack in members), strict=True)
        predicted = [label if all(each) else -1 for label, each in zip(record.labels, stands, strict=True)]
        settings = {attack.name: attack.settings for attack in members}
        more.append(dataclasses.replace(members[0], name=heading, settings=settings, predicted=predicted))
    return dataclasses.replace(record, attacks=[*record.attacks, *more])


def collected(chosen: Suite, seeds: int, out: Path, protocol: Protocol) -> Found:
    """By recipe one whole record for every seed whose folds are all there."""
    found: Found = {}
    for recipe in chosen.recipes:
        for seed in range(seeds):
            folds = [record_of(out / recipe / f"seed-{seed}-fold-{fold}", protocol) for fold in range(chosen.folds)]
            there = [record for record in folds if record is not None]
            if len(there) == chosen.folds:
                columns = chosen.columns if protocol == chosen.protocol else {}
                found.setdefault(recipe, []).append(pooled(whole(there), columns))
    return found


def slowest(chosen: Suite, seeds: int, out: Path) -> list[str]:
    """The longest uninterrupted training; nothing where none was timed."""
    timed = [
        (float(file.read_text()), path) for *_, path in runs(chosen, seeds, out) if (file := path / SECONDS).exists()
    ]
    return (
        [f"Longest training: {max(timed)[0]:.0f} processor seconds ({max(timed)[1].relative_to(out)}).", ""]
        if timed
        else []
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=list(MODULES))
    parser.add_argument("--seeds", type=int, help="by default 3, on MNIST 1")
    parser.add_argument("--out", type=Path, default=Path("runs/cv"))
    parser.add_argument("--summary", action="store_true", help="write the page from what is there; train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = suite(arguments.suite, arguments.out)
    seeds = arguments.seeds or chosen.seeds
    if not arguments.summary:
        work(chosen, seeds, arguments.out)
    measured = Table(*(collected(chosen, seeds, arguments.out, protocol) for protocol in chosen.protocols))
    if chosen.baseline not in measured.main:
        raise SystemExit(f"no whole seed of {chosen.baseline} is there yet under {arguments.out}")
    today = datetime.now(UTC).date().isoformat()
    said = [
        f"{protocol.name} ({', '.join(attack.name for attack in protocol.attacks)})" for protocol in chosen.protocols
    ]
    tested = f"{chosen.folds} folds" if chosen.folds > 1 else "the first images of the test set"
    lines = [
        f"# {arguments.suite}, {today}",
        "",
        f"Command: `python -m experiments.cross_validation {arguments.suite} --seeds {seeds}`. Last epoch, {tested}.",
        (
            f"Protocols: {'; '.join(said)}. 95 % intervals are paired over images (bootstrap) and count seeds by"
            " Welch's t; with one seed they"
        ),
        (
            f"speak of these networks, not of other seeds. {platform.machine()} CPU, one thread, torch"
            f" {torch.__version__}."
        ),
        "",
        *slowest(chosen, seeds, arguments.out),
        *page(chosen, measured),
        "",
    ]
    name = arguments.suite if chosen.folds == 1 else f"digits_{arguments.suite}"
    print(f"wrote {write(name, chr(10).join(lines))}")


if __name__ == "__main__":
    main()
