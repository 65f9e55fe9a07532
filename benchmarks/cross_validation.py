"""Methods on digits by cross-validation: five folds, so that all 1,797 images are tested, by seeds.

    python -m benchmarks.cross_validation objectives --out runs/cv     (resumable: start it again and it goes on)
    python -m benchmarks.cross_validation objectives --seeds 1 --summary

Seeds are the outer loop, so that a run that was stopped has whole seeds to show. Writes results/DATE-digits_SUITE.md: a line per
recipe, each against the suite's baseline with a paired 95 % bootstrap interval over images and seeds, and the orderings that the
papers claim beside those seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch

from poise import engine, recipes
from poise.core.records import EvaluationRecord
from poise.core.settings import override, to_json
from poise.data.digits import FOLDS
from poise.engine.evaluations import evaluate_run
from poise.engine.runs import Run
from poise.evaluation import Protocol
from poise.reports import paired_interval

NATURAL, WORST = "natural", "worst case"


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper claims: `better` above `worse` in `column` ("natural" or "worst case")."""

    better: str
    worse: str
    column: str
    source: str


@dataclass(frozen=True)
class Suite:
    """Recipes compared under a protocol; every other recipe is compared with `baseline`."""

    recipes: tuple[str, ...]
    baseline: str
    protocol: Protocol
    """For all images; the worst case is over its attacks."""
    second: Protocol | None = None
    """A costlier one, such as AutoAttack on the first images of every fold; what it leaves is a column beside."""
    claims: tuple[Claim, ...] = ()
    settings: tuple[str, ...] = ()
    """Overrides of every recipe."""

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return (self.protocol,) if self.second is None else (self.protocol, self.second)


def suite(name: str) -> Suite:
    """The suite of a module of this package that defines one (`objectives`, `ablations`, `ensembles`)."""
    return import_module(f"benchmarks.{name}").SUITE


def runs(name: str, seeds: int, out: Path) -> Iterator[tuple[str, int, int, Path]]:
    """Recipe, fold, seed and folder of every run, whole seeds first."""
    for seed in range(seeds):
        for recipe in suite(name).recipes:
            for fold in range(FOLDS):
                yield recipe, fold, seed, out / recipe / f"seed-{seed}-fold-{fold}"


def work(name: str, seeds: int, out: Path) -> None:
    """Train and evaluate what is not yet done; all runs first under the main protocol. Monitors run once, at the end."""
    chosen = suite(name)
    for protocol in chosen.protocols:
        for recipe, fold, seed, path in runs(name, seeds, out):
            if record_of(path, protocol) is not None:
                continue
            made = override(recipes.experiment(recipe, False), [f"data.fold={fold}", f"seed={seed}", *chosen.settings])
            made = dataclasses.replace(made, monitor_every=made.epochs, save_every=made.epochs, selection="test", criterion="last")
            if not (path / "experiment.json").exists():
                run = engine.train(made, path)
            else:
                run = Run.open(path)
                run = run if engine.finished(run) else engine.resume(path)
            evaluate_run(run, "last", protocol=protocol)
            print(f"{recipe} seed {seed} fold {fold}: {protocol.name} done", flush=True)


def record_of(path: Path, protocol: Protocol) -> EvaluationRecord | None:
    """The run's record under this protocol, if it is there."""
    asked = [to_json(attack) for attack in protocol.attacks]
    for file in sorted((path / "records").glob("last*.json")):
        record = EvaluationRecord.read(file)
        if record.protocol == protocol.name and [attack.settings for attack in record.attacks] == asked:
            return record
    return None


def whole(records: Sequence[EvaluationRecord]) -> EvaluationRecord:
    """One record of one seed over all folds, as if one network had been tested on all images."""
    first = records[0]
    attacks = [
        dataclasses.replace(attack, predicted=[guess for record in records for guess in record.attacks[place].predicted])
        for place, attack in enumerate(first.attacks)
    ]
    labels = [label for record in records for label in record.labels]
    natural = [guess for record in records for guess in record.natural]
    return dataclasses.replace(first, labels=labels, natural=natural, attacks=attacks)


