"""Every objective of the papers around one training attack: what is compared on small data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from poise.attacks import Ascent
from poise.data import Extra
from poise.learners import AWP, RWP, OwnAverage, Policy, Teacher, WeightPerturbation
from poise.methods import Generalist, Joint, Method
from poise.objectives import (
    ADR,
    AT,
    BAT,
    FAT,
    FGSMPGI,
    GAIRAT,
    GAIRRST,
    IAT,
    MART,
    NFGSM,
    NT,
    RPAT,
    TRADES,
    CollaborativeTraining,
    FreeAT,
    Objective,
    ReBAT,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
)


@dataclass(frozen=True)
class Row:
    """A method to compare: its name in tables, what it is in words, and what its policy holds. `natural`: the other
    base learner's.
    """

    title: str
    line: str
    objective: Objective
    perturbation: WeightPerturbation | None = None
    teacher: Teacher | None = None
    extra: Extra | None = None
    natural: Objective | None = None

    def method(self, policy: Policy, generalist: Generalist) -> Method:
        """Joint with this policy around the objective; with a natural objective, Generalist around the two, without own
        averages.
        """
        policy_here = dataclasses.replace(
            policy, objective=self.objective, perturbation=self.perturbation, extra=self.extra
        )
        policy_here = dataclasses.replace(policy_here, teacher=self.teacher)
        if self.natural is None:
            return Joint(policy=policy_here)
        robust = dataclasses.replace(policy_here, average=None)
        return dataclasses.replace(
            generalist, natural=dataclasses.replace(robust, objective=self.natural), robust=robust
        )


def compared(inner: Ascent, epochs: int, learning_rate: float, rwp_steps: int = 10) -> dict[str, Row]:
    """The rows by name. Schedules in epochs keep their papers' fractions of training; RWP around TRADES ascends at the
    learning rate.
    """
    gaussian, zero = (dataclasses.replace(inner, start=start) for start in ("gaussian", "zero"))

    def first(after: int, of: int) -> int:
        """The 1-based epoch that follows `after` of `of` epochs."""
        return epochs * after // of + 1

    at, trades, mart, st = (
        AT(inner=inner),
        TRADES(inner=gaussian),
        MART(inner=gaussian),
        SqueezeTraining(inner=gaussian),
    )
    # in very few epochs a later tau takes an earlier one's place
    starts = {
        first(0, 120): 0,
        first(50, 120): 1,
        first(90, 120): 2,
    }
    fat = FAT(objective=at, tau=tuple(starts.values()), tau_from=tuple(starts))
    late = first(9, 200)
    return {
        "nt": Row("NT", "Natural training", NT()),
        "at": Row("AT", "Adversarial training", at),
        "at_half": Row("AT half-half", "Half-half adversarial training (beta 1/2)", AT(beta=0.5, inner=inner)),
        "trades": Row("TRADES", "TRADES with beta 6", trades),
        "trades1": Row("TRADES, beta 1", "TRADES with beta 1", TRADES(beta=1, inner=gaussian)),
        "mart": Row("MART", "MART with beta 5", mart),
        "fat": Row("FAT", "Friendly adversarial training", fat),
        "fat_trades": Row("FAT-TRADES", "TRADES on friendly examples", dataclasses.replace(fat, objective=trades)),
        "fat_mart": Row("FAT-MART", "MART on friendly examples", dataclasses.replace(fat, objective=mart)),
        "iat": Row("IAT", "Interpolated adversarial training", IAT(inner=inner)),
        "rst": Row(
            "RST (labelled only)",
            "Weighted robust self-training, the training images standing for the unlabelled ones",
            WeightedRST(inner=gaussian),
            extra=Extra(pool=None),
        ),
        "gairat": Row(
            "GAIRAT",
            "Geometry-aware instance-reweighted adversarial training",
            GAIRAT(inner=inner, from_epoch=first(59, 120)),
        ),
        "gair_rst": Row(
            "GAIR-RST (labelled only)",
            "GAIR-RST without extra images",
            GAIRRST(inner=gaussian, from_epoch=first(99, 200)),
        ),
        "bat": Row("BAT", "Bridged adversarial training with two bridges", BAT(inner=inner)),
        "n_fgsm": Row("N-FGSM", "Adversarial training by one step from a noised image", NFGSM().searching(inner)),
        "fgsm_pgi": Row(
            "FGSM-PGI",
            "Adversarial training by one step from what the last epoch found",
            FGSMPGI(reset_every=max(1, epochs * 40 // 110)).searching(inner),
        ),
        "free_at": Row(
            "Free AT",
            "Free adversarial training, each batch replayed four times",
            FreeAT(replays=4).searching(inner),
        ),
        "rebat": Row(
            "ReBAT",
            "Adversarial training with its average as teacher",
            ReBAT(inner=inner, from_epoch=first(104, 200)),
            teacher=OwnAverage(),
        ),
        "adr": Row(
            "ADR", "Adversarial training on labels rectified by its average", ADR(inner=inner), teacher=OwnAverage()
        ),
        "rpat": Row(
            "RPAT", "Adversarial training, linear between an image and its adversarial example", RPAT(inner=inner)
        ),
        "st": Row("ST", "Squeeze Training with symmetric KL, beta 6", st),
        "st_js": Row(
            "ST, JS", "Squeeze Training with JS, beta 12", SqueezeTraining(divergence="js", beta=12, inner=gaussian)
        ),
        "st_l2": Row(
            "ST, l2",
            "Squeeze Training with squared l2, beta 4",
            SqueezeTraining(divergence="squared_l2", beta=4, inner=gaussian),
        ),
        "st_mixed": Row(
            "ST, JS inside",
            "Squeeze Training that maximises JS and minimises symmetric KL, which masks gradients (Sec. 4.2)",
            dataclasses.replace(st, inner_divergence="js"),
        ),
        "at_awp": Row("AT+AWP", "Adversarial training with adversarial weight perturbation", at, AWP(gamma=0.01)),
        "trades_awp": Row(
            "TRADES+AWP",
            "TRADES with adversarial weight perturbation",
            dataclasses.replace(trades, outer_order="adversarial_first"),
            AWP(gamma=0.005, from_epoch=late),
        ),
        "at_rwp": Row(
            "AT+RWP", "Adversarial training with robust weight perturbation", at, RWP(gamma=0.01, steps=rwp_steps)
        ),
        "trades_rwp": Row(
            "TRADES+RWP",
            "TRADES with robust weight perturbation",
            trades,
            RWP(gamma=0.005, from_epoch=late, step_size=learning_rate, steps=rwp_steps),
        ),
        "collaborative": Row(
            "Collaborative", "Training with collaborative examples only, beta 6", CollaborativeTraining(inner=zero)
        ),
        "two_trades": Row(
            "TRADES, two examples", "TRADES with the mean over two adversarial examples", TwoExamples(objective=trades)
        ),
        "generalist": Row("Generalist", "Generalist, natural and robust base learners", at, natural=NT()),
        "generalist_st": Row(
            "Generalist (NT, ST)", "Generalist with Squeeze Training as its robust learner", st, natural=NT()
        ),
    }
