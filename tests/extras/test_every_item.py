"""Every table and figure of the papers runs at the scale `quick`, on random pixels in the official formats; items share
their runs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.synthetic import WRITERS

from poise.core.progress import Progress
from poise.recipes.items import Line, items
from poise.reproduce.plan import Plan, Work, planned
from poise.reproduce.results import write
from poise.reproduce.work import Where, make

pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'; make test-extras")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for writers in WRITERS.values():
        for writer in writers:
            writer(folder)
    return folder


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced")


def small(work: Work) -> Work:
    """Fewer images and steps than `quick` has, for the test's sake; one process where learners had one each."""
    made: Any = work.experiment
    few: dict[str, Any] = {"train_images": 16, "test_images": 20, "verify": False}
    known = {field.name for field in dataclasses.fields(made.data)}
    data = dataclasses.replace(made.data, **{name: value for name, value in few.items() if name in known})
    attacks = tuple(dataclasses.replace(attack, steps=2) for attack in made.protocol.attacks)
    protocol = dataclasses.replace(made.protocol, attacks=attacks, first=12)
    method = dataclasses.replace(made.method, batch_size=16)
    monitors = tuple(dataclasses.replace(monitor, first=None) for monitor in made.monitors)
    parts = {"data": data, "method": method, "protocol": protocol, "monitors": monitors}
    changed = dataclasses.replace(made, **parts, placement="auto")
    others = tuple(dataclasses.replace(each, first=12) for each in work.protocols)
    line = dataclasses.replace(work.line, by_learner=False)
    return dataclasses.replace(work, line=line, experiment=changed, protocols=others, corruptions=False)


def small_plan(name: str, out: Path) -> Plan:
    """The item's plan; of more than ten lines two of each family, or six."""
    plan = planned(items()[name], "quick", 1, out)
    families: dict[str, list[Line]] = {}
    for line in dict.fromkeys(work.line for work in plan.works):
        families.setdefault(line.family, []).append(line)
    few = len(plan.works) > 10
    kept = [line for family, lines in families.items() for line in lines[: (2 if family else 6) if few else None]]
    works = [small(work) for work in plan.works if work.line in kept]
    picture = plan.item.picture
    if picture is not None:
        picture = dataclasses.replace(picture, images=min(picture.images, 6))
    item = dataclasses.replace(plan.item, picture=picture)
    return dataclasses.replace(plan, item=item, works=works, sources=list(map(small, plan.sources)))


@pytest.mark.parametrize("name", items())
def test_every_item_runs(name: str, root: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr("poise.reproduce.probes.DESCENT", 3)
    monkeypatch.setattr("poise.reproduce.probes.GRID", 5)
    monkeypatch.setattr("poise.reproduce.grids.STEPS", 3)
    plan = small_plan(name, out)
    make(plan, Where(data_dir=root), Progress())
    assert plan.missing == []
    shown, files = write(plan, out, data_dir=root)
    written = {path.name for path in files}
    if plan.item.lines:
        assert {"table.md", "table.csv", "table.tex", "document.tex", "report.html"} <= written
        labels = [row.label for row in shown.table.rows]
        assert all(any(label.startswith(work.line.label) for label in labels) for work in plan.works)
        assert "small variants" in shown.title
    if plan.item.picture is not None:
        assert {"figure.pdf", "figure.svg", "figure.png", "figure.csv"} <= written
