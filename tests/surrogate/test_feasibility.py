"""Where a constraint is satisfied, as a process believes: against the truth, and in searches."""

from __future__ import annotations

import random

import numpy as np

from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import Seen, bounds_of, next_points
from orchestrator.surrogate.feasibility import bound_of, log_feasibility
from search_spaces.domains import Float
from search_spaces.space import Space

SPACE = Space(
    axes={
        "optim.learning_rate": Float(low=0.0, high=1.0),
        "optim.weight_decay": Float(low=0.0, high=1.0),
    }
)


def cost(point):
    """Falls towards the corner that the constraint cuts off."""
    return 2.0 - point["optim.learning_rate"] - point["optim.weight_decay"]


def dead(point):
    """A count: none below the circle, then ever more."""
    x, y = point.values()
    return float(int(max(0.0, 40 * (x * x + y * y - 0.7)) + 0.999))


def drawn(count, seed):
    rng = random.Random(seed)
    return [SPACE.draw(rng) for _ in range(count)]


def test_a_count_that_lies_on_its_bound_is_told_from_one_above_it():
    columns = Columns(SPACE)
    points = drawn(40, 0)
    bound = bound_of(columns.rows(points), np.array([dead(p) for p in points]), columns.groups)
    others = drawn(400, 1)
    believed = np.exp(bound.log_probability(columns.rows(others)))
    truth = np.array([dead(p) == 0 for p in others])
    assert ((believed > 0.5) == truth).mean() > 0.9
    assert believed[truth].mean() > 0.7
    assert believed[~truth].mean() < 0.2


def test_what_all_points_have_alike_tells_nothing():
    columns = Columns(SPACE)
    points = drawn(5, 0)
    rows = columns.rows(points)
    assert bound_of(rows, np.zeros(5), columns.groups) is None
    seen = [Seen(values=p, cost=1.0, excess=(0.0, dead(p))) for p in points]
    assert len(bounds_of(columns, seen)) == 1
    assert bounds_of(columns, [Seen(values=p, cost=1.0) for p in points]) == []
    assert np.all(log_feasibility([], rows) == 0)


def search(trials, *, told, seed):
    """Of a search the best point that satisfies the constraint, and how many of its points do."""
    rng, seen = random.Random(seed), []
    for _ in range(trials):
        known = [one.values for one in seen]
        values = next(
            next_points(
                SPACE, seen, [], is_open=lambda v, known=known: v not in known, fixed={},
                feasible=None, startup=6, rng=rng,
            )
        )  # fmt: skip
        excess = (dead(values),) if told else None
        seen.append(Seen(values=values, cost=cost(values), excess=excess))
    kept = [one.cost for one in seen if dead(one.values) == 0]
    return min(kept), len(kept) / trials


def test_a_search_that_is_told_finds_the_edge_and_stays_inside():
    """The best that satisfies is 2 - sqrt(1.4). One that is not told goes to the corner."""
    best = 2 - 1.4**0.5
    told, ignorant = ([search(24, told=t, seed=s) for s in range(4)] for t in (True, False))
    regret = [np.mean([one[0] - best for one in runs]) for runs in (told, ignorant)]
    share = [np.mean([one[1] for one in runs]) for runs in (told, ignorant)]
    assert regret[0] < 0.04
    assert regret[0] < 0.3 * regret[1]
    assert share[0] > 1.4 * share[1]


def test_as_long_as_nothing_satisfies_that_alone_is_sought():
    """All points seen lie far out: the next ones go where the excess falls, though costs rise."""
    points = [p for p in drawn(60, 3) if dead(p) > 8][:10]
    seen = [Seen(values=p, cost=cost(p), excess=(dead(p),)) for p in points]
    suggested = next_points(
        SPACE, seen, [], is_open=lambda v: True, fixed={}, feasible=None, startup=6,
        rng=random.Random(0),
    )  # fmt: skip
    assert dead(next(suggested)) < min(dead(p) for p in points)
