"""Generalist's ablations on digits: which recipes, and the trend that the paper claims for each.

    python -m experiments.cross_validation ablations            five folds, three seeds; claimed and seen trends
    python -m experiments.ablations regret --out runs/regret    does lower tradeoff regret go with lower error?
    python -m experiments.ablations untuned --out runs/untuned  what gamma and c chosen on one data set cost on another:
        by default on MNIST, of digits (needs POISE_DATA); --target svhn_resnet18, of CIFAR-10: on GPUs

The headline on digits has c = 2 and no own averages, so it stands for `c_2` and `wa_none`. All can be stopped and
started again. The last two write results/DATE-NAME-MACHINE.md; --quick trains small variants and writes nothing.
Figures 2 to 4 are plots without numbers, so for them only what the text says is a claim.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from benchmarks.measuring import page, table, write

from experiments.objectives import DIGITS_PROTOCOL
from experiments.suites import Claim, Suite, Trend
from poise import engine, recipes
from poise.attacks import PGD
from poise.engine import Diagnosis, Experiment, Run
from poise.recipes.digits import THREAT
from poise.recipes.generalist_transfer import TARGETS, candidates
from poise.reports import read_runs
from poise.reports.across import agreement, regretted, untuned
from poise.reports.statistics import NATURAL, SUM, WORST
from poise.verbs.evaluate import evaluate

HEADLINE = "generalist_digits"
BOTH = (NATURAL, WORST)
LONGEST = 6
"""Largest c that is compared: of 45 epochs what 16 is of the paper's 120, whose sweep ends at 15. Larger ones leave two
redistributions or fewer, or one that comes long after t'."""


def named(*ablations: str) -> tuple[str, ...]:
    return tuple(
        HEADLINE if name == "headline" else name if name.endswith("_digits") else f"ablation_{name}_digits"
        for name in ablations
    )


@dataclass(frozen=True)
class Ablation:
    """recipes: what is compared, in the setting's order, the headline among them; claim: the paper's trend in words, or
    empty.

    orderings: (better, worse, column) that the claim implies, `SUM` being the paper's trade-off.
    """

    recipes: tuple[str, ...]
    claim: str
    source: str
    orderings: tuple[tuple[str, str, str], ...] = ()

    def claims(self) -> tuple[Claim, ...]:
        """The orderings as `cross_validation` takes them."""
        return tuple(
            Claim(named(better)[0], named(worse)[0], column, self.source) for better, worse, column in self.orderings
        )


def above(better: str, *worse: str, columns: Sequence[str] = (WORST,)) -> tuple[tuple[str, str, str], ...]:
    return tuple((better, other, column) for other in worse for column in columns)


def rising(*recipes: str, column: str) -> tuple[tuple[str, str, str], ...]:
    """Each recipe above the one before it."""
    return tuple((later, earlier, column) for earlier, later in pairwise(recipes))


