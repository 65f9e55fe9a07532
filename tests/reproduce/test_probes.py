"""What figures show of the networks themselves, where the answer is known."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from poise.data import Digits, Split
from poise.engine import train
from poise.losses import cross_entropy
from poise.models import Collaboration, DigitsCNN, Ensemble
from poise.recipes.items import Line, item
from poise.reports.figures.draw import draw, write
from poise.reports.figures.series import Panel
from poise.reproduce.plan import Work
from poise.reproduce.probes import BUDGETS, GRID, Asked, angles, budget, embedding, labels, surface
from poise.reproduce.scales import at_scale
from poise.threats import Linf

LINE = Line("a network", "at_digits")


def asked(model: Ensemble | Collaboration | DigitsCNN, count: int = 6, epsilon: float = 0.05) -> Asked:
    images = torch.randint(80, 180, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Asked(
        LINE,
        model.build((1, 8, 8), 10, 0).eval(),
        Split(images, torch.arange(count) % 10, torch.arange(count)),
        Linf(epsilon=epsilon),
    )


SMALL = DigitsCNN(width=4)


def test_collaborative_examples_lose_less_the_larger_their_budget() -> None:
    one = asked(SMALL)
    points = budget(one).points
    assert [point.x for point in points] == [0, *(share * 0.05 for share in BUDGETS)]
    with torch.no_grad():
        natural = cross_entropy(one.network(one.split.pixels()), one.split.labels)
    assert points[0].y == pytest.approx(float(natural.mean()), abs=1e-6)
    assert points[0].high == pytest.approx(float(natural.mean() + natural.std(correction=0) / 2), abs=1e-6)
    assert all(a.y > b.y for a, b in itertools.pairwise(points))


def test_after_one_step_the_two_perturbations_are_opposite_and_later_less() -> None:
    series = angles(asked(SMALL))
    assert [each.label for each in series] == ["1 step", "2 steps", "5 steps", "10 steps", "20 steps", "100 steps"]
    assert all(sum(point.y for point in each.points) == pytest.approx(1) for each in series)
    means = [sum(point.x * point.y for point in each.points) for each in series]
    assert means[0] == pytest.approx(177.5), "all in the last bin"
    assert means[-1] < 170


def test_a_surface_has_the_images_own_loss_in_its_middle_and_falls_along_u() -> None:
    one = asked(SMALL, 1)
    panel = surface(one)
    assert panel.field is not None
    heights = np.array(panel.field.values)
    with torch.no_grad():
        own = float(cross_entropy(one.network(one.split.pixels()), one.split.labels))
    middle = GRID // 2
    assert heights.shape == (GRID, GRID) and heights[middle, middle] == pytest.approx(own, abs=1e-5)
    assert heights[middle, -1] < heights[middle, middle] < heights[middle, 0], "u is the collaborative direction"


@pytest.mark.parametrize(
    ("model", "count"),
    [(Ensemble(member=SMALL, members=2), 3), (Collaboration(member=SMALL, members=2), 3), (SMALL, 1)],
)
def test_labels_are_those_of_each_sub_model_and_of_the_whole(
    model: Ensemble | Collaboration | DigitsCNN, count: int
) -> None:
    one = asked(model, 1)
    panels = labels(one)
    assert [panel.title for panel in panels][-1] == "a network, whole" and len(panels) == count
    whole = panels[-1].field
    assert whole is not None and whole.right == 0
    with torch.no_grad():
        assert whole.values[GRID // 2][GRID // 2] == int(one.network(one.split.pixels()).argmax(1))


@pytest.mark.parametrize("kind", ["surface", "labels", "histogram", "budget"])
def test_each_kind_is_drawn_with_its_numbers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    one = asked(SMALL, 1)
    panels = {
        "surface": lambda: [surface(one)],
        "labels": lambda: labels(one),
        "histogram": lambda: [Panel("", "angle", "share", angles(one))],
        "budget": lambda: [Panel("", "budget", "loss", (budget(one),))],
    }[kind]()
    paths = write(draw(kind, panels, "a title & more"), panels, tmp_path / "figure")
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png", ".csv"]
    assert "a title &amp; more" in paths[1].read_text() and b"/Type3" not in paths[0].read_bytes()
    rows = list(csv.DictReader(io.StringIO(paths[3].read_text())))
    assert len(rows) == {"surface": GRID**2, "labels": GRID**2, "histogram": 6 * 36, "budget": 5}[kind]


def test_an_embedding_has_a_panel_for_each_epoch_that_the_run_kept(tmp_path: Path) -> None:
    made = at_scale(item("zipper/fig6").lines[0], "digits", 0)
    data = Digits(train_images=60, test_images=20)
    small = dataclasses.replace(made, data=data, epochs=2, keep_epochs=(1, 2), diagnosis=None, monitor_every=2)
    train(small, tmp_path / "run")
    panels = embedding(Work(item("zipper/fig6").lines[0], small, tmp_path / "run", ()), 12, "cpu", None)
    assert [panel.title for panel in panels] == ["epoch 1", "epoch 2"]
    assert all({each.label for each in panel.series} == {"natural", "robust"} for panel in panels)
    assert all(len(each.points) == 12 for panel in panels for each in panel.series)
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    figure = draw("embedding", panels, "title")
    assert len(figure.axes) == 2
