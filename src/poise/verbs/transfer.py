"""Transfer: adversarial images made on surrogates, or found where they were made before, shown to every target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from poise.attacks import Attack, Saved
from poise.attacks.transfer import SGM_NEEDS, residual
from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.errors import SettingsError
from poise.core.files import write_text
from poise.core.progress import Progress
from poise.core.settings import spelled
from poise.data import CIFAR10, Split
from poise.evaluation import Protocol, made_or_kept, set_path, soe_transfer
from poise.evaluation.digests import digest_of
from poise.evaluation.subsets import WHOLE, published_subset
from poise.methods import Joint
from poise.models import Ensemble
from poise.objectives.objective import searches_of
from poise.recipes.ensembles_cifar10 import MEMBER
from poise.recipes.synergy_of_experts import gained
from poise.reports.heatmap import Matrix, matrix, matrix_markdown, write_heatmap
from poise.threats import Linf, Threat
from poise.verbs.evaluate import evaluate
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, by_name, subject_of
from poise.verbs.of_run import OfRun
from poise.verbs.results import Answer, Evaluation, Sheet
from poise.verbs.subject import Subject
from poise.verbs.threats import positive


@dataclass(frozen=True, eq=False)
class Transferred(Answer):
    """Who is right on whose images: the targets' records by name, and them all as a matrix; `gain` compares published
    rows.
    """

    matrix: Matrix
    records: dict[str, Evaluation]
    gain: list[str]
    written: Path | None = None
    """The matrix as Markdown; its heat map lies beside it."""

    def sheet(self) -> Sheet:
        names = ["target", *next(iter(self.records.values())).attack_names, "worst case"]
        rows = [
            [
                name,
                *(f"{100 * record.accuracy(column):.2f}" for column in record.attack_names),
                f"{100 * record.worst_case_accuracy:.2f}",
            ]
            for name, record in self.records.items()
        ]
        return Sheet(names, rows, ["accuracy in percent", *self.gain])

    def lines(self) -> list[dict[str, Any]]:
        return [{"target": name, **line} for name, record in self.records.items() for line in record.lines()]


@computed_plainly
def transfer(
    targets: Sequence[Asked],
    surrogates: Sequence[Asked],
    data: Images | None = None,
    *,
    protocol: str = "soe-transfer-3",
    epsilon: float | str | None = None,
    out: str | Path = "transfer",
    compat: bool = False,
    subset: bool = True,
    first: int | None = None,
    steps: int | None = None,
    sgm: bool = True,
    every_attack: bool = False,
    progress: Progress | None = None,
    **kind: Any,
) -> Transferred:
    """Make adversarial images on surrogates, show them to every target, and say who is right: what `poise transfer`
    does.

    targets, surrogates, data, kind: see `subject_of`; records of targets go where those of `evaluate` do. protocol: the
    attacks made on each surrogate, "soe-transfer-3" or "soe-transfer-30"; epsilon: by default the targets' own; out:
    folder of the images, which are
    found again, and of the matrix. compat: the CW loss of the code behind the published tables; subset: of 10,000 test
    images the 1,000 of the published evaluations; first: so many of these; steps: of every attack in place of 100; sgm:
    SGM too, which needs residual surrogates; every_attack: a column for each attack, not for each surrogate.
    Raises: SettingsError for a network named twice or no common epsilon, and what the subjects refuse.
    """
    progress, out = default_progress(progress), Path(out)
    sources = by_name([subject_of(source_each, data, **kind) for source_each in surrogates])
    judges = by_name([subject_of(source_each, data, **kind) for source_each in targets])
    threat = _threat(epsilon, judges)
    attacks_used = soe_transfer(protocol, threat, compat, residual=sgm)
    if steps is not None:
        attacks_used = dataclasses.replace(
            attacks_used, attacks=tuple(dataclasses.replace(attack, steps=steps) for attack in attacks_used.attacks)
        )
    for source in sources.values() if sgm else ():
        if not residual(source.network):
            raise SettingsError(
                f"--surrogate {source.spelled or source.named}: {SGM_NEEDS}; leave it out with --no-sgm"
            )
    unrelated = (*_otherwise(sources), *_related(sources, judges))
    sets_shown: list[Saved] = []
    ids: list[int] = []
    for name, source in sources.items():
        images = _images(source.data.test, subset, first)
        ids = images.ids.tolist()
        sets_shown += _sets(name, source.network, attacks_used.attacks, images, out, progress)
    short = attacks_used.shortfall([_members(source) for source in sources.values()], ids, *unrelated)
    part, cut = "" if short is None else "-part", "" if first is None else f"-first{first}"
    label = f"{protocol}{part}{'-compat' if compat else ''}-{threat.epsilon:g}{cut}"
    if short is not None:
        progress.say(f"{short}. So the record is called {label}.")
    every, records = Protocol(name=label, attacks=tuple(sets_shown)), {}
    for name, target in judges.items():
        subject = target.on(_images(target.data.test, subset, first))
        records[name] = evaluate(subject, protocol=every, progress=progress, command="poise transfer")
    experiments = [target.experiment for target in judges.values() if isinstance(target, OfRun)]
    gain = gained(experiments, list(records.values())) if len(experiments) == len(judges) else []
    accuracies = matrix(list(records.values()), every_attack)
    page = write_text(out / f"{label}.md", matrix_markdown(accuracies) + "".join(f"\n{line}\n" for line in gain))
    write_heatmap(accuracies, out / f"{label}.svg")
    return Transferred(accuracies, records, gain, page)


def _members(source: Subject) -> int:
    return (
        getattr(source.experiment.model, "members", 1)
        if isinstance(source, OfRun)
        else len(getattr(source.network, "members", [0]))
    )


def _threat(epsilon: float | str | None, judged: Mapping[str, Subject]) -> Threat:
    """Raises: SettingsError where none is named and the targets are not all evaluated within one Linf threat."""
    if epsilon is not None:
        return positive(Linf(epsilon=epsilon), epsilon)  # type: ignore[arg-type]  # checked by the settings
    threats = {name: target.threat or Linf() for name, target in judged.items()}
    if (
        len(set(threats.values())) == 1
        and isinstance(threat := next(iter(threats.values())), Linf)
        and threat.epsilon > 0
    ):
        return threat
    text = ", ".join(
        f"{name} within {type(threat).__name__} {spelled(threat.epsilon)}" for name, threat in threats.items()
    )
    raise SettingsError(f"the targets are not all evaluated within one Linf epsilon ({text}); name one with --epsilon")


def _otherwise(sources: Mapping[str, Subject]) -> list[str]:
    """In words, which surrogates are not ensembles of standard ResNet-20 on CIFAR-10, or not trained on natural images
    alone.
    """
    sentences = []
    for name, source in sources.items():
        experiment = source.experiment if isinstance(source, OfRun) else None
        model, method = (experiment.model, experiment.method) if experiment is not None else (None, None)
        standard = isinstance(model, Ensemble) and (model.member, model.output) == (MEMBER, "mean_probabilities")
        if experiment is None or not isinstance(experiment.data, CIFAR10) or not standard:
            sentences.append(f"surrogate {name} is no ensemble of standard ResNet-20 on CIFAR-10")
        if not isinstance(method, Joint) or any(searches_of(policy.objective) for policy in method.policies().values()):
            sentences.append(f"surrogate {name} is not naturally trained")
    return sentences


def _related(sources: Mapping[str, Subject], judged: Mapping[str, Subject]) -> list[str]:
    """In words, which surrogates are not held out: their weights, or networks begun from the same, are among the
    targets.
    """
    sentences = []
    for source, begins in sources.items():
        for target, subject in judged.items():
            if digest_of(subject.network) == digest_of(begins.network):
                sentences.append(f"target {target} has the very weights of surrogate {source}")
            elif not isinstance(subject, OfRun) or not isinstance(begins, OfRun):
                continue
            elif _begun(subject, begins):
                sentences.append(f"target {target} was trained from surrogate {source}")
            elif subject.seed == begins.seed:
                sentences.append(f"target {target} has the seed of surrogate {source}, {begins.seed}")
    return sentences


def _begun(target: OfRun, source: OfRun) -> bool:
    """Whether the target's training began from the source's weights."""
    is_initial = Path(target.experiment.initial or "").resolve() == source.run.path.resolve()
    return is_initial or target.begun.get("initial_digest") == source.digest


def _images(test: Split, subset: bool, first: int | None) -> Split:
    images = published_subset(test) if subset and len(test) == WHOLE else test
    return images if first is None else images.first(first)


def _sets(
    name: str, network: nn.Module, attacks: Sequence[Attack], images: Split, out: Path, progress: Progress
) -> list[Saved]:
    """What shows the images that each attack makes on the surrogate of this name; they are made where they are not
    found.
    """
    sets_shown = []
    for attack in attacks:
        path = set_path(out / "sets" / name, network, attack)
        advance = progress.begin(f"{name}: {attack.name}", len(images), "images")
        set_kept, sets_made = made_or_kept(path, network, images, attack, advance=advance)
        progress.end()
        progress.say(f"{'found' if sets_made else 'made'}: {path}")
        sets_shown.append(Saved.of(path, set_kept, name))
    return sets_shown
