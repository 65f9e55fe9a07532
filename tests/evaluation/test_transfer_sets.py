"""Adversarial images on disk, shown to other networks: the surrogate x target matrix, `Saved`, the protocols that use
them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from poise.attacks import FGSM, PGD, AdversarialSet, Attack, Saved
from poise.core.errors import DataError, InputError, Interrupted, SettingsError
from poise.core.progress import Progress
from poise.core.seeds import Draw, everyone, key_of
from poise.core.settings import from_json, to_json
from poise.data.dataset import Data, Split
from poise.evaluation import (
    Protocol,
    evaluate,
    made_or_kept,
    make_set,
    published_subset,
    set_path,
    soe_transfer,
    survived,
    transfer_matrix,
)
from poise.models import DigitsCNN
from poise.threats import Linf

SHAPE = (1, 8, 8)
ATTACK = PGD(threat=Linf(epsilon=0.1), step_size=0.04, steps=3)


def split(count: int = 50) -> Split:
    draw = everyone(0, "split", count=count)
    return Split.of((draw.uniform(*SHAPE) * 256).to(torch.uint8), draw.within("labels").integers(3))


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
    made = make_set(surrogate, split(), ATTACK, seed=3, batch_size=16)
    made.save(tmp_path / "set.safetensors")
    read = AdversarialSet.load(tmp_path / "set.safetensors")
    for name in ("x_adv", "labels", "ids"):
        assert torch.equal(getattr(read, name), getattr(made, name))
    assert (read.attack, read.surrogate, read.seed) == (made.attack, made.surrogate, 3)
    assert from_json(Attack, read.attack) == ATTACK
    matrix = transfer_matrix({"s": surrogate}, {"t": target}, split(), [ATTACK], seed=3)
    assert float(survived(read, target, 7).double().mean()) == matrix.worst["t"]


def test_damaged_sets_are_refused(tmp_path):
    path = tmp_path / "set.safetensors"
    made = make_set(DigitsCNN().build(SHAPE, 10, 0), split(8), ATTACK)
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


def test_a_set_is_made_once_and_again_only_when_something_changed(tmp_path: Path) -> None:
    path, surrogate = tmp_path / "s" / "set.safetensors", DigitsCNN().build(SHAPE, 10, 0)
    made, kept = made_or_kept(path, surrogate, split(8), ATTACK)
    assert not kept
    again, kept = made_or_kept(path, surrogate, split(8), ATTACK)
    assert kept
    assert again.digest == made.digest
    part, kept = made_or_kept(path, surrogate, split(8).subset(torch.tensor([6, 2])), ATTACK)
    assert kept
    assert part.digest == made.digest, "a part is found in the whole, which stays"
    more, kept = made_or_kept(path, surrogate, split(11), ATTACK)
    assert not kept
    assert torch.equal(more.x_adv[:8], made.x_adv)
    torch.testing.assert_close(more.x_adv, make_set(surrogate, split(11), ATTACK).x_adv)
    changes = (
        (DigitsCNN().build(SHAPE, 10, 1), split(8), ATTACK, 0),
        (surrogate, split(8), FGSM(threat=Linf(epsilon=0.1)), 0),
        (surrogate, split(8), ATTACK, 1),
    )
    for network, images, attack, seed in changes:
        assert not made_or_kept(path, network, images, attack, seed=seed)[1]
    path.write_bytes(b"damaged")
    assert not made_or_kept(path, surrogate, split(8), ATTACK)[1]


def test_the_matrix_is_the_same_from_the_disk(tmp_path: Path) -> None:
    networks = {name: DigitsCNN().build(SHAPE, 10, seed) for seed, name in enumerate("ab")}
    matrix = transfer_matrix(networks, networks, split(12), [ATTACK])
    for _ in range(2):
        assert transfer_matrix(networks, networks, split(12), [ATTACK], folder=tmp_path) == matrix
    assert transfer_matrix(networks, networks, split(12).first(5), [ATTACK], folder=tmp_path) == transfer_matrix(
        networks, networks, split(12).first(5), [ATTACK]
    )
    assert sorted(path.parent.name for path in tmp_path.rglob("*.safetensors")) == ["a", "b"]


def test_sets_of_other_weights_settings_or_seeds_have_other_names(tmp_path: Path) -> None:
    networks = [DigitsCNN().build(SHAPE, 10, seed) for seed in (0, 1)]
    slower = PGD(threat=Linf(epsilon=0.1), step_size=0.03, steps=3)
    asked = [(networks[0], ATTACK, 0), (networks[1], ATTACK, 0), (networks[0], slower, 0), (networks[0], ATTACK, 1)]
    names = [set_path(tmp_path, *each).name for each in asked]
    assert len(set(names)) == 4
    assert all(name.startswith("PGD-3-0.1-") for name in names)


def saved(tmp_path: Path, images: Split) -> tuple[Saved, AdversarialSet]:
    made = make_set(DigitsCNN().build(SHAPE, 10, 0), images, ATTACK)
    made.save(tmp_path / "set.safetensors")
    return Saved.of(tmp_path / "set.safetensors", made, "small"), made


def test_saved_images_are_an_attack_of_any_protocol(tmp_path: Path) -> None:
    """Looked up by number: whatever order, batch size or part of the split they are asked for in."""
    images, target = split(), DigitsCNN().build(SHAPE, 10, 1)
    attack, made = saved(tmp_path, images)
    part = images.subset(torch.tensor([7, 3, 40]))
    data = Data("toy", images, part, tuple("0123456789"))
    record = evaluate(target, data, Protocol(name="shown", attacks=(attack,)), batch_size=2)
    assert record.attack_names == ["small: PGD-3"]
    right = survived(made, target)[[7, 3, 40]]
    assert record.correct_under("small: PGD-3") == right.tolist()
    assert from_json(Attack, record.attacks[0].settings) == attack


def test_an_evaluation_goes_on_where_the_set_was_moved(tmp_path: Path) -> None:
    images, target = split(20), DigitsCNN().build(SHAPE, 10, 1)
    attack, _ = saved(tmp_path, images)
    begun: list[str] = []

    class Stopping(Progress):
        def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
            begun.append(what)
            if what == "PGD-3" and begun.count(what) == 1:
                raise Interrupted("stopped")
            return lambda done: None

    data = Data("toy", images, images, tuple("0123456789"))
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "set.safetensors", tmp_path / "moved" / "set.safetensors"):
        shown = from_json(Saved, {**to_json(attack), "path": str(path)})
        stops = pytest.raises(Interrupted) if not begun else contextlib.nullcontext()
        with stops:
            evaluate(
                target,
                data,
                Protocol(name="t", attacks=(shown, ATTACK)),
                progress=Stopping(),
                journal=tmp_path / "journal",
            )
        if path.exists():
            path.rename(tmp_path / "moved" / "set.safetensors")
    assert begun == ["natural images", "small: PGD-3", "PGD-3", "natural images", "PGD-3"]


def test_saved_images_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    images, target = split(), DigitsCNN().build(SHAPE, 10, 1)
    attack, _ = saved(tmp_path, images)
    x, y = images.pixels(), images.labels

    def shown(x: Tensor, first: int = 0, **changes: object) -> Tensor:
        other = from_json(Saved, {"path": attack.path, "threat": ATTACK.threat, "digest": attack.digest, **changes})
        return other(target, x, y[: len(x)], draw=Draw(0, torch.arange(first, first + len(x))))

    assert torch.equal(shown(x), AdversarialSet.load(Path(attack.path)).x_adv)
    with pytest.raises(InputError, match="none of example 50"):
        shown(x, first=1)
    with pytest.raises(InputError, match="outside the threat"):
        shown(1 - x)
    with pytest.raises(InputError, match="of shape"):
        Saved(path=attack.path).perturb(target, x[:, :, :4], y, Draw(0, images.ids))
    with pytest.raises(DataError, match="other images than those of digest abc"):
        shown(x, digest="abc")
    with pytest.raises(DataError, match="cannot be read"):
        shown(x, path=str(tmp_path / "none.safetensors"))
    with pytest.raises(InputError, match="cannot be targeted"):
        attack(target, x, y, target=y)


def test_the_published_subset_is_pythons_draw_of_seed_0() -> None:
    whole = Split.of(torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(10_000, dtype=torch.int64))
    found = published_subset(whole)
    drawn = random.Random(0)
    assert found.ids.tolist() == drawn.sample(range(10_000), 1000)
    assert found.ids[:5].tolist() == [6311, 6890, 663, 4242, 8376]
    with pytest.raises(InputError, match="the split has 50"):
        published_subset(split())


@pytest.mark.parametrize(
    ("name", "sizes", "variants"), [("soe-transfer-3", (3,), 3), ("soe-transfer-30", (3, 5, 8), 30)]
)
def test_transfer_protocols_have_as_many_variants_as_they_are_named_after(name, sizes, variants) -> None:
    found = soe_transfer(name, Linf(epsilon=0.03))
    assert found.surrogates == sizes
    assert len(found.surrogates) * len(found.attacks) == variants
    assert {attack.steps for attack in found.attacks} == {100}  # type: ignore[attr-defined]
    assert {attack.step_size for attack in found.attacks} == {0.03 / 5}  # type: ignore[attr-defined]
    assert not any(attack.dverge_cw_compat for attack in found.attacks)  # type: ignore[attr-defined]
    assert all(attack.dverge_cw_compat for attack in soe_transfer(name, dverge_cw_compat=True).attacks)  # type: ignore[attr-defined]
    assert "SGM" not in {type(attack).__name__ for attack in soe_transfer(name, residual=False).attacks}


def test_what_is_not_as_published_is_said() -> None:
    found = soe_transfer("soe-transfer-3", Linf(epsilon=0.03))
    chosen = random.Random(0).sample(range(10_000), 1000)
    assert found.shortfall([3], chosen) is None
    for members, images, others, said in (
        ([5], chosen, (), "on surrogates of size 5, the published images"),
        ([3], chosen[:7], (), "here: 100 steps with SGM on surrogates of size 3, 7 images"),
        (
            [3],
            chosen,
            ("surrogate a is not naturally trained",),
            "the published images; surrogate a is not naturally trained",
        ),
    ):
        short = found.shortfall(members, images, *others)
        assert short is not None and short.endswith(said)


def test_other_transfer_protocols_are_refused() -> None:
    with pytest.raises(SettingsError, match="no transfer protocol 'soe'"):
        soe_transfer("soe")
