"""One self-contained page about a set of runs; it loads nothing, so it opens offline and can be mailed.

Its charts are Vega-Lite specifications, plain data that the runtime inside the page draws; a policy in its head lets
no other script run, nothing be loaded and no text be evaluated. Without scripts there are static pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from poise.core.files import write_text
from poise.core.identity import chosen_on_own_test_images
from poise.core.records import EvaluationRecord
from poise.core.wording import flatten
from poise.reports.collect import Run, read_runs
from poise.reports.diagnostics import diagnosed
from poise.reports.experts import COLUMNS, experts_rows
from poise.reports.figures.still import colour, marker
from poise.reports.figures.vega import CONFIG
from poise.reports.gallery import read_gallery
from poise.reports.plots import (
    Chart,
    class_charts,
    confusion_chart,
    curve_charts,
    epsilon_charts,
    group_of,
    tradeoff,
)
from poise.reports.proof import comparisons
from poise.reports.sanity import verdict_sections
from poise.reports.statistics import Group
from poise.reports.tables import Checkpoints, Table, table

_NAME = "report.html"
KEY = '<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{}</svg>'


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
    environment.filters["drawn"] = Markup  # markup made by still.py, which escapes every text it is given
    charts: list[Chart] = []

    def numbered(chart: Chart) -> int:
        charts.append(chart)
        return len(charts) - 1

    def plain_data() -> str:
        return _json({"config": CONFIG, "charts": [chart.spec for chart in charts]})

    scatter, curves = tradeoff(results, places), curve_charts(runs, places, labels)
    learners, verdicts = diagnosed(runs, labels), verdict_sections(runs, labels)
    over_epsilon, gallery = epsilon_charts(results, places), _galleries(runs, labels)
    experts = experts_rows(results)
    sections = {
        "results": ("Accuracy", True),
        "by-expert": ("Experts", experts),
        "trade-off": ("Trade-off", scatter),
        "measured": ("Protocol", True),
        "epsilon": ("Over epsilon", over_epsilon),
        "training": ("Training", curves["monitor"] or curves["other"]),
        "learners": ("Base learners", learners),
        "sanity": ("Sanity", verdicts),
        "classes": ("Classes", True),
        "examples": ("Examples", gallery["galleries"]),
        "runs": ("Runs", True),
    }
    scripts = [_asset("page", "vega.js"), _asset("templates", "report.js")]
    return environment.get_template("report.html.j2").render(
        title=title or _title(labels),
        policy=_policy(scripts),
        scripts=scripts,
        numbered=numbered,
        plain_data=plain_data,
        key=lambda place, plain=False: Markup(_key(place, plain)),
        colour=colour,
        subtitle=_subtitle(results, runs),
        table=results,
        varied={
            "data": len({row.data for row in results.rows}) > 1,
            "checkpoint": len({row.checkpoint for row in results.rows}) > 1,
        },
        places=places,
        labels=labels,
        proof=proof if len(groups) > 1 and proof.comparisons else None,
        contents=[(name, title) for name, (title, there) in sections.items() if there],
        blocks=[(block, [row for row in results.rows if row.block == block]) for block in _blocks(results)],
        methods={labels[key]: place for key, place in places.items()},
        experts={"columns": COLUMNS, "rows": experts},
        protocol=_protocol(results, runs),
        curves=curves,
        diagnosed=learners,
        scatter=scatter,
        over_epsilon=over_epsilon,
        classes=class_charts(results, groups, places, labels),
        confusions=confusion_chart(results, groups, labels),
        gallery=gallery,
        waiting=[run.path for run in runs if not run.records],
        verdicts=verdicts,
        **_settings(runs, labels, places),
    )


def _key(place: int, plain: bool) -> str:
    """The mark of a place for a legend; plain: its shape alone, where colours stand for something else."""
    mark = marker(place, 8, 8, 5)
    return KEY.format(mark.replace(f'class="{colour(place)} ', 'class="none ') if plain else mark)


def _asset(folder: str, name: str) -> str:
    return (files("poise.reports") / folder / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run these scripts, draw, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources_allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {sources_allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri"
        " 'none'; form-action 'none'"
    )


def _json(data: object) -> str:
    """JSON that can stand inside a script element, whatever its texts are."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _blocks(results: Table) -> list[tuple[str, str]]:
    return list(dict.fromkeys(row.block for row in results.rows))


def _block(results: Table, group: Group) -> tuple[str, str]:
    return next(row.block for row in results.rows if row.group is group)


def _title(labels: Mapping[str, str]) -> str:
    names = list(labels.values())
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"


def _subtitle(results: Table, runs: Sequence[Run]) -> list[str]:
    records = [record for run in runs for record in run.records.values()]
    evaluated_count = sum(1 for run in runs if run.records)
    return [
        *dict.fromkeys(row.data for row in results.rows),
        f"protocol {', '.join(dict.fromkeys(record.protocol for record in records))}",
        f"{evaluated_count} run{'s' if evaluated_count != 1 else ''}",
        max(record.started for record in records)[:10],
    ]


