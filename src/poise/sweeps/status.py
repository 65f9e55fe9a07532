"""How far runs are, from what lies on disk: no torch, no network, nothing that disturbs who trains."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from poise.core.documents import lines_in, parse
from poise.core.errors import RunError
from poise.core.files import read_text
from poise.core.holding import held
from poise.sweeps import halving as halvings
from poise.sweeps.ledger import PLAN, Plan, lock_file, tries

Word = Literal["waits", "trains", "evaluates", "paused", "broken off", "trained", "evaluated", "stopped", "failed"]
_DEPTH = 4


@dataclass(frozen=True)
class Standing:
    """One run: how far it is, on which node and in which try it is or was, minutes of training so far, and about how
    many are left (None where no epoch is done), in whose place a reason stands where there is one.
    """

    name: str
    word: Word
    epoch: int
    epochs: int
    node: str = ""
    attempt: int = 0
    minutes: float = 0.0
    left: float | None = None
    reason: str = ""


def standings(folder: Path) -> list[Standing]:
    """Of every point of a sweep, or of every run in a folder that is none. Raises: RunError where there is no run."""
    if (folder / PLAN).exists():
        plan = Plan.read(folder)
        stops = stopped_at(plan, folder)
        return [
            standing(folder / point.name, point.name, point.epochs, stops.get(point.configuration), plan.evaluate)
            for point in plan.points
        ]
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}")
    runs = [folder] if (folder / "experiment.json").is_file() else sorted(_runs(folder, _DEPTH))
    if not runs:
        raise RunError(f"{folder} holds neither a sweep nor a run")
    return [standing(run, str(run.relative_to(folder)), _epochs(run)) for run in runs]


def stopped_at(plan: Plan, folder: Path) -> dict[str, int]:
    """{configuration: rung} of those that halving has stopped."""
    rungs = plan.halving.rungs if plan.halving is not None else []
    decisions = filter(None, (halvings.read(folder, rung) for rung in rungs))
    return {name: decision.rung for decision in decisions for name in decision.dropped}


def standing(run: Path, name: str, epochs: int, stopped: int | None = None, evaluates: bool = True) -> Standing:
    """How far a run is. stopped: the epoch at which halving stopped it."""
    lines, _ = lines_in(run / "metrics.jsonl")
    epoch = max((int(line["epoch"]) for line in lines if line.get("kind") == "epoch"), default=0)
    training, working = held(run / ".lock"), held(lock_file(run))
    ends = tries(run)
    last = ends[-1] if ends else None
    has_weights = (run / "checkpoints" / "last.json").exists()
    has_records = has_weights and (
        not evaluates or all((run / "records" / f"{w}.json").exists() for w in ("selected", "last"))
    )
    holder = training or working
    minutes = _seconds(run) / 60
    word: Word = "evaluated" if has_records else "trained" if has_weights else "broken off" if epoch else "waits"
    reason = ""
    if holder is not None:
        word = "trains" if training is not None or not has_weights else "evaluates"
    elif stopped is not None:
        word, reason = "stopped", f"halving, epoch {stopped}"
    elif last is not None and last.state == "failed" and not has_records:
        word, reason = "failed", last.reason
    elif last is not None and last.state == "paused" and not has_weights:
        word = "paused"
    over = word in ("evaluated", "trained", "evaluates", "stopped", "failed")
    minutes_left = 0.0 if over else minutes / epoch * (epochs - epoch) if epoch and minutes else None
    node = holder.node if holder is not None else last.node if last is not None else ""
    attempt = holder.attempt if holder is not None else last.attempt if last is not None else 0
    return Standing(name, word, epoch, epochs, node, attempt, minutes, minutes_left, reason)


def summary(found: Sequence[Standing]) -> str:
    """How many there are of each word, and the minutes of training that are left."""
    counts = {word: sum(row.word == word for row in found) for word in dict.fromkeys(row.word for row in found)}
    minutes_left = [row.left for row in found if row.left is not None]
    unknown = sum(row.left is None for row in found)
    tail = f", and {unknown} of which no epoch is done" if unknown else ""
    return (
        f"{len(found)} runs: {', '.join(f'{count} {word}' for word, count in counts.items())}; about"
        f" {sum(minutes_left):.1f} minutes of training left{tail}"
    )


def _seconds(run: Path) -> float:
    """Of training, from the newest checkpoint that says it."""
    longest = 0.0
    for file in (run / "checkpoints").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            longest = max(longest, float(_facts(file).get("training_seconds") or 0.0))
    return longest


def _facts(file: Path) -> dict[str, Any]:
    data = json.loads(read_text(file))
    return data if isinstance(data, dict) else {}


def _runs(folder: Path, depth: int) -> Iterable[Path]:
    for inner in (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if (inner / "experiment.json").is_file():
            yield inner
        elif depth > 1:
            yield from _runs(inner, depth - 1)


def _epochs(run: Path) -> int:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(parse(read_text(run / "experiment.json"))["epochs"])
    return 0
