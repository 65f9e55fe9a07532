"""What an item asks for: which runs and evaluations are there, which are missing, and what these cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from poise.core.errors import DataError, PoiseError, SettingsError
from poise.engine import Experiment, Run, finished
from poise.engine.estimate import estimate_cost
from poise.evaluation import Protocol, named
from poise.learners.costs import forwards
from poise.models import Collaboration
from poise.recipes.items import Item, Line
from poise.recipes.rows import IMAGES
from poise.reproduce.scales import Scale, at_scale, lines_of

State = Literal["missing", "begun", "trained", "evaluated"]


@dataclass(frozen=True)
class Work:
    """One run of a line, and the protocols that it is evaluated by; `folder` is shared by all items that need the same
    run.

    A piece of work depends on no other, but for runs under transfer on their `sources`.
    """

    line: Line
    experiment: Experiment
    folder: Path
    protocols: tuple[Protocol, ...]
    corruptions: bool = False
    held_out: bool = False
    """Whether its epoch is chosen on held-out images in place of what the recipe says."""
    judged: bool = True
    """Whether it is evaluated; what transfer attacks are made on is not."""
    sanity: bool = False
    transfer: str = ""
    sources: tuple[Path, ...] = ()
    """Folders of the runs that the transfer protocol's images are made on."""

    @property
    def state(self) -> State:
        """How far it is, by the files that are there."""
        if not (self.folder / "experiment.json").exists():
            return "missing"
        try:
            run = Run.open(self.folder)
            if not finished(run):
                return "begun"
            has_transfer = not self.transfer or any((self.folder / "records").glob(f"selected-{self.transfer}-*.json"))
            whole = has_transfer and all(record.exists() for record in self.records())
            return "evaluated" if whole else "trained"
        except PoiseError:
            return "begun"

    @property
    def ready(self) -> bool:
        """Whether all that it depends on is there."""
        return all((folder / "run.json").exists() and finished(Run.open(folder)) for folder in self.sources)

    def records(self) -> list[Path]:
        """Of the run's own protocol, on its selected and its last weights; of all others on the selected ones."""
        names = ["selected", "last", *(f"selected-{protocol.name}" for protocol in self.protocols)]
        names += ["sanity"] if self.sanity else []
        return [self.folder / "records" / f"{name}.json" for name in names if self.judged]

    @property
    def forwards(self) -> float:
        """What training asks in all, in forwards of an image through the network; nan where the number of images isn't
        known.
        """
        data, method = self.experiment.data, self.experiment.method
        images_known = IMAGES.get(type(data))
        images_asked = getattr(data, "train_images", None)
        count = (
            min(images_asked, images_known)
            if images_asked is not None and images_known is not None
            else images_asked or images_known
        )
        forwards_per_image = sum(forwards(policy) for policy in method.policies().values())
        return float("nan") if count is None else float(forwards_per_image * count * self.experiment.epochs)


@dataclass(frozen=True)
class Plan:
    item: Item
    scale: Scale
    seeds: int
    works: list[Work]
    left_out: list[str]
    """Labels of lines that there are none of at this scale, or that are another one there."""
    sources: list[Work] = field(default_factory=list)
    """Runs that transfer attacks are made on, which are no rows."""
    out: Path = Path()
    """In whose runs/ all of them lie."""

    @property
    def missing(self) -> list[Work]:
        return [work for work in (*self.sources, *self.works) if work.state != "evaluated"]


def planned(item: Item, scale: Scale, seeds: int, out: Path, held_out: bool = False) -> Plan:
    """The plan of an item whose runs lie, or will lie, in `out`/runs.

    held_out: each run a second time, its epoch chosen on held-out images. Raises: SettingsError for a scale at which
    the item has no rows.
    """
    if seeds < 1:
        raise SettingsError(f"--seeds {seeds}: must be at least 1")
    lines = lines_of(item, scale)
    sources = [_source(recipe, scale, out) for recipe in (SOURCES[scale == "digits", item.transfer] if lines else ())]
    folders = tuple(work.folder for work in sources)
    choices = (False, True) if held_out else (False,)
    works = [
        _work(item, line, scale, seed, out, folders, is_held_out)
        for line in lines
        for is_held_out in choices
        for seed in range(seeds)
    ]
    return Plan(item, scale, seeds, works, _left_out(item, lines), sources, out)


SOURCES: dict[tuple[bool, str], tuple[str, ...]] = {
    **dict.fromkeys([(False, ""), (True, "")], ()),
    (False, "soe-transfer-3"): ("ensemble3_cifar10_resnet20",),
    (False, "soe-transfer-30"): tuple(f"ensemble{members}_cifar10_resnet20" for members in (3, 5, 8)),
    **dict.fromkeys([(True, "soe-transfer-3"), (True, "soe-transfer-30")], ("surrogate_ensembles_digits",)),
}
"""What transfer attacks are made on, on digits or not, by protocol."""