def _protocol(results: Table, runs: Sequence[Run]) -> dict[str, Any]:
    """How each column was measured, and how the checkpoints were chosen."""
    columns = [(column.label, flatten(column.settings)) for column in results.columns if column.settings is not None]
    sentences = dict.fromkeys(
        (str(run.experiment.get("selection", "")), str(run.experiment.get("criterion", "")))
        for run in runs
        if run.experiment
    )
    own_images = any(chosen_on_own_test_images(run.experiment) for run in runs)
    as_papers = "on the test set itself" + (", which flatters them there" if own_images else ", as the papers did")
    where = {"held-out": "on images held out from training", "test": as_papers}
    selection = [
        (
            "The last epoch was selected, without a look at accuracies."
            if criterion == "last"
            else f"Selected checkpoints were chosen {where.get(selection, selection)}"
            + (f" (criterion: {criterion})." if criterion else ".")
        )
        for selection, criterion in sentences
        if selection
    ]
    seeds = sorted({record.evaluation_seed for run in runs for record in run.records.values()})
    return {"columns": columns, "selection": list(dict.fromkeys(selection)), "seeds": ", ".join(map(str, seeds))}


def _first(run: Run) -> EvaluationRecord | None:
    return next(iter(run.records.values()), None)


def _galleries(runs: Sequence[Run], labels: Mapping[str, str]) -> dict[str, Any]:
    """The galleries of runs, of very many as many as a page bears, every method's first; and how many are left out."""
    having = [(run, record) for run in runs if run.gallery is not None and (record := _first(run)) is not None]
    firsts = {group_of(run): run for run, _ in reversed(having)}
    ordered = sorted(having, key=lambda pair: firsts[group_of(pair[0])] is not pair[0])
    examples = max(_FEWEST, min(_EXAMPLES, _ON_A_PAGE // max(1, len(ordered))))
    galleries_here = ordered[: _ON_A_PAGE // examples]
    galleries = []
    for run, record in galleries_here:
        assert run.gallery is not None
        checkpoint = run.gallery.stem.removeprefix("gallery").removeprefix("-").replace("_", " ") or "one"
        title = f"{labels.get(group_of(run), run.name)}, seed {record.seed}, {checkpoint} checkpoint"
        galleries.append((title, read_gallery(run.gallery, record.classes, examples)))
    classes = sorted({example.label for _, gallery in galleries for example in gallery.examples})
    return {"galleries": galleries, "classes": classes, "left_out": len(ordered) - len(galleries_here)}


_EXAMPLES, _FEWEST, _ON_A_PAGE = 12, 3, 60
"""Examples of a run, the fewest of one, and the most on a page."""


def _settings(runs: Sequence[Run], labels: Mapping[str, str], places: Mapping[str, int]) -> dict[str, Any]:
    """Each run with the settings that are its own, and those that all runs have in common."""
    flat = [flatten(run.experiment) if run.experiment else {} for run in runs]
    settings_known = [settings for settings in flat if settings]
    common = (
        {
            name: value
            for name, value in settings_known[0].items()
            if all(settings_each.get(name, ...) == value for settings_each in settings_known)
        }
        if len(settings_known) > 1
        else {}
    )
    settings_own = [{name: value for name, value in settings.items() if name not in common} for settings in flat]
    about = [_about(run, settings, labels, places) for run, settings in zip(runs, settings_own, strict=True)]
    return {"common": common, "runs": about}


def _about(
    run: Run, settings: Mapping[str, str], labels: Mapping[str, str], places: Mapping[str, int]
) -> dict[str, Any]:
    record, key = _first(run), group_of(run)
    facts = {}
    for record_of_run in run.records.values():
        name = record_of_run.checkpoint or "checkpoint"
        facts[f"{name}: weights"] = record_of_run.model_digest
        facts[f"{name}: evaluated"] = (
            f"{record_of_run.started}, {record_of_run.seconds:,.1f} s, protocol {record_of_run.protocol}"
        )
        if record_of_run.lacking:
            facts[f"{name}: not known"] = ", ".join(record_of_run.lacking)
    if record is not None:
        if record.training_seconds is not None:
            facts["trained"] = f"{record.training_seconds / 60:,.2f} minutes"
        facts |= {
            "device": record.device,
            **{f"version of {name}": str(version) for name, version in record.versions.items()},
        }
    return {
        "label": labels.get(key, run.name),
        "key": places.get(key, -1),
        "folder": run.path.name,
        "seed": record.seed if record is not None else run.experiment.get("seed", "-"),
        "facts": facts,
        "settings": settings,
        "epochs": run.epochs,
        "seconds": sum(record_of_run.seconds for record_of_run in run.records.values()),
    }
