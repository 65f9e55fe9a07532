"""From attacks to the columns of a record: the labels predicted after each, as it is finished.

AutoAttack runs by its survivor rule. A component of it that is also a column of its own (that attack alone, on all
images) takes over what AutoAttack's record says of the examples that reached it; it is run only on those that an
earlier component had broken.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import Attack, AutoAttack
from poise.attacks.autoattack import Result, SearchPrecision, Status, search_precision
from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.lanes import find_batch_size
from poise.core.distributed import ALONE, World
from poise.core.processors import emulation
from poise.core.progress import Advance, Progress, clock
from poise.core.records import AttackRecord
from poise.core.scratch import scratch
from poise.core.settings import to_json
from poise.data.split import Split, in_unit_interval
from poise.evaluation import experts
from poise.evaluation.journal import Journal
from poise.evaluation.predictions import device_of
from poise.evaluation.shares import share_of


@dataclasses.dataclass(frozen=True)
class Searching:
    """How AutoAttack and its components search: in which arithmetic (see `search_precision`), within how many bytes of
    memory.
    """

    precision: SearchPrecision = "float32"
    memory_limit: int | None = None

    def on(self, device: torch.device) -> Searching:
        """The same with the arithmetic that this means there. Raises: SettingsError for one that the device has not."""
        return dataclasses.replace(self, precision=search_precision(self.precision, device))


def columns_of(
    model: nn.Module,
    split: Split,
    attacks: Sequence[Attack],
    *,
    seed: int,
    batch_size: int,
    journal: Journal,
    progress: Progress,
    world: World = ALONE,
    search: Searching = Searching(),
) -> list[AttackRecord]:
    """One column per attack, in their order; computed cheap ones first, then AutoAttack, then its components.

    world: ranks that call this together share the work; the first one keeps the journal, and each the state of its own
    search.
    """
    work = _Work(model, split, seed, batch_size, journal, progress, world, search, covered(attacks))
    if search.memory_limit is not None and any(_turn(attack) for attack in attacks):
        work.check_memory()
    slow_precision = (
        emulation(device_of(model)[0]) if search.precision == "bfloat16" and any(map(_turn, attacks)) else ""
    )
    if slow_precision:
        progress.say(f"the search is in bfloat16, and {slow_precision}; the verdicts are float32's either way")
    order = sorted(range(len(attacks)), key=lambda place: _turn(attacks[place]))
    records: dict[int, AttackRecord] = {}
    for place in order:
        attack = attacks[place]
        record_kept: AttackRecord | None = journal.get(str(place), AttackRecord) if world.leads else None
        if record_kept is not None and len(record_kept.predicted) != len(split):
            record_kept = None
        record_sent = json.loads(world.exchange(json.dumps(record_kept and dataclasses.asdict(record_kept)))[0])
        if record_sent is not None:
            records[place] = AttackRecord(**record_sent)
            if attack not in work.alone_too:
                progress.spare(len(split) * attack.forwards() / world.size)
            continue
        rules = [(rule, records[at]) for at in records if isinstance(rule := attacks[at], AutoAttack)]
        records[place] = work.column(attack, str(place), rules)
        if world.leads:
            journal.keep(str(place), dataclasses.asdict(records[place]))
    return [records[place] for place in range(len(attacks))]


def covered(attacks: Sequence[Attack]) -> list[Attack]:
    """Those that are components of an AutoAttack among them: alone they attack what an earlier component broke, so that
    both together cost what the AutoAttack costs where all images stand.
    """
    inside = [part for attack in attacks if isinstance(attack, AutoAttack) for part in attack.components()]
    return [attack for attack in attacks if attack in inside]


def _turn(attack: Attack) -> int:
    return 1 if isinstance(attack, AutoAttack) else 2 if isinstance(attack, CompactAttack) else 0


@dataclasses.dataclass(frozen=True)
class _Work:
    model: nn.Module
    split: Split
    seed: int
    batch_size: int
    journal: Journal
    progress: Progress
    world: World
    search: Searching
    alone_too: Sequence[Attack] = ()
    """Components of an AutoAttack that are columns of their own, too."""

    def check_memory(self) -> None:
        """Raises: InputError, before any work, where not even one image fits."""
        device, dtype = device_of(self.model)
        find_batch_size(self.model, self.split.first(1).pixels(dtype=dtype).to(device), self.search.memory_limit)

    def column(self, attack: Attack, key: str, rules: Sequence[tuple[AutoAttack, AttackRecord]]) -> AttackRecord:
        """rules: the finished AutoAttacks with their records."""
        tick = time.perf_counter()
        if isinstance(attack, AutoAttack):
            predictions, notes = self.by_rule(attack, key)
        elif isinstance(attack, CompactAttack):
            predictions, notes = self.alone(attack, key, rules)
        else:
            options: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size, "world": self.world}
            rows = share_of(self.world, len(self.split), self.batch_size)
            count = rows.stop - rows.start
            advance = self.progress.begin(attack.name, count, "images", count * attack.forwards())
            labels, notes = experts.predict_and_measure(self.model, self.split, attack, advance=advance, **options)
            predictions = labels.tolist()
        if isinstance(attack, AutoAttack | CompactAttack):
            notes["search"] = self.search.precision
        # those of AutoAttack's components are of all sessions
        seconds = max(time.perf_counter() - tick, sum(notes.get("seconds", [])))
        return AttackRecord(attack.name, to_json(attack), predictions, seconds, notes)

    def by_rule(self, attack: AutoAttack, key: str) -> tuple[list[int], dict[str, Any]]:
        """AutoAttack's labels and, in the notes, what each component left standing and which one broke each example."""
        result = self.searched(attack, attack.name, self.split, key)
        notes: dict[str, Any] = {
            "components": list(result.attacks),
            "survivors": list(result.survivors),
            "seconds": [round(seconds, 3) for seconds in result.seconds],
            "broken_by": result.broken_by.tolist(),
            **({"rules": list(result.notes)} if result.notes else {}),
            **self.measured(result),
        }
        return result.predicted.tolist(), notes

    def alone(
        self, attack: CompactAttack, key: str, rules: Sequence[tuple[AutoAttack, AttackRecord]]
    ) -> tuple[list[int], dict[str, Any]]:
        """The labels of a component alone on all images, as far as possible from the record of an AutoAttack that has
        it.
        """
        predictions: list[int] = []
        rows, notes = list(range(len(self.split))), dict[str, Any]()
        for rule, record in rules:
            if attack in rule.components():
                place = rule.components().index(attack)
                predictions, rows = known(record, self.split.labels.tolist(), place)
                rules_said = [line for line in record.notes.get("rules", []) if line.startswith(f"{attack.name}:")]
                notes = {"from": rule.name, "run_on": len(rows), **({"rules": rules_said} if rules_said else {})}
                break
        if not rows:
            return predictions, notes
        part = self.split.subset(torch.tensor(rows, device=self.split.labels.device)) if predictions else self.split
        single = AutoAttack(threat=attack.threat, version="custom", attacks=(attack,))
        result = self.searched(single, attack.name, part, key)
        if not predictions:
            return result.predicted.tolist(), {
                **({"rules": list(result.notes)} if result.notes else {}),
                **self.measured(result),
            }
        for row, label in zip(rows, result.predicted.tolist(), strict=True):
            predictions[row] = label
        return predictions, notes

    def searched(self, attack: AutoAttack, name: str, split: Split, key: str) -> Result:
        device, dtype = device_of(self.model)
        x = _images(split, device, dtype)
        batch_size_own = find_batch_size(self.model, x, self.search.memory_limit)
        fits = min(int(text) for text in self.world.exchange(str(batch_size_own)))  # memory differs from rank to rank
        path, width = self.journal.state(key, fits)
        report = _Report(name, attack.components(), self.alone_too, len(split), self.progress, self.world)
        labels, ids = split.labels.to(device), split.ids.to(device)
        how: dict[str, Any] = {"batch_size": width, "state_path": path, "progress": report, "world": self.world}
        result = attack.run(self.model, x, labels, seed=self.seed, ids=ids, precision=self.search.precision, **how)
        report.over(list(zip(result.attacks, result.survivors, result.seconds, strict=True)))
        return result

    def measured(self, result: Result) -> dict[str, Any]:
        """What the experts of a network of several say of the images found."""
        if not experts.has_experts(self.model):
            return {}
        device, _ = device_of(self.model)
        watch = experts.ExpertAnswers(self.model, result.y)
        for part in result.x_adv.split(self.batch_size):
            watch.see(part.to(device))
        return {"experts": dataclasses.asdict(watch.measures())}


