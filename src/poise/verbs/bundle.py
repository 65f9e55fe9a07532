"""A reviewer's bundle: runs' settings, records and weights' digests in one archive, with what recomputes every number
printed.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

from poise.core.errors import CheckpointError, RunError, SettingsError
from poise.core.files import check_writable, read_bytes, write_bytes
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.version import __version__
from poise.reports import verifier
from poise.reports.collect import Run, read_runs
from poise.reports.columns import Column, records_of
from poise.reports.proof import Proof, comparisons
from poise.reports.statistics import CORRUPTED, NATURAL, Group, examples_of, key_of, settings_key
from poise.reports.tables import Table, table
from poise.verbs.report import Reported, paths_of

_LARGEST, _MOST = 2**32 - 1, 2**16 - 1
"""Of an archive without extensions: bytes, and members."""
_VERIFIER = "verify.py"
_README = """A bundle of {runs} that Poise {version} evaluated, with every prediction.

{results} has the numbers. To recompute them from the predictions, with Python and numpy alone:

    python verify.py                    in the folder where this lies unpacked
    python verify.py bundle.zip         of the archive; {verifier} is in it

and with --digest HEX, to see that it is the bundle of which this digest was published. What was changed, added, removed
or swapped is named.

runs/*/experiment.json    all settings: poise train experiment.json --out FOLDER trains it again
runs/*/records            labels and predictions, image by image, natural and after each attack
runs/*/checkpoints        the digests of the weights, and the weights where they were bundled
printed.json              each number of {results}, with the predictions that it is made of
environment.json          what was installed where this was bundled; processors and versions are in the records
"""
Source = list[Any]
"""A record's name in the bundle, and the place of an attack in it, or None for the natural images."""


@dataclass(frozen=True)
class Bundle:
    """An archive that was written. digest: to be published; cautions: what a reviewer can read in it of its author."""

    path: Path
    digest: str
    cautions: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)


def bundle(runs: Reported | Iterable[Reported], out: str | Path | None = None, *, weights: bool = False) -> Bundle:
    """Write evaluated runs into one archive that a reviewer can check without Poise: what `poise bundle` does.

    The same runs give the same bytes. out: a .zip file, by default bundle.zip in the run's folder, or beside the first
    of several; weights: the evaluated weights too, not their digests alone.
    Raises: RunError for what was not evaluated or is damaged, CheckpointError for weights that are, SettingsError,
    StorageError.
    """
    paths = paths_of(runs)
    usual = paths[0] if len(paths) == 1 and paths[0].is_dir() else paths[0].parent
    place = Path(out) if out is not None else usual / "bundle.zip"
    if place.suffix != ".zip":
        raise SettingsError(f"--out {place}: the suffix must be .zip")
    check_writable(place)
    runs_read = read_runs(paths)
    names = _names(runs_read)
    members = {name: data for run in runs_read for name, data in _members(run, names[run.path], weights)}
    sheet = _printed(runs_read, names)
    sheet["weights"] = _weights(members)
    members[verifier.PRINTED] = _json(sheet)
    members[verifier.RESULTS] = verifier.rendered(sheet).encode()
    members["environment.json"] = _json(_environment())
    members[_VERIFIER] = files("poise.reports").joinpath("verifier.py").read_bytes()
    count = f"{len(runs_read)} run{'s' * (len(runs_read) > 1)}"
    about = {"runs": count, "version": __version__, "results": verifier.RESULTS, "verifier": _VERIFIER}
    members["README.txt"] = _README.format(**about).encode()
    members[verifier.MANIFEST] = verifier.manifest(members, __version__)
    if sum(map(len, members.values())) > _LARGEST or len(members) > _MOST:
        raise SettingsError("these runs are more than one archive holds (4 GiB); bundle fewer, or without --weights")
    stored_members = frozenset(name for name in members if name.endswith(".safetensors"))
    write_bytes(place, verifier.archived(members, stored_members))
    wrong, _ = verifier.check(place)
    if wrong:
        raise RunError(f"{place} does not give the numbers that these runs do: {wrong[0]}")
    return Bundle(place, verifier.digest_of_bundle(members), tuple(_cautions(members)))


# -- what goes in ----------------------------------------------------------------------------------------------------


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """Each run's folder in the bundle: its path below the folder that all share."""
    folders = {run.path: run.path.parent if run.path.is_file() else run.path for run in runs}
    above = Path(os.path.commonpath(list(folders.values())))
    above = above.parent if above in folders.values() else above
    names = {path: folder.relative_to(above).as_posix() for path, folder in folders.items()}
    same = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {path: f"runs/{name}" if name not in same else f"runs/{name}/{path.stem}" for path, name in names.items()}


def _members(run: Run, name: str, weights: bool) -> Iterator[tuple[str, bytes]]:
    """The files of a run that say what it is and what came of it."""
    for stem in run.records:
        file = run.path if run.path.is_file() else run.path / "records" / f"{stem}.json"
        yield f"{name}/records/{file.name}", read_bytes(file)
    if not run.path.is_dir():
        return
    findings = [*run.path.glob("records/sanity.json"), *run.path.glob("records/sanity-*.json")]
    of_run = [run.path / file for file in ("experiment.json", "run.json", "metrics.jsonl")]
    facts = [file for file in run.path.glob("checkpoints/*.json") if not file.name.startswith("step-")]
    for file in sorted([*findings, *(file for file in of_run if file.is_file()), *facts]):
        yield f"{name}/{file.relative_to(run.path).as_posix()}", read_bytes(file)
    for file in sorted(facts) if weights else ():
        tensors = file.with_suffix(".safetensors")
        if not tensors.is_file():
            raise CheckpointError(f"{tensors} is missing; leave --weights out to bundle its digest alone")
        yield f"{name}/checkpoints/{tensors.name}", read_bytes(tensors, _LARGEST)


def _weights(members: dict[str, bytes]) -> list[dict[str, Any]]:
    """Of each record the weights that it is of, by the digest of their file; whether it can be computed from the
    weights.
    """
    links = []
    for name in sorted(members):
        folder, _, file = name.rpartition("/records/")
        record = json.loads(members[name]) if folder and file.endswith(".json") else {}
        facts = f"{folder}/checkpoints/{str(record.get('checkpoint')).replace(' ', '_')}.json"
        if "labels" not in record or facts not in members:
            continue
        about, tensors = json.loads(members[facts]), members.get(facts.replace(".json", ".safetensors"))
        digest = record["model_digest"]
        is_right = tensors is not None and verifier.digest_of_tensors(tensors) == digest
        links.append(
            {"record": name, "facts": facts, "sha256": about["sha256"], "model_digest": digest, "computed": is_right}
        )
    return links


def _environment() -> dict[str, Any]:
    """What is installed here."""
    packages = {str(package.metadata["Name"]): package.version for package in distributions()}
    return {"python": platform.python_version(), "machine": platform.machine(), "packages": packages}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _cautions(members: dict[str, bytes]) -> Iterator[str]:
    """A sentence for each absolute path that a reviewer would read."""
    for name in sorted(name for name in members if name.startswith("runs/") and name.endswith((".json", ".jsonl"))):
        for path in dict.fromkeys(re.findall(rb'"((?:/|~|[A-Z]:\\\\)[^"\n]*)"', members[name])):
            yield f"{name} names {path.decode()}, which whoever has the bundle will read"


# -- what is printed -------------------------------------------------------------------------------------------------


def _printed(runs: Sequence[Run], names: dict[Path, str]) -> dict[str, Any]:
    """The table of all checkpoints and the comparisons of its first block, each number with the predictions behind
    it.
    """
    sheet_table = table(runs, "all")
    proof = comparisons(sheet_table)
    places = _Located(runs, names)
    rows = [
        {
            "label": row.label,
            "checkpoint": row.checkpoint,
            "data": row.data,
            "kind": row.kind,
            "cells": [
                _cell(cell.text, cell.low, cell.high, cell.of, row.group, column, places)
                for cell, column in zip(row.cells, sheet_table.columns, strict=True)
            ],
        }
        for row in sheet_table.rows
    ]
    columns = [column.label for column in sheet_table.columns]
    pairs = _pairs(sheet_table, proof, places)
    return {"columns": columns, "rows": rows, "notes": [*sheet_table.notes, *proof.cautions], "comparisons": pairs}


def _cell(
    text: str, low: float | None, high: float | None, of: int, group: Group | None, column: Column, located: _Located
) -> dict[str, Any]:
    if group is None or low is None or high is None:
        return {"text": text}
    rule, runs = located.sources(group, column)
    return {"text": text, "low": f"{low:.2f}", "high": f"{high:.2f}", "of": of, "rule": rule, "runs": runs}


def _pairs(shown: Table, proof: Proof, located: _Located) -> list[dict[str, Any]]:
    first = [row for row in shown.rows if row.group is not None and row.block == shown.rows[0].block]
    groups = {row.label: row.group for row in first if row.group is not None}
    columns = {column.label: column for column in shown.columns}
    pairs = []
    for comparison in proof.comparisons:
        (rule, a), (_, b) = (
            located.sources(groups[name], columns[comparison.column]) for name in (comparison.a, comparison.b)
        )
        interval = comparison.interval
        numbers = {"difference": interval.difference, "low": interval.low, "high": interval.high}
        text = verifier.pair_text(numbers, comparison.p)
        pairs.append(
            {
                "names": [comparison.a, comparison.b],
                "column": comparison.column,
                "rule": rule,
                "a": a,
                "b": b,
                "text": text,
            }
        )
    return pairs


class _Located:
    """Where in the bundle each record lies, and each attack's predictions."""

    def __init__(self, runs: Sequence[Run], names: dict[Path, str]) -> None:
        self.files: dict[Any, list[tuple[str, EvaluationRecord]]] = {}
        for run in runs:
            for stem, record in run.records.items():
                file = run.path.name if run.path.is_file() else f"{stem}.json"
                place = (_group(record), record.checkpoint, examples_of(record), *_weights_of(record))
                self.files.setdefault(place, []).append((f"{names[run.path]}/records/{file}", record))

    def sources(self, group: Group, column: Column) -> tuple[str, list[list[Source]]]:
        """How a column's accuracy comes of predictions, and of each run of the group which ones."""
        if column.forms:
            whole = [self._whole(group, record) for record in records_of(group, column)]
            forms = [
                [
                    attack_of_record
                    for attack_of_record in r.attacks
                    if settings_key(attack_of_record.settings) in column.forms
                ]
                for r in whole
            ]
            return "lowest", [
                [self._attack(group, r, a) for a in attacks_used] for r, attacks_used in zip(whole, forms, strict=True)
            ]
        records = records_of(group, column)
        if column.attack is not None:
            return "all", [[self._attack(group, record, record.attacks[0])] for record in records]
        if column.label == NATURAL:
            return "all", [[self._natural(group, record)] for record in records]
        if column.label == CORRUPTED:
            records_corrupted = [record for record in records if record.corruption_accuracy is not None]
            return "corruptions", [[self._natural(group, record, "corruptions")] for record in records_corrupted]
        return "all", [
            [self._natural(group, record), *(self._attack(group, record, attack) for attack in record.attacks)]
            for record in records
        ]

    def _whole(self, group: Group, record: EvaluationRecord) -> EvaluationRecord:
        return next(record_each for record_each in group.records if _weights_of(record_each) == _weights_of(record))

    def _of(self, group: Group, record: EvaluationRecord) -> list[tuple[str, EvaluationRecord]]:
        return self.files[_group(record), group.checkpoint, examples_of(group.first), *_weights_of(record)]

    def _natural(self, group: Group, record: EvaluationRecord, note: str = "") -> Source:
        return next(
            [name, None] for name, record_each in self._of(group, record) if not note or note in record_each.notes
        )

    def _attack(self, group: Group, record: EvaluationRecord, attack: AttackRecord) -> Source:
        return next(
            [name, place]
            for name, record_each in self._of(group, record)
            for place, attack_each in enumerate(record_each.attacks)
            if key_of(attack_each) == key_of(attack)
        )


def _group(record: EvaluationRecord) -> str:
    return record.group or f"{record.model} {record.run}".strip()


def _weights_of(record: EvaluationRecord) -> tuple[str, int, str]:
    return record.run, record.seed, record.model_digest
