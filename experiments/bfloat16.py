"""Whether training and attacking under bfloat16 autocast end where float32 does, where a processor has it natively.

    python -m experiments.bfloat16 digits --out runs/bfloat16   five folds, three seeds, five methods (resumable)
    python -m experiments.bfloat16 attack RUN --first 2000      PGD-20 on a trained network, on its own test images

Both write benchmarks/results/DATE-NAME-MACHINE.md. `digits`: accuracies in both arithmetics, their difference with a
paired 95 % interval over images and seeds, and the standard deviation over float32's seeds beside it. `attack`: what
PGD reaches when its search runs under autocast; loss and verdict are float32's in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.measuring import page, table, write
from torch import Tensor, nn

from experiments.cross_validation import record_of, whole
from poise import engine, recipes
from poise.attacks import PGD
from poise.core.overrides import override
from poise.core.processors import check_bfloat16, processor
from poise.core.records import EvaluationRecord
from poise.core.seeds import Draw, key_of
from poise.data.digits import FOLDS
from poise.engine import Run
from poise.evaluation import Protocol
from poise.recipes.digits import THREAT
from poise.reports.statistics import NATURAL, WORST, correct, paired_interval
from poise.verbs.evaluate import evaluate

METHODS = ("at", "trades", "mart", "st", "generalist")
ARITHMETICS = ("float32", "bfloat16")
SEEDS = 3
PROTOCOL = Protocol(name="pgd-20", attacks=(PGD(threat=THREAT, step_size=0.025, steps=20),))
BAR = 0.2
"""Points that loss and accuracy under PGD may differ by."""


def works(seeds: int) -> Iterator[tuple[str, str, int, int]]:
    """Method, arithmetic, seed and fold of every run, whole seeds first."""
    for seed in range(seeds):
        for method in METHODS:
            for arithmetic in ARITHMETICS:
                for fold in range(FOLDS):
                    yield method, arithmetic, seed, fold


def trained(out: Path, method: str, arithmetic: str, seed: int, fold: int) -> EvaluationRecord:
    """The record of a run, made where it is missing."""
    path = out / f"{method}-{arithmetic}" / f"seed-{seed}-fold-{fold}"
    record = record_of(path, PROTOCOL)
    if record is None:
        settings = [f"data.fold={fold}", f"seed={seed}", f"precision={arithmetic}"]
        experiment = override(recipes.experiment(f"{method}_digits", False), settings)
        every = {"monitor_every": experiment.epochs, "save_every": experiment.epochs}
        experiment = dataclasses.replace(experiment, **every, selection="test", criterion="last")
        record = evaluate(engine.train_or_resume(experiment, path, device="cpu"), checkpoint="last", protocol=PROTOCOL)
        print(f"{path.relative_to(out)}: natural {100 * record.natural_accuracy:.2f}", flush=True)
    return record


def digits(out: Path, seeds: int) -> str:
    """Trains what is missing; the page."""
    records: dict[tuple[str, str, int], list[EvaluationRecord]] = {}
    for method, arithmetic, seed, fold in works(seeds):
        records.setdefault((method, arithmetic, seed), []).append(trained(out, method, arithmetic, seed, fold))
    rows = []
    for method in METHODS:
        sides = {name: [whole(records[method, name, seed]) for seed in range(seeds)] for name in ARITHMETICS}
        for column in (NATURAL, WORST):
            accuracies = {
                name: [100 * statistics.mean(correct(record, column)) for record in side]
                for name, side in sides.items()
            }
            difference = paired_interval(sides["bfloat16"], sides["float32"], column)
            spread = statistics.stdev(accuracies["float32"]) if seeds > 1 else float("nan")
            rows.append(
                [
                    f"{method}, {column}",
                    *(f"{statistics.mean(accuracies[name]):.2f}" for name in ARITHMETICS),
                    f"{100 * difference.difference:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]",
                    f"{spread:.2f}",
                ]
            )
    columns = ["method, column", *ARITHMETICS, "difference, paired 95 % interval", "SD over float32's seeds"]
    sections = {"Processor": f"{processor()}", f"Digits, {FOLDS} folds, {seeds} seeds, PGD-20": table(columns, rows)}
    return page("bfloat16 beside float32 on digits", "python -m experiments.bfloat16 digits", sections)


def attacked(network: nn.Module, x: Tensor, y: Tensor, autocast: bool, batch: int = 250) -> tuple[float, float]:
    """(mean cross-entropy, accuracy in percent), both in float32, of PGD-20's images; autocast: of its search."""
    attack, losses, right = PGD(), 0.0, 0
    for place in range(0, len(x), batch):
        images, labels = x[place : place + batch], y[place : place + batch]
        draw = Draw(key_of(0, "bfloat16"), torch.arange(place, place + len(images)))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x_adv = attack.perturb(network, images, labels, draw=draw)
        with torch.no_grad():
            logits = network(x_adv.float())
        losses += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return losses / len(x), 100 * right / len(x)


def attack(run: Run, first: int) -> str:
    """The page of PGD-20 on a trained network in both arithmetics."""
    split = run.experiment.data.load().test.first(first)
    network = run.network("last").eval()
    sides = {name: attacked(network, split.pixels(), split.labels, name == "bfloat16") for name in ARITHMETICS}
    rows = [[name, f"{loss:.4f}", f"{accuracy:.2f}"] for name, (loss, accuracy) in sides.items()]
    gaps = [abs(a - b) for a, b in zip(sides["float32"], sides["bfloat16"], strict=True)]
    verdict = "met" if max(gaps) <= BAR else "missed"
    rows.append(["difference", f"{gaps[0]:.4f}", f"{gaps[1]:.2f} (bar {BAR:g}: {verdict})"])
    name, images = run.experiment.title or run.name, f"{len(split):,} test images"
    text = table(["search in", "cross-entropy under attack", "accuracy under attack"], rows)
    sections = {"Processor": f"{processor()}", f"{name}, {images}, PGD-20 at Linf 8/255": text}
    return page("PGD searched in bfloat16", f"python -m experiments.bfloat16 attack RUN --first {first}", sections)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bfloat16", description=__doc__)
    parser.add_argument("what", choices=("digits", "attack"))
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/bfloat16"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    check_bfloat16(torch.device("cpu"), "bfloat16 beside float32", "run this where it is native")
    text = digits(given.out, given.seeds) if given.what == "digits" else attack(Run.open(given.run), given.first)
    print(text)
    print("written:", write(f"bfloat16_{given.what}", text))


if __name__ == "__main__":
    main()
