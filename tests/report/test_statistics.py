"""Closed forms, scipy and statsmodels as references, and error rates by seeded simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from orchestrator.report.statistics import (
    holm,
    holm_levels,
    kendall_tau,
    mean_interval,
    paired_differences,
    region_p_values,
    tau_interval,
    two_sided_p,
)


def _cells(rng: np.random.Generator, n: int, difference: float = 0.02):
    base = rng.normal(3.0, 0.1, n)
    a = base + difference + rng.normal(0, 0.02, n)
    return dict(enumerate(a.tolist())), dict(enumerate(base.tolist()))


def paired_interval(a, b):
    return mean_interval(paired_differences(a, b).values())


# Means and intervals


def test_mean_interval_closed_form():
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    q = 0.975
    t = (2 * q - 1) * math.sqrt(2 / (4 * q * (1 - q)))  # the quantile at 2 degrees of freedom
    half = t / math.sqrt(3)
    assert found.low == pytest.approx(2 - half, rel=1e-12)
    assert found.high == pytest.approx(2 + half, rel=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.995])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_mean_interval_against_scipy(n, confidence):
    x = np.random.default_rng(n).normal(3, 1, n)
    low, high = stats.t.interval(confidence, n - 1, loc=x.mean(), scale=stats.sem(x))
    found = mean_interval(x, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_one_value_has_no_interval():
    found = mean_interval([3.5])
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 3.5, None, None, None)


def test_equal_values_have_a_point_as_interval():
    # 0.1 + 0.1 + 0.1 is not 0.3 in floating point: the spread must still be 0, not 1e-17.
    found = mean_interval([0.1, 0.1, 0.1])
    assert (found.sd, found.low, found.high) == (0.0, found.mean, found.mean)


def test_mean_interval_refuses_what_is_no_sample():
    with pytest.raises(ValueError, match="at least 1 value; received 0"):
        mean_interval([])
    with pytest.raises(ValueError, match="received nan at 1"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="received inf"):
        mean_interval([1.0, math.inf])
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=95)


def test_interval_covers_at_its_level():
    draws, runs = np.random.default_rng(0).normal(3, 0.1, (6000, 4)), 6000
    found = [mean_interval(row, confidence=0.9) for row in draws]
    covered = np.mean([e.low < 3 < e.high for e in found])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / runs))


# Paired differences


def test_pairs_are_the_shared_seeds_only():
    a, b = {0: 3.0, 1: 3.2, 7: 9.0}, {1: 3.0, 0: 3.1, 5: 1.0}
    assert paired_differences(a, b) == pytest.approx({0: -0.1, 1: 0.2})
    assert paired_interval(a, b).n == 2


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_paired_interval_against_scipy(n):
    a, b = _cells(np.random.default_rng(n), n)
    reference = stats.ttest_rel(list(a.values()), list(b.values()))
    found = paired_interval(a, b)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    p = float(two_sided_p(found.mean, found.sd, n))
    assert p == pytest.approx(reference.pvalue, rel=1e-8)


def test_pairing_is_worth_more_than_two_samples():
    a, b = _cells(np.random.default_rng(1), 6)
    paired = paired_interval(a, b)
    apart = stats.ttest_ind(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_paired_refuses_no_shared_seed_and_names_a_bad_one():
    assert paired_differences({0: 1.0}, {1: 1.0, 2: 1.0}) == {}
    with pytest.raises(ValueError, match="at least 1 value; received 0"):
        paired_interval({0: 1.0}, {1: 1.0, 2: 1.0})
    with pytest.raises(ValueError, match="nan at 'seed 3'"):
        paired_differences({3: 1.0}, {3: math.nan})
    assert paired_differences({3: 1.0, 4: 1.0}, {3: 1.0, 5: math.nan}) == {3: 0.0}


def test_one_pair_has_no_interval():
    found = paired_interval({0: 3.0}, {0: 2.0, 1: 5.0})
    assert (found.n, found.mean, found.low, found.high) == (1, 1.0, None, None)


def test_t_without_spread_takes_its_limit():
    assert two_sided_p(0.1, 0.0, 3) == 0
    assert two_sided_p(0.0, 0.0, 3) == 1
    inside, outside = region_p_values(0.0, 0.0, 3, low=-0.01, high=0.01)
    assert (inside, outside) == (0, 1)
    inside, outside = region_p_values(0.02, 0.0, 3, low=-0.01, high=0.01)
    assert (inside, outside) == (1, 0)
    inside, outside = region_p_values(0.0, 0.0, 3, low=-math.inf, high=0.0)
    assert (inside, outside) == (1, 1)


# Regions and equivalence


def test_a_half_line_is_the_two_sided_test_on_its_side():
    inside, outside = region_p_values(-0.05, 0.02, 4, low=-math.inf, high=0.0)
    assert inside == pytest.approx(two_sided_p(-0.05, 0.02, 4))
    assert outside == 1
    inside, outside = region_p_values(0.05, 0.02, 4, low=-math.inf, high=0.0)
    assert inside == 1
    assert outside == pytest.approx(two_sided_p(0.05, 0.02, 4))


def test_at_most_one_side_is_below_one_half():
    rng = np.random.default_rng(3)
    mean, sd = rng.normal(0, 0.02, 5000), rng.uniform(0, 0.05, 5000)
    for low, high in ((-math.inf, 0.0), (0.01, math.inf), (-0.01, 0.01), (0.0, 0.02)):
        inside, outside = region_p_values(mean, sd, 3, low=low, high=high)
        assert not np.any((inside < 0.5) & (outside < 0.5))
        assert inside.min() >= 0
        assert max(inside.max(), outside.max()) <= 1


@pytest.mark.parametrize("difference", [0.0, 0.008, 0.05])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_equivalence_against_statsmodels(n, difference):
    a, b = _cells(np.random.default_rng(n), n, difference)
    margin = math.log(1.01)
    p, lower, upper = ttost_paired(
        np.array(list(a.values())), np.array(list(b.values())), -margin, margin
    )
    found = mean_interval(paired_differences(a, b).values(), confidence=0.9)
    inside, _ = region_p_values(found.mean, found.sd, n, low=-margin, high=margin)
    assert inside == pytest.approx(p, rel=1e-8)
    assert inside == pytest.approx(max(lower[1], upper[1]), rel=1e-8)


def test_equivalence_agrees_with_its_90_percent_interval():
    rng, verdicts = np.random.default_rng(4), []
    for _ in range(300):
        found = mean_interval(rng.normal(rng.normal(0, 0.01), 0.005, 5), confidence=0.9)
        inside, _ = region_p_values(found.mean, found.sd, found.n, low=-0.01, high=0.01)
        within = found.low > -0.01 and found.high < 0.01
        assert within == (inside < 0.05)
        verdicts.append(within)
    assert 30 < sum(verdicts) < 270


SIMULATIONS = 100_000
TOLERANCE = 4 * math.sqrt(0.05 * 0.95 / SIMULATIONS)  # four standard errors: 0.0028


def _moments(seed: int, n: int, mean: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(mean, sd, (SIMULATIONS, n))
    return x.mean(axis=1), x.std(axis=1, ddof=1)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("sd", [0.1, 0.5, 2.0])
def test_equivalence_at_the_margin_is_claimed_in_at_most_5_percent(n, sd):
    mean, spread = _moments(n, n, mean=1.0, sd=sd)
    inside, _ = region_p_values(mean, spread, n, low=-1.0, high=1.0)
    rate = np.mean(inside <= 0.05)
    assert rate <= 0.05 + TOLERANCE
    if sd == 0.1:  # where the other bound is far the test is exact, not merely careful
        assert rate >= 0.05 - TOLERANCE


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize(("true", "sd"), [(1.0, 0.1), (0.0, 2.0), (0.0, 50.0), (1.0, 5.0)])
def test_not_equivalent_is_claimed_within_the_margin_in_at_most_5_percent(n, true, sd):
    mean, spread = _moments(n, n, mean=true, sd=sd)
    _, outside = region_p_values(mean, spread, n, low=-1.0, high=1.0)
    assert np.mean(outside <= 0.05) <= 0.05 + TOLERANCE


# Many tests


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_levels([0.01, 0.04, 0.03]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])
    assert holm([]) == []
    assert holm_levels([]) == []
    assert holm([0.04]) == [0.04]


@pytest.mark.parametrize("m", [1, 2, 11, 40])
def test_holm_against_statsmodels(m):
    p = np.random.default_rng(m).beta(0.3, 3, m)
    decided, adjusted, _, _ = multipletests(p, alpha=0.05, method="holm")
    assert holm(p) == pytest.approx(adjusted.tolist(), rel=1e-12)
    assert [
        float(x) <= level for x, level in zip(p, holm_levels(p), strict=True)
    ] == decided.tolist()


def test_holm_levels_of_ties():
    assert holm_levels([0.02, 0.02]) == pytest.approx([0.025, 0.05])
    assert holm_levels([0.03, 0.03]) == pytest.approx([0.025, 0.025])


def test_holm_refuses_what_is_no_p_value():
    for bad in (math.nan, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"in \[0, 1\]; received"):
            holm([0.5, bad])


@pytest.mark.parametrize(("n", "asked"), [(3, 14.8), (5, 5.7)])
def test_first_of_eleven_claims_asks_for_this_t(n, asked):
    level = holm_levels([0.0] + [1.0] * 10)[0]
    assert level == pytest.approx(0.05 / 11)
    t = stats.t.ppf(1 - level / 2, n - 1)
    assert t == pytest.approx(asked, abs=0.05)
    sd = 1.0
    for factor, passes in ((1.001, True), (0.999, False)):
        p = two_sided_p(factor * t * sd / math.sqrt(n), sd, n)
        assert (p <= level) == passes


# Ranks


def test_kendall_over_shared_cells():
    ours = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 3.0, "only here": 0.0}
    published = {"a": 9.9, "b": 10.6, "c": 11.0, "d": 11.6, "only there": 0.0}
    found = kendall_tau(ours, published)
    assert found.n == 4
    assert found.tau == pytest.approx((5 - 1) / 6)
    reference = stats.kendalltau([1, 2, 4, 3], [9.9, 10.6, 11.0, 11.6])
    assert found.tau == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue)


def test_the_interval_of_tau_is_over_seeds_that_all_cells_have():
    choice = np.random.default_rng(1)
    published = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 3.0, "e": 4.0}
    values = {
        cell: {seed: float(choice.normal(at, 1.5)) for seed in range(6)}
        for cell, at in published.items()
    }
    values["a"][9] = 0.0  # a seed of one cell alone
    values["only here"] = {0: 0.0}
    low, high, seeds = tau_interval(values, published, draws=400)
    assert seeds == 6
    drawn = np.random.default_rng(0).integers(6, size=(400, 6))
    cells = list(published)
    taus = [
        stats.kendalltau(
            [np.mean([values[cell][s] for s in picks]) for cell in cells],
            [published[cell] for cell in cells],
        ).statistic
        for picks in drawn
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(taus, (0.025, 0.975))))
    assert low < kendall_tau({c: np.mean(list(values[c].values())) for c in cells}, published).tau
    assert tau_interval({cell: {0: of[0]} for cell, of in values.items()}, published) is None
    assert tau_interval({}, published) is None


@pytest.mark.parametrize(
    ("ours", "n"), [({}, 0), ({"a": 1.0}, 1), ({"a": 1.0, "b": 1.0, "c": 1.0}, 3)]
)
def test_kendall_is_undefined_rather_than_made_up(ours, n):
    found = kendall_tau(ours, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert (found.tau, found.p_value, found.n) == (None, None, n)


def test_kendall_names_the_cell_of_a_nan():
    with pytest.raises(ValueError, match="nan at 'b'"):
        kendall_tau({"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 2.0})
