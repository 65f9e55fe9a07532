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

from poise.core.errors import RunError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.data import Digits, Split
from poise.engine import train
from poise.losses import cross_entropy
from poise.models import Collaboration, DigitsCNN, Ensemble
from poise.recipes.items import Line, item
from poise.reports.figures.draw import draw, write
from poise.reports.figures.series import Panel
from poise.reproduce import plane
from poise.reproduce.alone import ALONE
from poise.reproduce.grids import collaborative, told_apart
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


def test_collaborative_grids_show_the_image_its_perturbation_and_a_surer_network() -> None:
    one = asked(SMALL, 3)
    panel = collaborative("a network", one.network, one.split, one.threat, [str(k) for k in range(10)])
    assert [name for name, _ in panel.tiles] == ["benign", "perturbation", "collaborative"]
    benign, moved, found = (np.array([tile.pixels for tile in tiles]) for _, tiles in panel.tiles)
    assert benign.shape == (3, 8, 8) and np.allclose(benign, one.split.pixels()[:, 0].numpy())
    assert 0 < np.abs(found - benign).max() <= 0.05 + 1e-6
    assert np.allclose((moved - 0.5) * 2 * np.abs(found - benign).max(), found - benign, atol=1e-6)
    images = [torch.tensor(x).float()[:, None] for x in (benign, found)]
    with torch.no_grad():
        losses = [cross_entropy(one.network(x), one.split.labels).mean() for x in images]
    assert losses[1] < losses[0]
    assert [tile.number for tile in panel.tiles[0][1]] == one.split.ids.tolist()
    assert {tile.right for tile in panel.tiles[1][1]} == {None}


def work_with(folder: Path, label: str, natural: list[int], attacked: list[int]) -> Work:
    """A run whose record has these predictions on the first test images of Digits."""
    made = at_scale(Line(label, "at_digits", "at_digits"), "digits", 0)
    made = dataclasses.replace(made, data=Digits(train_images=60, test_images=len(natural)))
    labels = made.data.load().test.labels.tolist()
    right = [
        dataclasses.replace(
            RECORD.attacks[0], predicted=[a if a >= 0 else y for a, y in zip(attacked, labels, strict=True)]
        )
    ]
    answers = [a if a >= 0 else y for a, y in zip(natural, labels, strict=True)]
    record = dataclasses.replace(RECORD, labels=labels, natural=answers, attacks=right)
    record.write(folder / label / "records" / "selected.json")
    return Work(Line(label, "at_digits"), made, folder / label, ())


WRONG = {True: -1, False: 10}
"""What stands for the label, and what is none."""
RECORD = EvaluationRecord(
    model="AT",
    checkpoint="selected",
    model_digest="",
    run="",
    group="",
    seed=0,
    evaluation_seed=0,
    dataset="Digits",
    split="test",
    classes=[*(str(k) for k in range(10)), "none"],
    protocol="own",
    labels=[],
    natural=[],
    attacks=[AttackRecord("PGD-20", {"type": "PGD"}, [], 1.0)],
    seconds=1.0,
    started="",
    device="",
    versions={},
)


def test_grids_over_records_show_the_images_that_the_rule_chooses(tmp_path: Path) -> None:
    def answers(flags: str) -> list[int]:
        return [WRONG[flag == "r"] for flag in flags]

    works = [
        work_with(tmp_path, name, answers(natural), answers(attacked))
        for name, natural, attacked in (
            ("TRADES", "wwrr", "wwww"),
            ("FAT", "wrrw", "wwww"),
            ("Generalist", "rrww", "wwrw"),
        )
    ]
    split = works[0].experiment.data.load().test
    only, not_last = (told_apart(works, flag, None) for flag in (True, False))
    assert {name: [tile.number for tile in tiles] for name, tiles in only.tiles} == {
        "natural": [split.ids[0]],
        "under attack": [split.ids[2]],
    }
    assert {name: [tile.number for tile in tiles] for name, tiles in not_last.tiles} == {
        "natural": [split.ids[2], split.ids[3]]
    }
    tile = only.tiles[0][1][0]
    label = str(int(split.labels[0]))
    assert tile.text.splitlines() == [label, "TRADES: none", "FAT: none", f"Generalist: {label}"] and tile.right
    assert np.allclose(np.array(tile.pixels), split.pixels()[0, 0].numpy())
    assert "Generalist alone is right" in only.title and "Generalist is wrong, TRADES or FAT right" in not_last.title
    other = work_with(tmp_path, "other", answers("rr"), answers("rr"))
    with pytest.raises(RunError, match="not of the same images"):
        told_apart([*works, other], True, None)


