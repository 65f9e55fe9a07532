"""Every objective against the numeric vectors: examples, loss, gradients and BatchNorm's buffers, in float64 to
1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.modes import crafting
from poise.learners import SGD, Learner, Policy
from poise.losses import kl
from poise.objectives import AT, BAT, FAT, GAIRAT, IAT, MART, RST, TRADES, Objective, SqueezeTraining, WeightedRST
from poise.objectives.fat import friendly
from poise.objectives.gairat import counter, geometry_weights
from poise.objectives.squeeze import _idle, selected

Vectors = dict[str, Tensor]
NOW = Now(epoch=1, step=0, epochs=1, steps_per_epoch=1, seed=0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


Factor = Callable[["Case"], float]
"""What the case's arrays say that a term is multiplied by."""


def beta(case: Case) -> float:
    """The file's own; where it has none, the one that its README gives."""
    return case.number("beta") if case.has("beta") else 6.0


@dataclass(frozen=True)
class Row:
    """objective(inner, case) on the named starts; `prefix` names the arrays of `file`.

    terms: array of each unscaled term, with its factor.
    """

    file: str
    prefix: str
    objective: Callable[[Ascent, Case], Objective]
    starts: tuple[str, ...]
    terms: dict[str, tuple[str, float | Factor]] = field(default_factory=dict)
    steps: int = 10
    """0: the examples are the starts."""
    x: str = "common:x"
    y: str = "common:y"
    loss: str = "loss"
    extra: str | None = None

    @property
    def id(self) -> str:
        return f"{self.file}-{self.prefix}"


def two_terms(
    factor: float | Factor, natural: str = "loss_natural", robust: str = "loss_robust"
) -> dict[str, tuple[str, float | Factor]]:
    return {"natural": (natural, 1), "robust": (robust, factor)}


def squeeze(**fields: Any) -> Callable[[Ascent, Case], Objective]:
    return lambda inner, case: SqueezeTraining(beta=beta(case), inner=inner, **fields)


GAUSS_1, GAUSS_2, UNIFORM = "common:start_gauss_1", "common:start_gauss_2", "common:start_unif"
SWAPS = {"official": True, "always_swap": False}
ROWS = [
    *[
        Row("outer_trades", f"beta{b}.", lambda i, c, b=b: TRADES(beta=b, inner=i), (GAUSS_1,), two_terms(b))
        for b in (6, 1)
    ],
    *[
        Row("outer_mart", f"beta{b}.", lambda i, c, b=b: MART(beta=b, inner=i), (GAUSS_1,), two_terms(b, "loss_bce"))
        for b in (5, 6)
    ],
    Row("outer_at", "at.", lambda i, c: AT(inner=i), (UNIFORM,)),
    Row("outer_at", "half_joint_batch.", lambda i, c: AT(beta=0.5, joint_batch=True, inner=i), (UNIFORM,)),
    *[
        Row(
            "outer_at",
            f"half_beta{b}.",
            lambda i, c, b=b: AT(beta=b, inner=i),
            (UNIFORM,),
            {"natural": ("loss_clean", 1 - b), "robust": ("loss_adv", b)},
        )
        for b in (0.5, 0.25)
    ],
    *[
        Row(
            "inner_fat",
            f"tau{t}_",
            lambda i, c, t=t: FAT(objective=AT(inner=i), tau=(t,), tau_from=(1,), jitter=0),
            (UNIFORM,),
            loss="loss_official_order",
        )
        for t in (0, 1, 2)
    ],
    *[
        Row("inner_outer_st", f"{name}.", squeeze(released_swap=swap), (GAUSS_1, GAUSS_2), two_terms(beta))
        for name, swap in SWAPS.items()
    ],
    *[
        Row(
            "st_small_batch",
            f"case{case}.{name}.",
            squeeze(released_swap=swap),
            (f"st_small_batch:case{case}.start_adv", f"st_small_batch:case{case}.start_col"),
            two_terms(beta),
            x=f"st_small_batch:case{case}.x",
            y=f"st_small_batch:case{case}.y",
        )
        for case in range(3)
        for name, swap in SWAPS.items()
    ],
    Row(
        "st_rst",
        "",
        squeeze(released_swap=True, outer_order="adversarial_first"),
        ("st_rst:start_adv", "st_rst:start_col"),
        two_terms(beta),
    ),
    *[
        Row(
            "outer_st_formula",
            f"{name}.",
            squeeze(**fields),
            ("outer_st_formula:x_adv", "outer_st_formula:x_col"),
            two_terms(beta),
            steps=0,
        )
        for name, fields in {
            "js": {"divergence": "js"},
            "sq_l2": {"divergence": "squared_l2"},
            "symkl_nodetach": {"detach_target": False},
        }.items()
    ],
    *[
        Row("outer_gairat", f"lambda{s}.", lambda i, c, s=s: GAIRAT(shift=s, from_epoch=1, inner=i), (UNIFORM,))
        for s in (-1, 1)
    ],
    *[
        Row(
            "outer_rst_carmon",
            f"{name}.",
            lambda i, c: RST(beta=beta(c), entropy_weight=c.number("entropy_weight"), inner=i),
            (GAUSS_1,),
            two_terms(beta),
            y=f"outer_rst_carmon:{name}.y",
        )
        for name in ("pseudo", "unlab", "unlab_entropy")
    ],
    *[
        Row(
            "outer_rst_weighted",
            f"{name}.",
            lambda i, c: WeightedRST(
                beta=beta(c), extra_natural=c.number("w_nat"), extra_robust=c.number("w_rob"), inner=i
            ),
            ("outer_rst_weighted:x_adv",),
            {"natural": ("loss_nat", lambda c: 1 - beta(c)), "robust": ("loss_rob", beta)},
            steps=0,
            extra="outer_rst_weighted:is_unlabeled",
        )
        for name in ("rst", "labelled_only")
    ],
    Row(
        "outer_iat",
        "",
        lambda i, c: IAT(inner=i),
        ("outer_iat:x_adv",),
        {"natural": ("loss_clean", 0.5), "robust": ("loss_adv", 0.5)},
        steps=0,
    ),
    *[
        Row(
            "outer_bat",
            f"m{m}.",
            lambda i, c, m=m: BAT(beta=beta(c), bridges=m, inner=i),
            ("outer_bat:x_adv",),
            {"natural": ("loss_natural", 1)},
            steps=0,
        )
        for m in (1, 2, 4)
    ],
]


