"""Reading run folders: settings, metrics and evaluation records, all of them JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from poise.core.documents import is_text_of, opened, parse, read_lines
from poise.core.errors import RunError
from poise.core.files import read_text, refusing
from poise.core.records import EvaluationRecord
from poise.core.verdicts import Verdict

_DEPTH = 3  # how far below a folder of runs a run folder may lie
_NOT_CURVES = {"epoch", "step"}


@dataclass(frozen=True)
class Run:
    """What one run folder holds. `records` is keyed by file name without its ending: "selected", "last", ..."""

    path: Path
    name: str
    experiment: dict[str, Any] = field(default_factory=dict)
    """`experiment.json` as plain JSON; empty when a record was given by itself."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of `metrics.jsonl`."""
    records: dict[str, EvaluationRecord] = field(default_factory=dict)
    former: tuple[str, ...] = ()
    """Files of records that are left out: of weights that a checkpoint had before the run was trained on."""
    gallery: Path | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    """What `poise sanity` wrote, the selected weights first."""

    @property
    def epochs(self) -> int:
        """The last epoch of which anything was measured; 0 where nothing was."""
        return int(max((epoch for line in self.metrics if _is_number(epoch := line.get("epoch"))), default=0))

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """{metric: [(epoch, value)]}; an epoch that was written twice (before and after a resume) counts once, as
        written last.
        """
        by_name: dict[str, dict[float, float]] = {}
        for line in self.metrics:
            epoch = line.get("epoch")
            if line.get("kind", "epoch") != "epoch" or not _is_number(epoch):
                continue
            for name, value in line.items():
                if name not in _NOT_CURVES and _is_number(value):
                    by_name.setdefault(name, {})[epoch] = value
        return {name: sorted(points.items()) for name, points in by_name.items()}


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)


def read_runs(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """The runs at `paths`: run folders, folders of run folders, or record files; each run once, in the order given.

    In a folder of run folders, runs that were not evaluated yet are kept without records as long as one run has some.

    Raises: RunError for a missing path, a folder that is no run, a run without records, or a damaged file.
    """
    path_list = [paths] if isinstance(paths, str | Path) else list(paths)
    if not path_list:
        raise RunError("no run was named; name run folders, a folder of run folders, or record files")
    runs: dict[Path, Run] = {}
    for item in path_list:
        with refusing(RunError, item):
            run_read = _read(Path(item))
        for run in run_read:
            earlier = runs.get(run.path)
            records = {**earlier.records, **run.records} if earlier else run.records
            whole = earlier if earlier and earlier.experiment else run
            runs[run.path] = replace(whole, records=records)
    return list(runs.values())


def _read(path: Path) -> list[Run]:
    if path.is_file():
        return [_read_record_file(path)]
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}")
    if (path / "experiment.json").is_file():
        run = _read_folder(path)
        if not run.records:
            raise RunError(f"{path} has no evaluation records yet; make them with: poise evaluate {path}")
        return [run]
    runs = [_read_folder(inner) for inner in _run_folders(path, _DEPTH)]
    if not runs:
        raise RunError(f"{path} is not a run folder: neither it nor its subfolders hold an experiment.json")
    if not any(run.records for run in runs):
        raise RunError(f"no run in {path} has evaluation records yet; make them with: poise evaluate {runs[0].path}")
    return runs


def _run_folders(path: Path, depth: int) -> list[Path]:
    folders: list[Path] = []
    for inner in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if (inner / "experiment.json").is_file():
            folders.append(inner)
        elif depth > 1:
            folders += _run_folders(inner, depth - 1)
    return folders


def _read_record_file(path: Path) -> Run:
    record = EvaluationRecord.read(path)
    folder = path.parent.parent if path.parent.name == "records" else path.parent
    if (folder / "experiment.json").is_file():
        whole = _read_folder(folder, records=False)
        return replace(whole, records={path.stem: record})
    return Run(path.resolve(), record.run or path.stem, records={path.stem: record})


def _read_folder(path: Path, records: bool = True) -> Run:
    experiment = _read_experiment(path / "experiment.json")
    files = sorted((path / "records").glob("*.json"), key=lambda file: (_rank(file.stem), file.stem)) if records else []
    records_read = {file.stem: EvaluationRecord.read(file) for file in files if not _holds_verdict(file)}
    present = _of_present_weights(records_read)
    galleries = sorted(
        (path / "records").glob("gallery*.npz"), key=lambda file: _rank(file.stem.removeprefix("gallery-"))
    )
    return Run(
        path=path.resolve(),
        name=str(experiment.get("name") or path.name),
        experiment=experiment,
        metrics=read_lines(path / "metrics.jsonl"),
        records={name: records_read[name] for name in present},
        former=tuple(f"{name}.json" for name in records_read if name not in present),
        gallery=galleries[0] if galleries else None,
        verdicts=[Verdict.read(file) for file in files if _holds_verdict(file)],
    )


def _of_present_weights(records: dict[str, EvaluationRecord]) -> list[str]:
    """Those of the weights that each checkpoint has now: a run that was evaluated and then trained on is one run, not
    two.
    """
    newest = {
        record.checkpoint: record.model_digest for record in sorted(records.values(), key=lambda record: record.started)
    }
    return [name for name, record in records.items() if record.model_digest == newest[record.checkpoint]]


def _holds_verdict(file: Path) -> bool:
    return file.stem == "sanity" or file.stem.startswith("sanity-")


def _rank(name: str) -> int:
    return {"selected": 0, "last": 1}.get(name, 2)


def _read_experiment(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        data = parse(text)
        about = (
            opened(parse(read_text(path.with_name("run.json"))), required=False)
            if path.with_name("run.json").exists()
            else {}
        )
    except (OSError, ValueError) as error:
        raise RunError(f"{path}, or run.json beside it, cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} is not the settings of an experiment: it must hold a JSON object")
    if (digest := about.get("settings_sha256")) is not None and not is_text_of(text, digest):
        raise RunError(f"{path} was changed since the run was started; start a new run with it instead")
    return data