def test_in_the_plane_a_collaboration_is_fooled_for_certain_only_where_all_of_it_is() -> None:
    made = plane.trained(steps=4)
    found = {name: plane.areas(made, name) for name in made.models}
    outside = found["single model"] == plane.OUTSIDE
    assert all(torch.equal(each == plane.OUTSIDE, outside) for each in found.values())
    rows = (torch.arange(plane.SIDE) + 0.5) / plane.SIDE
    near = (torch.linspace(0, 1, plane.GRID)[:, None] - rows).abs().amin(1) <= plane.EPSILON
    assert 1 - float(outside.float().mean()) == pytest.approx(float(near.float().mean()) ** 2)
    x, y = made.x.flatten(1), made.y
    with torch.no_grad():
        for name, field in found.items():
            answers = made.models[name](made.x).argmax(1)
            for place, (across, up) in enumerate((x * (plane.GRID - 1)).round().long().tolist()):
                value = int(field[up, across])
                assert (value == plane.RIGHT) or value in (plane.WRONG, plane.FOOLED)
                if name == "single model" and value == plane.RIGHT:
                    assert answers[place] == y[place]
    whole = torch.stack([member(made.x).argmax(1) != y for member in made.members("collaboration")]).all(0)
    places = (x * (plane.GRID - 1)).round().long()
    fooled = found["collaboration"][places[:, 1], places[:, 0]] == plane.FOOLED
    assert torch.equal(fooled, whole)
    panel = plane.vulnerability_of(made)[0]
    assert panel.field is not None and panel.field.names == plane.AREAS


def test_a_boundary_lies_where_a_network_is_undecided() -> None:
    network = plane.Points()
    with torch.no_grad():
        points = torch.tensor(plane.boundary(network))
        if len(points):
            gap = network(points.reshape(-1, 1, 1, 2))
            assert float((gap[:, 1] - gap[:, 0]).abs().max()) < 0.05


@pytest.mark.parametrize("name", ["zipper/fig1", "soe/fig2b", "soe/fig3", "soe/fig4"])
def test_diagrams_have_arrows_between_boxes_that_there_are(name: str) -> None:
    (panel,) = ALONE[name]()
    assert panel.diagram is not None
    names = {box.name for box in panel.diagram.boxes}
    assert all({start, end} <= names for start, end, _ in panel.diagram.arrows)
    assert all(box.x - box.width / 2 >= 0 and box.x + box.width / 2 <= 1 for box in panel.diagram.boxes)


@pytest.mark.parametrize("kind", ["surface", "labels", "histogram", "budget", "grid", "plane", "diagram"])
def test_each_kind_is_drawn_with_its_numbers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    one = asked(SMALL, 1)
    panels = {
        "surface": lambda: [surface(one)],
        "labels": lambda: labels(one),
        "histogram": lambda: [Panel("", "angle", "share", angles(one))],
        "budget": lambda: [Panel("", "budget", "loss", (budget(one),))],
        "grid": lambda: [collaborative("a network", one.network, one.split, one.threat, [str(k) for k in range(10)])],
        "plane": lambda: plane.vulnerability_of(plane.trained(steps=4)),
        "diagram": ALONE["soe/fig3"],
    }[kind]()
    paths = write(draw(kind, panels, "a title & more"), panels, tmp_path / "figure")
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png", ".csv"]
    assert "a title &amp; more" in paths[1].read_text() and b"/Type3" not in paths[0].read_bytes()
    rows = list(csv.DictReader(io.StringIO(paths[3].read_text())))
    count = {"surface": GRID**2, "labels": GRID**2, "histogram": 6 * 36, "budget": 5, "grid": 3}
    count |= {"plane": 3 * (plane.GRID**2 + plane.SIDE**2), "diagram": 8 + 9}
    assert len(rows) == count[kind]


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
