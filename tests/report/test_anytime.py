"""The anytime-valid t test: against integration by quadrature, and error rates over many looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from orchestrator.report import anytime

LOOKS = 100


def integrated(x, prior_scale: float, lower: float = -np.inf) -> float:
    """The ratio of marginal likelihoods by the trapezoid rule over effect and log sigma, from the
    densities alone; `lower` = 0 gives the half-normal prior."""
    x = np.asarray(x)
    centre = 0.5 * math.log(np.mean(x**2))
    log_sigma = np.linspace(centre - 4, centre + 8, 601)
    effect = np.linspace(max(lower, -9 * prior_scale), 9 * prior_scale, 601)
    sigma = np.exp(log_sigma)

    def likelihood(effect):
        means = effect * sigma
        return np.exp(sum(stats.norm.logpdf(value, means, sigma) for value in x))

    prior = stats.norm.pdf(effect, 0, prior_scale) * (2 if lower == 0 else 1)
    above = integrate.trapezoid(prior[:, None] * likelihood(effect[:, None]), effect, axis=0)
    return integrate.trapezoid(above, log_sigma) / integrate.trapezoid(likelihood(0.0), log_sigma)


@pytest.mark.parametrize(
    ("x", "prior_scale"),
    [([0.3, -0.1, 0.5, 0.2], 1.0), ([1.2, 0.9, 1.4], 2.0), ([-0.2, 0.4, -0.9, 0.1, -0.3], 0.5)],
)
def test_e_value_against_numeric_integration(x, prior_scale):
    n, mean, sd = len(x), np.mean(x), np.std(x, ddof=1)
    both = anytime.log_e(mean, sd, n, prior_scale)
    positive = anytime.log_e(mean, sd, n, prior_scale, one_sided=True)
    assert math.exp(both) == pytest.approx(integrated(x, prior_scale), rel=1e-4)
    assert math.exp(positive) == pytest.approx(integrated(x, prior_scale, 0), rel=1e-4)


def test_running_moments_are_those_of_every_prefix():
    x = 1e6 + np.random.default_rng(0).normal(0, 1e-3, (3, 20))
    n, mean, sd = anytime.running_moments(x)
    for k in n:
        assert mean[:, k - 2] == pytest.approx(x[:, :k].mean(axis=1), rel=1e-14)
        assert sd[:, k - 2] == pytest.approx(x[:, :k].std(axis=1, ddof=1), rel=1e-4)
    _, _, none = anytime.running_moments(np.full(5, 0.1))
    assert not none.any()


def test_one_sided_e_value_grows_with_the_mean():
    """On which its validity for all means below the bound rests."""
    distance = np.concatenate([-np.geomspace(1e3, 1e-3, 200), [0], np.geomspace(1e-3, 1e3, 200)])
    for n in (2, 3, 5, 20, 200):
        for prior_scale in (0.5, 3.0):
            positive = anytime.log_e(distance, 1.0, n, prior_scale, one_sided=True)
            assert (np.diff(np.maximum(positive, -600)) > -1e-8).all()


def test_radii_are_where_the_e_value_reaches_its_level():
    for n in (2, 3, 4, 8, 50, 1000):
        for alpha in (0.05, 0.005):
            for scale in (0.5, 3.0):
                both = anytime.radius(n, alpha, scale)
                if np.isfinite(both):
                    at = anytime.log_e(both, 1.0, n, scale)
                    assert at == pytest.approx(math.log(1 / alpha), rel=1e-9)
                else:
                    assert anytime.log_e(np.inf, 1.0, n, scale) <= math.log(1 / alpha)
                one = anytime.one_sided_radius(n, alpha, scale)
                if np.isfinite(one):
                    at = anytime.log_e(one, 1.0, n, scale, one_sided=True)
                    assert at == pytest.approx(math.log(1 / alpha), rel=1e-6)


def test_p_and_interval_tell_the_same():
    """p at most alpha exactly where the sequence leaves the bound out."""
    rng = np.random.default_rng(3)
    x = rng.normal(0.02, 0.02, (300, 9))
    above, below = anytime.two_sided_p(x, 0.0, 3.0)
    low, high = anytime.confidence_sequence(x, 0.05, 3.0)
    assert np.array_equal(above <= 0.05, low >= 0)
    assert np.array_equal(below <= 0.05, high <= 0)
    inside, _ = anytime.region_p(x, -0.05, 0.05, 3.0)
    low, high = anytime.confidence_sequence(x, 0.05, 3.0, one_sided=True)
    assert np.array_equal(inside <= 0.05, (low > -0.05) & (high < 0.05))
    assert 0.1 < np.mean(inside[:, -1] <= 0.05) < 0.9


def test_no_spread_says_as_much_as_n_seeds_can():
    above, below = anytime.two_sided_p(np.full(4, 0.1), 0.0, 3.0)
    assert (above[-1], below[-1]) == (pytest.approx(37**-1.5), 1)
    assert (np.array(anytime.two_sided_p(np.zeros(4), 0.0, 3.0)) == 1).all()


def normal(rng, mean, runs=2000, looks=LOOKS):
    return rng.normal(mean, 1.0, (runs, looks))


def false(*p) -> float:
    """The share of studies in which one of these was at most 5% at any look."""
    return float(np.mean((np.minimum.reduce(p) <= 0.05).any(axis=1)))


def within(rate: float, limit: float = 0.05, runs: int = 2000) -> bool:
    return rate <= limit + 3 * math.sqrt(limit * (1 - limit) / runs)


@pytest.mark.parametrize("prior_scale", [0.5, 3.0])
def test_false_verdicts_over_unbounded_looks(prior_scale):
    """Looked at after every seed from 2 to 100, each kind of claim at its own worst case."""
    rng = np.random.default_rng(1)
    # Better, NotBetter: equal cells, either verdict is false.
    above, below = anytime.two_sided_p(normal(rng, 0.0), 0.0, prior_scale)
    assert within(false(above, below))
    # Better where the cell is a little worse.
    above, _ = anytime.two_sided_p(normal(rng, -0.2), 0.0, prior_scale)
    assert within(false(above))
    # Equivalent, at its margin: "it holds" and "it lies outside" are both false.
    inside, outside = anytime.region_p(normal(rng, 1.0), -1.0, 1.0, prior_scale)
    assert within(false(inside))
    assert within(false(outside))
    # ... and beyond it, and within.
    assert within(false(anytime.region_p(normal(rng, 1.3), -1, 1, prior_scale)[0]))
    assert within(false(anytime.region_p(normal(rng, 0.9), -1, 1, prior_scale)[1]))


def test_the_t_test_does_not_survive_looking():
    """What the product did: the same looks, a plain t test at each."""
    x = normal(np.random.default_rng(1), 0.0, looks=20)
    n, mean, sd = anytime.running_moments(x)
    p = 2 * stats.t.sf(np.abs(mean) / sd * np.sqrt(n), n - 1)
    assert np.mean((p <= 0.05).any(axis=1)) > 0.2


@pytest.mark.parametrize("prior_scale", [0.5, 3.0])
def test_the_sequence_covers_at_all_looks_at_once(prior_scale):
    x = normal(np.random.default_rng(2), 5.0)
    n, mean, sd = anytime.running_moments(x)
    half = anytime.radius(n, 0.05, prior_scale) * np.where(sd > 0, sd, 1)
    missed = (np.abs(mean - 5.0) > half).any(axis=1)
    assert within(np.mean(missed))
