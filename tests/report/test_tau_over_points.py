"""How sure Kendall's tau is over few points, and over more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from orchestrator.report.tau_over_points import interval_over_points


def test_five_points_that_agree_are_no_proof():
    low, high = interval_over_points(1.0, 5)
    assert high == 1.0
    assert 0.1 < low < 0.6
    assert interval_over_points(1.0, 20)[0] > 0.7
    assert interval_over_points(-1.0, 5) == pytest.approx((-high, -low), abs=0.05)


@pytest.mark.parametrize("n", [5, 12, 30, 61])
@pytest.mark.parametrize("true", [0.0, 0.5, 0.9])
def test_the_interval_covers_the_truth(n, true):
    """In at least 93% of 500 samples of two normal variables: 95% but for chance."""
    rng, rho, covered = np.random.default_rng(n), math.sin(math.pi / 2 * true), 0
    for _ in range(500):
        x, e = rng.standard_normal((2, n))
        tau = kendalltau(x, rho * x + math.sqrt(1 - rho**2) * e)[0]
        low, high = interval_over_points(round(float(tau), 6), n)
        covered += low <= true <= high
    assert covered / 500 >= 0.93
