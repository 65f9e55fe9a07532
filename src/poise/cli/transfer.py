"""poise transfer"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, drawn, import_files
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from poise.attacks import Attack, Saved
    from poise.data import Split
    from poise.engine import Run
    from poise.engine.progress import Progress
    from poise.threats import Threat


def transfer(
    targets: Annotated[list[Path], typer.Argument(help="Run folders of the networks to be judged.")],
    surrogate: Annotated[list[Path], typer.Option(help="Run folder of a network the attacks are made on; may be repeated.")],
    protocol: Annotated[
        str, typer.Option(help="soe-transfer-3 or soe-transfer-30: the attacks made on each surrogate.")
    ] = "soe-transfer-3",
    epsilon: Annotated[str | None, typer.Option(help="Linf epsilon, by default the targets' own; the step size is a fifth of it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the adversarial images, which are found again, and for the matrix.")] = Path(
        "transfer"
    ),
    compat: Annotated[bool, typer.Option("--compat-cw", help="The CW loss as in the code behind the published tables.")] = False,
    subset: Annotated[bool, typer.Option(help="Of 10,000 test images, only the 1,000 of the published evaluations.")] = True,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n of these.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every attack in place of 100.")] = None,
    sgm: Annotated[bool, typer.Option(help="SGM too; it needs surrogates of residual blocks.")] = True,
    every_attack: Annotated[bool, typer.Option("--every-attack", help="A column for each attack, not for each surrogate.")] = False,
    checkpoint: Annotated[str, typer.Option(help="selected, last, or 'epoch N', of surrogates and targets.")] = "selected",
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Make adversarial images on surrogates, or take those made before, show them to targets, and print who is right.

    A target's record goes into its run folder; an image counts only if the target is right under every attack.

    Examples:

      poise transfer runs/soe runs/adp --surrogate runs/baseline3

      poise transfer runs/soe runs/adp --surrogate runs/baseline3 --epsilon 0.03

      poise transfer runs/soe runs/adp --surrogate runs/s3 --surrogate runs/s5 --surrogate runs/s8 --protocol soe-transfer-30
    """
    import dataclasses

    from poise.attacks.transfer import SGM_NEEDS, residual
    from poise.core.files import write_text
    from poise.engine.devices import choose_device
    from poise.evaluation import Protocol, soe_transfer
    from poise.recipes.synergy_of_experts import gained
    from poise.reports.heatmap import matrix, matrix_markdown, matrix_terminal, write_heatmap
    from poise.reports.terminal import show
    from poise.verbs.evaluate import evaluate
    from poise.verbs.of_run import OfRun

    import_files(imports)
    sources, judged = _named(surrogate), _named(targets)
    threat = _threat(epsilon, judged)
    chosen = soe_transfer(protocol, threat, compat, residual=sgm)
    if steps is not None:
        chosen = dataclasses.replace(chosen, attacks=tuple(dataclasses.replace(attack, steps=steps) for attack in chosen.attacks))
    networks = {name: run.network(checkpoint) for name, run in sources.items()}
    for name, run in sources.items() if sgm else ():
        if not residual(networks[name]):
            raise SettingsError(f"--surrogate {run.path}: {SGM_NEEDS}; leave it out with --no-sgm")
    others = (*_otherwise(sources), *_related(sources, judged, checkpoint))
    progress = drawn()
    shown: list[Saved] = []
    ids: list[int] = []
    for name, run in sources.items():
        images = _images(run.experiment.data.load(data_dir).test, subset, first)
        ids = images.ids.tolist()
        shown += _sets(name, networks[name].to(choose_device(device)), chosen.attacks, images, out, progress)
    members = [getattr(run.experiment.model, "members", 1) for run in sources.values()]
    short = chosen.shortfall(members, ids, *others)
    part, cut = "" if short is None else "-part", "" if first is None else f"-first{first}"
    kind = f"{protocol}{part}{'-compat' if compat else ''}-{threat.epsilon:g}{cut}"
    if short is not None:
        typer.echo(f"{short}. So the record is called {kind}.", err=True)
    records = []
    for run in judged.values():
        subject = OfRun(run, checkpoint, device=device, data_dir=data_dir)
        subject = subject.on(_images(subject.data.test, subset, first))
        every = Protocol(name=kind, attacks=tuple(shown))
        records.append(evaluate(subject, protocol=every, progress=progress, command="poise transfer"))
        typer.echo(f"record: {records[-1].path}", err=True)
    gain = gained([run.experiment for run in judged.values()], records)
    for line in gain:
        typer.echo(line)
    found = matrix(records, every_attack)
    show(matrix_terminal(found))
    page = matrix_markdown(found) + "".join(f"\n{line}\n" for line in gain)
    typer.echo(f"matrix: {write_text(out / f'{kind}.md', page)}", err=True)
    typer.echo(f"heat map: {write_heatmap(found, out / f'{kind}.svg')}", err=True)


