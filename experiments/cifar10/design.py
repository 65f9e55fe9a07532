"""The study as data: its rows, their order, what each is evaluated under, what is cut when hours run out. README.md
says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import experiments.cifar10.ramp  # noqa: F401  registers RampedAT
from poise.attacks import APGD, PGD, Ascent, AutoAttack
from poise.attacks.autoattack.compact import CompactAttack
from poise.core.overrides import override
from poise.data import CIFAR10, CropFlip, DataSource, Digits
from poise.engine import Experiment, Monitor
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, PiecewiseLinear, Policy
from poise.methods import Generalist, Joint, Method
from poise.models import DigitsCNN, Network, ResNet18
from poise.objectives import AT, NT
from poise.threats import Linf

THREAT, HALF = Linf(epsilon=8 / 255), Linf(epsilon=4 / 255)
FROM = 0.625
"""t', as a fraction of the run."""
HOURS = 45.0
"""Core-hours that the study may take in bfloat16."""
PILOT_HOURS = 2.0
MIXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the fine-tuned network on the weight line."""


@dataclass(frozen=True)
class Scale:
    """How large the study is."""

    name: str
    data: DataSource
    held_out: float
    model: Network
    epochs: int
    batch_size: int
    every: int
    """Steps from one redistribution to the next."""
    steps: int
    """Of PGD in training."""
    pilot: tuple[DataSource, float, int]
    """Data, share held out and epochs of the pilot."""
    subset: int
    """Test images of the small protocol."""
    fixed: int
    """Test images of AutoAttack."""
    inspected: int
    """Test images of `sanity`."""
    estimated: int
    """Training images that BatchNorm is estimated anew on."""
    pair: tuple[CompactAttack, ...]
    """What the primary figure's worst case is over."""
    whole: AutoAttack
    anywhere: bool = False
    """Whether all of it is trained on any processor, in float32 where bfloat16 isn't native."""


STUDY = Scale(
    name="study",
    data=CIFAR10(),
    held_out=1 / 50,
    model=ResNet18(width=16),
    epochs=20,
    batch_size=128,
    every=326,
    steps=10,
    pilot=(CIFAR10(train_images=11_000), 1 / 11, 5),
    subset=2_000,
    fixed=1_000,
    inspected=200,
    estimated=10_000,
    pair=(APGD(), APGD(loss="targeted_dlr")),  # APGD-CE, APGD-T
    whole=AutoAttack(),
)
TOY = Scale(
    name="toy",
    data=Digits(train_images=200, test_images=40),
    held_out=0.2,
    model=DigitsCNN(width=4),
    epochs=2,
    batch_size=32,
    every=2,
    steps=2,
    pilot=(Digits(train_images=80), 0.2, 1),
    subset=20,
    fixed=16,
    inspected=16,
    estimated=160,
    pair=(APGD(steps=4), APGD(loss="targeted_dlr", steps=2, targets=2)),
    whole=AutoAttack(version="custom", attacks=(APGD(steps=4),)),
    anywhere=True,
)
"""Shows that every kind of run works, no more."""


@dataclass(frozen=True)
class Rate:
    """What the pilot chooses."""

    learning_rate: float = 0.1
    weight_decay: float = 5e-4


GRID = tuple(Rate(rate, decay) for rate in (0.05, 0.1, 0.2) for decay in (2e-4, 5e-4))


@dataclass(frozen=True)
class Rates:
    """Natural learners have `nt`'s, all robust losses `at`'s."""

    nt: Rate = Rate()
    at: Rate = Rate()


@dataclass(frozen=True)
class Branch:
    """A row that goes on from another one's seed 0: from which share of the run, and for how many epochs (None: to the
    end).
    """

    of: str
    at: float
    epochs: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of the study's table: a base experiment, the settings changed, its seeds."""

    name: str
    title: str
    base: Literal["at", "nt", "generalist"] = "at"
    settings: tuple[str, ...] = ()
    seeds: int = 1
    kind: Literal["primary", "other", "branch", "exploratory"] = "exploratory"
    branch: Branch | None = None
    beta: float | None = None
    """Of a point of the joint-training curve."""


