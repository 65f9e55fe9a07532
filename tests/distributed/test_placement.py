"""Where learners are placed, and what is refused; no second process is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.core.distributed import ALONE, World, join
from poise.core.errors import SettingsError
from poise.data import Digits, Feed, Split
from poise.engine import Experiment, train
from poise.engine.placement import (
    Placement,
    assigned,
    check_shares,
    described,
    pieces,
    placed,
    shares_changed,
    slowest,
    takes_one_image,
)
from poise.learners import Learner, Policy
from poise.learners.costs import forwards
from poise.methods import DVERGE, Generalist, Joint
from poise.models import DigitsCNN, ResNet18
from poise.objectives import AT, NT, TRADES

PAPER = {"natural": 3.0, "robust": 23.0}


class Pretended(World):
    """Ranks that are not there."""

    def part(self, ranks: Any) -> World | None:
        return World(list(ranks).index(self.rank), len(ranks)) if self.rank in ranks else None


def test_costs_are_those_of_the_paper() -> None:
    assert {name: forwards(policy) for name, policy in Generalist().policies().items()} == PAPER
    assert forwards(Policy(objective=NT())) == 3 and forwards(Policy(objective=TRADES())) == 28


@pytest.mark.parametrize(
    ("costs", "size", "ranks"),
    [
        (PAPER, 1, {"natural": [0], "robust": [0]}),
        (PAPER, 2, {"natural": [0], "robust": [1]}),
        (PAPER, 4, {"natural": [0], "robust": [1, 2, 3]}),
        ({"a": 3, "b": 23, "c": 22}, 2, {"a": [1], "b": [0], "c": [1]}),
        ({"a": 1, "b": 1, "c": 1}, 3, {"a": [0], "b": [1], "c": [2]}),
    ],
)
def test_ranks_follow_the_costs(costs: Any, size: int, ranks: Any) -> None:
    assert assigned(costs, size) == ranks
    assert {rank for held in ranks.values() for rank in held} == set(range(size))


def test_the_slowest_rank() -> None:
    assert slowest(PAPER, assigned(PAPER, 1), 1) == 26
    assert slowest(PAPER, assigned(PAPER, 2), 2) == 23
    assert slowest(PAPER, assigned(PAPER, 9), 9) == 3


@pytest.mark.parametrize(
    ("size", "spread"),
    [(1, False), (2, False), (8, True), (9, True)],
    ids=["alone", "one rank would wait for the other", "seven share the robust learner", "even"],
)
def test_auto_places_by_learner_where_that_is_even(size: int, spread: bool) -> None:
    placement = placed("auto", Generalist(), Pretended(rank=size - 1, size=size))
    assert placement.spread is spread
    assert list(placement.groups) == (["robust"] if spread else ["natural", "robust"])


def test_two_learners_of_equal_cost_go_to_a_rank_each() -> None:
    pair = Generalist(natural=Policy(objective=TRADES()), robust=Policy(objective=AT()))
    for rank, name in enumerate(("natural", "robust")):
        placement = placed("auto", pair, Pretended(rank=rank, size=2))
        assert (list(placement.groups), placement.group_of_stream(name)) == ([name], World(0, 1))
    assert not placed("by-data", pair, Pretended(rank=0, size=2)).spread
    assert not placed("auto", pair, Pretended(rank=0, size=2), diagnosing=True).spread


def test_refusals() -> None:
    with pytest.raises(
        SettingsError,
        match="placement = 'by-learner': Joint's learners meet in every step; must be 'auto' or 'by-data'",
    ):
        placed("by-learner", Joint(), World(0, 2))
    with pytest.raises(SettingsError, match="placement = 'by-learner': diagnosis compares learners"):
        placed("by-learner", Generalist(), World(0, 2), diagnosing=True)
    with pytest.raises(SettingsError, match=r"Experiment\.placement = 'by-hand'"):
        Experiment(placement="by-hand")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch_size", "world", "microbatch", "found"),
    [
        (32, 1, None, {32, 25}),
        (11, 1, None, {11, 1}),
        (32, 2, None, {16, 13, 12}),
        (32, 3, 5, {11, 10, 9, 8, 1, 5, 4, 3}),
        (1, 1, None, {1}),
    ],
)
def test_pieces_are_full_and_last_batches_parts_of_ranks_and_microbatches(batch_size, world, microbatch, found):
    split = Split.of(torch.zeros(89, 1, 8, 8, dtype=torch.uint8), torch.zeros(89, dtype=torch.int64))
    feed = Feed(Joint(batch_size=batch_size).streams()["joint"], split, 0, rank=0, world=world)
    assert pieces(feed, [] if microbatch is None else [microbatch]) == found


def test_a_last_batch_of_one_image_is_refused_where_the_network_cannot_be_trained_on_it(
    tiny: Any, tmp_path: Path
) -> None:
    alone = replace(tiny(), data=Digits(train_images=61), method=Joint(batch_size=30), model=ResNet18(width=1))
    with pytest.raises(
        SettingsError, match=r"batch_size = 30: of 61 images, .* 'joint' would train on a single image at times"
    ):
        train(alone, tmp_path / "refused", device="cpu")
    assert takes_one_image(DigitsCNN().build((1, 8, 8), 10, seed=0), (1, 8, 8))
    assert not takes_one_image(ResNet18(width=1).build((1, 8, 8), 10, seed=0), (1, 8, 8))


def test_what_ranks_cannot_share_is_refused(tiny: Any) -> None:
    experiment = tiny()
    split = experiment.data.load(None).train
    feeds = {"joint": Feed(Joint(batch_size=89).streams()["joint"], split, 0, rank=0, world=2)}
    alone, both = (
        Placement(world, {"joint": world}, spread=False, shares={"joint": world.size}) for world in (ALONE, World(0, 2))
    )
    with pytest.raises(SettingsError, match="batch_size = 89: the last batch of 'joint' has 1 images for 2 ranks"):
        check_shares(both, Joint(), feeds)
    synchronised = replace(both, statistics="synchronised")
    in_parts = Joint(policy=Policy(microbatch=8))
    with pytest.raises(
        SettingsError, match="learner 'joint': microbatch = 8: must be none with statistics = 'synchronised'"
    ):
        check_shares(synchronised, in_parts, {})
    check_shares(replace(alone, statistics="synchronised"), in_parts, {})
    check_shares(both, in_parts, {})


def test_a_process_by_itself_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert join() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert join() == ALONE, "a scheduler's variable alone starts nothing"
    assert (
        ALONE.exchange("word") == ["word"]
        and ALONE.gather(b"data") == [b"data"]
        and ALONE.led(Path.cwd) == ALONE.in_turn(Path.cwd)
    )


def test_another_number_of_ranks_is_said_where_batch_normalisation_makes_it_another_run(tiny: Any, worker: Any) -> None:
    method = tiny().method

    def said(model: Any, before: int) -> str:
        learners = method.learners(lambda name, policy: Learner(name, policy, model.build((1, 8, 8), 10, 0)))
        return shares_changed({"natural": before, "robust": before}, placed("auto", method, ALONE), learners)

    assert "natural: 2 -> 1, robust: 2 -> 1" in said(tiny().model, 2) and "another, valid run" in said(tiny().model, 2)
    assert said(tiny().model, 1) == said(worker.PlainNet(), 2) == ""


def test_what_is_said_at_the_start(tiny: Any, worker: Any) -> None:
    method = replace(tiny().method, batch_size=128)

    def said(size: int, name: Any, statistics: Any = "averaged", model: Any = None, method: Any = method) -> str:
        placement = placed(name, method, Pretended(rank=0, size=size), statistics=statistics)
        learners = method.learners(
            lambda name, policy: Learner(name, policy, (model or tiny().model).build((1, 8, 8), 10, 0))
        )
        return described(placement, method, learners)

    rank, averaged = "batch normalisation over each rank's", "statistics averaged each epoch"
    assert said(2, "by-data") == f"2 ranks, by data; {rank} 64 images, {averaged}"
    assert (
        said(3, "by-data", "local")
        == f"3 ranks, by data; {rank} 42 or 43 images, the first rank's statistics kept each epoch"
    )
    whole = "batch normalisation over whole batches, synchronised in every forward"
    assert said(2, "by-data", "synchronised") == f"2 ranks, by data; {whole}"
    assert said(2, "by-data", model=worker.PlainNet()) == "2 ranks, by data"
    assert said(2, "by-learner") == "2 ranks, by learner (natural: 1, robust: 1)"
    assert (
        said(3, "by-learner") == f"3 ranks, by learner (natural: 1, robust: 2); {rank} 64 images of robust, {averaged}"
    )
    small = replace(method, robust=replace(method.robust, microbatch=20))
    assert (
        said(2, "by-data", method=small)
        == f"2 ranks, by data; {rank} 64 images of natural and 20 images of robust, {averaged}"
    )
    ensemble = placed("auto", DVERGE(), Pretended(rank=0, size=2))
    expert = Learner("expert-1", Policy(), tiny().model.build((1, 8, 8), 10, 0))
    assert described(ensemble, DVERGE(), {"expert-1": expert}) == f"2 ranks, by data; {rank} 64 images, {averaged}"


def test_running_statistics_are_averaged_over_ranks_and_nothing_else_is(tiny: Any) -> None:
    class Other(World):
        """A second rank whose tensors are all 3."""

        def sum_(self, tensors: Any) -> None:
            for tensor in tensors:
                tensor.add_(3)

    method = tiny().method
    learner = method.learners(lambda name, policy: Learner(name, policy, tiny().model.build((1, 8, 8), 10, 0)))[
        "robust"
    ]
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.agree()
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items()), "alone nothing changes"
    learner.world = Other(0, 2)
    learner.agree()
    running = {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert len(running) == 3 * 6, "of the network, its average and its share of the global learner"
    for name, tensor in learner.state().items():
        assert torch.equal(tensor, (before[name] + 3) / 2 if name in running else before[name]), name
