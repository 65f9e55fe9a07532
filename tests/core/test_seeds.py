"""Draws depend on (seed, purpose, step, example) and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from poise.core.batches import Batch, Now
from poise.core.seeds import Draw, everyone, generator, key_of, permutation

KEY = key_of(0, "test")


def test_an_example_draws_the_same_in_any_batch():
    whole = everyone(0, "a", count=10)
    rows = torch.tensor([7, 2, 9])
    for draw in (lambda d: d.uniform(3, 4), lambda d: d.normal(5), lambda d: d.integers(6, 2)):
        assert torch.equal(draw(whole)[rows], draw(whole[rows]))


def test_another_seed_purpose_or_step_draws_otherwise():
    x = torch.zeros(4, 1, 2, 2)
    batch = Batch.of(x, torch.zeros(4, dtype=torch.int64))
    now = Now(1, 5, 2, 10, seed=0)
    draws = [
        now.draw("a", batch),
        now.draw("b", batch),
        Now(1, 6, 2, 10, seed=0).draw("a", batch),
        Now(1, 5, 2, 10, seed=1).draw("a", batch),
        now.within("robust").draw("a", batch),
        now.draw("a", batch).within("c"),
    ]
    values = {tuple(draw.uniform(2).flatten().tolist()) for draw in draws}
    assert len(values) == len(draws)


def test_uniform_numbers_are_uniform_and_uncorrelated():
    u = everyone(0, "u", count=2000).uniform(50).numpy()
    assert u.min() >= 0 and u.max() < 1
    counts, _ = np.histogram(u, bins=20, range=(0, 1))
    chi2 = ((counts - u.size / 20) ** 2 / (u.size / 20)).sum()
    assert chi2 < 43.8  # 99.9 % quantile of chi-squared with 19 degrees of freedom
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.08
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.08


def test_normal_numbers_have_the_moments_of_a_normal():
    n = everyone(0, "n", count=2000).normal(50, dtype=torch.float64)
    assert torch.isfinite(n).all()
    assert abs(float(n.mean())) < 0.02
    assert abs(float(n.std()) - 1) < 0.02
    assert abs(float((n**4).mean()) - 3) < 0.15


def test_float64_has_more_digits_than_float32():
    d = everyone(0, "d", count=100)
    wide = d.uniform(10, dtype=torch.float64)
    assert not torch.equal(wide, wide.float().double())
    torch.testing.assert_close(wide.float(), d.uniform(10, dtype=torch.float32), atol=1e-6, rtol=0)


def test_permutations_are_permutations_and_repeatable():
    first, again, other = permutation(100, 0, "x"), permutation(100, 0, "x"), permutation(100, 1, "x")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, torch.arange(100))


def test_integers_cover_their_range():
    values = everyone(0, "i", count=1000).integers(7)
    assert set(values.tolist()) == set(range(7))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    everyone(0, "a", count=10).normal(3)
    generator(0, "b")
    assert torch.equal(before, torch.random.get_rng_state())


def test_keys_distinguish_types_and_boundaries():
    assert len({key_of(1, 2), key_of(12), key_of("1", 2), key_of("1\x1f2")}) == 4


def test_one_draw_for_the_whole_batch_is_shared():
    now = Now(1, 0, 1, 1, seed=3)
    assert torch.equal(now.draw_once("lambda").uniform(), now.draw_once("lambda").uniform())


def test_slices_of_a_draw_are_draws():
    draw = Draw(KEY, torch.arange(6))
    assert torch.equal(torch.cat([draw[:2].uniform(3), draw[2:].uniform(3)]), draw.uniform(3))