def _named(paths: list[Path]) -> dict[str, Run]:
    """The runs by the name of their folder; where several have it, as the repeats of an experiment do, with the folder it lies in.

    Raises: SettingsError for a run that is named twice.
    """
    from poise.engine import Run
    from poise.engine.runs import by_name

    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise SettingsError(f"runs {', '.join(map(str, paths))}: every run is to be named once")
    return by_name([Run.open(path) for path in paths])


def _threat(epsilon: str | None, judged: dict[str, Run]) -> Threat:
    """Raises: SettingsError where none is named and the targets are not all evaluated within one Linf threat."""
    from poise.core.settings import spelled
    from poise.threats import Linf
    from poise.verbs.of_run import threat_of
    from poise.verbs.threats import positive

    if epsilon is not None:
        return positive(Linf(epsilon=epsilon), epsilon)  # type: ignore[arg-type]  # checked by the settings
    own = {name: threat_of(run.experiment) for name, run in judged.items()}
    if len(set(own.values())) == 1 and isinstance(threat := next(iter(own.values())), Linf) and threat.epsilon > 0:
        return threat
    each = ", ".join(f"{name} within {type(threat).__name__} {spelled(threat.epsilon)}" for name, threat in own.items())
    raise SettingsError(f"the targets are not all evaluated within one Linf epsilon ({each}); name one with --epsilon")


def _otherwise(sources: dict[str, Run]) -> list[str]:
    """In words, which surrogates are not ensembles of standard ResNet-20 on CIFAR-10, or not trained on natural images alone."""
    from poise.data import CIFAR10
    from poise.methods import Joint
    from poise.models import Ensemble
    from poise.objectives.objective import searches_of
    from poise.recipes.ensembles_cifar10 import MEMBER

    said = []
    for name, run in sources.items():
        made = run.experiment
        model, method = made.model, made.method
        if (
            not isinstance(made.data, CIFAR10)
            or not isinstance(model, Ensemble)
            or (model.member, model.output) != (MEMBER, "mean_probabilities")
        ):
            said.append(f"surrogate {name} is no ensemble of standard ResNet-20 on CIFAR-10")
        if not isinstance(method, Joint) or any(searches_of(policy.objective) for policy in method.policies().values()):
            said.append(f"surrogate {name} is not naturally trained")
    return said


def _related(sources: dict[str, Run], judged: dict[str, Run], checkpoint: str) -> list[str]:
    """In words, which surrogates are not held out: their weights, or networks begun from the same, are among the targets."""
    said = []
    for source, begins in sources.items():
        weights = begins.facts(checkpoint)["sha256"]
        for target, run in judged.items():
            begun = Path(run.experiment.initial or "").resolve() == begins.path.resolve()
            if run.facts(checkpoint)["sha256"] == weights:
                said.append(f"target {target} has the very weights of surrogate {source}")
            elif begun or run.about.get("initial_digest") == weights:
                said.append(f"target {target} was trained from surrogate {source}")
            elif run.experiment.seed == begins.experiment.seed:
                said.append(f"target {target} has the seed of surrogate {source}, {begins.experiment.seed}")
    return said


def _images(test: Split, subset: bool, first: int | None) -> Split:
    from poise.evaluation.subsets import WHOLE, published_subset

    images = published_subset(test) if subset and len(test) == WHOLE else test
    return images if first is None else images.first(first)


def _sets(name: str, network: nn.Module, attacks: Sequence[Attack], images: Split, out: Path, progress: Progress) -> list[Saved]:
    """What shows the images that each attack makes on the surrogate of this name; they are made where they are not found."""
    from poise.attacks import Saved
    from poise.evaluation import made_or_kept, set_path

    shown = []
    for attack in attacks:
        path = set_path(out / "sets" / name, network, attack)
        advance = progress.begin(f"{name}: {attack.name}", len(images), "images")
        kept, found = made_or_kept(path, network, images, attack, advance=advance)
        progress.end()
        typer.echo(f"{'found' if found else 'made'}: {path}", err=True)
        shown.append(Saved.of(path, kept, name))
    return shown
