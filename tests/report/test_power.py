"""Power against statsmodels and against simulation with the tests themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from orchestrator.report import anytime
from orchestrator.report.power import fixed_power, seeds_for, sequential_power
from orchestrator.report.statistics import region_p_values

REGIONS = [(-math.inf, 0.0), (-0.01, 0.01), (0.005, math.inf)]


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("effect", [0.3, 1.0, 3.0])
def test_power_of_one_bound_against_statsmodels(n, effect):
    for level in (0.05, 0.05 / 11):
        inside, outside = fixed_power(-effect, 1.0, n, low=-math.inf, high=0.0, level=level)
        reference = TTestPower().power(effect, n, level, alternative="two-sided")
        certain = np.nan_to_num(reference, nan=1.0)  # the reference gives up far in the tail
        assert inside + outside == pytest.approx(certain, abs=3e-3)
        assert outside < 0.03


@pytest.mark.parametrize(("low", "high"), REGIONS)
@pytest.mark.parametrize(("mean", "n"), [(-0.006, 4), (0.003, 6), (0.012, 5), (0.0, 8)])
def test_fixed_power_is_how_often_the_test_decides(low, high, mean, n):
    runs, sd = 20_000, 0.006
    x = np.random.default_rng(0).normal(mean, sd, (runs, n))
    found = region_p_values(x.mean(axis=1), x.std(axis=1, ddof=1), n, low=low, high=high)
    told = fixed_power(mean, sd, n, low=low, high=high, level=0.05)
    for p, chance in zip(found, told, strict=True):
        assert np.mean(p <= 0.05) == pytest.approx(chance, abs=4 * math.sqrt(0.25 / runs) + 1e-3)


def test_sequential_power_is_how_often_the_test_has_decided():
    x = np.random.default_rng(5).normal(-0.01, 0.006, (4000, 12))
    found = anytime.region_p(x, -math.inf, 0.0, 3.0)
    told = sequential_power(-0.01, 0.006, 12, low=-math.inf, high=0.0, level=0.05, prior_scale=3.0)
    for p, chance in zip(found, told, strict=True):
        assert np.abs((p <= 0.05).mean(axis=0) - chance).max() < 0.04


def test_no_spread_has_all_power_or_none():
    assert fixed_power(0.0, 0.0, 3, low=-0.01, high=0.01, level=0.05) == (1, 0)
    assert fixed_power(0.1, 0.0, 3, low=-0.01, high=0.01, level=0.05) == (0, 1)
    assert fixed_power(0.0, 0.0, 3, low=-math.inf, high=0.0, level=0.05) == (0, 0)


def test_seeds_for_80_percent_give_it_and_one_fewer_do_not():
    for mean in (-0.03, -0.004, 0.002, 0.02):
        for low, high in REGIONS:

            def power(n, mean=mean, low=low, high=high):
                return max(fixed_power(mean, 0.01, n, low=low, high=high, level=0.05))

            n = seeds_for(power)
            assert power(n) >= 0.8
            assert n == 2 or power(n - 1) < 0.8


def test_seeds_that_never_suffice():
    assert seeds_for(lambda n: 0.5) is None
    assert seeds_for(lambda n: float(n >= 1_000_000)) == 1_000_000
    assert seeds_for(lambda n: float(n >= 31), most=30) is None
    assert seeds_for(lambda n: float(n >= 30), most=30) == 30
