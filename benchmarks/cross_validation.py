"""Methods on small data: on digits by cross-validation, five folds, so that all 1,797 images are tested; on MNIST on its test images.

    python -m benchmarks.cross_validation objectives --out runs/cv     (resumable: start it again and it goes on)
    python -m benchmarks.cross_validation objectives --seeds 1 --summary

Suites: objectives, objectives_mnist, ablations, ensembles. Seeds are the outer loop, so that a run that was stopped has whole seeds
to show. Writes results/DATE-SUITE-MACHINE.md: a line per recipe, each against the suite's baseline with a paired 95 % bootstrap
interval over images and seeds, the orderings that the papers claim beside those seen, and the trends of ablations.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.measuring import write
from poise import engine, recipes
from poise.core.identity import identity
from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.core.settings import to_json
from poise.data.digits import FOLDS
from poise.engine.evaluations import evaluate_run
from poise.engine.runs import Run
from poise.evaluation import Protocol
from poise.reports import paired_interval
from poise.reports.statistics import NATURAL, SUM, WORST, correct

AUTOATTACK = "AutoAttack"
"""The column of what a suite's second protocol leaves; without one, that of the attack."""
MODULES = {"objectives": "objectives", "objectives_mnist": "objectives", "ablations": "ablations", "ensembles": "ensembles"}
"""The module of this package whose SUITES has the suite."""
SECONDS = "training_seconds.txt"
"""In a run's folder: processor seconds of its training, monitors among them."""
Found = dict[str, list[EvaluationRecord]]
"""By recipe, one record per seed, of all tested images."""


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper claims: `better` above `worse` in a column of the page."""

    better: str
    worse: str
    column: str
    source: str


@dataclass(frozen=True)
class Trend:
    """What a paper says, in words, of one setting's values: the recipes in the setting's order, judged by a column."""

    name: str
    recipes: tuple[str, ...]
    claim: str
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
    """A costlier one, such as AutoAttack on the first images of every fold; its worst case is a column of its own."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further columns: heading -> beginnings of the names of attacks, of which an image must stand all."""
    claims: tuple[Claim, ...] = ()
    trends: tuple[Trend, ...] = ()
    settings: tuple[str, ...] = ()
    """Overrides of every recipe."""
    folds: int = FOLDS
    """1: no folds, the data set's own test images."""
    seeds: int = 3

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return (self.protocol,) if self.second is None else (self.protocol, self.second)

    def overrides(self, fold: int, seed: int) -> list[str]:
        return [*([f"data.fold={fold}"] if self.folds > 1 else []), f"seed={seed}", *self.settings]


def suite(name: str, out: Path) -> Suite:
    """The suite of that name, for runs under `out`."""
    suites: dict[str, Callable[[Path], Suite]] = import_module(f"benchmarks.{MODULES[name]}").SUITES
    return suites[name](out)


def runs(chosen: Suite, seeds: int, out: Path) -> Iterator[tuple[str, int, int, Path]]:
    """Recipe, fold, seed and folder of every run, whole seeds first."""
    for seed in range(seeds):
        for recipe in chosen.recipes:
            for fold in range(chosen.folds):
                yield recipe, fold, seed, out / recipe / f"seed-{seed}-fold-{fold}"


def work(chosen: Suite, seeds: int, out: Path) -> None:
    """Train and evaluate what is not yet done; all runs first under the main protocol. Monitors run once, at the end."""
    for protocol in chosen.protocols:
        for recipe, fold, seed, path in runs(chosen, seeds, out):
            if record_of(path, protocol) is not None:
                continue
            made = override(recipes.experiment(recipe, False), chosen.overrides(fold, seed))
            made = dataclasses.replace(made, monitor_every=made.epochs, save_every=made.epochs, selection="test", criterion="last")
            if not (path / "experiment.json").exists():
                begun = time.process_time()
                run = engine.train(made, path)
                (path / SECONDS).write_text(f"{time.process_time() - begun:.1f}")
            else:
                run = Run.open(path)
                run = run if engine.finished(run) else engine.resume(path)
            evaluate_run(run, "last", protocol=protocol)
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
    first = records[0]
    attacks = [
        dataclasses.replace(attack, predicted=[guess for record in records for guess in record.attacks[place].predicted])
        for place, attack in enumerate(first.attacks)
    ]
    labels = [label for record in records for label in record.labels]
    natural = [guess for record in records for guess in record.natural]
    return dataclasses.replace(first, labels=labels, natural=natural, attacks=attacks)


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


@dataclass(frozen=True)
class Table:
    """What was measured; a column is looked up in the records that have it."""

    main: Found
    second: Found

    def looked_up(self, column: str) -> tuple[Found, str]:
        """The records that have a column, and its name there."""
        return (self.second, WORST) if column == AUTOATTACK and self.second else (self.main, column)

    def records(self, recipe: str, column: str) -> list[EvaluationRecord]:
        found, name = self.looked_up(column)
        there = found.get(recipe, [])
        return there if name in (NATURAL, WORST, SUM) else [record for record in there if name in record.attack_names]

    def mean(self, recipe: str, column: str) -> float:
        """In percent, over seeds."""
        parts = (NATURAL, WORST) if column == SUM else (self.looked_up(column)[1],)
        return sum(100 * fmean(fmean(correct(record, part)) for record in self.records(recipe, column)) for part in parts)

    def difference(self, a: str, b: str, column: str) -> tuple[float, float, float] | None:
        """a - b in points over the seeds that both have, and its paired 95 % interval; None where one has none."""
        ours, theirs = self.records(a, column), self.records(b, column)
        pairs = min(len(ours), len(theirs))
        if not pairs:
            return None
        found = paired_interval(ours[:pairs], theirs[:pairs], self.looked_up(column)[1])
        return 100 * found.difference, 100 * found.low, 100 * found.high