def half_half(beta: float) -> Row:
    return Row(
        f"half-{beta:g}", f"half-half, beta {beta:g}", "at", (f"method.objective.beta={beta}",), 3, "primary", beta=beta
    )


AT_ROW = Row("at", "AT", "at", (), 2, "primary", beta=1.0)
GENERALIST = Row("generalist", "Generalist", "generalist", (), 3, "primary")
BETAS = (0.5, 0.75)
FROM_GENERALIST, FROM_AT = Branch("generalist", FROM), Branch("at", FROM, epochs=2)
NARROW = ("method.objective.inner.threat.epsilon=4/255", "method.objective.inner.step_size=1/255")
REST = (
    Row(
        "gamma-0.25",
        "Generalist, gamma ending .25",
        "generalist",
        ("method.gamma.values=1,1,1,0.25",),
        1,
        "branch",
        FROM_GENERALIST,
    ),
    Row(
        "gamma-0.75",
        "Generalist, gamma ending .75",
        "generalist",
        ("method.gamma.values=1,1,1,0.75",),
        1,
        "branch",
        FROM_GENERALIST,
    ),
    Row(
        "never",
        "Generalist, never redistributed",
        "generalist",
        ("method.redistribute=never",),
        1,
        "branch",
        FROM_GENERALIST,
    ),
    Row("ramp", "AT, beta as gamma", "at", ("method.objective=RampedAT",), 1, "branch", Branch("at", 13 / 20)),
    Row("line", "weight line, AT to NT", "nt", (), 1, "branch", FROM_AT),
    Row("at-4", "AT at epsilon 4/255", "at", NARROW, 1, "other"),
    Row("trades", "TRADES, beta 6", "at", ("method.objective=TRADES",)),
    Row("st", "Squeeze Training", "at", ("method.objective=SqueezeTraining",)),
    Row("mart", "MART", "at", ("method.objective=MART",)),
    Row("at-awp", "AT with AWP", "at", ('method.perturbation={"type": "AWP", "gamma": 0.01}',)),
    Row("generalist-st", "Generalist (NT, ST)", "generalist", ("method.robust=SqueezeTraining",)),
)
AFTERWARDS = "soe_cifar10_resnet20x3_eps0.03"
"""The recipe that is trained as published if hours are left, its evaluation beside the vote of its experts."""


@dataclass(frozen=True)
class Unit:
    """A row with a seed: what is trained as one run."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-s{self.seed}"


def units(betas: Sequence[float] = BETAS, only_primary: bool = False) -> list[Unit]:
    """All runs in their order: whole seed 0 of the primary rows, seeds 1 and 2 interleaved across methods, then the
    rest.
    """
    halves = [half_half(beta) for beta in betas]
    first = [AT_ROW, *halves, GENERALIST, Row("nt", "NT", "nt", (), 1, "primary")]
    seeded = [Unit(row, seed) for seed in range(3) for row in first if seed < row.seeds]
    return seeded if only_primary else [*seeded, *(Unit(row, 0) for row in REST)]


CUTS = (("exploratory",), ("branch", "other"), ("at-s1",))
"""What goes first where hours run out, the last planned first: kinds of rows, or a run's name; never a seed of another
primary row.
"""


def affordable(planned: Sequence[Unit], hours: float, cost: dict[str, float]) -> list[Unit]:
    """The runs that are to be done within so many core-hours. cost: core-hours by the unit's name."""
    left = list(planned)
    for cut in CUTS:
        for unit in [unit for unit in reversed(left) if unit.row.kind in cut or unit.name in cut]:
            if sum(cost[each.name] for each in left) <= hours:
                return left
            left.remove(unit)
    return left


