"""What tasks do: a point of a sweep, and one evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poise.core.distributed import join
from poise.core.progress import Progress
from poise.core.settings import from_json
from poise.engine import Experiment, finished, train_or_resume
from poise.evaluation import Protocol
from poise.evaluation.columns import Searching
from poise.verbs.evaluate import evaluate

POINT, EVALUATION = f"{__name__}:point", f"{__name__}:evaluation"


def point(folder: Path, given: Mapping[str, Any], progress: Progress) -> Mapping[str, str]:
    """Train `experiment` as far as `until`, and evaluate it by its own protocol where it is finished and `evaluate`."""
    how: dict[str, Any] = {"device": given["device"], "data_dir": given["data_dir"], "progress": progress}
    experiment = from_json(Experiment, given["experiment"])
    run = train_or_resume(experiment, folder, imports=given["imports"], until=given["until"], **how)
    if not join().decided(finished(run)):
        return {"state": "paused"}
    for checkpoint in ("selected", "last") if given["evaluate"] else ():
        evaluate(run, checkpoint=checkpoint, **how)
    return {}


def evaluation(folder: Path, given: Mapping[str, Any], progress: Progress) -> Mapping[str, str]:
    """`poise.evaluate` of what is given; the result is the record's path."""
    protocol = given.get("protocol")
    protocol_used = from_json(Protocol, protocol) if isinstance(protocol, Mapping) else protocol
    record = evaluate(**{**given, "search": Searching(**given["search"]), "protocol": protocol_used}, progress=progress)
    return {"result": str(record.path or "")}