def _source(recipe: str, scale: Scale, out: Path) -> Work:
    experiment = at_scale(Line("surrogate", recipe, recipe), scale, None)
    folder = out / "runs" / scale / experiment.name / f"seed-{experiment.seed}"
    return Work(Line(f"surrogate {experiment.label}", recipe, recipe), experiment, folder, (), judged=False)


def _left_out(item: Item, lines: list[Line]) -> list[str]:
    recipes_kept = {line.recipe + str(line.by_learner) for line in lines}
    return [line.label for line in item.lines if line.recipe + str(line.by_learner) not in recipes_kept]


def _work(
    item: Item, line: Line, scale: Scale, seed: int, out: Path, sources: tuple[Path, ...] = (), held_out: bool = False
) -> Work:
    experiment = at_scale(line, scale, seed)
    experiment = dataclasses.replace(experiment, selection="held-out") if held_out else experiment
    threats = [attack.threat for attack in experiment.protocol.attacks]
    protocols = tuple(
        _short(named(name).at(threats[0] if threats else None), experiment.protocol)
        for name in _asked(item, experiment)
    )
    place = f"{experiment.name}{'-by-learner' if line.by_learner else ''}{'-held-out' if held_out else ''}"
    return Work(
        line,
        experiment,
        out / "runs" / scale / place / f"seed-{seed}",
        protocols,
        corruptions=item.corruptions and scale == "paper",
        held_out=held_out,
        sanity=item.sanity,
        transfer=item.transfer,
        sources=sources,
    )


def _asked(item: Item, made: Experiment) -> list[str]:
    """The item's further protocols, but for adaptive attacks on what chooses among no experts."""
    return [name for name in item.protocols if isinstance(made.model, Collaboration) or "lambdas" not in name]


def _short(protocol: Protocol, own: Protocol) -> Protocol:
    """Of small variants, as few images as their own protocol takes, with as few steps."""
    if own.name != "quick":
        return protocol
    all_attacks: tuple[Any, ...] = protocol.attacks
    attacks = [
        dataclasses.replace(attack, steps=2, restarts=1) if hasattr(attack, "restarts") else attack
        for attack in all_attacks
    ]
    names = [attack.name for attack in attacks]
    attacks_kept = tuple(attack for place, attack in enumerate(attacks) if attack.name not in names[:place])
    return dataclasses.replace(protocol, attacks=attacks_kept, first=own.first, chosen="first")


def told(plan: Plan) -> list[str]:
    """The plan in lines: each run's state, and what is to be trained."""
    lines = [
        f"{plan.item.id}: {plan.item.title} ({plan.item.paper}), scale {plan.scale}, {plan.seeds}"
        f" seed{'s' * (plan.seeds > 1)}"
    ]
    works = [*plan.sources, *plan.works]
    shown_work = dict.fromkeys((work.folder, work.state, work.line.label, work.line.by_learner) for work in works)
    lines += [f"  {state:<9}  {label}  {folder}" for folder, state, label, _ in shown_work]
    lines += [f"  none of its own at this scale: {', '.join(plan.left_out)}"] if plan.left_out else []
    ahead = {work.folder: work for work in works if work.state in ("missing", "begun")}
    forwards_total = sum(work.forwards for work in ahead.values())
    if ahead:
        lines.append(
            f"  to train: {len(ahead)} run{'s' * (len(ahead) > 1)}, {forwards_total / 1e6:,.1f} million forwards of an"
            " image in all"
        )
    to_evaluate = sum(1 for work in plan.works if work.state != "evaluated")
    lines.append(f"  to evaluate: {to_evaluate} of {len(plan.works)}" if to_evaluate else "  all is there")
    return lines


def minutes(plan: Plan, device: str, data_dir: Path | None) -> list[str]:
    """A sentence with the core-minutes of training what is missing, from one measured step; of data that aren't here,
    none.
    """
    works = [*plan.sources, *plan.works]
    ahead = list({work.folder: work for work in works if work.state in ("missing", "begun")}.values())
    if not ahead or plan.scale not in ("quick", "digits"):
        return []
    first = ahead[0]
    try:
        cost = estimate_cost(first.experiment, device=device, data_dir=data_dir)
    except DataError as error:
        return [f"  not estimated: {error}"]
    whole = sum(work.forwards for work in ahead) / first.forwards * cost.seconds
    return [
        f"  about {whole / 60:.1f} core-minutes of training here, by a step of {first.experiment.name}; evaluation"
        " comes on top"
    ]
