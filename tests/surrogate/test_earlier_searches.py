"""Earlier searches weigh as far as their order agrees, and what misleads is soon let go."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.surrogate.earlier_searches import WEIGHT, WORTH, Earlier, told_by, weight_of
from orchestrator.surrogate.expected_improvement import Seen, next_points
from search_spaces.domains import Choice, Float
from search_spaces.space import Space

SPACE = Space(
    axes={
        "moe.num_experts": Choice((2, 4, 8, 16)),
        "moe.router": Choice(("learned", "frozen", "random")),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
    }
)


def cost_of(values):
    """Best at 16 learned experts and a rate of 3e-3."""
    off = np.log(values["optim.learning_rate"] / 3e-3)
    return (
        0.1 * off**2
        - 0.1 * np.log2(values["moe.num_experts"])
        + 0.5 * (values["moe.router"] != "learned")
    )


def seen_of(cost, count, seed=0):
    rng = random.Random(seed)
    points = [SPACE.draw(rng) for _ in range(count)]
    return tuple(Seen(values=values, cost=float(cost(values))) for values in points)


def earlier_of(cost, count=30):
    return Earlier(launch="before", space=SPACE, seen=seen_of(cost, count, seed=1))


def with_excess(seen, over):
    return tuple(replace(one, excess=(float(over(one.values)),)) for one in seen)


def too_many(values):
    """Sixteen experts, where the least cost lies, violate by three; the others by none."""
    return 3.0 * (values["moe.num_experts"] == 16)


def tau_of(a, b):
    """Pair by pair."""
    signs = [
        np.sign(x - y) * np.sign(v - w)
        for (x, v), (y, w) in itertools.combinations(zip(a, b, strict=True), 2)
    ]
    return float(np.mean(signs))


def test_the_weight_is_kendalls_tau_drawn_towards_a_half():
    rng = np.random.default_rng(0)
    for count in (2, 5, 12, 30):
        a, b = rng.standard_normal((2, count))
        b = b + a
        expected = (WORTH * WEIGHT + count * tau_of(a, b)) / (WORTH + count)
        assert weight_of(a, b) == pytest.approx(max(0, expected))
    nothing = np.zeros(0)
    assert weight_of(nothing, nothing) == weight_of(np.ones(1), np.ones(1)) == WEIGHT
    assert weight_of(np.arange(6.0), -np.arange(6.0)) == 0, "after six points that say otherwise"


def test_what_agrees_gains_weight_and_what_misleads_loses_it():
    seen = seen_of(cost_of, 15)
    larger = lambda values: 7 + 3 * cost_of(values)  # noqa: E731 (another size, the same order)
    good, bad = earlier_of(larger), earlier_of(lambda values: -cost_of(values))
    assert told_by((good,), ()).weight == WEIGHT
    assert told_by((good,), seen).weight > 0.75
    assert told_by((bad,), seen).weight == 0
    both = told_by((good, bad), seen)
    assert both.weights[0] > 0.75
    assert both.weights[1] == 0
    points = [one.values for one in seen]
    assert np.allclose(both.foretold(points), good.foretold(points))
    assert {tuple(h.items()) for h in both.hints} <= {tuple(h.items()) for h in good.hints}
    assert told_by((), seen) is None


def first_of(seen, told, seed=0, startup=8, **more):
    rng = random.Random(seed)
    return next(
        next_points(
            SPACE,
            seen,
            [],
            is_open=lambda values: values not in [one.values for one in seen],
            fixed={},
            feasible=None,
            startup=startup,
            rng=rng,
            told=told,
            **more,
        )
    )


def test_the_first_point_is_one_that_earlier_searches_believe_in_and_every_other_is_not():
    good = earlier_of(cost_of)
    believed = [first_of((), told_by((good,), ()), seed) for seed in range(10)]
    cold = [first_of((), None, seed) for seed in range(10)]
    assert np.mean([cost_of(v) for v in believed]) < np.mean([cost_of(v) for v in cold]) - 0.3
    one = seen_of(cost_of, 1)
    assert first_of(one, told_by((good,), one)) == first_of(one, None)


def test_what_the_study_believes_in_holds_beside_what_earlier_searches_do():
    """Half of the first points have it, though these rank all of its points last."""
    told, prior = told_by((earlier_of(cost_of),), ()), {"moe.router": "frozen"}
    first = [first_of((), told, seed, prior=prior) for seed in range(20)]
    assert 5 <= sum(values["moe.router"] == "frozen" for values in first) <= 15
    assert np.mean([values["moe.num_experts"] >= 8 for values in first]) > 0.8, "of each the best"


def test_what_violated_before_is_not_what_a_search_begins_with():
    """Cold a quarter of first points have sixteen experts; told of costs alone nearly all."""
    before = earlier_of(cost_of, 40)
    bounded = replace(before, seen=with_excess(before.seen, too_many))
    found = {}
    for name, earlier in (("costs", before), ("bounds", bounded)):
        told = told_by((earlier,), ())
        first = [first_of((), told, seed) for seed in range(20)]
        found[name] = sum(too_many(values) > 0 for values in first)
        assert np.mean([cost_of(values) for values in first]) < 0.2, "still good ones"
    assert found["costs"] > 10
    assert found["bounds"] <= 2
    assert too_many(told_by((bounded,), ()).hints[0]) == 0
    nothing_satisfies = replace(before, seen=with_excess(before.seen, lambda v: 1 + too_many(v)))
    assert too_many(told_by((nothing_satisfies,), ()).hints[0]) == 0, "the least violation first"


def test_what_is_said_of_constraints_weighs_as_far_as_this_search_agrees():
    before = earlier_of(cost_of, 40)
    bounded = replace(before, seen=with_excess(before.seen, too_many))
    seen = tuple(one for one in seen_of(cost_of, 30) if too_many(one.values) == 0)[:12]
    other = seen_of(cost_of, 15)
    agrees = told_by((bounded,), with_excess(other, too_many))
    against = told_by((bounded,), with_excess(other, lambda v: 2.0 - too_many(v)))
    silent = told_by((bounded,), with_excess(seen, lambda v: -1.0))
    assert agrees.bound_weight > WEIGHT > silent.bound_weight > against.bound_weight == 0
    assert told_by((before,), with_excess(other, too_many)).bound_weight == 0, "of old records"
    points = [one.values for one in other]
    assert np.all(against.log_feasibility(points) == 0)
    violating = [v for v in points if too_many(v)]
    assert np.all(agrees.log_feasibility(violating) < -0.5)
    # Ended points that violate nothing: what lies beyond them is known from before alone.
    calm = with_excess(seen, too_many)
    assert too_many(first_of(calm, told_by((before,), calm))) > 0
    assert too_many(first_of(calm, told_by((bounded,), calm))) == 0


def test_without_weight_a_search_is_what_it_was():
    seen = seen_of(cost_of, 15)
    told = told_by((earlier_of(lambda values: -cost_of(values)),), seen)
    assert first_of(seen, told) == first_of(seen, None)


def test_a_search_that_agrees_foretells_where_nothing_was_seen():
    """Fifteen points of small experts: that sixteen are best is known from before alone."""
    seen = tuple(one for one in seen_of(cost_of, 60) if one.values["moe.num_experts"] <= 4)[:15]
    told = told_by((earlier_of(cost_of),), seen)
    drawn = [first_of(seen, told, seed) for seed in range(5)]
    assert all(values["moe.num_experts"] >= 8 for values in drawn)
    assert all(values["moe.router"] == "learned" for values in drawn)


def test_trials_are_shown_by_weight_in_their_order_and_at_this_searchs_size():
    before = earlier_of(lambda values: 100 + 10 * cost_of(values), 40)
    assert len(told_by((before,), ()).shown(())) == 20
    seen = seen_of(cost_of, 15)
    shown = told_by((before,), seen).shown(seen)
    assert 10 <= len(shown) <= 16, "of 40 the weight, faded after 15 points"
    costs = [one.cost for one in shown]
    assert tau_of(costs, [cost_of(one.values) for one in shown]) == pytest.approx(1.0)
    own = [one.cost for one in seen]
    assert abs(np.mean(costs) - np.mean(own)) < 2 * np.std(own), "not the hundred of before"
    assert told_by((earlier_of(lambda v: -cost_of(v)),), seen).shown(seen) == []