@dataclass(frozen=True)
class GivenNow(Now):
    """A moment whose draws of IAT are those of the vectors."""

    numbers: dict[str, Tensor] = field(default_factory=dict)

    def draw(self, purpose: str, batch: Batch) -> Any:
        if not purpose.startswith("order of "):
            return super().draw(purpose, batch)
        order = self.numbers[purpose]
        return type("Keys", (), {"bits": staticmethod(lambda count: torch.argsort(order)[:, None])})

    def draw_once(self, purpose: str, device: torch.device | str = "cpu") -> Any:
        return type("Share", (), {"uniform": staticmethod(lambda count, dtype: self.numbers[purpose].view(1, 1))})


class Case:
    """A row with its arrays read."""

    def __init__(self, row: Row, vectors: Callable[[str], Vectors], start_at: Any) -> None:
        def array(reference: str) -> Tensor:
            file, _, key = reference.partition(":")
            if file == "st_rst" and key.startswith("start_"):
                return vectors("common")["x"] + vectors("st_rst")[key.replace("start", "noise")]
            return vectors(file)[key]

        self.row, self.arrays, self.array, self.start_at = row, vectors(row.file), array, start_at
        self.batch = Batch.of(array(row.x), array(row.y))
        if row.extra is not None:
            self.batch = replace(self.batch, extra=array(row.extra))
        self.now = NOW
        if row.file == "outer_iat":
            names = {
                "share of natural": "lam_clean",
                "share of adversarial": "lam_adv",
                "order of natural": "perm_clean",
                "order of adversarial": "perm_adv",
            }
            self.now = GivenNow(1, 0, 1, 1, 0, numbers={purpose: self.arrays[key] for purpose, key in names.items()})

    @property
    def objective(self) -> Objective:
        """A fresh one, since the starts are used up."""
        threat = self.start_at(*[self.array(start) for start in self.row.starts])
        return self.row.objective(Ascent(threat=threat, steps=self.row.steps), self)

    def has(self, name: str) -> bool:
        return self.row.prefix + name in self.arrays or name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        """The array for this variant, or the file's common one."""
        return self.arrays[self.row.prefix + name] if self.row.prefix + name in self.arrays else self.arrays[name]

    def number(self, name: str) -> float:
        return float(self[name])

    def stems(self, start: str) -> dict[str, Tensor]:
        start = self.row.prefix + start
        return {key.removeprefix(start): self.arrays[key] for key in self.arrays if key.startswith(start)}

    def crafted(self, network: nn.Module) -> Any:
        """What the objective shows the network."""
        objective = self.objective
        with crafting(network, objective.craft_mode):
            return objective.exchange([objective.craft(network, self.batch, self.now)], self.now)[0]


