"""Regrets and Theorem 1's bound on numbers worked out by hand; Eq. 12 against the exact meta-gradient; Appendix C.1's
measures.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import FGSM, PGD, Ascent
from poise.core.batches import Batch, Now
from poise.core.distributed import ALONE, World
from poise.core.errors import SettingsError
from poise.core.settings import to_json
from poise.data import Digits, Split
from poise.engine import Diagnosis, Experiment, Monitor, resume, train
from poise.engine.diagnostics import accuracies, cosines, distances, theory
from poise.engine.regret import deviation, regrets, subproblem_regret
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, Learner, Policy
from poise.methods import Generalist, Joint
from poise.objectives import AT, GAIRAT, NT, TwoExamples
from poise.reproduce import alone
from poise.threats import L2, Linf
from poise.verbs.evaluate import evaluate

THREAT = Linf(epsilon=0.2)
ATTACK = PGD(threat=THREAT, step_size=0.1, steps=2)
INNER = Ascent(threat=THREAT, step_size=0.1, steps=2)

# -- regret -----------------------------------------------------------------------------------------------------------


def test_subproblem_regret_by_hand():
    assert subproblem_regret([0.5, 0.3, 0.4], [0.5, 0.3, 0.4]) == pytest.approx(1.2 - 3 * 0.3)
    assert subproblem_regret([0.5, 0.3], [0.5, 0.3, 0.1]) == pytest.approx(0.8 - 2 * 0.1), (
        "another network may be the best one seen"
    )
    assert subproblem_regret([0.2, 0.2], [0.2, 0.2]) == 0


def test_regrets_and_bound_by_hand():
    def moment(*losses: tuple[float, float]) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(("natural", "robust"), pair, strict=True))
            for name, pair in zip(("n", "r", "global"), losses, strict=True)
        }

    history = [moment((0.4, 1.0), (0.6, 0.8), (0.5, 0.9)), moment((0.1, 1.0), (0.3, 0.6), (0.2, 0.7))]
    found = regrets(history, {"n": "natural", "r": "robust"}, delta=0.05)
    assert found["n"] == pytest.approx(0.4 + 0.1 - 2 * 0.1)
    assert found["r"] == pytest.approx(0.8 + 0.6 - 2 * 0.6)
    assert found["tradeoff"] == pytest.approx((0.3 + 0.2) / 2)
    assert (found["n suffered"], found["n least"]) == pytest.approx((0.25, 0.1))
    assert (found["r suffered"], found["r least"]) == pytest.approx((0.7, 0.6))
    assert found["global"] == pytest.approx((0.2 + 0.7) / 2)
    assert found["best"] == pytest.approx(0.45)
    assert found["bound"] == pytest.approx(0.45 + 0.25 / 2 + 2 * math.sqrt(2 / 2 * math.log(20)))


def test_the_deviation_shrinks_with_rounds_and_grows_with_certainty():
    assert deviation(400, 0.05) == pytest.approx(deviation(100, 0.05) / 2)
    assert deviation(100, 0.01) > deviation(100, 0.05) > 0


def test_the_mean_iterate_of_a_convex_loss_lies_within_the_regret_of_the_best_and_not_without_it():
    """Descent on E|theta - z|, losses in [0, 1], with theta_g the mean of the iterates as in the proof; no chance, so
    no deviation.
    """
    z = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(at: float) -> float:
        return float((z - at).abs().mean())

    path = [1 - 0.05 * step for step in range(10)]
    suffered, seen = [loss(each) for each in path], [loss(each) for each in torch.linspace(0, 1, 101).tolist()]
    mean = sum(path) / len(path)
    regret = subproblem_regret(suffered, seen) / len(path)
    assert min(seen) + 0.5 * regret < loss(mean) <= min(seen) + regret


# -- Equation 12 ------------------------------------------------------------------------------------------------------


def meta_gradients(tau: float) -> tuple[Tensor, Tensor]:
    made = alone.meta_gradients(tau)
    return made["exact"], made["Eq. 12"]


def test_equation_12_is_the_exact_meta_gradient_up_to_the_square_of_the_step_size():
    errors = [float((exact - expanded).norm()) for exact, expanded in map(meta_gradients, (1e-3, 5e-4, 2.5e-4))]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.05)
    exact, expanded = meta_gradients(1e-5)
    torch.testing.assert_close(exact, expanded, rtol=1e-6, atol=1e-6)


# -- Appendix C.1 -----------------------------------------------------------------------------------------------------


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()


def images(count: int = 40) -> Split:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split.of(pixels, torch.randint(3, (count,), generator=generator))


def test_cross_attack_accuracy_is_that_of_one_network_on_the_others_images():
    networks = {"a": linear(0), "b": linear(1)}
    attack = FGSM(threat=Linf(epsilon=0.05))
    found = accuracies(networks, images(), attack, seed=0)
    x, y = images().pixels(dtype=torch.float64), images().labels
    for name, other in (("a", "b"), ("b", "a")):
        x_adv = attack(networks[name], x, y)
        assert found[f"{name}/natural"] == float((networks[name](x).argmax(1) == y).double().mean())
        assert found[f"{name}/robust"] == float((networks[name](x_adv).argmax(1) == y).double().mean())
        assert found[f"{other}/on images of {name}"] == float((networks[other](x_adv).argmax(1) == y).double().mean())
        assert found[f"{name}/robust"] < found[f"{name}/natural"]


def test_distances_and_cosines():
    a, b = linear(0), linear(0)
    with torch.no_grad():
        b[1].bias += 2.0  # type: ignore[union-attr, operator]
    assert distances({"a": a, "b": b, "c": a}) == pytest.approx(
        {"distance/a-b": 12**0.5, "distance/a-c": 0, "distance/b-c": 12**0.5}
    )
    learners = {name: Learner(name, Policy(objective=NT()), network) for name, network in (("a", a), ("b", linear(1)))}
    found = cosines(learners, images(), Now(1, 0, 1, 1, 0))
    gradients = []
    for learner in learners.values():
        loss = nn.functional.cross_entropy(learner.network(images().pixels(dtype=torch.float64)), images().labels)
        gradients.append(
            torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, list(learner.network.parameters()))])
        )
    wanted = torch.dot(*gradients) / (gradients[0].norm() * gradients[1].norm())
    assert found == pytest.approx({"cosine/a-b": float(wanted)})


def test_observing_a_gradient_moves_nothing():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).double()
    learner = Learner("robust", Policy(objective=AT(inner=INNER)), network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = learner.gradient(
        learner.policy.objective, Batch.of(images().pixels(dtype=torch.float64), images().labels), Now(1, 0, 1, 1, 0)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [each.shape for each in found] == [parameter.shape for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters()) and network.training


def test_an_observed_gradient_is_not_divided_by_the_ranks_which_all_hold_the_whole_batch():
    class Twice(World):
        """A second rank that sends the same."""

        def sum_(self, tensors: Sequence[Tensor]) -> None:
            for tensor in tensors:
                tensor.mul_(2)

    objective = GAIRAT(inner=INNER, from_epoch=1)
    whole = Batch.of(images().pixels(dtype=torch.float64), images().labels)
    learners = [Learner("robust", Policy(objective=objective), linear(0), world) for world in (ALONE, Twice(0, 2))]
    alone, shared = (learner.gradient(objective, whole, Now(1, 0, 1, 1, 0)) for learner in learners)
    assert any(bool(each.any()) for each in alone)
    assert all(torch.equal(one, two) for one, two in zip(alone, shared, strict=True))


def experiment(**changes: object) -> Experiment:
    policy = Policy(objective=NT(), optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.8))
    robust = dataclasses.replace(policy, objective=AT(inner=INNER), average=None)
    method = Generalist(
        natural=dataclasses.replace(policy, average=None),
        robust=robust,
        batch_size=32,
        decay=0.8,
        redistribute_from=0.5,
        redistribute_every=1,
        momentum="reset",
    )
    made = Experiment(
        protocol=Protocol(name="natural", attacks=()),
        data=Digits(train_images=96, test_images=60),
        method=method,
        epochs=3,
        selection="test",
        monitors=(Monitor(),),
        diagnosis=Diagnosis(attack=ATTACK, images=32),
    )
    return dataclasses.replace(made, **changes)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_diagnosed_run_is_the_same_run_with_more_told_of_it(tmp_path: Path):
    """Learners that would be idle are trained, the deployed weights are the same, and regrets survive an
    interruption.
    """
    told = train(experiment(), tmp_path / "told")
    plain = train(experiment(diagnosis=None), tmp_path / "plain")
    for name, tensor in told.network("last").state_dict().items():
        assert torch.equal(tensor, plain.network("last").state_dict()[name])
    assert "loss/natural/natural" not in lines(plain.path)[0], "idle"
    found = lines(told.path)
    assert all("loss/natural/natural" in line for line in found)
    for line in found:
        assert line["diagnosis/attack"] == {"name": "PGD-2", "settings": to_json(ATTACK)}
        assert {
            "diagnosis/distance/natural-robust",
            "diagnosis/cosine/natural-robust",
            "diagnosis/natural/on images of robust",
        } <= set(line)
    natural = [line["diagnosis/natural/natural loss"] for line in found]
    seen = [line[f"diagnosis/{name}/natural loss"] for line in found for name in ("natural", "robust", "global")]
    assert 0 <= min(seen) <= max(seen) <= 1
    assert found[-1]["regret/natural"] == pytest.approx(sum(natural) - 3 * min(seen))
    assert found[-1]["regret/tradeoff"] == pytest.approx((found[-1]["regret/natural"] + found[-1]["regret/robust"]) / 2)
    mean_regret = found[-1]["regret/tradeoff"] / 3
    assert found[-1]["regret/bound"] == pytest.approx(found[-1]["regret/best"] + mean_regret + deviation(3, 0.05))

    record = evaluate(told, checkpoint="last")
    assert record.notes["theory"] == {
        "epoch": 3,
        "rounds": 3,
        "loss": "clipped_cross_entropy",
        "delta": 0.05,
        **{name.removeprefix("regret/"): value for name, value in found[-1].items() if name.startswith("regret/")},
    }
    assert "theory" not in evaluate(plain, checkpoint="last").notes

    for path in (told.path / "checkpoints").glob("step-000000009*"):
        path.unlink()
    resume(told.path)
    timeless = [
        [{key: value for key, value in line.items() if "second" not in key} for line in each]
        for each in (found, lines(told.path))
    ]
    assert timeless[0] == timeless[1]


def test_theory_is_what_was_known_at_an_epoch():
    lines = [
        {"epoch": 2, "diagnosis/global/natural": 0.5, "regret/tradeoff": 0.1},
        {"epoch": 3},
        {"epoch": 4, "diagnosis/global/natural": 0.6, "regret/tradeoff": 0.3},
    ]
    assert theory(lines, 1, Diagnosis()) == {}
    told = theory(lines, 3, Diagnosis(loss="zero_one", delta=0.1))
    assert told == {"epoch": 2, "rounds": 1, "loss": "zero_one", "delta": 0.1, "tradeoff": 0.1}
    assert theory(lines, 4, Diagnosis())["rounds"] == 2


@pytest.mark.parametrize("loss", ["zero_one", "clipped_cross_entropy"])
def test_regrets_are_of_the_loss_asked_for(loss):
    learners = {
        "natural": Learner("natural", Policy(objective=NT()), linear(0)),
        "robust": Learner("robust", Policy(objective=AT()), linear(1)),
    }
    diagnosis = Diagnosis(attack=FGSM(threat=Linf(epsilon=0.05)), images=20, geometry=False, loss=loss)
    line = diagnosis.measure(learners, linear(2), images(), Now(1, 0, 1, 1, 0))
    x, y = images().pixels(dtype=torch.float64)[:20], images().labels[:20]
    logits = {name: linear(seed)(x).detach() for seed, name in enumerate(("natural", "robust", "global"))}
    if loss == "zero_one":
        wanted = {name: float((each.argmax(1) != y).double().mean()) for name, each in logits.items()}
    else:
        wanted = {
            name: float((-each.log_softmax(1)[range(20), y]).clamp(max=1).mean()) for name, each in logits.items()
        }
    found = diagnosis.regrets([line], learners)
    assert found["regret/natural"] == pytest.approx(wanted["natural"] - min(wanted.values()))


def test_a_robust_learner_under_another_threat_is_judged_under_its_own():
    flat = Ascent(threat=L2(epsilon=0.5), step_size=0.2, steps=2)
    objectives = {"natural": NT(), "robust": AT(inner=INNER), "l2": TwoExamples(objective=AT(inner=flat))}
    learners = {
        name: Learner(name, Policy(objective=each), linear(seed))
        for seed, (name, each) in enumerate(objectives.items())
    }
    diagnosis = Diagnosis(attack=ATTACK, images=20, geometry=False)
    assert diagnosis.own({name: learners[name] for name in ("natural", "l2")}) == {}, (
        "one robust learner: as it was asked for"
    )
    (own,) = diagnosis.own(learners).values()
    assert own == dataclasses.replace(ATTACK, threat=flat.threat, step_size=flat.step_size)

    line = diagnosis.measure(learners, linear(3), images(), Now(1, 0, 1, 1, 0))
    task, names = "robust L2 0.5", [*learners, "global"]
    part = images().first(20)
    for seed, name in enumerate(names):
        plain = accuracies({name: linear(seed)}, part, own, seed=0)
        assert line[f"diagnosis/{name}/{task}"] == plain[f"{name}/robust"]
        assert line[f"diagnosis/{name}/{task} loss"] == plain[f"{name}/robust loss"]
    assert (
        line["diagnosis/natural/on images of l2"]
        == accuracies({"natural": linear(0), "l2": linear(2)}, part, own, 0)["natural/on images of l2"]
    )
    found = diagnosis.regrets([line], learners)
    least = {each: min(line[f"diagnosis/{name}/{each} loss"] for name in names) for each in ("robust", task)}
    assert found["regret/l2"] == pytest.approx(line[f"diagnosis/l2/{task} loss"] - least[task])
    assert found["regret/robust"] == pytest.approx(line["diagnosis/robust/robust loss"] - least["robust"])
    tasks = ("natural", "robust", task)
    assert found["regret/global"] == pytest.approx(sum(line[f"diagnosis/global/{each} loss"] for each in tasks) / 3)


def test_a_single_learner_can_be_diagnosed_too(tmp_path: Path):
    method = Joint(policy=Policy(objective=AT(inner=INNER)), batch_size=32)
    line = lines(train(experiment(method=method, epochs=1), tmp_path / "run").path)[0]
    assert line["regret/joint"] == 0 and line["diagnosis/distance/joint-global"] == 0


def test_refusals():
    with pytest.raises(SettingsError, match=r"Diagnosis\.delta = 1\.0: must be above 0 and below 1"):
        Diagnosis(delta=1)


def test_distances_are_known_before_and_after_every_redistribution(tmp_path: Path):
    """Also where epochs are not monitored; the weights trained are the same."""
    often, seldom = (lines(train(experiment(monitor_every=every), tmp_path / str(every)).path) for every in (1, 3))
    name = "diagnosis/distance/natural-robust"
    assert [name in line for line in seldom] == [True] * 3
    assert [line[name] for line in seldom] == [line[name] for line in often]
    assert [any(key.startswith("diagnosis/cosine") for key in line) for line in seldom] == [False, False, True]
