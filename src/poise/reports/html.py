"""One self-contained page about a set of runs; it loads nothing, so it opens offline and can be mailed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.files import write_text
from poise.core.identity import chosen_on_own_test_images
from poise.core.records import EvaluationRecord
from poise.core.wording import flatten
from poise.reports.collect import Run, read_runs
from poise.reports.diagnostics import diagnosed
from poise.reports.experts import COLUMNS, experts_rows
from poise.reports.gallery import Gallery, read_gallery
from poise.reports.plots import class_panels, curve_panels, group_of, tradeoff
from poise.reports.proof import comparisons
from poise.reports.sanity import verdict_sections
from poise.reports.statistics import Group
from poise.reports.svg import marker, wrap
from poise.reports.tables import Checkpoints, Table, table

_NAME = "report.html"


def write_report(
    paths: str | Path | Iterable[str | Path],
    out: str | Path,
    title: str | None = None,
    checkpoints: Checkpoints = "both",
    baseline: str | None = None,
) -> Path:
    """Write the page about the runs at `paths` (see `read_runs`) to `out`, a file, or a folder that gets report.html.

    baseline: what each method is held against under "What is proven" (see `comparisons`).
    Raises: RunError for whatever `read_runs` and `comparisons` refuse and for a damaged gallery.
    """
    out = Path(out)
    return write_text(out / _NAME if out.is_dir() else out, render(read_runs(paths), title, checkpoints, baseline))


def render(
    runs: Sequence[Run], title: str | None = None, checkpoints: Checkpoints = "both", baseline: str | None = None
) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    results = table(runs, checkpoints)
    groups = [group for group in results.groups if _block(results, group) == results.rows[0].block]
    labels, proof = results.labels, comparisons(results, baseline)
    places = {key: place for place, key in enumerate(dict.fromkeys(group.key for group in results.groups))}
    environment = Environment(
        loader=PackageLoader("poise.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup  # markup made by svg.py, which escapes every text it is given
    return environment.get_template("report.html.j2").render(
        title=title or _title(labels),
        subtitle=_subtitle(results, runs),
        table=results,
        varied={
            "data": len({row.data for row in results.rows}) > 1,
            "checkpoint": len({row.checkpoint for row in results.rows}) > 1,
        },
        keys={key: wrap(16, 16, labels[key], [marker(place, 8, 8, 5)]) for key, place in places.items()},
        labels=labels,
        proof=proof if len(groups) > 1 and proof.comparisons else None,
        experts={"columns": COLUMNS, "rows": experts_rows(results)},
        protocol=_protocol(results, runs),
        curves=curve_panels(runs, places, labels),
        diagnosed=diagnosed(runs, labels),
        scatter=tradeoff(results, places),
        classes=class_panels(results, groups, places, labels),
        galleries=_galleries(runs, labels),
        waiting=[run.path for run in runs if not run.records],
        verdicts=verdict_sections(runs, labels),
        runs=[_about(run, labels, places) for run in runs],
    )


def _block(results: Table, group: Group) -> tuple[str, str]:
    return next(row.block for row in results.rows if row.group is group)


def _title(labels: Mapping[str, str]) -> str:
    names = list(labels.values())
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"


def _subtitle(results: Table, runs: Sequence[Run]) -> list[str]:
    records = [record for run in runs for record in run.records.values()]
    evaluated = sum(1 for run in runs if run.records)
    return [
        *dict.fromkeys(row.data for row in results.rows),
        f"protocol {', '.join(dict.fromkeys(record.protocol for record in records))}",
        f"{evaluated} run{'s' if evaluated != 1 else ''}",
        max(record.started for record in records)[:10],
    ]


def _protocol(results: Table, runs: Sequence[Run]) -> dict[str, Any]:
    """How each column was measured, and how the checkpoints were chosen."""
    columns = [(column.label, flatten(column.settings)) for column in results.columns if column.settings is not None]
    chosen = dict.fromkeys(
        (str(run.experiment.get("selection", "")), str(run.experiment.get("criterion", "")))
        for run in runs
        if run.experiment
    )
    own = any(chosen_on_own_test_images(run.experiment) for run in runs)
    as_papers = "on the test set itself" + (", which flatters them there" if own else ", as the papers did")
    where = {"held-out": "on images held out from training", "test": as_papers}
    selection = [
        (
            "The last epoch was selected, without a look at accuracies."
            if criterion == "last"
            else f"Selected checkpoints were chosen {where.get(selection, selection)}"
            + (f" (criterion: {criterion})." if criterion else ".")
        )
        for selection, criterion in chosen
        if selection
    ]
    seeds = sorted({record.evaluation_seed for run in runs for record in run.records.values()})
    return {"columns": columns, "selection": list(dict.fromkeys(selection)), "seeds": ", ".join(map(str, seeds))}


def _first(run: Run) -> EvaluationRecord | None:
    return next(iter(run.records.values()), None)


def _galleries(runs: Sequence[Run], labels: Mapping[str, str]) -> list[tuple[str, Gallery]]:
    galleries = []
    for run in runs:
        record = _first(run)
        if run.gallery is not None and record is not None:
            which = run.gallery.stem.removeprefix("gallery").removeprefix("-").replace("_", " ") or "one"
            title = f"{labels.get(group_of(run), run.name)}, seed {record.seed}, {which} checkpoint"
            galleries.append((title, read_gallery(run.gallery, record.classes)))
    return galleries


def _about(run: Run, labels: Mapping[str, str], places: Mapping[str, int]) -> dict[str, Any]:
    record, key = _first(run), group_of(run)
    facts = {}
    for kept in run.records.values():
        facts[f"{kept.checkpoint or 'checkpoint'}: weights"] = kept.model_digest
        facts[f"{kept.checkpoint or 'checkpoint'}: evaluated"] = (
            f"{kept.started}, {kept.seconds:,.1f} s, protocol {kept.protocol}"
        )
    if record is not None:
        facts |= {
            "device": record.device,
            **{f"version of {name}": str(version) for name, version in record.versions.items()},
        }
    return {
        "label": labels.get(key, run.name),
        "key": key if key in places else None,
        "folder": run.path.name,
        "seed": record.seed if record is not None else run.experiment.get("seed", "-"),
        "facts": facts,
        "settings": flatten(run.experiment) if run.experiment else {},
        "epochs": max((int(point[0]) for points in run.curves().values() for point in points), default=0),
        "seconds": sum(kept.seconds for kept in run.records.values()),
    }
