"""What is asked about, as it is typed: run folders, folders of them, one's own weights, or runs that answer
together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.shared import run_only
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.verbs.subject import Subject


Asked = Annotated[
    Path, typer.Argument(help="Run folder; or weights in a file (.safetensors, .pt), with --model and --data.")
]
Checkpoint = Annotated[str | None, typer.Option(help="Of a run: selected (the default), last, or 'epoch N'.")]
Model = Annotated[
    str | None,
    typer.Option(help="Of weights in a file: a network such as ResNet18, or module:function that builds yours."),
]
Images = Annotated[
    str | None,
    typer.Option(
        help="A data set, folder or archive in place of a run's own; of weights in a file by default CIFAR10."
    ),
]


def subject_typed(
    path: Path, checkpoint: str | None, model: str | None, data: str | None, device: str, data_dir: Path | None
) -> Subject:
    """The run, or the weights in a file. Raises: SettingsError, RunError."""
    from poise.verbs import subject_of

    if path.is_file():
        return subjects(None, checkpoint, path, model, data, None, device, data_dir)[0]
    if model is not None:
        raise SettingsError("--model goes with weights in a file; a run knows its network")
    return subject_of(path, data, checkpoint=checkpoint, device=device, data_dir=data_dir)


def run_folders(paths: list[Path]) -> list[Path]:
    """The run folders typed; one that holds run folders, as several seeds do, stands for those in it."""
    folders = []
    for path in paths:
        inside = (
            [] if (path / "experiment.json").is_file() else [file.parent for file in path.glob("*/experiment.json")]
        )
        folders += sorted(inside, key=lambda folder: (len(folder.name), folder.name)) or [path]
    return folders


def subjects(
    runs: list[Path] | None,
    checkpoint: str | None,
    weights: Path | None,
    model: str | None,
    data: str | None,
    ensemble: str | None,
    device: str,
    data_dir: Path | None,
) -> list[Subject]:
    """The runs one by one, or together where `ensemble` says how they answer; or the weights. Raises: SettingsError,
    RunError.
    """
    from poise.verbs import subject_of

    where = {"device": device, "data_dir": data_dir}
    if weights is not None:
        return [
            subject_of(**options_of_subject, **where)
            for options_of_subject in asked_by_path(runs, checkpoint, weights, model, data, ensemble)
        ]
    members = [subject_of(folder, data, checkpoint=checkpoint, **where) for folder in run_folders(runs or [])]
    return members if ensemble is None else [subject_of(members, data, output=ensemble, **where)]


def asked_by_path(
    runs: list[Path] | None,
    checkpoint: str | None,
    weights: Path | None,
    model: str | None,
    data: str | None,
    ensemble: str | None,
) -> list[dict[str, Any]]:
    """The same as arguments of `subject_of` that another process understands. Raises: SettingsError."""
    run_only(checkpoint, weights)
    if weights is not None:
        if model is None:
            raise SettingsError("--weights needs --model: a network such as ResNet18, or module:function")
        return [{"asked": weights, "data": data or "CIFAR10", "network": model}]
    folders = run_folders(runs or [])
    if ensemble is not None:
        return [{"asked": folders, "data": data, "checkpoint": checkpoint, "output": ensemble}]
    return [{"asked": folder, "data": data, "checkpoint": checkpoint} for folder in folders]
