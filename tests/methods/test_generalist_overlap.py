"""Learners side by side on two streams: without a GPU nothing changes; with one, lanes begin and end where they
must.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import nn

from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.learners.precision import precision
from poise.methods import Generalist
from poise.methods.overlap import _stream, side_by_side
from poise.objectives import AT, NT

SMALL = Generalist(
    natural=Policy(objective=NT(), optimizer=SGD(learning_rate=0.05)),
    robust=Policy(objective=AT(), optimizer=SGD(learning_rate=0.05)),
    decay=0.5,
    redistribute_every=2,
)


def trained(method: Generalist, device: torch.device) -> dict[str, torch.Tensor]:
    def build(name: str, policy: Policy) -> Learner:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
            )
        return Learner(name, policy, network.to(device), arithmetic=precision("float32", device))

    learners = method.learners(build)
    for step in range(8):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.rand(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)
        method.step(
            learners,
            dict.fromkeys(learners, Batch.of(x.to(device), y.to(device))),
            Now(step // 2 + 1, step, 4, 2, seed=0),
        )
    return {
        f"{name}/{key}": tensor.cpu() for name, learner in learners.items() for key, tensor in learner.state().items()
    }


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="needs a GPU: streams are not there without one"
        ),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_those_of_one_learner_after_the_other(device: str) -> None:
    found, wanted = (
        trained(dataclasses.replace(SMALL, overlap=overlap), torch.device(device)) for overlap in (True, False)
    )
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


class Stream:
    """A stream that notes for whom it waits."""

    def __init__(self, notes: list[str], name: str) -> None:
        self.notes, self.name = notes, name

    def wait_stream(self, other: Stream) -> None:
        self.notes.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a pretended GPU was told."""
    told: list[str] = []
    made = iter("ABCDEF")

    @contextmanager
    def current(stream: Stream) -> Iterator[None]:
        told.append(f"into {stream.name}")
        yield
        told.append(f"out of {stream.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(told, "usual"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(told, next(made)))
    monkeypatch.setattr(torch.cuda, "stream", current)
    _stream.cache_clear()
    yield told
    _stream.cache_clear()


LANES = ["A waits for usual", "into A", "first", "out of A", "B waits for usual", "into B", "second", "out of B"]
JOINED = ["usual waits for A", "usual waits for B"]


def test_lanes_begin_after_what_was_before_and_end_before_what_comes_after(notes: list[str]) -> None:
    for _ in range(2):  # the same two streams again, whose memory is there already
        with side_by_side(torch.device("cuda", 0), wanted=True) as lane:
            for work in ("first", "second"):
                with lane():
                    notes.append(work)
        notes.append("after")
    assert notes == [*LANES, *JOINED, "after"] * 2


def test_lanes_are_joined_after_an_error_too(notes: list[str]) -> None:
    with pytest.raises(KeyError), side_by_side(torch.device("cuda", 0), wanted=True) as lane, lane():
        raise KeyError
    assert notes[-1] == "usual waits for A"


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda", False)])
def test_otherwise_there_is_one_lane(notes: list[str], device: str, wanted: bool) -> None:
    with side_by_side(torch.device(device), wanted) as lane:
        inside: AbstractContextManager[object] = lane()
        with inside:
            pass
    assert notes == []
