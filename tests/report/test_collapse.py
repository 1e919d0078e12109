"""Seeds far from their cell's others: found, and not found among normal ones."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.report.collapse import collapsed


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 9, 12, 20, 30])
def test_normal_cells_have_a_collapsed_seed_in_one_of_a_hundred(n):
    draws = np.random.default_rng(n).normal(3, 0.01, (4000, n))
    found = np.mean([bool(collapsed(dict(enumerate(row)))) for row in draws])
    assert found < 0.016


@pytest.mark.parametrize("n", [4, 5, 10, 20])
def test_a_seed_far_off_is_found(n):
    rng = np.random.default_rng(n)
    found = 0
    for _ in range(200):
        x = rng.normal(3, 0.004, n)
        x[1] += 0.3
        off = collapsed(dict(enumerate(x)))
        found += 1 in off
        if off:
            assert off[1] == pytest.approx(0.3, abs=0.03)
    assert found / 200 > 0.95


def test_too_few_or_equal_seeds_say_nothing():
    assert collapsed({0: 1.0, 1: 9.0}) == {}
    assert collapsed({}) == {}
    assert collapsed({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.5}) == {}