def bracketing(naturals: dict[float, float], generalist: float) -> tuple[float, float]:
    """The two betas beside AT. naturals: held-out natural accuracy of seed 0 by beta, AT's as beta 1; generalist:
    Generalist's.

    Where Generalist is more accurate than beta 1/2, .75 is moved to .25. Below AT nothing of the half-half loss
    brackets it.
    """
    return (0.25, 0.5) if generalist > naturals[0.5] else BETAS


def experiment(unit: Unit, scale: Scale, rates: Rates, precision: str) -> Experiment:
    """The settings of a run."""
    row = unit.row
    inner = Ascent(threat=THREAT, step_size=2 / 255, steps=scale.steps)
    natural, robust = policy(NT(), rates.nt), policy(AT(inner=inner), rates.at)
    methods: dict[str, Method] = {
        "nt": Joint(policy=natural, batch_size=scale.batch_size),
        "at": Joint(policy=robust, batch_size=scale.batch_size),
        "generalist": Generalist(
            natural=dataclasses.replace(natural, average=None),
            robust=dataclasses.replace(robust, average=None),
            batch_size=scale.batch_size,
            gamma=PiecewiseLinear(values=(1, 1, 1, 0.5)),
            decay=0.994,
            redistribute_from=FROM,
            redistribute_every=scale.every,
            redistribute_unit="steps",
        ),
    }
    made = Experiment(
        name=f"cifar10-{scale.name}-{row.name}",
        title=row.title,
        data=scale.data,
        model=scale.model,
        method=methods[row.base],
        epochs=scale.epochs,
        seed=unit.seed,
        selection="held-out",
        held_out=scale.held_out,
        criterion="sum",
        monitors=(Monitor(), Monitor(name="PGD-20", attack=PGD(threat=THREAT))),
        protocol=protocols(scale)["pair"],
        precision=precision,  # type: ignore[arg-type]
    )
    return dataclasses.replace(override(made, list(row.settings)), title=row.title)


def policy(objective: Any, rate: Rate) -> Policy:
    """The fixed part of every learner's training."""
    return Policy(
        objective=objective,
        optimizer=SGD(learning_rate=rate.learning_rate, weight_decay=rate.weight_decay),
        schedule=PiecewiseLinear(),
        average=EMA(decay=0.994),
        augmentation=CropFlip(),
    )


def protocols(scale: Scale) -> dict[str, Protocol]:
    """By name: the primary figure's, the small one, AutoAttack at both epsilons."""
    # the worst case of the two: the second on what the first left
    pair = AutoAttack(threat=THREAT, version="custom", attacks=scale.pair)
    whole = {threat: dataclasses.replace(scale.whole, threat=threat) for threat in (THREAT, HALF)}
    named = (
        Protocol(name="pair", attacks=(pair,)),
        Protocol(name="small", attacks=(PGD(threat=THREAT), pair), first=scale.subset),
        Protocol(name="autoattack", attacks=(whole[THREAT],), first=scale.fixed),
        Protocol(name="autoattack-4", attacks=(whole[HALF],), first=scale.fixed),
    )
    return {each.name: each for each in named}


FULLY = ("at", "half-0.5", "half-0.75", "half-0.25", "generalist", "st")
"""Rows whose seed 0 meets all of AutoAttack."""


def evaluations(unit: Unit) -> list[tuple[str, str]]:
    """(readout, protocol) of a run, in their order. Readouts: "last" (the average), "raw", "selected", or a mixture's
    share.
    """
    row = unit.row
    if row.name == "line":
        return [(f"mixture-{share:g}", "small") for share in MIXTURES]
    primary = [("last", "pair"), ("selected", "small")] if row.kind == "primary" else [("last", "small")]
    raw = [("raw", "small")] if row.name == "at" else []
    full = [("last", "autoattack"), ("last", "autoattack-4")] if row.name in FULLY and unit.seed == 0 else []
    return [*primary, *raw, *full]
