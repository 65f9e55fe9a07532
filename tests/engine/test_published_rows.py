"""A paper's row goes as soon as anything that defines the experiment differs, and the label then says what it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from poise.attacks import PGD
from poise.core.overrides import override
from poise.core.settings import to_json
from poise.engine import Experiment
from poise.engine.experiment import Monitor, remarks
from poise.engine.published import Published, belongs, fingerprint
from poise.evaluation import Protocol, named
from poise.models import VGG16
from poise.recipes import experiment, recipes
from poise.threats import Linf

TRADES, HEADLINE = "trades_cifar10_resnet18", "generalist_cifar10_resnet18"
CHANGES: tuple[tuple[str, list[str], str], ...] = (
    (TRADES, ["method.beta=1", "model=VGG16", "epochs=3"], "TRADES, beta 1, VGG-16, 3 epochs"),
    ("trades1_cifar10_resnet18", ["model=VGG16", "epochs=3"], "TRADES, beta 1, VGG-16, 3 epochs"),
    (TRADES, ["model.width=8"], "TRADES, ResNet-18, width 8"),
    (TRADES, ["model=WideResNet"], "TRADES, WRN-34-10"),
    (TRADES, ["epochs=1"], "TRADES, 1 epoch"),
    (TRADES, ["data=CIFAR100"], "TRADES, CIFAR100"),
    (TRADES, ["data.train_images=500"], "TRADES, 500 training images"),
    (TRADES, ["method.divergence=js"], "TRADES, divergence js"),
    (TRADES, ["method.inner.steps=5"], "TRADES, inner steps 5"),
    (TRADES, ["method.inner.threat.epsilon=4/255"], "TRADES, inner epsilon 4/255"),
    (TRADES, ["method.optimizer.learning_rate=0.1"], "TRADES, learning rate 0.1"),
    (TRADES, ["method.augmentation=none"], "TRADES, augmentation none"),
    (TRADES, ["method.batch_size=256"], "TRADES, batch size 256"),
    (TRADES, ["selection=held-out"], "TRADES, selection held-out"),
    (TRADES, ["criterion=robust"], "TRADES, criterion robust"),
    (TRADES, ["initial=runs/other"], "TRADES, initial yes"),
    (TRADES, ["method.objective=AT"], "AT"),
    (
        HEADLINE,
        ["method.robust.optimizer.learning_rate=0.05"],
        "Generalist (natural: NT, robust: AT), robust learning rate 0.05",
    ),
    (HEADLINE, ["method.gamma.values=1,1,1,0"], "Generalist (natural: NT, robust: AT), gamma values 1, 1, 1, 0"),
    (HEADLINE, ["method.robust=TRADES", "method.robust.beta=3"], "Generalist (natural: NT, robust: TRADES, beta 3)"),
    (
        "ablation_c_3_cifar10",
        ["epochs=3", "method.redistribute_every=1"],
        "Generalist: redistribution every 3 epochs (Fig. 2), redistribute every 1, 3 epochs",
    ),
)


@pytest.mark.parametrize(("name", "settings", "title"), CHANGES)
def test_a_changed_experiment_has_no_row_and_says_what_it_is(name: str, settings: list[str], title: str) -> None:
    changed = override(experiment(name), settings)
    assert (changed.published, changed.also_published, changed.rows) == (None, (), ())
    assert changed.label.startswith(title)


HOW = (
    "seed=3",
    "name=other",
    "keep_last=3",
    "save_every=2",
    "compile=off",
    "placement=by-data",
    "data.download=false",
    "deterministic=false",
    "method.microbatch=32",
)


@pytest.mark.parametrize("setting", HOW)
def test_how_it_is_run_and_kept_leaves_it_its_rows(setting: str) -> None:
    made = experiment(TRADES)
    changed = override(made, [setting])
    assert changed.rows == made.rows and len(made.rows) == 1


def test_a_title_follows_settings_that_are_changed_again() -> None:
    once = override(experiment(TRADES), ["method.beta=1", "epochs=3"])
    twice = override(once, ["method.beta=2", "model=VGG16"])
    assert (once.title, twice.title) == ("TRADES, beta 1, 3 epochs", "TRADES, 3 epochs, VGG-16, beta 2")
    assert override(twice, ["epochs=4", "title=mine"]).title == "mine"


def test_an_experiment_that_is_changed_in_code_shows_no_row_either() -> None:
    made = experiment(TRADES)
    for changed in (dataclasses.replace(made, epochs=3), dataclasses.replace(made, model=VGG16())):
        assert changed.rows == () and changed.label == f"{TRADES}, changed"
    judged = dataclasses.replace(made, protocol=named("pgd-trades").at())
    assert judged.rows == (), "by what its numbers were measured is not known any more"


@pytest.mark.parametrize("name", [TRADES, "ablation_c_3_cifar10", "soe_cifar10_resnet20x3_eps0.03", "st_svhn_resnet18"])
def test_a_quick_variant_has_no_row_and_is_called_so(name: str) -> None:
    small = experiment(name, quick=True)
    assert (small.published, small.also_published) == (None, ())
    assert "quick" in small.label
    assert experiment(name).rows


def test_every_recipe_has_the_rows_that_it_carries() -> None:
    for name in recipes():
        made = experiment(name)
        carried = [row for row in (made.published, *made.also_published) if row is not None]
        assert list(made.rows) == carried, name
        assert all(row.of == fingerprint(made) for row in carried)


def test_another_protocol_leaves_each_printed_number_with_the_attack_that_it_is_of() -> None:
    made = experiment("st_cifar10_wrn34-10")
    changed = override(made, ["protocol=squeeze"])
    row, *_ = changed.rows
    own = row.measured(changed.protocol)["PGD-20"]
    assert own == [to_json(PGD(threat=Linf(epsilon=0.031), step_size=0.003))]
    assert own == made.rows[0].measured(made.protocol)["PGD-20"]
    assert to_json(changed.protocol.attacks[1]) not in own


def test_what_is_known_of_a_row_is_no_part_of_what_names_a_group() -> None:
    row = Published(table="T", columns=("natural",), values=(90.0,))
    made = Experiment(published=row)
    known = dataclasses.replace(row, plus_minus="95 % interval", protocol=Protocol(), of="x")
    assert dataclasses.replace(made, published=known).group == made.group
    assert dataclasses.replace(made, published=dataclasses.replace(row, values=(91.0,))).group != made.group
    assert made.group == "experiment-1d25eee2"


def test_monitors_that_choose_the_epoch_define_it_and_others_do_not() -> None:
    made = experiment(TRADES)
    more = dataclasses.replace(made, monitors=(*made.monitors, Monitor(name="train", split="train")))
    other = dataclasses.replace(made, monitors=(made.monitors[0], Monitor(name="PGD-5", attack=PGD(steps=5))))
    assert (len(more.rows), len(other.rows)) == (1, 0)


def test_a_row_of_ones_own_is_shown_whatever_carries_it() -> None:
    row: Any = Published(table="mine", columns=("natural",), values=(90.0,))
    assert belongs(row, Experiment(epochs=3, published=row))


def test_the_intervals_of_squeeze_training_and_the_deviations_of_others_say_what_they_are() -> None:
    kinds: dict[str, set[str]] = {}
    for name in recipes():
        for row in experiment(name).rows:
            if any(value is not None for value in row.spread):
                kinds.setdefault(row.table.split(",")[0], set()).add(row.plus_minus)
    assert kinds == {
        "Squeeze Training": {"95 % interval"},
        "Synergy-of-Experts": {"not stated"},
        "Zipper": {"standard deviation"},
    }


OWN = ['data={"type": "Folder", "path": "photos"}']


def test_on_data_of_ones_own_the_epoch_is_chosen_on_held_out_images_and_else_a_sentence_says_so() -> None:
    made = experiment(TRADES)
    assert made.selection == "test" and not remarks(made)
    own = override(made, OWN)
    assert own.selection == "held-out" and not remarks(own)
    asked = override(made, [*OWN, "selection=test"])
    assert asked.selection == "test"
    (sentence,) = remarks(asked)
    assert "chosen on the test images of your own data" in sentence and "selection=held-out" in sentence
    assert not remarks(override(asked, ["criterion=last"]))
    assert override(made, ["data=SVHN"]).selection == "test"