def known(record: AttackRecord, labels: Sequence[int], place: int) -> tuple[list[int], list[int]]:
    """From an AutoAttack's record the labels predicted after its component number `place` alone, and the rows it says
    nothing about.

    An example that no earlier component broke was attacked by this one: it was fooled, or it kept its label.
    """
    broken_by: list[int] = record.notes["broken_by"]
    predictions = [
        guess if by in (place, -2) else label
        for guess, by, label in zip(record.predicted, broken_by, labels, strict=True)
    ]  # -2: misclassified before any attack
    return predictions, [row for row, by in enumerate(broken_by) if 0 <= by < place]


def _images(split: Split, device: torch.device, dtype: torch.dtype) -> Tensor:
    """All images in [0, 1] on the device."""
    if device.type != "cpu":
        return split.pixels(dtype=dtype).to(device)
    x, start = scratch((len(split), *split.shape), dtype, device), 0
    for part in split.parts():
        x[start : start + len(part)] = in_unit_interval(part.cpu(), dtype)
        start += len(part)
    return x


class _Report:
    """Says how an AutoAttack goes: a piece of work per component, its share and survivors, a sentence at its end.

    Survivors of a component in progress are of this rank's share, those of one that is over of all images.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[CompactAttack],
        alone_too: Sequence[Attack],
        count: int,
        progress: Progress,
        world: World,
    ) -> None:
        self.name, self.count, self.progress = name, count, progress
        self.costs = [part.forwards() for part in parts]
        self.spared = [0.0 if part in alone_too else part.forwards() for part in parts]
        share = world.share(count)
        self.of = f" of the {share.stop - share.start:,} images of rank {world.rank}" if 1 < world.size <= count else ""
        self.number, self.done, self.said, self.entered = 0, 0, 0, share.stop - share.start
        self.advance: Advance = lambda done: None

    def __call__(self, now: Status) -> None:
        if now.number != self.number:
            self.over(now.over)
            to_come = self.costs[now.number - 1 :]
            self.progress.spare((self.entered - now.entered) * sum(self.spared[now.number - 1 :]))
            several = f", {now.number} of {now.attacks}: {now.attack} ({_percent(to_come[0], sum(self.costs))})"
            label = f"{self.name}{several if now.attacks > 1 else ''}"
            self.number, self.done, self.entered = now.number, 0, now.entered
            self.advance = self.progress.begin(label, now.entered, "images", now.entered * to_come[0])
        self.advance(now.done - self.done)
        self.done = now.done
        self.progress.note(f"{now.survivors:,}{self.of} stand", now.share)

    def over(self, components: Sequence[tuple[str, int, float]]) -> None:
        if len(self.costs) > 1:
            for attack, survivors, seconds in components[self.said :]:
                self.progress.say(
                    f"{self.name}: {survivors:,} of {self.count:,} images stand after {attack} ({clock(seconds)})"
                )
        self.said = len(components)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} % of the work if all stand"


def foretold(attacks: Sequence[Attack], images: int, seconds: float) -> str:
    """How long attacks on so many images take at most where a forward of one takes so many seconds, and what of it."""
    attacks = [attack for attack in attacks if attack not in covered(attacks)]
    costs = {attack.name: images * attack.forwards() for attack in attacks}
    whole = sum(costs.values())

    def part(attack: Attack) -> str:
        inside = attack.components() if isinstance(attack, AutoAttack) else ()
        shares = ", ".join(f"{piece.name} {100 * images * piece.forwards() / whole:.0f} %" for piece in inside)
        return f"{attack.name} {100 * costs[attack.name] / whole:.0f} %" + (f" ({shares})" if shares else "")

    longest = sorted(attacks, key=lambda attack: -costs[attack.name])[:4]
    return (
        f"about {clock(whole * seconds)} at most here for {images:,} images, less as they fall: "
        + ", ".join(map(part, longest))
        + (f" and {len(attacks) - 4} more" if len(attacks) > 4 else "")
    )
