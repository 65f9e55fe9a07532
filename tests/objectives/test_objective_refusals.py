"""What the objectives' settings refuse, and the sentence they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poise.attacks import Ascent
from poise.attacks.collaborative import Collaborative
from poise.core.errors import SettingsError
from poise.data import Extra
from poise.learners import AWP, RWP
from poise.objectives import (
    AT,
    BAT,
    FAT,
    GAIRAT,
    GAIRRST,
    IAT,
    MART,
    NT,
    RST,
    TRADES,
    CollaborativeTraining,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
)

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: AT(beta=-0.1), "AT.beta = -0.1: must be greater than or equal to 0"),
    (lambda: AT(beta=1.1), "AT.beta = 1.1: must be less than or equal to 1"),
    (lambda: AT(label_smoothing=2), "AT.label_smoothing = 2"),
    (lambda: TRADES(beta=-1), "TRADES.beta = -1: must be greater than or equal to 0"),
    (lambda: TRADES(divergence="l1"), "TRADES.divergence = 'l1'"),  # pyright: ignore[reportArgumentType]
    (lambda: TRADES(outer_order="random"), "TRADES.outer_order = 'random'"),  # pyright: ignore[reportArgumentType]
    (lambda: MART(beta=float("nan")), "MART.beta = nan"),
    (lambda: SqueezeTraining(beta=-6), "SqueezeTraining.beta = -6: must be greater than or equal to 0"),
    (
        lambda: SqueezeTraining(divergence="kl"),  # pyright: ignore[reportArgumentType]
        "SqueezeTraining.divergence = 'kl'",
    ),
    (
        lambda: SqueezeTraining(inner_divergence="kl"),  # pyright: ignore[reportArgumentType]
        "SqueezeTraining.inner_divergence = 'kl'",
    ),
    (lambda: SqueezeTraining(steps=10), "SqueezeTraining has no setting 'steps'"),  # pyright: ignore[reportCallIssue]
    (lambda: Ascent(start="normal"), "Ascent.start = 'normal'"),  # pyright: ignore[reportArgumentType]
    (lambda: FAT(tau=(11,), tau_from=(1,)), r"FAT.tau = \(11,\): must be at most the inner ascent's steps = 10"),
    (lambda: FAT(tau=(-1,), tau_from=(1,)), "FAT.tau.0 = -1: must be greater than or equal to 0"),
    (
        lambda: FAT(tau=(0, 1), tau_from=(1,)),
        r"FAT.tau_from = \(1,\): must start at 1, increase and be as long as tau = \(0, 1\)",
    ),
    (lambda: FAT(tau=(0, 1), tau_from=(2, 5)), r"FAT.tau_from = \(2, 5\)"),
    (lambda: FAT(tau=(0, 1, 2), tau_from=(1, 9, 9)), r"FAT.tau_from = \(1, 9, 9\)"),
    (lambda: FAT(tau=(), tau_from=()), r"FAT.tau_from = \(\)"),
    (lambda: FAT(jitter=-0.1), "FAT.jitter = -0.1"),
    (lambda: FAT(objective=NT()), "FAT.objective"),  # pyright: ignore[reportArgumentType]
    (lambda: TwoExamples(objective=NT()), "TwoExamples.objective"),  # pyright: ignore[reportArgumentType]
    (lambda: TwoExamples(reduce="min"), "TwoExamples.reduce = 'min'"),  # pyright: ignore[reportArgumentType]
    (lambda: GAIRAT(weighting="linear"), "GAIRAT.weighting = 'linear'"),  # pyright: ignore[reportArgumentType]
    (lambda: GAIRAT(from_epoch=0), "GAIRAT.from_epoch = 0: must be greater than or equal to 1"),
    (lambda: GAIRAT(shift=float("inf")), "GAIRAT.shift = inf"),
    (lambda: GAIRRST(beta=-1), "GAIRRST.beta = -1"),
    (lambda: RST(beta=-1), "RST.beta = -1"),
    (lambda: RST(entropy_weight=-0.5), "RST.entropy_weight = -0.5"),
    (lambda: WeightedRST(extra_natural=1.5), "WeightedRST.extra_natural = 1.5"),
    (lambda: WeightedRST(beta=6), "WeightedRST.beta = 6"),
    (lambda: BAT(bridges=0), "BAT.bridges = 0: must be greater than or equal to 1"),
    (lambda: BAT(beta=-1), "BAT.beta = -1"),
    (lambda: BAT(maximised="margin"), "BAT.maximised = 'margin'"),  # pyright: ignore[reportArgumentType]
    (lambda: CollaborativeTraining(beta=-6), "CollaborativeTraining.beta = -6"),
    (lambda: Collaborative(steps=0), "Collaborative.steps = 0"),
    (lambda: AWP(gamma=-0.01), "AWP.gamma = -0.01"),
    (lambda: RWP(steps=0), "RWP.steps = 0"),
    (lambda: RWP(step_size=0), "RWP.step_size = 0"),
    (lambda: RWP(from_epoch=0), "RWP.from_epoch = 0"),
    (
        lambda: TwoExamples(objective=GAIRAT()),
        "TwoExamples.objective = GAIRAT: must show one adversarial example per image",
    ),
    (
        lambda: TwoExamples(objective=SqueezeTraining()),  # pyright: ignore[reportArgumentType]
        "TwoExamples.objective = SqueezeTraining: must show",
    ),
    (
        lambda: TwoExamples(objective=IAT()),  # pyright: ignore[reportArgumentType]
        "TwoExamples.objective = IAT: must show",
    ),
    (lambda: FAT(objective=GAIRAT()), "FAT.objective"),  # pyright: ignore[reportArgumentType]
    (lambda: FAT(objective=TwoExamples()), "FAT.objective"),  # pyright: ignore[reportArgumentType]
    (lambda: Extra(share=0), "Extra.share = 0: must be greater than 0"),
    (lambda: Extra(share=1.5), "Extra.share = 1.5: must be less than or equal to 1"),
    (lambda: AT(craft_mode="eval"), "AT.craft_mode = 'eval'"),  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_refuses(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^([A-Z]+: )?{sentence}"):
        make()
