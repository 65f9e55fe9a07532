"""Which ranks hold which learners.

By data: every rank holds all learners and a part of every batch; gradients are summed in every step.
By learner: each learner lives on ranks of its own (with fewer ranks, some share one), which share its batches; learners
meet where the method sums over them, at redistribution and when the deployed network is made, and nothing is sent in
between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from poise.core.distributed import ALONE, World
from poise.core.errors import SettingsError
from poise.data import Feed
from poise.learners import Learner
from poise.learners.averages import weights_of, with_weights
from poise.learners.costs import forwards
from poise.learners.synchronised import Statistics, synchronise
from poise.methods import Method

PlacementName = Literal["auto", "by-data", "by-learner"]
WORTH_IT = 1.25
"""By learner is chosen where its slowest rank does at most this times an even share of the work: the price of summing
in every step.
"""


@dataclass(frozen=True)
class Placement:
    """world: all ranks; groups: for each learner that lives on this rank, the ranks that share it; spread: whether by
    learner;

    shares: for every learner of the run, how many ranks share it; statistics: what becomes of theirs of batch
    normalisation.
    """

    world: World
    groups: Mapping[str, World]
    spread: bool
    shares: Mapping[str, int]
    statistics: Statistics = "averaged"

    def local(self, learners: Mapping[str, Learner]) -> dict[str, Learner]:
        """The learners of this rank, told with whom they sum. Raises: SettingsError for what cannot be synchronised."""
        here = {name: learner for name, learner in learners.items() if name in self.groups}
        for name, learner in here.items():
            learner.world, learner.across = self.groups[name], self.world if self.spread else ALONE
            learner.statistics = self.statistics
            if self.statistics == "synchronised":
                synchronise(learner.network, learner.world)
        return here

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json, checkpoints and records say of it."""
        by = "learner" if self.spread else "data"
        return {"by": by, "ranks": self.world.size, "shares": dict(self.shares), "statistics": self.statistics}

    def group_of_stream(self, name: str) -> World | None:
        """The ranks that share a stream's batches; None where this rank does not see them."""
        return self.groups.get(name) if self.spread else self.world


def assigned(costs: Mapping[str, float], size: int) -> dict[str, list[int]]:
    """The ranks of each learner. With fewer ranks than learners each goes where least is to be done, else ranks go
    where most is.
    """
    if size < len(costs):
        load, ranks = [0.0] * size, {}
        for name in sorted(costs, key=lambda name: -costs[name]):
            least = load.index(min(load))
            load[least] += costs[name]
            ranks[name] = [least]
        return {name: ranks[name] for name in costs}
    counts = dict.fromkeys(costs, 1)
    for _ in range(size - len(costs)):
        counts[max(costs, key=lambda name: costs[name] / counts[name])] += 1
    images_before, ranks = 0, {}
    for name, count in counts.items():
        ranks[name] = list(range(images_before, images_before + count))
        images_before += count
    return ranks


def slowest(costs: Mapping[str, float], ranks: Mapping[str, list[int]], size: int) -> float:
    """What the busiest rank has to do."""
    return max(
        sum(costs[name] / len(ranks_of_learner) for name, ranks_of_learner in ranks.items() if rank in ranks_of_learner)
        for rank in range(size)
    )


def placed(
    name: PlacementName, method: Method, world: World, diagnosing: bool = False, statistics: Statistics = "averaged"
) -> Placement:
    """Where the learners of `method` live. All ranks call this together.

    diagnosing: learners are compared with each other while training, for which a rank needs all of them; statistics:
    see `Experiment`.
    Raises: SettingsError where learners cannot be placed as asked.
    """
    policies = method.policies()
    everywhere = Placement(
        world, dict.fromkeys(policies, world), False, dict.fromkeys(policies, world.size), statistics
    )
    reason = (
        f"{type(method).__name__}'s learners meet in every step"
        if not method.separable
        else "diagnosis compares learners" * diagnosing
    )
    if name == "by-learner" and reason:
        raise SettingsError(f"placement = 'by-learner': {reason}; must be 'auto' or 'by-data'")
    if world.size == 1 or name == "by-data" or reason or len(policies) == 1:
        return everywhere
    costs = {learner: float(forwards(policy)) for learner, policy in policies.items()}
    ranks = assigned(costs, world.size)
    if name == "auto" and slowest(costs, ranks, world.size) > WORTH_IT * sum(costs.values()) / world.size:
        return everywhere
    groups = {learner: world.part(ranks_of_learner) for learner, ranks_of_learner in ranks.items()}
    here = {learner: group for learner, group in groups.items() if group is not None}
    return Placement(
        world, here, True, {learner: len(ranks_of_learner) for learner, ranks_of_learner in ranks.items()}, statistics
    )


