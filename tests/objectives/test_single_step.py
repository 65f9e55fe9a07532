"""Objectives that remember: FGSM-PGI and free AT against slow references, over crops, microbatches, ranks, resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import Interrupted, SettingsError
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.core.seeds import Draw, key_of
from poise.data import ColourJitter, CropFlip, Digits, Extra, Feed, Flip, RandomErasing, Several, Split, Stream
from poise.engine import Experiment, Run, resume, train
from poise.engine.checkpoints import read_tensors
from poise.learners import EMA, SGD, Learner, Policy
from poise.learners.memory import Memory
from poise.methods import Generalist, Joint
from poise.objectives import FGSMPGI, NFGSM, FreeAT, Objective
from poise.recipes import experiment
from poise.threats import Linf

EPSILON, COUNT, SIZE = 0.1, 5, 6
INNER = Ascent(threat=Linf(epsilon=EPSILON), step_size=EPSILON, steps=1, start="zero")


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(2 * SIZE * SIZE, 8), nn.Tanh(), nn.Linear(8, 4)
    return nn.Sequential(*layers).double()


def feed(batch_size: int = 2, rank: int = 0, world: int = 1) -> Feed:
    images = torch.randint(256, (COUNT, 2, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    split = Split(images, torch.arange(COUNT) % 4, torch.arange(COUNT) + 10)  # numbers that are no rows
    stream = Stream(batch_size=batch_size, augmentation=CropFlip(padding=2), located=True)
    return Feed(stream, split, 3, dtype=torch.float64, rank=rank, world=world)


def learner_of(objective: Objective, rate: float = 0.1, **policy: Any) -> Learner:
    made = Learner("joint", Policy(objective=objective, optimizer=SGD(learning_rate=rate), **policy), network())
    made.arithmetic = replace(made.arithmetic, dtype=torch.float64)
    made.remember_of(objective, 10 + COUNT, (2, SIZE, SIZE), 2)
    return made


def moments(epochs: int) -> list[Now]:
    return [Now(step // 3 + 1, step, epochs, 3, 3, scope="joint") for step in range(3 * epochs)]


def sign_step(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    leaf = z[None].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y[None]), leaf)
    return gradient[0].sign()


def augmented(images: Tensor, step: int, places: Tensor) -> Tensor:
    draw = Draw(key_of(3, "augment", "shared", "CropFlip", step), places)
    return CropFlip(padding=2)(images, draw)


@pytest.mark.parametrize("momentum", [0.0, 0.3], ids=["EP", "MEP"])
def test_fgsm_pgi_is_the_papers_loop_over_images(momentum: float) -> None:
    """Priors lie in the image's own frame; each epoch shows them under its own crop and mirror image."""
    objective = FGSMPGI(momentum=momentum, weight=5, reset_every=3, inner=INNER)
    learner, given = learner_of(objective), feed()
    model = learner.network
    priors, momenta = (torch.zeros(10 + COUNT, 2, SIZE, SIZE).double() for _ in range(2))
    for now in moments(4):
        batch = given.batch(now)
        parts, crafted = learner.craft(objective, batch, now)
        shown: Any = crafted[0]
        frame = augmented(
            torch.arange(1.0, SIZE * SIZE + 1).view(1, 1, SIZE, SIZE).expand(len(batch), -1, -1, -1),
            now.step,
            batch.places,
        )
        prior, past = (
            augmented(priors[batch.ids], now.step, batch.places),
            augmented(momenta[batch.ids], now.step, batch.places),
        )
        for i, (x, y) in enumerate(zip(batch.x, batch.y, strict=True)):
            start = (x + prior[i]).clamp(0, 1) - x
            if now.epoch in (1, 4):  # the first, and begun anew after three
                start, past[i] = shown.x_prior[i] - x, 0
                assert float(start.abs().max()) <= EPSILON and float(start.std()) > 0.02
            g = sign_step(model, x + start, y)
            torch.testing.assert_close(shown.x_prior[i], x + start, rtol=0, atol=1e-12)
            wanted = (x + (start + EPSILON * g).clamp(-EPSILON, EPSILON)).clamp(0, 1)
            torch.testing.assert_close(shown.x_adv[i], wanted, rtol=0, atol=1e-12)
            m = momentum * past[i] + g
            follows = (x + (start + EPSILON * m.sign()).clamp(-EPSILON, EPSILON)).clamp(0, 1) - x
            for row in range(SIZE):
                for column in range(SIZE):
                    if place := int(frame[i, 0, row, column]):
                        at = (batch.ids[i], slice(None), (place - 1) // SIZE, (place - 1) % SIZE)
                        priors[at], momenta[at] = follows[:, row, column], m[:, row, column]
        loss = objective.loss(model, shown, now)
        apart = (model(shown.x_adv) - model(shown.x_prior)).square().sum(1) / 4
        torch.testing.assert_close(loss["prior"], 5 * apart)
        torch.testing.assert_close(loss["robust"], F.cross_entropy(model(shown.x_adv), shown.y, reduction="none"))
        learner.memory.keep(parts[0], objective.remember(shown, now))  # type: ignore[union-attr]
        with torch.no_grad():  # the network moves meanwhile
            for parameter in model.parameters():
                parameter.mul_(0.97)
    assert float(priors.abs().max()) == pytest.approx(EPSILON)


def test_a_zero_gradient_leaves_the_prior_where_it_is() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)).double()
    nn.init.zeros_(flat[1].weight)  # type: ignore[arg-type]
    x, prior = torch.full((2, 2, SIZE, SIZE), 0.5).double(), torch.full((2, 4, SIZE, SIZE), 0.04, dtype=torch.float64)
    prior[:, 2:] = 0
    shown = FGSMPGI(inner=INNER).craft(flat, replace(Batch.of(x, torch.tensor([0, 1])), prior=prior), moments(2)[-1])
    for image in (shown.x_adv, shown.x_prior):
        torch.testing.assert_close(image, x + 0.04, rtol=0, atol=1e-12)


