"""What several experts have together: measures against counts by hand, and the surrogate x target matrix."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor

from poise.attacks import FGSM, PGD, Attack
from poise.core.errors import DataError, InputError
from poise.core.seeds import Draw, everyone, key_of
from poise.core.settings import from_json
from poise.data.dataset import Split
from poise.evaluation.ensembles import AdversarialSet, measure_ensemble, measures, transfer_matrix
from poise.evaluation.predictions import accuracy, predict, predict_under
from poise.models import Collaboration, CollaborationModule, DigitsCNN, Ensemble
from poise.models.mixture import Mixture
from poise.threats import Linf

SHAPE = (1, 8, 8)
ATTACK = PGD(threat=Linf(epsilon=0.1), step_size=0.04, steps=3)
MODELS = [Collaboration(member=DigitsCNN()), Ensemble(member=DigitsCNN()), Mixture(member=DigitsCNN(), gate=DigitsCNN())]


def split(count: int = 50) -> Split:
    draw = everyone(0, "split", count=count)
    return Split.of((draw.uniform(*SHAPE) * 256).to(torch.uint8), draw.within("labels").integers(3))


def test_measures_count_what_they_say():
    """Four examples of class 0 and two experts: both right, only the first, only the second, none."""
    logits = torch.tensor([[[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 1.0]]])
    y, chosen = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 0, 0, 1])
    output = torch.stack([logits[expert, example] for example, expert in enumerate(chosen.tolist())])
    found = measures(logits, y, output, chosen)
    assert found.members == (0.5, 0.5)
    assert found.overlap == 0.25
    assert found.oracle == 0.75
    assert found.best == (0.5, 0.5)  # the fourth example's least wrong expert is the second
    assert found.accuracy == 0.5
    assert found.choice is not None
    assert found.choice.right == 0.5
    assert found.choice.best == 0.5
    assert found.choice.missed == 0.25
    assert found.choice.won == (0.5, 0.5)


def test_the_expert_of_lowest_loss_may_be_wrong_where_another_is_right():
    p = torch.tensor([[[0.40, 0.35, 0.25]], [[0.45, 0.55, 1e-6]]])
    found = measures(p.log(), torch.tensor([0]), p.log().mean(0))
    assert (found.oracle, found.overlap) == (0.0, 0.0)
    assert found.choice is None


@pytest.mark.parametrize("network", MODELS, ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("attack", [None, ATTACK], ids=["natural", "attacked"])
def test_measures_of_a_network_agree_with_its_predictions(network, attack):
    model, images = network.build(SHAPE, 10, 2).double(), split()
    found = measure_ensemble(model, images, attack, batch_size=16)
    predicted = predict(model, images) if attack is None else predict_under(model, images, attack)
    assert found.accuracy == accuracy(predicted, images)
    assert found == measure_ensemble(model, images, attack, batch_size=50)
    assert max(found.members) <= 1 - found.overlap + 1e-12
    assert found.oracle <= 1 - found.overlap + 1e-12
    assert sum(found.best) == pytest.approx(1)
    if isinstance(model, CollaborationModule):
        assert found.choice is not None
        assert found.choice.right == found.accuracy
        assert found.choice.right + found.choice.missed + found.overlap == pytest.approx(1)
        assert sum(found.choice.won) == pytest.approx(1)
    else:
        assert found.choice is None


def test_the_network_comes_back_as_it_was_and_one_network_is_refused():
    model = Collaboration(member=DigitsCNN()).build(SHAPE, 10, 0).train()
    measure_ensemble(model, split(8), FGSM(threat=Linf(epsilon=0.1)))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match="PlainModule, must be a Collaboration"):
        measure_ensemble(DigitsCNN().build(SHAPE, 10, 0), split(8))


def test_transfer_matrix_is_each_attack_on_each_surrogate_shown_to_each_target():
    images, attacks = split(), [FGSM(threat=Linf(epsilon=0.1)), ATTACK]
    networks = {name: DigitsCNN().build(SHAPE, 10, seed).double() for seed, name in enumerate(("a", "b", "c"))}
    surrogates, targets = {name: networks[name] for name in "ab"}, {name: networks[name] for name in "bc"}
    matrix = transfer_matrix(surrogates, targets, images, attacks, batch_size=16)
    assert matrix == transfer_matrix(surrogates, targets, images, attacks, batch_size=50)
    x = images.pixels(dtype=torch.float64)
    for target, network in targets.items():
        everywhere = torch.ones(len(images), dtype=torch.bool)
        for surrogate, source in surrogates.items():
            stands = torch.ones(len(images), dtype=torch.bool)
            for attack in attacks:
                right = _shown(network.eval(), source.eval(), x, images, attack)
                assert matrix.single[surrogate][target][attack.name] == pytest.approx(float(right.double().mean()))
                stands &= right
            assert matrix.all_or_nothing[surrogate][target] == pytest.approx(float(stands.double().mean()))
            everywhere &= stands
        assert matrix.worst[target] == pytest.approx(float(everywhere.double().mean()))
        assert matrix.worst[target] <= min(row[target] for row in matrix.all_or_nothing.values()) + 1e-12


def _shown(target, surrogate, x: Tensor, images: Split, attack) -> Tensor:
    x_adv = attack(surrogate, x, images.labels, draw=Draw(key_of(0, "evaluate", attack.name), images.ids))
    return target(x_adv).argmax(1) == images.labels


def test_transfer_matrix_refuses_attacks_of_one_name():
    with pytest.raises(InputError, match="must have another name"):
        transfer_matrix({}, {}, split(4), [ATTACK, ATTACK])
    with pytest.raises(InputError, match="at least one"):
        transfer_matrix({}, {}, split(4), [])
    with pytest.raises(InputError, match="surrogates is empty"):
        transfer_matrix({}, {}, split(4), [ATTACK])


def test_adversarial_sets_survive_the_disk_and_serve_any_target(tmp_path):
    surrogate, target = (DigitsCNN().build(SHAPE, 10, seed) for seed in (0, 1))
    made = AdversarialSet.made(surrogate, split(), ATTACK, seed=3, batch_size=16)
    made.save(tmp_path / "set.safetensors")
    read = AdversarialSet.load(tmp_path / "set.safetensors")
    for name in ("x_adv", "labels", "ids"):
        assert torch.equal(getattr(read, name), getattr(made, name))
    assert (read.attack, read.surrogate, read.seed) == (made.attack, made.surrogate, 3)
    assert from_json(Attack, read.attack) == ATTACK
    matrix = transfer_matrix({"s": surrogate}, {"t": target}, split(), [ATTACK], seed=3)
    assert float(read.survived_by(target, 7).double().mean()) == matrix.worst["t"]


def test_damaged_sets_are_refused(tmp_path):
    path = tmp_path / "set.safetensors"
    made = AdversarialSet.made(DigitsCNN().build(SHAPE, 10, 0), split(8), ATTACK)
    with pytest.raises(DataError, match="cannot be read"):
        AdversarialSet.load(path)
    made.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match="was altered"):
        AdversarialSet.load(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        AdversarialSet.load(path)
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    with pytest.raises(DataError, match="not a set of adversarial images"):
        AdversarialSet.load(path)
