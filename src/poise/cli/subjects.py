"""What is asked about, as it is typed: run folders, folders of them, one's own weights, or runs that answer together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.verbs.subject import Subject


def run_folders(paths: list[Path]) -> list[Path]:
    """The run folders typed; one that holds run folders, as several seeds do, stands for those in it."""
    folders = []
    for path in paths:
        inside = [] if (path / "experiment.json").is_file() else [file.parent for file in path.glob("*/experiment.json")]
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
    """The runs one by one, or together where `ensemble` says how they answer; or the weights. Raises: SettingsError, RunError."""
    from poise.verbs import subject_of

    where = {"device": device, "data_dir": data_dir}
    if weights is not None:
        if model is None:
            raise SettingsError("--weights needs --model: a network such as ResNet18, or module:function")
        return [subject_of(weights, data or "CIFAR10", network=model, **where)]
    members = [subject_of(folder, data, checkpoint=checkpoint, **where) for folder in run_folders(runs or [])]
    return members if ensemble is None else [subject_of(members, data, output=ensemble, **where)]