def test_free_at_is_the_papers_loop_of_one_backward_pass_for_both() -> None:
    objective = FreeAT(replays=3, inner=INNER)
    learner, given, model = learner_of(objective), feed(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert learner.policy.optimizer == SGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    delta = torch.zeros(2, 2, SIZE, SIZE).double()
    for now in moments(2):
        batch = given.batch(now)
        learner.descend(objective, batch, now)
        count = len(batch)  # the last batch of an epoch has one image
        for _ in range(3):
            z = (batch.x + delta[:count]).clamp(0, 1).requires_grad_(True)
            optimizer.zero_grad()
            F.cross_entropy(model(z), batch.y).backward()
            delta[:count] = (delta[:count] + EPSILON * z.grad.sign()).clamp(-EPSILON, EPSILON)  # type: ignore[union-attr]
            optimizer.step()
        for mine, theirs in zip(learner.network.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(learner.memory.table, delta, rtol=0, atol=1e-12)  # type: ignore[union-attr]


OBJECTIVES = {"FGSMPGI": FGSMPGI(inner=INNER), "FreeAT": FreeAT(replays=2, inner=INNER)}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_microbatches_remember_as_one_batch_does(objective: Objective) -> None:
    whole, halves = learner_of(objective), learner_of(objective, microbatch=1)
    for now in moments(3):
        for learner in (whole, halves):
            learner.descend(objective, feed().batch(now), now)
    for name, tensor in whole.state().items():
        torch.testing.assert_close(halves.state()[name], tensor, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("rows", ["images", "places"])
def test_ranks_end_with_what_one_rank_remembers(rows: Any) -> None:
    def of(dtype: torch.dtype) -> Memory:
        return Memory(rows, 16, (2, SIZE, SIZE), torch.zeros((), dtype=dtype))

    alone, both = of(torch.float32), [of(torch.float32) for _ in range(2)]
    for step, now in enumerate(moments(2)):
        whole = feed().batch(now)
        values = torch.randn(len(whole), 2, SIZE, SIZE, generator=torch.Generator().manual_seed(step))
        alone.keep(whole, values)
        for rank, memory in enumerate(both):
            part = feed(rank=rank, world=2).batch(now)
            memory.keep(part, values[[int(place) for place in part.places]])
        if rows == "places" or (step + 1) % 3 == 0:
            _agree(both)
            assert all(torch.equal(memory.table, alone.table) for memory in both)


def _agree(memories: Sequence[Memory]) -> None:
    """As two processes would: each is handed what both have given."""
    given: list[list[Tensor]] = []

    class First:
        size = 2

        def sum_(self, tensors: list[Tensor]) -> None:
            given.append([tensor.clone() for tensor in tensors])

    tables, flags = [memory.table for memory in memories], [memory._written.clone() for memory in memories]
    for memory in memories:
        memory.agree(First())  # type: ignore[arg-type]
    totals = [torch.stack(each).sum(0) for each in zip(*given, strict=True)]

    class Second:
        size = 2

        def sum_(self, tensors: list[Tensor]) -> None:
            for tensor, total in zip(tensors, totals, strict=True):
                tensor.copy_(total)

    for memory, table, flag in zip(memories, tables, flags, strict=True):
        memory.table, memory._written = table, flag
        memory.agree(Second())  # type: ignore[arg-type]


class Stopping(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.left -= done
            if self.left == 0:
                import signal

                signal.raise_signal(signal.SIGTERM)

        return advance if unit == "steps" else lambda done: None


@pytest.mark.parametrize("where", ["joint", "generalist"])
@every_objective
def test_a_run_stopped_inside_an_epoch_goes_on_to_the_same_bits(
    objective: Objective, where: str, tmp_path: Path
) -> None:
    policy = Policy(objective=objective, average=EMA(decay=0.5), augmentation=CropFlip(padding=1))
    method = Joint(policy=policy, batch_size=16) if where == "joint" else Generalist(robust=policy, batch_size=16)
    made = Experiment(
        data=Digits(train_images=40, test_images=10),
        method=method,
        epochs=3,
        criterion="last",
        monitors=(),
        selection="test",
    )
    unbroken = train(made, tmp_path / "unbroken", device="cpu")
    with pytest.raises(Interrupted, match="stopped at step 5 of 9"):
        train(made, tmp_path / "broken", device="cpu", progress=Stopping(5))
    name = "learner/joint/memory" if where == "joint" else "learner/robust/memory"
    middle, _ = read_tensors(Run(tmp_path / "broken").states()[0])
    assert float(middle[name].abs().max()) > 0
    resumed = resume(tmp_path / "broken", device="cpu")
    (end, _), (again, _) = (read_tensors(run.states()[0]) for run in (unbroken, resumed))
    assert [key for key in end if not torch.equal(end[key], again[key])] == []
    assert unbroken.facts("last")["sha256"] == resumed.facts("last")["sha256"]


def test_what_moves_no_pixels_apart_is_known_and_the_rest_is_refused() -> None:
    Policy(objective=FGSMPGI(), augmentation=Several(parts=(Flip(), CropFlip())))
    with pytest.raises(
        SettingsError, match=r"Policy.augmentation: FGSMPGI remembers .* ColourJitter does more than move"
    ):
        Policy(objective=FGSMPGI(), augmentation=ColourJitter())
    with pytest.raises(
        SettingsError, match="Several does more than move pixels; set it to CropFlip, Shift, Flip or none"
    ):
        Policy(objective=FGSMPGI(), augmentation=Several(parts=(Flip(), RandomErasing())))
    with pytest.raises(SettingsError, match=r"Policy\.extra: FGSMPGI remembers"):
        Policy(objective=FGSMPGI(), extra=Extra(pool=None))
    Policy(objective=FreeAT(), augmentation=ColourJitter())  # by places, which have no pixels of their own
    for objective in (FGSMPGI, FreeAT, NFGSM):
        with pytest.raises(SettingsError, match=rf"{objective.__name__}\.inner\.steps = 2: must be 1"):
            objective(inner=Ascent(steps=2))


def test_single_steps_take_each_others_place_within_the_runs_threat() -> None:
    made = experiment("n_fgsm_digits")
    for name in ("FGSMPGI", "FreeAT"):
        objective: Any = override(made, {"method.objective": name}).method.policies()["joint"].objective
        assert (objective.inner.threat, objective.inner.steps) == (Linf(epsilon=0.2), 1)
        assert objective.inner.step_size == pytest.approx(0.2)
    assert FreeAT().forwards().descending == 24