def check_shares(placement: Placement, method: Method, feeds: Mapping[str, Feed]) -> None:
    """Raises: SettingsError where ranks that share a learner could not do what one rank does."""
    for name, group in placement.groups.items():
        microbatch = method.policies()[name].microbatch
        if group.size > 1 and placement.statistics == "synchronised" and microbatch is not None:
            raise SettingsError(
                f"learner {name!r}: microbatch = {microbatch}: must be none with statistics = 'synchronised', which are"
                " of whole batches"
            )
    for name, feed in feeds.items():
        if feed.smallest < feed.world:
            raise SettingsError(
                f"batch_size = {feed.stream.batch_size}: the last batch of {name!r} has {feed.smallest} images for"
                f" {feed.world} ranks"
            )


def check_pieces(
    placement: Placement,
    method: Method,
    feeds: Mapping[str, Feed],
    learners: Mapping[str, Learner],
    shape: tuple[int, int, int],
) -> None:
    """Raises: SettingsError where a network would be trained on a single image of which it takes statistics of single
    values.
    """
    microbatches = {policy.microbatch for policy in method.policies().values() if policy.microbatch is not None}
    for name, feed in feeds.items():
        if feed.world > 1 and placement.statistics == "synchronised":
            continue
        if 1 in pieces(feed, microbatches) and not all(
            takes_one_image(learner.network, shape) for learner in learners.values()
        ):
            raise SettingsError(
                f"batch_size = {feed.stream.batch_size}: of {len(feed.split):,} images, {feed.world} rank(s) and"
                f" microbatches as set, {name!r} would train on a single image at times, of which the network cannot"
                " take batch statistics"
            )


def pieces(feed: Feed, microbatches: Iterable[int]) -> set[int]:
    """The numbers of images that go through a network at a time: of full and last batches, ranks' parts and
    microbatches.
    """
    parts = {
        size
        for whole in (feed.stream.batch_size, feed.smallest)
        for size in (whole // feed.world, -(-whole // feed.world))
    }
    return parts | {size % most or most for most in microbatches for size in parts if size > most}


def takes_one_image(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a forward in training mode takes a single image [C, H, W]; batch normalisation over one value raises
    ValueError.
    """
    weights = weights_of(network)
    probe, like = (
        with_weights(network, weights),
        next(tensor for tensor in weights.values() if tensor.is_floating_point()),
    )
    probe.train()
    try:
        with torch.no_grad():
            probe(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    except ValueError:
        return False
    return True


def described(placement: Placement, method: Method, learners: Mapping[str, Learner]) -> str:
    """How the ranks divide the work and, of learners that several share, what batch normalisation is taken over, in a
    line.
    """
    shares = placement.shares
    counts = f" ({', '.join(f'{name}: {count}' for name, count in shares.items())})" if placement.spread else ""
    line = f"{placement.world.size} ranks, by {placement.facts['by']}{counts}"
    shared_learners = [name for name, count in shares.items() if count > 1]
    if not shared_learners or not _normed(learners):
        return line
    if placement.statistics == "synchronised":
        return f"{line}; batch normalisation over whole batches, synchronised in every forward"
    policies, sizes = method.policies(), dict[str, list[str]]()
    for name in shared_learners:
        small, larger = divmod(method.batch_size, shares[name])
        most = policies[name].microbatch or small + 1
        batch_sizes = sorted({min(most, small), min(most, small + (larger > 0))})
        sizes.setdefault(" or ".join(map(str, batch_sizes)), []).append(name)
    only = len(sizes) > 1 or len(shared_learners) < len(shares)
    parts = " and ".join(
        f"{size} images{' of ' + ' and '.join(names) if only else ''}" for size, names in sizes.items()
    )
    after = "statistics averaged" if placement.statistics == "averaged" else "the first rank's statistics kept"
    return f"{line}; batch normalisation over each rank's {parts}, {after} each epoch"


def _normed(learners: Mapping[str, Learner]) -> bool:
    """Whether a network has batch normalisation."""
    return any(isinstance(module, _NormBase) for learner in learners.values() for module in learner.network.modules())


def shares_changed(before: Mapping[str, int], placement: Placement, learners: Mapping[str, Learner]) -> str:
    """What is to be said where a run goes on with its learners shared by another number of ranks, or nothing.

    Where statistics are not synchronised, each rank normalises by its own part of the batch and gathers its own running
    statistics, until at the end of every epoch they are averaged over ranks, or the first rank's are taken.
    """
    if placement.statistics == "synchronised":
        return ""
    if not _normed(learners) or dict(before) == dict(placement.shares):
        return ""
    counts = ", ".join(f"{name}: {before.get(name, 1)} -> {count}" for name, count in placement.shares.items())
    return (
        f"the number of ranks that share a learner changed ({counts}); batch normalisation takes its statistics over"
        " each rank's part of a batch, so this is another, valid run than the one begun"
    )
