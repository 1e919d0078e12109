from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from moe.data.shuffle import permute


@pytest.mark.parametrize("n", [*range(1, 70), 100, 255, 256, 257, 1000, 65_537, 300_000])
def test_it_is_a_bijection(n):
    for key in [(0, 0), (1, 0), (0, 1)]:
        assert np.array_equal(np.sort(permute(np.arange(n), n=n, key=key)), np.arange(n))


def test_points_can_be_evaluated_alone_and_in_any_shape():
    n, key = 12_345, (7, 3)
    whole = permute(np.arange(n), n=n, key=key)
    some = np.array([[5, 12_344], [0, 777]])
    assert np.array_equal(permute(some, n=n, key=key), whole[some])
    assert permute(np.array([], dtype=np.int64), n=n, key=key).shape == (0,)


def test_a_huge_domain_needs_no_memory_for_it():
    n = 10**12
    image = permute(np.arange(1000), n=n, key=(0, 0))
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0
    assert image.max() < n


def test_all_orders_of_a_small_domain_come_about_equally_often():
    draws = 2400
    seen = Counter(
        tuple(permute(np.arange(4), n=4, key=(seed, 0)).tolist()) for seed in range(draws)
    )
    assert set(seen) == set(itertools.permutations(range(4)))
    chi_square = sum((count - draws / 24) ** 2 / (draws / 24) for count in seen.values())
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_neighbours_are_scattered():
    n = 100_000
    image = permute(np.arange(n), n=n, key=(0, 0))
    correlation = np.corrcoef(image[:-1], image[1:])[0, 1]
    assert abs(correlation) < 0.015
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.015
    assert abs(np.corrcoef(image, permute(np.arange(n), n=n, key=(0, 1)))[0, 1]) < 0.015