@pytest.fixture(params=ROWS, ids=lambda row: row.id)
def case(request: pytest.FixtureRequest, vectors: Callable[[str], Vectors], start_at: Any) -> Case:
    return Case(request.param, vectors, start_at)


def on(wanted: Callable[[Row], bool]) -> pytest.MarkDecorator:
    """The test is of these rows only."""
    return pytest.mark.parametrize("case", [row for row in ROWS if wanted(row)], indirect=True, ids=lambda row: row.id)


def learner(network: nn.Module) -> Learner:
    """One whose step subtracts the gradient."""
    return Learner("net", Policy(optimizer=SGD(learning_rate=1, momentum=0, weight_decay=0)), network)


@on(lambda row: row.steps > 0)
def test_examples_are_those_of_the_vectors(case: Case, network: nn.Module) -> None:
    examples = case.crafted(network)
    close(examples.x_adv, case["x_adv"])
    if case.has("x_col"):
        close(examples.x_col, case["x_col"])
    if case.has("weights"):
        weights = examples.weights["robust"]
        close(weights / weights.mean(), case["weights"])


@on(lambda row: row.file == "outer_iat")
def test_mixtures_have_the_shares_and_partners_of_the_vectors(case: Case, network: nn.Module) -> None:
    examples = case.crafted(network)
    assert torch.equal(examples.y, case.batch.y)
    for found, x, end in ((examples.natural, case.batch.x, "clean"), (examples.adversarial, case["x_adv"], "adv")):
        share, partner = case[f"lam_{end}"], case[f"perm_{end}"]
        close(found.x, share * x + (1 - share) * x[partner])
        assert torch.equal(found.other, case.batch.y[partner])
        close(found.share, share.expand(len(x)))


def test_loss_gradient_and_statistics_are_those_of_the_vectors(case: Case, network: nn.Module) -> None:
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    metrics = learner(network).descend(case.objective, case.batch, case.now)

    losses = [value for name, value in metrics.items() if name.startswith("loss/")]
    close(torch.stack(losses).sum(), case[case.row.loss])
    for term, (name, factor) in case.row.terms.items():
        close(metrics[f"loss/net/{term}"], (factor(case) if callable(factor) else factor) * case[name])
    if case.row.file != "st_small_batch":  # which has the loss only
        found = {name: before[name] - parameter.detach() for name, parameter in network.named_parameters()}
        gradients = case.stems("grad.")
        assert set(gradients) == set(found)
        for name, gradient in gradients.items():
            close(found[name], gradient)
        close(torch.cat([gradient.flatten() for gradient in found.values()]).norm(), case["grad_total_l2norm"])
    buffers = case.stems("bn_after.")
    assert set(buffers) == {name for name, _ in network.named_buffers()} or case.row.file in (
        "inner_fat",
        "st_small_batch",
    )
    for name, buffer in buffers.items():
        close(network.get_buffer(name), buffer)


