"""What a diagnosed run told of its base learners, as charts of the page (Zipper, Appendix C.1 and Section 3.4).

Curves come from `metrics.jsonl`, the t-SNE figure from the file that `poise embed` writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.core.documents import opened, parse
from poise.core.errors import RunError
from poise.core.files import read_text
from poise.core.settings import spelled
from poise.reports.collect import Run
from poise.reports.figures.series import Panel, Point, Series
from poise.reports.plots import Chart, chart, group_of

EMBEDDING = "t-sne.json"
"""Where a run keeps what was embedded of its learners (written by the engine, which this package doesn't know)."""
_ROBUST = re.compile(r"/robust( (\w+) ([\d.e-]+))?$")  # with a threat, where learners have several
_FAMILIES = (
    # title, is a share, which metrics
    ("natural accuracy", True, lambda name: name.startswith("diagnosis/") and name.endswith("/natural")),
    ("robust accuracy", True, lambda name: name.startswith("diagnosis/") and _ROBUST.search(name) is not None),
    ("accuracy on another's adversarial images", True, lambda name: "/on images of " in name),
    ("distance between weights", False, lambda name: name.startswith("diagnosis/distance/")),
    ("cosine between gradients", False, lambda name: name.startswith("diagnosis/cosine/")),
    ("regret", False, lambda name: name.startswith("regret/") and _is_regret(name.removeprefix("regret/"))),
    ("Theorem 1", False, lambda name: name.removeprefix("regret/") in _BOUND and name.startswith("regret/")),
)
_BOUND = ("global", "best", "bound")
_PARTS = (" suffered", " least")  # from which runs are compared with each other
_TOLD = {
    "tradeoff": "tradeoff regret",
    "global": "global learner's loss",
    "best": "least loss seen",
    "bound": "bound on the former",
}


def _is_regret(name: str) -> bool:
    return name not in (*_BOUND, "deviation") and not name.endswith(_PARTS)


@dataclass(frozen=True)
class Diagnosed:
    """A run's charts, and what is to be said of them."""

    label: str
    charts: list[Chart]
    notes: list[str] = field(default_factory=list)


def diagnosed(runs: Sequence[Run], labels: Mapping[str, str]) -> list[Diagnosed]:
    """The runs that were diagnosed or whose learners were embedded. labels: of each group's key. Raises: RunError for a
    damaged file.
    """
    panels = []
    for run in runs:
        charts = [*curves(run), *embedded(run.path / EMBEDDING)]
        if charts:
            name = f"{labels.get(group_of(run), run.name)}, seed {run.experiment.get('seed', '-')}"
            panels.append(Diagnosed(name, charts, _notes(run)))
    return panels


def redistributions(experiment: Mapping[str, Any]) -> list[int]:
    """The epochs at which Generalist's learners become the global one, from a run's settings; none for other
    methods.
    """
    method, epochs = experiment.get("method", {}), experiment.get("epochs", 0)
    if not isinstance(method, Mapping) or method.get("type") != "Generalist" or method.get("redistribute") == "never":
        return []
    first = method["redistribute_from"] * epochs - 1e-9
    every = 1 if method.get("redistribute_unit") == "steps" else method["redistribute_every"]
    return [epoch for epoch in range(1, epochs + 1) if epoch >= first and epoch % every == 0]


def curves(run: Run) -> list[Chart]:
    """A chart for each kind of diagnosis, with a line for each learner or pair; upright lines are redistributions."""
    if not any(name.startswith(("diagnosis/", "regret/")) for name in set().union(*run.metrics)):
        return []
    metrics = {
        name: [(x, y) for x, y in points if math.isfinite(y)]
        for name, points in run.curves().items()
        if name.startswith(("diagnosis/", "regret/"))
    }
    charts = []
    for title, share, belongs in _FAMILIES:
        lines = {_line_name(name): points for name, points in metrics.items() if belongs(name) and points}
        if lines:
            charts.append(_chart(title, share, lines, redistributions(run.experiment)))
    return charts


def _line_name(metric: str) -> str:
    if metric.startswith("regret/"):
        last = metric.removeprefix("regret/")
        return _TOLD.get(last, last)
    last = metric.removeprefix("diagnosis/")
    last = _ROBUST.sub(lambda found: f" ({found[1].strip()})" if found[1] else "", last)
    last = last.removeprefix("distance/").removeprefix("cosine/").removesuffix("/natural")
    return last.replace("/on images of ", " on images of ")


def _chart(title: str, share: bool, lines: Mapping[str, Sequence[tuple[float, float]]], marked: Sequence[int]) -> Chart:
    scale = 100 if share else 1
    last = max(x for points in lines.values() for x, _ in points)
    series = tuple(Series(name, tuple(Point(x, scale * y) for x, y in points)) for name, points in lines.items())
    upright = tuple(float(epoch) for epoch in marked if epoch <= last)
    note = "% by epoch" if share else "by epoch"
    return chart("curves", Panel(title, "epoch", "", series, marked=upright, note=note))


def _notes(run: Run) -> list[str]:
    """The attack that learners were measured under, and what the theory's numbers are of."""
    diagnosis = run.experiment.get("diagnosis")
    attacks = [line["diagnosis/attack"] for line in run.metrics if "diagnosis/attack" in line]
    notes = [f"Robust accuracy is under {_attack(attacks[-1])}."] if attacks else []
    if not isinstance(diagnosis, Mapping) or not any(name.startswith("regret/") for name in run.curves()):
        return notes
    rounds = len(run.curves().get("regret/tradeoff", []))
    loss = {"zero_one": "0-1 loss", "clipped_cross_entropy": "cross-entropy, clipped at 1"}.get(
        str(diagnosis.get("loss")), "loss"
    )
    return [
        *notes,
        (
            f"Regrets and bound are of the {loss}, on fixed images, after {rounds} measured epochs (T); the infimum"
            f" over all weights is replaced by the best network seen, and delta is {diagnosis.get('delta')}. The"
            " theorem asks for convex losses: for networks the bound is a diagnostic, not a guarantee; above 1 it says"
            " nothing, as losses end there."
        ),
    ]


# -- t-SNE ------------------------------------------------------------------------------------------------------------


def embedded(path: Path) -> list[Chart]:
    """One chart for each embedded epoch: colours are classes, shapes are learners. None without the file. Raises:
    RunError.
    """
    if not path.is_file():
        return []
    try:
        data = opened(parse(read_text(path)), required=False)
        labels, classes = [int(label) for label in data["labels"]], [str(name) for name in data["classes"]]
        kind, note = _what(data)
        names = [classes[label] for label in labels]
        return [
            chart("embedding", _cloud(f"t-SNE of {kind}, epoch {epoch['epoch']}", epoch["points"], names, note))
            for epoch in data["epochs"]
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}); make it again with: poise embed {path.parent}"
        ) from None


def _what(data: Mapping[str, Any]) -> tuple[str, str]:
    """What was embedded, and a caption; a file that does not say was made when features were all there was."""
    if data.get("of", "features") == "features":
        return "features", "penultimate ones, of natural images (Zipper's Fig. 6 is of adversarial images)"
    return "adversarial images", f"against each learner by {_attack(data['attack'])}, as pixels (Zipper, Fig. 6)"


def _attack(told: Mapping[str, Any]) -> str:
    threat = told["settings"]["threat"]
    return f"{told['name']} within {threat['type']} {spelled(float(threat['epsilon']))}"


def _cloud(title: str, points: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], note: str) -> Panel:
    if any(len(cloud) != len(names) for cloud in points.values()):
        raise ValueError(f"{len(names)} labels for clouds of {[len(cloud) for cloud in points.values()]} points")
    series = tuple(
        Series(learner, tuple(Point(float(x), float(y), name=name) for (x, y), name in zip(cloud, names, strict=True)))
        for learner, cloud in points.items()
    )
    return Panel(title, "", "", series, note=note)
