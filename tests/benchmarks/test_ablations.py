"""The ablations that are benchmarked exist, their claims are about them, and every ablation recipe on digits is in
one.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from benchmarks.placement import FULL, QUICK, SERIAL, Sent, Trainer, contenders
from experiments.ablations import ABLATIONS, CLAIMS, HEADLINE, LONGEST, RECIPES

from poise.core.batches import Now
from poise.core.distributed import ALONE
from poise.methods import Generalist
from poise.recipes import experiment, recipes
from poise.reports.statistics import NATURAL, SUM, WORST

SAME_AS_HEADLINE = {"ablation_c_2_digits", "ablation_wa_none_digits"}


def test_every_ablation_on_digits_is_in_one_group():
    made = {name for name in recipes() if name.startswith("ablation_") and name.endswith("_digits")}
    rare = {f"ablation_c_{c}_digits" for c in range(LONGEST + 1, 16)}
    assert set(RECIPES) == made - SAME_AS_HEADLINE - rare | {HEADLINE, "at_digits", "at_adam_digits"}
    for name in SAME_AS_HEADLINE:
        assert experiment(name).method == experiment(HEADLINE).method


@pytest.mark.parametrize("name", ABLATIONS)
def test_claims_are_about_recipes_of_their_group(name):
    ablation = ABLATIONS[name]
    assert len(set(ablation.recipes)) == len(ablation.recipes) > 1
    for claim in ablation.claims():
        assert (
            {claim.better, claim.worse} <= set(ablation.recipes)
            and claim.better != claim.worse
            and claim.column in (NATURAL, WORST, SUM)
        )
    assert bool(ablation.orderings) == bool(ablation.claim)  # what is claimed is judged


def test_orderings_of_tables_are_those_of_the_published_rows():
    """Every claim from Tables 7, 8 and 9 is read off the rows that the recipes on CIFAR-10 carry."""

    def published(recipe, column):
        name = "generalist_cifar10_resnet18" if recipe == HEADLINE else recipe.replace("_digits", "_cifar10")
        row = experiment(name).published
        assert row is not None, name
        values = dict(zip(row.columns, row.values, strict=True))
        found = [values[name] for name in {NATURAL: ("natural",), WORST: ("AA",), SUM: ("natural", "AA")}[column]]
        return sum(value for value in found if value is not None) if None not in found else None

    tables = [claim for claim in CLAIMS if "Table" in claim.source]
    assert len(tables) == 23
    for claim in tables:
        better, worse = published(claim.better, claim.column), published(claim.worse, claim.column)
        assert better is not None and worse is not None and better > worse, claim


@pytest.mark.parametrize("setting", [FULL, QUICK], ids=["full", "quick"])
def test_the_shrunk_schedule_keeps_the_papers_proportions(setting):
    method = contenders(setting)["Generalist, idle learners left idle"].method
    assert isinstance(method, Generalist)
    times = Trainer(contenders(setting)[SERIAL], setting, ALONE, None).times()
    assert times["a step that redistributes"] / setting.epochs == pytest.approx(10 / 24, abs=0.1)
    assert times["any other step"] + times["a step that redistributes"] == setting.epochs * setting.batches
    idle = [
        epoch
        for epoch in range(1, setting.epochs + 1)
        if method.is_idle("natural", Now(epoch, 0, setting.epochs, setting.batches, 0))
    ]
    assert len(idle) / setting.epochs == pytest.approx(79 / 120, abs=0.1)


def test_what_is_sent_is_counted_by_what_is_done(monkeypatch):
    for name in ("all_reduce", "all_gather", "send"):
        monkeypatch.setattr(dist, name, lambda *args, **kwargs: None)
    sent = Sent()
    dist.all_reduce(torch.zeros(3))
    sent.doing = "a step"
    dist.all_reduce(torch.zeros(3))
    dist.all_gather([], torch.zeros(2, dtype=torch.float64))
    assert sent.calls == {"a step": [12, 16]}