@on(lambda row: row.file == "outer_bat")
def test_every_stride_of_bat_is_that_of_the_vectors(
    case: Case, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    strides: list[Tensor] = []

    def noted(left: Tensor, right: Tensor) -> Tensor:
        strides.append(kl(left, right))
        return strides[-1]

    monkeypatch.setattr("poise.objectives.bat.kl", noted)
    learner(network).descend(case.objective, case.batch, case.now)
    close(torch.stack(strides).mean(1), case["kl_terms"])


@on(lambda row: row.file == "outer_rst_carmon")
def test_entropy_is_that_of_the_images_without_label(case: Case, network: nn.Module) -> None:
    """0 where all have one."""
    objective = case.objective
    assert isinstance(objective, RST)
    metrics = learner(network).descend(replace(objective, entropy_weight=1), case.batch, case.now)
    close(metrics["loss/net/entropy"], case["loss_entropy"])


def test_fat_has_the_tau_of_the_vectors_at_every_epoch(
    vectors: Callable[[str], Vectors], network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, found = vectors("common"), []
    monkeypatch.setattr("poise.objectives.fat.friendly", lambda y, tau: found.append(tau))
    objective, batch = FAT(objective=AT(inner=Ascent(steps=2))), Batch.of(common["x"][:1], common["y"][:1])
    expected = vectors("schedules")["fat_tau"].tolist()
    with crafting(network, "evaluating"):
        for epoch in range(1, len(expected) + 1):
            objective.craft(network, batch, replace(NOW, epoch=epoch, epochs=len(expected)))
    assert found == expected


@pytest.mark.parametrize("tau", [0, 1, 2])
def test_fat_counts_as_many_backward_passes(
    tau: int, vectors: Callable[[str], Vectors], network: nn.Module, start_at: Any
) -> None:
    common, passes, going = vectors("common"), 0, torch.ones(16, dtype=torch.bool)
    rule = friendly(common["y"], tau)

    def stop(logits: Tensor) -> Tensor | None:
        nonlocal passes, going
        moves = rule(logits)
        assert moves is not None
        going = going & moves
        passes += int(going.sum())
        return moves

    inner = Ascent(threat=start_at(common["start_unif"]))
    objective, batch = AT(inner=inner), Batch.of(common["x"], common["y"])
    with crafting(network, "evaluating"):
        inner.maximise(objective.score(network, batch), batch.x, NOW.draw("craft", batch), stop=stop)
    assert passes == int(vectors("inner_fat")[f"tau{tau}_backprops"])


@pytest.mark.parametrize(
    ("key", "steps", "shift", "weighting"),
    [
        *[(f"weights_tanh_kappa0to10_lambda{shift}", 10, shift, "tanh") for shift in (-1, 0, 1, 3, math.inf)],
        ("weights_sigmoid_kappa0to10_lambda-1", 10, -1, "sigmoid"),
        ("weights_discrete_kappa0to10_lambda-1", 10, -1, "discrete"),
        ("weights_tanh_K7_kappa0to7_lambda-1", 7, -1, "tanh"),
    ],
)
def test_gairat_weights_of_every_kappa(
    vectors: Callable[[str], Vectors], key: str, steps: int, shift: float, weighting: Any
) -> None:
    expected = vectors("outer_gairat")[key]
    found = geometry_weights(torch.arange(steps + 1, dtype=torch.float64), steps, shift, weighting)
    close(found / found.mean(), expected)


def test_kappa_counts_correct_iterates(vectors: Callable[[str], Vectors], network: nn.Module, start_at: Any) -> None:
    common = vectors("common")
    kappa, inner = torch.zeros(16, dtype=torch.float64), Ascent(threat=start_at(common["start_unif"]))
    batch = Batch.of(common["x"], common["y"])
    with crafting(network, "evaluating"):
        inner.maximise(AT().score(network, batch), batch.x, NOW.draw("craft", batch), stop=counter(batch.y, kappa))
    close(kappa, vectors("outer_gairat")["kappa"].double())


@pytest.mark.parametrize("name", list(SWAPS))
def test_squeeze_training_selects_as_in_the_vectors(vectors: Callable[[str], Vectors], name: str) -> None:
    arrays = vectors("inner_outer_st")
    logits = torch.stack([arrays[f"{name}.{kind}_logit"] for kind in ("nat", "col", "adv")])
    worst, best = selected(logits, vectors("common")["y"])
    assert torch.equal(worst, arrays[f"{name}.adv_index"])
    assert torch.equal(best, arrays[f"{name}.col_index"])


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Which candidate is the worst of each example and which the best, selection by selection; filled as they are
    made.
    """
    made: list[tuple[Tensor, Tensor]] = []

    def noted(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        made.append(selected(logits, y))
        return made[-1]

    monkeypatch.setattr("poise.objectives.squeeze.selected", noted)
    return made


@on(lambda row: row.file in ("inner_outer_st", "st_small_batch", "st_rst", "outer_st_formula"))
def test_last_selection_is_that_of_the_vectors(
    case: Case, network: nn.Module, choices: list[tuple[Tensor, Tensor]]
) -> None:
    learner(network).descend(case.objective, case.batch, case.now)
    worst, best = choices[-1]
    assert torch.equal(worst, case["adv_index"])
    assert torch.equal(best, case["col_index"])


@on(lambda row: row.file in ("inner_outer_st", "st_small_batch"))
def test_every_selection_of_the_ascent_is_that_of_the_vectors(
    case: Case, network: nn.Module, choices: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the gradient at natural images is taken at the steps at which the released code forwards them once more."""
    clean: list[bool] = []

    def noted(*asked: Any) -> bool:
        clean.append(not _idle(*asked))
        return not clean[-1]

    monkeypatch.setattr("poise.objectives.squeeze._idle", noted)
    case.crafted(network)
    worst, best = (torch.stack(each) for each in zip(*choices, strict=True))
    assert torch.equal(worst, case["trace_adv_index"])
    assert torch.equal(best, case["trace_col_index"])
    assert clean == case["trace_clean_forwarded"].tolist()