ABLATIONS: dict[str, Ablation] = {
    "gamma, table": Ablation(
        named("headline", "gamma_rising", "gamma_late"),
        "a rising gamma gains robust accuracy; a falling one natural accuracy, and the better trade-off",
        "Zipper, Table 9",
        (
            *above("headline", "gamma_rising", "gamma_late", columns=(NATURAL,)),
            *(("gamma_rising", "headline", WORST), ("gamma_late", "headline", WORST)),
            *(("gamma_late", "gamma_rising", NATURAL), ("gamma_rising", "gamma_late", WORST)),
            *above("headline", "gamma_rising", "gamma_late", columns=(SUM,)),
        ),
    ),
    "gamma, last breakpoint": Ablation(
        named("gamma_0", "gamma_25", "gamma_40", "headline", "gamma_75"),
        "as it increases, robust accuracy gradually increases and natural accuracy decreases by a small margin; the"
        " best is 0",
        "Zipper, Section 4.2.1",
        (
            *rising("gamma_0", "gamma_25", "gamma_40", "headline", "gamma_75", column=WORST),
            *rising("gamma_75", "headline", "gamma_40", "gamma_25", "gamma_0", column=NATURAL),
            *above("gamma_0", "gamma_25", "gamma_40", "headline", "gamma_75", columns=(SUM,)),
        ),
    ),
    "gamma, when it falls": Ablation(
        named("headline", "gamma_25", "gamma_early", "gamma_half"),
        "(1, 1, .8, .2) is lower in both accuracies than those that fall late; (1, 1, 1, .5) is more robust than .5"
        " throughout",
        "Zipper, Section 4.2.1",
        (
            *above("headline", "gamma_early", columns=BOTH),
            *above("gamma_25", "gamma_early", columns=BOTH),
            *above("headline", "gamma_half"),
        ),
    ),
    "c": Ablation(
        named("c_1", "headline", *(f"c_{c}" for c in range(3, LONGEST + 1))),
        "natural accuracy rises to a peak and falls again, robust accuracy has a trough in between; the best is 5"
        " epochs of 120",
        "Zipper, Section 4.2.1",
        (
            *above("headline", "c_1", f"c_{LONGEST}", columns=(NATURAL, SUM)),
            *(("c_1", "headline", WORST), (f"c_{LONGEST}", "headline", WORST)),
        ),
    ),
    "t'": Ablation(
        named("from_0", "from_25", "from_50", "headline", "from_75"), "", "75 epochs of 120; no other is reported"
    ),
    "learning rates": Ablation(
        named("headline", "lr_0.1_0.1", "lr_0.1_0.001", "lr_0.01_0.01", "lr_0.01_0.1"),
        ".1 for the natural and .001 for the robust learner is best for natural accuracy, .01 for both is the most"
        " robust",
        "Zipper, Table 7",
        (
            *above("lr_0.1_0.001", "headline", "lr_0.1_0.1", "lr_0.01_0.01", "lr_0.01_0.1", columns=(NATURAL,)),
            *above("lr_0.01_0.01", "headline", "lr_0.1_0.1", "lr_0.1_0.001", "lr_0.01_0.1"),
            *above("headline", "lr_0.1_0.1", "lr_0.1_0.001", "lr_0.01_0.1"),
            *above("headline", "lr_0.01_0.01", "lr_0.01_0.1", columns=(NATURAL,)),
        ),
    ),
    "EMA of the global learner": Ablation(
        named("headline", "no_ema"),
        "without it both accuracies fall",
        "Zipper, Table 8",
        above("headline", "no_ema", columns=BOTH),
    ),
    "weight averaging": Ablation(
        named("headline", "wa_natural", "wa_robust", "wa_both"),
        "on both learners it improves the global one; on one only, that task gains at the other's expense",
        "Zipper, Section 4.2.2",
        (
            *above("wa_both", "headline", columns=BOTH),
            *(("wa_natural", "headline", NATURAL), ("headline", "wa_natural", WORST)),
            *(("wa_robust", "headline", WORST), ("headline", "wa_robust", NATURAL)),
        ),
    ),
    "optimizers": Ablation(
        (*named("headline", "adam_natural", "adam_robust", "adam_both"), "at_digits", "at_adam_digits"),
        "whatever trains its robust task by Adam is less robust than by SGD; the best is Adam for the natural task only"
        " (caption) or SGD for both (text)",
        "Zipper, Section 4.2.2 and Figure 3b",
        (
            *above("headline", "adam_robust", "adam_both"),
            *above("adam_natural", "adam_robust", "adam_both"),
            *above("at_digits", "at_adam_digits"),
            *above("adam_natural", "headline", "adam_robust", "adam_both", columns=(SUM,)),
        ),
    ),
    "redistribution": Ablation(
        named("headline", "never", "after_first_step", "every_step"),
        "redistribution from the global learner is part of the method; the released code does it after every step",
        "Zipper, Section 3.3",
        above("headline", "never"),
    ),
    "nested averages": Ablation(
        named("headline", "wa_both", "averages_reset"), "", "released code: nested; Algorithm 1: single"
    ),
    "momentum": Ablation(named("headline", "momentum_reset"), "", "released code: kept; the paper says nothing"),
    "BatchNorm buffers": Ablation(named("headline", "buffers"), "", "released code: mixed; the paper says nothing"),
}

RECIPES = tuple(dict.fromkeys(recipe for ablation in ABLATIONS.values() for recipe in ablation.recipes))
CLAIMS = tuple(claim for ablation in ABLATIONS.values() for claim in ablation.claims())
TRENDS = tuple(
    Trend(name, each.recipes, each.claim, column, each.source)
    for name, each in ABLATIONS.items()
    for column in (*BOTH, SUM)
)
SUITE = Suite(recipes=RECIPES, baseline=HEADLINE, protocol=DIGITS_PROTOCOL, claims=CLAIMS, trends=TRENDS)
SUITES = {"ablations": lambda out: SUITE}
DIAGNOSIS = Diagnosis(attack=PGD(threat=THREAT, step_size=0.05, steps=10), geometry=False)


