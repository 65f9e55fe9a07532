"""Objectives that came after the papers, against slow references written from their formulas in float64."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import PoiseError, RunError, SettingsError
from poise.core.overrides import override
from poise.data import Npz
from poise.engine import Experiment, Run, resume, train
from poise.engine.experiment import remarks
from poise.evaluation.digests import digest_of
from poise.learners import EMA, SGD, Learner, OwnAverage, Policy
from poise.learners.averages import with_weights
from poise.objectives import ADR, NFGSM, RPAT, TRADES, Adversarial, Objective, ReBAT
from poise.objectives.taught import Rectified
from poise.recipes import experiment
from poise.threats import L2, Linf

NOW = Now(epoch=2, step=3, epochs=4, steps_per_epoch=2, seed=1)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch(grey: bool = False) -> Batch:
    source = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 3, 3, generator=source, dtype=torch.float64)
    return Batch.of(0.4 + 0.2 * x if grey else x, torch.arange(6) % 4)


def test_rpat_is_the_formula() -> None:
    model, shown = network(), batch()
    x_adv = (shown.x + 0.1).clamp(0, 1)
    terms = RPAT(beta=3).loss(model, Adversarial(shown.y, shown.x, x_adv), NOW)
    for i in range(6):
        f = [model(image[i : i + 1])[0] for image in (shown.x, x_adv, shown.x / 2 + x_adv / 2)]
        bend = sum((f[2][c] - (f[0][c] / 2 + f[1][c] / 2)) ** 2 for c in range(4)) / 4
        torch.testing.assert_close(terms["perception"][i], 3 * bend)
        torch.testing.assert_close(terms["robust"][i], -f[1].log_softmax(0)[shown.y[i]])


@pytest.mark.parametrize("threat", [Linf(epsilon=0.03), L2(epsilon=0.2)], ids=["linf", "l2"])
def test_n_fgsm_is_noise_of_two_epsilons_and_one_unprojected_step(threat: Linf | L2) -> None:
    model, shown = network(), batch(grey=True)
    objective = NFGSM().searching(Ascent(threat=threat))
    assert objective.inner.step_size == pytest.approx(threat.epsilon)
    x_adv = objective.craft(model, shown, NOW).x_adv
    delta = x_adv - shown.x
    noise = NFGSM(inner=Ascent(threat=threat, step_size=1e-12, steps=1, start="zero")).craft(model, shown, NOW).x_adv
    assert bool((threat.norm(noise - shown.x) <= 2 * threat.epsilon * (1 + 1e-9)).all())
    assert bool((threat.norm(noise - shown.x) > threat.epsilon).any()), "the noise leaves the threat"
    assert bool((threat.norm(delta) > 2 * threat.epsilon).any()), "the step is not projected"
    for i in range(6):
        leaf = noise[i : i + 1].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), shown.y[i : i + 1]), leaf)
        steepest = gradient.sign() if isinstance(threat, Linf) else gradient / gradient.norm()
        torch.testing.assert_close(x_adv[i], (leaf + threat.epsilon * steepest)[0].detach(), rtol=0, atol=1e-9)


def test_n_fgsm_stays_in_the_box_and_a_zero_gradient_takes_no_step() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).double()
    nn.init.zeros_(flat[1].weight)  # type: ignore[arg-type]
    shown = batch()
    x_adv = NFGSM().craft(flat, shown, NOW).x_adv
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
    assert bool(((x_adv - shown.x).abs() <= 16 / 255 + 1e-12).all())


def test_n_fgsm_takes_one_step_only() -> None:
    with pytest.raises(SettingsError, match=r"NFGSM\.inner\.steps = 2: must be 1"):
        NFGSM(inner=Ascent(steps=2))


def test_one_step_and_many_take_each_others_place_within_the_runs_threat() -> None:
    at = experiment("at_digits")
    single = override(at, {"method.objective": "NFGSM"})
    objective: Objective = single.method.policies()["joint"].objective
    assert isinstance(objective, NFGSM)
    assert (objective.inner.threat, objective.inner.steps) == (Linf(epsilon=0.2), 1)
    assert objective.inner.step_size == pytest.approx(0.2)
    back = override(single, {"method.objective": "TRADES"}).method.policies()["joint"].objective
    assert isinstance(back, TRADES)
    assert (back.inner.threat, back.inner.steps) == (Linf(epsilon=0.2), 10)
    assert back.inner.step_size == pytest.approx(0.05)


# -- a teacher --------------------------------------------------------------------------------------------------------


def other_network() -> nn.Module:
    made = network()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2).add_(0.05)
    return made


def test_rebat_asks_its_teacher_on_the_adversarial_images_from_its_epoch_on() -> None:
    model, teacher, shown = network(), other_network(), batch()
    objective = ReBAT(beta=2, from_epoch=2)
    before = objective.craft(model, shown, replace(NOW, epoch=1), teacher)
    assert before.teacher is None and set(objective.loss(model, before, NOW)) == {"robust"}
    examples = objective.craft(model, shown, NOW, teacher)
    terms = objective.loss(model, examples, NOW)
    for i in range(6):
        image = examples.x_adv[i : i + 1]
        p, q = teacher(image)[0].softmax(0), model(image)[0].softmax(0)
        divergence = sum(p[c] * (p[c].log() - q[c].log()) for c in range(4))
        torch.testing.assert_close(terms["teacher"][i], 2 * divergence)
        torch.testing.assert_close(terms["robust"][i], -q.log()[shown.y[i]])
    assert examples.teacher is not None and not examples.teacher.requires_grad


@pytest.mark.parametrize(
    ("step", "temperature", "share"), [(0, 2.5, 0.7), (7, 2.0, 0.95)], ids=["first step", "last step"]
)
def test_adr_learns_the_rectified_label(step: int, temperature: float, share: float) -> None:
    model, teacher, shown = network(), other_network(), batch()
    now = replace(NOW, step=step)
    examples = ADR().craft(model, shown, now, teacher)
    terms = ADR().loss(model, examples, now)
    for i in range(6):
        p = (teacher(shown.x[i : i + 1])[0].detach() / temperature).softmax(0)
        own = min(max(share - (float(p.max()) - float(p[shown.y[i]])), 0.0), 1.0)
        target = own * p + (1 - own) * torch.eye(4, dtype=torch.float64)[shown.y[i]]
        torch.testing.assert_close(
            examples.taught[i] + examples.rest[i] * torch.eye(4, dtype=torch.float64)[shown.y[i]], target
        )
        torch.testing.assert_close(
            terms["robust"][i], -(target * model(examples.x_adv[i : i + 1])[0].log_softmax(0)).sum()
        )


def test_a_teacher_that_is_sure_of_a_wrong_class_teaches_nothing() -> None:
    logits = torch.tensor([[60.0, 0, 0, 0], [60.0, 0, 0, 0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([1, 0, 2])
    taught, rest = ADR().rectified(logits, y, replace(NOW, step=0))
    target = taught + rest[:, None] * torch.eye(4, dtype=torch.float64)[y]
    # clipped at 0, the label alone
    torch.testing.assert_close(target[0], torch.tensor([0.0, 1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(target[1], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    # a tie: the whole share
    torch.testing.assert_close(target[2], torch.tensor([0.175, 0.175, 0.475, 0.175], dtype=torch.float64))


def test_the_average_is_the_teacher_as_it_is_before_the_step() -> None:
    objective = ADR(inner=Ascent(steps=1))
    policy = Policy(
        objective=objective,
        optimizer=SGD(learning_rate=0.5),
        average=EMA(decay=0.5, warmup=False),
        teacher=OwnAverage(),
    )
    learner = Learner("joint", policy, network())
    shown = batch()
    for step in range(3):
        now = replace(NOW, step=step)
        averaged = with_weights(learner.network, learner.averaged).eval()
        _, crafted = learner.craft(objective, shown, now.within("joint"))
        expected, _ = objective.rectified(averaged(shown.x).detach(), shown.y, now)
        assert isinstance(crafted[0], Rectified)
        torch.testing.assert_close(crafted[0].taught, expected)
        learner.descend(objective, shown, now)
    assert not any(parameter.requires_grad for parameter in learner.teacher.parameters())  # type: ignore[union-attr]


def test_an_average_may_begin_late() -> None:
    weights, average = {"w": torch.tensor([4.0])}, {"w": torch.tensor([0.0])}
    EMA(decay=0.5, warmup=False, from_epoch=3).update(average, weights, NOW)
    assert average["w"].item() == 4
    EMA(decay=0.5, warmup=False, from_epoch=2).update(average, {"w": torch.tensor([0.0])}, NOW)
    assert average["w"].item() == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": TRADES(), "average": EMA(), "teacher": OwnAverage()}, "TRADES asks no teacher"),
        ({"objective": ADR(), "teacher": OwnAverage()}, "keeps no average; set average=EMA"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Policy(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def at_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = override(
        experiment("at_digits", quick=True), {"epochs": 1, "data.train_images": 64, "data.test_images": 16}
    )
    return train(small, tmp_path_factory.mktemp("teacher") / "run", device="cpu")


def taught_by(path: Path | str) -> Experiment:
    changes = {"epochs": 1, "data.train_images": 64, "data.test_images": 16, "method.policy.objective": "ADR"}
    made = override(experiment("at_digits", quick=True), changes)
    return override(made, {"method.policy.teacher": {"type": "Trained", "path": str(path)}})


def test_a_run_teaches_and_another_one_in_its_place_is_noticed(at_run: Run, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(at_run.path, teacher)
    run = train(taught_by(teacher), tmp_path / "pupil", device="cpu")
    assert run.about["teacher_digests"] == {"joint": digest_of(at_run.network())}
    shutil.rmtree(teacher)
    train(override(at_run.experiment, {"seed": 5}), teacher, device="cpu")
    for last in (run.path / "checkpoints").glob("last.*"):
        last.unlink()  # so that something is left to do
    with pytest.raises(RunError, match=r"the teacher .* was changed since the run was started"):
        resume(run.path, device="cpu")


def test_a_teacher_that_is_missing_or_of_other_images_is_refused_before_a_folder_is_made(
    at_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(PoiseError, match="nowhere"):
        train(taught_by(tmp_path / "nowhere"), tmp_path / "pupil", device="cpu")
    fewer = {"x": np.zeros((8, 8, 8, 1), np.uint8), "y": np.arange(8) % 2}
    np.savez(tmp_path / "two.npz", x_train=fewer["x"], y_train=fewer["y"], x_test=fewer["x"], y_test=fewer["y"])
    other = replace(taught_by(at_run.path), data=Npz(path=str(tmp_path / "two.npz")))
    with pytest.raises(SettingsError, match=r"trained on images \[1, 8, 8\] of 10 classes, must be"):
        train(other, tmp_path / "pupil", device="cpu")
    assert not (tmp_path / "pupil").exists()


def test_an_objective_that_asks_nobody_is_said() -> None:
    sentences = remarks(override(experiment("at_digits"), {"method.objective": "ADR"}))
    assert any(
        "ADR asks a teacher and the policy names none, so the network is its own" in sentence for sentence in sentences
    )
