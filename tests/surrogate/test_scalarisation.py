"""Several objectives as one cost: what a weight prefers, and a search against points spread out."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from orchestrator.surrogate.dominance import hypervolume
from orchestrator.surrogate.expected_improvement import next_points
from orchestrator.surrogate.scalarisation import Outcome, scalarised
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space

SPACE = Space(
    axes={
        "optim.warmup_steps": Int(low=0, high=20),
        "optim.beta1": Choice((0.8, 0.85, 0.9, 0.95)),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
    }
)


def outcome(*costs):
    return Outcome(values={"moe.top_k": len(costs)}, costs=costs)


def costs_of(values):
    size = 1.0 + values["optim.warmup_steps"]
    off = math.log10(values["optim.learning_rate"]) + 2.3
    return off**2 + 2 / size + abs(values["optim.beta1"] - 0.9), size


def searched(trials, *, startup, seed):
    seen, known = [], []
    for index in range(trials):
        rng = random.Random(1000 * seed + index)
        points = next_points(
            SPACE,
            scalarised(seen, rng),
            [],
            is_open=lambda values: values not in known,
            fixed={},
            feasible=None,
            startup=startup,
            rng=rng,
        )
        values = next(points)
        known.append(values)
        seen.append(Outcome(values=values, costs=costs_of(values)))
    return seen


def volume(seen):
    return hypervolume(np.array([one.costs for one in seen]) / [1.0, 20.0], np.array([1.5, 1.0]))


def test_the_best_of_any_weights_is_on_the_front_and_every_end_is_of_some():
    """Whatever the units of the objectives are."""
    seen = [outcome(1.0, 9e9), outcome(2.0, 4e9), outcome(4.0, 1e9), outcome(4.5, 5e9)]
    told = [[one.cost for one in scalarised(seen, random.Random(s))] for s in range(40)]
    assert {int(np.argmin(costs)) for costs in told} == {0, 1, 2}
    assert all(costs[3] > costs[1] for costs in told), "who is dominated costs more"
    assert told == [[one.cost for one in scalarised(seen, random.Random(s))] for s in range(40)]


def test_divergences_are_the_worst():
    seen = [outcome(1.0, 2.0), outcome(2.0, 1.0), outcome(math.inf, math.inf)]
    told = [one.cost for one in scalarised(seen, random.Random(0))]
    assert np.isfinite(told[:2]).all()
    assert told[2] == math.inf
    assert [one.cost for one in scalarised(seen[2:], random.Random(0))] == [math.inf]
    assert scalarised([], random.Random(0)) == []


@pytest.mark.parametrize("num", [2, 3])
def test_objectives_that_do_not_differ_change_no_order(num):
    seen = [outcome(float(i), *[7.0] * (num - 1)) for i in range(4)]
    assert np.all(np.diff([one.cost for one in scalarised(seen, random.Random(0))]) > 0)


def test_a_search_comes_nearer_to_the_whole_front_than_points_spread_out():
    found, spread = (
        np.mean([volume(searched(32, startup=startup, seed=s)) for s in range(3)])
        for startup in (6, 99)
    )
    rng = random.Random(0)
    draws = [SPACE.draw(rng) for _ in range(4000)]
    whole = volume([Outcome(values=v, costs=costs_of(v)) for v in draws])
    assert whole - found < 0.6 * (whole - spread)
