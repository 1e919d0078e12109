"""What the process would try next: the expectation against draws, and a search against chance."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import (
    Seen,
    log_expected_improvement,
    next_points,
    standardized,
)
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space

SPACE = Space(
    axes={
        "optim.warmup_steps": Int(low=0, high=20),
        "optim.beta1": Choice((0.8, 0.85, 0.9, 0.95)),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
        "model.norm": Choice(("layernorm", "rmsnorm")),
    }
)


def cost(values):
    off = math.log10(values["optim.learning_rate"]) + 2.3
    return (
        off**2
        + 0.05 * abs(values["optim.warmup_steps"] - 6)
        + abs(values["optim.beta1"] - 0.9)
        + 0.2 * (values["model.norm"] == "layernorm")
    )


def abs_off(values):
    return abs(math.log10(values["optim.learning_rate"]) + 2.3)


def searched(
    trials,
    *,
    space=SPACE,
    cost=cost,
    startup=6,
    fixed=None,
    feasible=None,
    is_feasible=lambda v: True,
    seed=0,
    prior=None,
):
    rng, seen = random.Random(seed), []
    for _ in range(trials):
        known = [one.values for one in seen]
        suggested = next_points(
            space,
            seen,
            [],
            is_open=lambda values, known=known: values not in known and is_feasible(values),
            fixed=fixed or {},
            feasible=feasible,
            startup=startup,
            rng=rng,
            prior=prior,
        )
        values = next(suggested)
        assert values not in known
        assert is_feasible(values)
        seen.append(Seen(values=values, cost=cost(values)))
    return seen


def test_the_expectation_is_that_of_draws_and_falls_on_far_below():
    generator = np.random.default_rng(0)
    for mean, sd, target in ((0.0, 1.0, 0.3), (1.0, 0.5, 0.2), (-1.0, 2.0, -3.0)):
        draws = np.maximum(target - (mean + sd * generator.standard_normal(10**6)), 0).mean()
        told = log_expected_improvement(np.array([mean]), np.array([sd]), target)[0]
        assert math.exp(told) == pytest.approx(draws, rel=0.03)
    far = log_expected_improvement(np.linspace(0, 60, 200), np.ones(200), 0.0)
    assert np.all(np.isfinite(far))
    assert np.all(np.diff(far) < 0)


def test_a_search_is_far_better_than_chance():
    ends = {
        startup: np.mean(
            [min(o.cost for o in searched(20, startup=startup, seed=s)) for s in range(2)]
        )
        for startup in (6, 99)
    }
    assert ends[6] < 0.4 * ends[99]


def test_a_true_belief_helps_early_and_a_wrong_one_is_overcome():
    true = {"optim.learning_rate": 5e-3, "model.norm": "rmsnorm"}
    wrong = {"optim.learning_rate": 1e-1, "model.norm": "layernorm"}

    def ends(trials, prior):
        return np.mean(
            [min(o.cost for o in searched(trials, prior=prior, seed=s)) for s in range(2)]
        )

    assert ends(8, true) < ends(8, None)
    assert ends(28, wrong) < 0.1, "the best has 0, the median point 1.5"


@pytest.mark.parametrize("is_enumerated", [True, False])
def test_half_of_the_first_points_are_drawn_to_have_what_is_believed_in(is_enumerated):
    """By chance a quarter and a half have it, and farness from those that do would avoid it."""
    rng, prior = random.Random(2), {"optim.beta1": 0.8, "model.norm": "rmsnorm"}
    feasible = [SPACE.draw(rng) for _ in range(300)] if is_enumerated else None
    first = [
        one.values
        for seed in range(20)
        for one in searched(8, startup=99, feasible=feasible, seed=seed, prior=prior)
    ]
    for path, value in prior.items():
        assert np.mean([values[path] == value for values in first]) > 0.5


def test_what_is_believed_in_and_cannot_be_had_is_passed_over():
    prior = {"optim.beta1": 0.8}
    for feasible in (None, [SPACE.draw(random.Random(s)) for s in range(60)]):
        kept = feasible and [v for v in feasible if v["optim.beta1"] != 0.8]
        seen = searched(
            6,
            startup=99,
            prior=prior,
            feasible=kept,
            is_feasible=lambda values: values["optim.beta1"] != 0.8,
        )
        assert len(seen) == 6


def test_fixed_values_stay_and_what_is_not_feasible_is_left_out():
    fixed = {"optim.beta1": 0.8}
    seen = searched(
        9,
        startup=4,
        fixed=fixed,
        is_feasible=lambda v: v["optim.warmup_steps"] > v["optim.learning_rate"] * 1000,
    )
    assert {one.values["optim.beta1"] for one in seen} == {0.8}


def test_all_feasible_points_that_are_known_are_found():
    rng = random.Random(1)
    points = [SPACE.draw(rng) for _ in range(12)]
    seen = searched(12, startup=4, feasible=points)
    assert sorted(map(str, points)) == sorted(str(one.values) for one in seen)


def test_no_point_is_a_hair_from_another():
    rows = Columns(SPACE).rows([one.values for one in searched(30)])
    apart = np.abs(rows[:, None] - rows[None]).max(2)
    assert apart[np.triu_indices(30, 1)].min() > 0.05 - 1e-9


def test_a_space_that_is_full_of_them_is_searched_on():
    narrow = Space(axes={"optim.learning_rate": Float(low=1e-3, high=1e-2, log=True)})
    rates = [one.values["optim.learning_rate"] for one in searched(30, space=narrow, cost=abs_off)]
    assert len(set(rates)) == 30
    at = np.sort(np.log10(rates))
    assert np.diff(at).max() < 0.15  # first everywhere, then again where it is best
    assert np.median(np.abs(np.array([abs_off({"optim.learning_rate": r}) for r in rates]))) < 0.3


def test_a_divergence_is_the_worst_and_hides_no_difference_of_the_good():
    values = standardized(np.array([2.0, 2.01, 2.05, 2.1, 9.0, math.inf]))
    assert np.all(np.diff(values) > 0)
    assert values[3] - values[0] > 0.3 * (values[-1] - values[0])
    assert np.all(standardized(np.array([math.inf, math.inf])) == 0)