def trained(made: Experiment, path: Path) -> Run:
    """Train, or go on, and evaluate the last weights. Raises: RunError where another run lies there, such as a small
    variant.
    """
    run = engine.train_or_resume(made, path)
    if not (path / "records" / "last.json").exists():
        evaluate(run, checkpoint="last")
    return run


def regret(out: Path, seeds: int, quick: bool, wanted: Sequence[str] = RECIPES) -> dict[str, str]:
    """Diagnosed runs of every Generalist among the ablations: R_T / T beside the error, and whether they go
    together.
    """
    paths = []
    for seed in range(seeds):
        for recipe in wanted:
            made = recipes.experiment(recipe, quick)
            if len(made.method.policies()) > 1:
                paths.append(out / recipe / f"seed-{seed}")
                trained(dataclasses.replace(made, seed=seed, diagnosis=DIAGNOSIS, monitor_every=1), paths[-1])
                print(f"{recipe} seed {seed}: done", flush=True)
    found = regretted(read_runs(paths))
    numbers = ((found.own, 1), (found.common, 1), (found.errors, 100))
    rows = [
        [name, *(f"{scale * values[name]:.4f}" for values, scale in numbers)]
        for name in sorted(found.common, key=found.common.__getitem__)
    ]
    heads = ["recipe", "R_T / T against its own best", "R_T / T against the best of all", "error, %"]
    said = [
        f"Against {whose}: {agreement(regrets, found.errors).text}."
        for whose, regrets in (("their own best", found.own), ("the best of all", found.common))
    ]
    about = (
        f"R_T is of {DIAGNOSIS.loss.replace('_', ' ')} against the best network seen; the error is that of the last"
        " global learner,"
    )
    body = f"{table(heads, rows)}\n\n{' '.join(said)} Kendall's tau-b over the recipes."
    return {
        "Tradeoff regret and error": f"{about}\nnatural and worst case alike. Means over {seeds} seed(s).\n\n{body}"
    }


def untuned_on(target: str, out: Path, seeds: int, quick: bool) -> dict[str, str]:
    """The regret of taking gamma and c over from the source."""
    choices, measured = candidates(target), []
    for side in (0, 1):
        records = {}
        for choice, names in choices.items():
            paths = [out / names[side] / f"seed-{seed}" for seed in range(seeds)]
            for seed, path in enumerate(paths):
                trained(dataclasses.replace(recipes.experiment(names[side], quick), seed=seed), path)
                print(f"{names[side]} seed {seed}: done", flush=True)
            records[choice] = [run.records["last"] for run in read_runs(paths)]
        measured.append(records)
    found = untuned(*measured)
    rows = [
        [
            choice,
            *(
                f"{100 * sum(getattr(each, name) for each in side[choice]) / seeds:.2f}"
                for side in measured
                for name in SCORED
            ),
        ]
        for choice in choices
    ]
    words = [
        f"Chosen on the source: {found.chosen}; best on {target}: {found.best}; regret {100 * found.regret:.2f} points"
        " of natural plus"
    ]
    words += [f"worst-case accuracy, where the choices differ by up to {100 * found.spread:.2f}."]
    for column, interval in ((NATURAL, found.natural), (WORST, found.worst)):
        if interval is not None:
            shown = f"{100 * interval.difference:+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
            words.append(f"Best minus chosen, {column}: {shown}.")
    heads = ["choice", "source: natural", "source: worst", "target: natural", "target: worst"]
    return {f"Parameters chosen on the source, applied to {target}": f"{table(heads, rows)}\n\n{' '.join(words)}"}


SCORED = ("natural_accuracy", "worst_case_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["regret", "untuned"])
    parser.add_argument(
        "--target", choices=TARGETS, default="mnist_slim", help="of untuned; each has its source, digits or CIFAR-10"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--quick", action="store_true", help="small variants; shows that it runs, writes nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "regret":
        sections = regret(given.out, given.seeds, given.quick)
    else:
        sections = untuned_on(given.target, given.out, given.seeds, given.quick)
    asked = f" --target {given.target}" if given.what == "untuned" else ""
    name = f"digits_{given.what}" if given.what == "regret" else f"{TARGETS[given.target]}_untuned_on_{given.target}"
    text = page(
        "Generalist's ablations", f"python -m experiments.ablations {given.what}{asked} --seeds {given.seeds}", sections
    )
    print(text)
    if not given.quick:
        print(f"written: {write(name, text)}")


if __name__ == "__main__":
    main()
