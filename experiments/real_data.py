"""Real data on two cores: the MNIST and CIFAR-10 recipes of the spine, trained, evaluated and written down.

    python -m experiments.real_data mnist_slim --out runs/real       (resumable: start it again and it goes on)

Needs POISE_DATA. Writes benchmarks/results/DATE-NAME-MACHINE.md.
"""

from __future__ import annotations

import argparse
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch
from benchmarks.measuring import write

from poise import engine, recipes
from poise.core.overrides import override
from poise.engine.runs import Run
from poise.reports import paired_interval, read_runs, table, to_markdown
from poise.verbs.evaluate import evaluate

CIFAR10 = ["nt_cifar10_resnet18", "at_cifar10_resnet18", "trades_cifar10_resnet18", "generalist_cifar10_resnet18"]
SUITES: dict[str, tuple[list[str], int, bool, list[str]]] = {
    # name: (recipes, seeds, quick, settings changed)
    "mnist_slim": (["nt_mnist_slim", "at_mnist_slim", "trades_mnist_slim", "generalist_mnist_slim"], 3, False, []),
    "mnist_smallcnn": (
        ["nt_mnist_smallcnn", "at_mnist_smallcnn", "trades_mnist_smallcnn", "generalist_mnist_smallcnn"],
        1,
        False,
        [],
    ),
    "cifar10_quick": (CIFAR10, 1, True, []),  # 8 steps: shows that everything runs, no more
    "cifar10_small": (  # the quick variant, long enough to learn something
        CIFAR10,
        1,
        True,
        [
            "data.train_images=2000",
            "data.test_images=500",
            "protocol.first=500",
            "epochs=12",
            "criterion=last",
            "monitor_every=12",
        ],
    ),
}


def run_suite(name: str, out: Path) -> list[Run]:
    """Train (or go on with) every recipe of a suite and evaluate its last weights."""
    names, seeds, quick, changed = SUITES[name]
    runs = []
    for recipe in names:
        for seed in range(seeds):
            path = out / recipe / f"seed-{seed}"
            experiment = override(recipes.experiment(recipe, quick), [*changed, f"seed={seed}"])
            run = engine.train_or_resume(experiment, path)
            evaluate(run, checkpoint="selected")
            print(f"{recipe} seed {seed}: done", flush=True)
            runs.append(run)
    return runs


def differences(runs: list[Run]) -> list[str]:
    """Generalist minus each other method, in points, with paired 95 % intervals over images and seeds."""
    records: dict[str, list] = {}
    for run in read_runs([run.path for run in runs]):
        records.setdefault(run.experiment["name"], []).append(run.records["selected"])
    ours = next(name for name in records if name.startswith("generalist"))
    lines = ["| Generalist minus | column | difference | 95 % interval |", "|---|---|---|---|"]
    for other in records:
        for column in ("natural", "worst case") if other != ours else ():
            interval = paired_interval(records[ours], records[other], column)
            low, high = 100 * interval.low, 100 * interval.high
            lines.append(f"| {other} | {column} | {100 * interval.difference:+.2f} | {low:+.2f} to {high:+.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = run_suite(arguments.suite, arguments.out / arguments.suite)
    read = read_runs([run.path for run in runs])
    seen = read[0].records["selected"]
    today = datetime.now(UTC).date().isoformat()
    lines = [
        f"# {arguments.suite}, {today}",
        "",
        f"Command: `python -m experiments.real_data {arguments.suite}`.",
        *([f"Quick variants with {' '.join(SUITES[arguments.suite][3])}."] if SUITES[arguments.suite][3] else []),
        (
            f"{read[0].experiment['data']['train_images']:,} training images, {seen.count:,} test images; "
            f"under {', '.join(seen.attack_names)} alone."
        ),
        f"Machine: {platform.machine()} CPU, one thread, torch {torch.__version__}.",
        "",
        to_markdown(table(read)),
        "",
        *differences(runs),
        "",
    ]
    print(f"wrote {write(arguments.suite, chr(10).join(lines))}")


if __name__ == "__main__":
    main()