def page(chosen: Suite, seeds: int, out: Path) -> list[str]:
    """A row per recipe, what was not run, the verdict on every claim, and every trend."""
    found, *others = (collected(chosen, seeds, out, protocol) for protocol in chosen.protocols)
    if chosen.baseline not in found:
        raise SystemExit(f"no whole seed of {chosen.baseline} is there yet under {out}")
    measured = Table(found, others[0] if others else {})
    columns = [NATURAL, WORST, *chosen.columns, *([AUTOATTACK] if measured.records(chosen.baseline, AUTOATTACK) else [])]
    judged = [NATURAL, *columns[-1:]] if AUTOATTACK in columns else [NATURAL, WORST]
    names = ["recipe", "seeds", *columns, *(f"{column} minus {chosen.baseline}" for column in judged)]
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(columns) + 1) + "|---|---|"]
    for recipe, records in found.items():
        cells = [recipe, str(len(records))]
        cells += [f"{measured.mean(recipe, column):.2f}" if measured.records(recipe, column) else "–" for column in columns]
        cells += ["" if recipe == chosen.baseline else interval(measured.difference(recipe, chosen.baseline, column)) for column in judged]
        lines.append(f"| {' | '.join(cells)} |")
    if measured.second and chosen.second is not None:
        images = next(iter(measured.second.values()))[0].count
        lines += ["", f"The column {AUTOATTACK} is of {chosen.second.name}: {images} images a seed."]
    missing = [recipe for recipe in chosen.recipes if recipe not in found]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return [*lines, "", *verdicts(chosen.claims, measured), *trends(chosen, measured)]


def interval(difference: tuple[float, float, float] | None) -> str:
    return "–" if difference is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference)


def verdicts(claims: Sequence[Claim], measured: Table) -> list[str]:
    """Each claimed ordering with what was seen: it holds, the opposite holds, or neither (the interval includes zero)."""
    lines = ["| claimed | column | source | seen | 95 % interval |", "|---|---|---|---|---|"] if claims else []
    for claim in claims:
        difference = measured.difference(claim.better, claim.worse, claim.column)
        if difference is not None:
            _, low, high = difference
            seen = "yes" if low > 0 else "the opposite" if high < 0 else "no difference"
            ordering = f"{claim.better} above {claim.worse}"
            lines.append(f"| {ordering} | {claim.column} | {claim.source} | {seen} | {interval(difference)} |")
    return lines


def trends(chosen: Suite, measured: Table) -> list[str]:
    """Each setting: what is claimed, the values seen in the setting's order, and the best against the baseline."""
    names = ["setting", "claimed", "source", "column", "seen", "best", f"best minus {chosen.baseline}"]
    lines = ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"] if chosen.trends else []
    for trend in chosen.trends:
        there = [recipe for recipe in trend.recipes if measured.records(recipe, trend.column)]
        if len(there) < 2:
            continue
        best = max(there, key=lambda recipe: measured.mean(recipe, trend.column))
        seen = ", ".join(f"{recipe} {measured.mean(recipe, trend.column):.2f}" for recipe in there)
        over = "" if best == chosen.baseline else interval(measured.difference(best, chosen.baseline, trend.column))
        lines.append(f"| {' | '.join([trend.name, trend.claim or '–', trend.source, trend.column, seen, best, over])} |")
    return lines


def slowest(chosen: Suite, seeds: int, out: Path) -> list[str]:
    """The longest uninterrupted training; nothing where none was timed."""
    timed = [(float(file.read_text()), path) for *_, path in runs(chosen, seeds, out) if (file := path / SECONDS).exists()]
    return [f"Longest training: {max(timed)[0]:.0f} processor seconds ({max(timed)[1].relative_to(out)}).", ""] if timed else []


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
    today = datetime.now(UTC).date().isoformat()
    said = [f"{protocol.name} ({', '.join(attack.name for attack in protocol.attacks)})" for protocol in chosen.protocols]
    tested = f"{chosen.folds} folds" if chosen.folds > 1 else "the first images of the test set"
    lines = [
        f"# {arguments.suite}, {today}",
        "",
        f"Command: `python -m benchmarks.cross_validation {arguments.suite} --seeds {seeds}`. Last epoch, {tested}.",
        f"Protocols: {'; '.join(said)}. Intervals are of paired 95 % bootstraps over images and seeds; with one seed they speak of these",
        f"networks, not of other seeds. {platform.machine()} CPU, one thread, torch {torch.__version__}.",
        "",
        *slowest(chosen, seeds, arguments.out),
        *page(chosen, seeds, arguments.out),
        "",
    ]
    name = arguments.suite if chosen.folds == 1 else f"digits_{arguments.suite}"
    print(f"wrote {write(name, chr(10).join(lines))}")


if __name__ == "__main__":
    main()