def collected(name: str, seeds: int, out: Path, protocol: Protocol) -> dict[str, list[EvaluationRecord]]:
    """By recipe one whole record for every seed whose folds are all there."""
    found: dict[str, list[EvaluationRecord]] = {}
    for recipe in suite(name).recipes:
        for seed in range(seeds):
            folds = [record_of(out / recipe / f"seed-{seed}-fold-{fold}", protocol) for fold in range(FOLDS)]
            there = [record for record in folds if record is not None]
            if len(there) == FOLDS:
                found.setdefault(recipe, []).append(whole(there))
    return found


def mean(records: Sequence[EvaluationRecord], column: str) -> float:
    values = [record.natural_accuracy if column == NATURAL else record.worst_case_accuracy for record in records]
    return 100 * sum(values) / len(values)


def compared(a: Sequence[EvaluationRecord], b: Sequence[EvaluationRecord], column: str) -> tuple[float, float, float]:
    """Difference a - b in points over the seeds that both have, and its paired 95 % interval."""
    pairs = min(len(a), len(b))
    interval = paired_interval(a[:pairs], b[:pairs], column)
    return 100 * interval.difference, 100 * interval.low, 100 * interval.high


def page(name: str, seeds: int, out: Path) -> list[str]:
    """A row per recipe, what was not run, and the verdict on every claim."""
    chosen = suite(name)
    found, *others = (collected(name, seeds, out, protocol) for protocol in chosen.protocols)
    if chosen.baseline not in found:
        raise SystemExit(f"no whole seed of {chosen.baseline} is there yet under {out}")
    base, second = found[chosen.baseline], others[0] if others else {}
    beside = [f"{chosen.second.name}, {_images(second)} images"] if chosen.second is not None and second else []
    names = ["recipe", "seeds", "natural", "worst case", *beside, f"natural minus {chosen.baseline}", f"worst case minus {chosen.baseline}"]
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 3) + "|---|---|"]
    for recipe, records in found.items():
        cells = [recipe, str(len(records)), f"{mean(records, NATURAL):.2f}", f"{mean(records, WORST):.2f}"]
        cells += [f"{mean(second[recipe], WORST):.1f}" if recipe in second else "–" for _ in beside]
        for column in (NATURAL, WORST):
            difference, low, high = compared(records, base, column)
            cells.append("" if recipe == chosen.baseline else f"{difference:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    missing = [recipe for recipe in chosen.recipes if recipe not in found]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return [*lines, "", *verdicts(chosen.claims, found)]


def _images(found: dict[str, list[EvaluationRecord]]) -> int:
    return next((records[0].count for records in found.values()), 0)


def verdicts(claims: Sequence[Claim], found: dict[str, list[EvaluationRecord]]) -> list[str]:
    """Each claimed ordering with what was seen: it holds, the opposite holds, or neither (the interval includes zero)."""
    lines = ["| claimed | column | source | seen | 95 % interval |", "|---|---|---|---|---|"] if claims else []
    for claim in claims:
        if claim.better in found and claim.worse in found:
            difference, low, high = compared(found[claim.better], found[claim.worse], claim.column)
            seen = "yes" if low > 0 else "the opposite" if high < 0 else "no difference"
            ordering = f"{claim.better} above {claim.worse}"
            lines.append(f"| {ordering} | {claim.column} | {claim.source} | {seen} | {difference:+.2f} ({low:+.2f} to {high:+.2f}) |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="objectives, ablations or ensembles")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/cv"))
    parser.add_argument("--summary", action="store_true", help="write the page from what is there; train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.summary:
        work(arguments.suite, arguments.seeds, arguments.out)
    today = datetime.now(UTC).date().isoformat()
    chosen = suite(arguments.suite)
    said = [f"{protocol.name} ({', '.join(attack.name for attack in protocol.attacks)})" for protocol in chosen.protocols]
    lines = [
        f"# digits: {arguments.suite}, {today}",
        "",
        f"Command: `python -m benchmarks.cross_validation {arguments.suite} --seeds {arguments.seeds}`. Last epoch, {FOLDS} folds.",
        f"Protocols: {'; '.join(said)}. Intervals are of paired 95 % bootstraps over images and seeds; with one seed they speak of these",
        f"networks, not of other seeds. {platform.machine()} CPU, one thread, torch {torch.__version__}.",
        "",
        *page(arguments.suite, arguments.seeds, arguments.out),
        "",
    ]
    target = Path(__file__).parent / "results" / f"{today}-digits_{arguments.suite}.md"
    target.write_text("\n".join(lines))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
