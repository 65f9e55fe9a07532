"""What can be asked about: the kinds of subjects, told apart in one place. A new kind is a class of `Subject` and a
case here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.errors import RunError, SettingsError
from poise.engine.blueprint import Blueprint
from poise.engine.runs import Run
from poise.interop.hub.exchange import fetched, is_address, parts_of
from poise.interop.hub.files import CONFIG
from poise.verbs.images import Images
from poise.verbs.of_blueprint import OfBlueprint, of_folder
from poise.verbs.of_module import Built, OfModule, OfWeights
from poise.verbs.of_run import OfRun
from poise.verbs.of_several import OfSeveral
from poise.verbs.of_zoo import OfZoo
from poise.verbs.subject import Subject
from poise.zoo import PREFIX, zoo_network

FOLDER = "folder:"
"""What a folder of a published network may begin with."""
Asked = Subject | Run | nn.Module | str | Path | Sequence[Any]
"""A run or its folder, a zoo network such as "zoo:NAME", one that was pushed, such as "hf://owner/name" or its folder,
weights in a file, a module, or a list of these, which answer as one ensemble.
"""


def subject_of(
    asked: Asked,
    data: Images | None = None,
    *,
    network: Built | None = None,
    checkpoint: str | None = None,
    output: str | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> Subject:
    """The subject that is meant.

    data: images that stand in for a run's own, and that modules and weights need (see `data_of`). network: what builds
    the network of weights in a file; checkpoint: which weights of a run, by default "selected"; output: how an
    ensemble's members answer as one, by default "vote". Raises: SettingsError for something else, or an argument that
    is none of this kind's; RunError.
    """
    where: dict[str, Any] = {"data": data, "device": device, "data_dir": data_dir}
    if isinstance(asked, Subject):
        return asked
    if isinstance(asked, nn.Module):
        _none_of("a module", network=network, checkpoint=checkpoint, output=output)
        return OfModule(asked, **where)
    if isinstance(asked, Run):
        _none_of("a run", network=network, output=output)
        return OfRun(asked, checkpoint or "selected", **where)
    if isinstance(asked, str | Path) and str(asked).startswith(PREFIX):
        _none_of("a zoo network", network=network, checkpoint=checkpoint, output=output)
        return OfZoo(zoo_network(str(asked)), **where)
    if isinstance(asked, str | Path) and (elsewhere := _published(str(asked))) is not None:
        _none_of("a published network", network=network, checkpoint=checkpoint, output=output)
        return of_folder(*elsewhere, **where)
    if isinstance(asked, str | Path):
        path = Path(asked)
        if path.is_file() or (network is not None and not path.is_dir()):
            _none_of("weights in a file", checkpoint=checkpoint, output=output)
            if network is None and (plan := Blueprint.in_file(path)) is not None:
                return OfBlueprint(path, plan, str(path), **where)
            if network is None:
                raise SettingsError(
                    f"{path} holds weights alone; say by network= what builds their network: 'ResNet18',"
                    " module:function"
                )
            return OfWeights(path, network, **where)
        return subject_of(Run.open(path), network=network, checkpoint=checkpoint, output=output, **where)
    if isinstance(asked, Sequence):
        _none_of("an ensemble", network=network)
        members = [
            subject_of(member, data, checkpoint=checkpoint, device=device, data_dir=data_dir) for member in asked
        ]
        return OfSeveral(members, output or "vote", **where)
    raise SettingsError(
        f"{type(asked).__name__} cannot be asked about; give a run or its folder, a module, weights in a file, or a"
        " list"
    )


def _published(asked: str) -> tuple[Path, str] | None:
    """The folder of a published network and how it is named; None for what is none."""
    if is_address(asked):
        name, revision = parts_of(asked)
        return fetched(asked), f"hf://{name}" + (f"@{revision}" if revision else "")
    if asked.startswith(FOLDER):
        return Path(asked.removeprefix(FOLDER)), asked
    path = Path(asked)
    there = (path / CONFIG).is_file() and not (path / "experiment.json").is_file()
    return (path, f"{FOLDER}{path}") if there else None


def by_name(subjects: Sequence[Subject]) -> dict[str, Subject]:
    """The subjects by the name of their folder; where several have it, as the repeats of an experiment do, with the
    folder it lies in.

    Raises: SettingsError for one that is named twice.
    """
    places = [subject.folder.resolve() if subject.folder is not None else Path(subject.title) for subject in subjects]
    if len(set(places)) < len(places):
        raise SettingsError(
            f"runs {', '.join(subject.spelled or subject.title for subject in subjects)}: every run is to be named once"
        )
    names = [place.name for place in places]
    labels = [f"{place.parent.name}/{place.name}" if names.count(place.name) > 1 else place.name for place in places]
    if len(set(labels)) < len(labels):
        labels = [str(place).strip("/") for place in places]
    return dict(zip(labels, subjects, strict=True))


def run_of(subject: Subject, question: str) -> OfRun:
    """The subject, if it is a run. Raises: RunError for a question that only what a run's training kept can answer."""
    if not isinstance(subject, OfRun):
        raise RunError(f"{question} needs a run folder, and {subject.title} is none")
    return subject


def _none_of(kind: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise SettingsError(f"{name} = {value!r} is nothing of {kind}; leave it out")
