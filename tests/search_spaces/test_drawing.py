"""Points drawn with values given, near another, or at shares of each axis: all of the space."""

from __future__ import annotations

import random

import pytest

from search_spaces.domains import Choice, Float, Int
from search_spaces.drawing import at, near, with_values
from search_spaces.space import Space

SPACE = Space(
    axes={
        "moe.num_experts": Choice((0, 2, 4, 8, 16)),
        "moe.top_k": Choice((1, 2, 3)),
        "moe.router": Choice(("learned", "frozen", "hash")),
        "moe.routing_unit": Choice(("token", "sequence")),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
        "optim.warmup_steps": Int(low=0, high=20, step=5),
        "train.num_steps": Int(low=10, high=1000, log=True),
        "optim.weight_decay": Float(low=0.0, high=1.0),
    }
)


@pytest.fixture
def rng():
    return random.Random(0)


def test_each_way_of_drawing_gives_points_of_the_space(rng):
    point = SPACE.draw(rng)
    for _ in range(300):
        shares = {path: rng.random() for path in SPACE.axes}
        point = near(SPACE, point, rng)
        for drawn in (point, with_values(SPACE, {}, rng), at(SPACE, shares, {})):
            assert SPACE.has(drawn)


def test_values_that_are_given_stay_where_their_axis_exists(rng):
    fixed = {"moe.num_experts": 8, "moe.top_k": 3, "optim.warmup_steps": 5}
    for _ in range(50):
        drawn = with_values(SPACE, fixed, rng)
        assert fixed.items() <= drawn.items()
        assert fixed.items() <= near(SPACE, drawn, rng, fixed).items()
        assert fixed.items() <= at(SPACE, dict.fromkeys(SPACE.axes, 0.3), fixed).items()
    assert "moe.top_k" not in with_values(SPACE, {"moe.num_experts": 0, "moe.top_k": 3}, rng)


def test_a_neighbour_differs_in_few_axes(rng):
    point = with_values(SPACE, {"moe.num_experts": 8, "moe.router": "learned"}, rng)
    for _ in range(200):
        other = near(SPACE, point, rng, ["moe.num_experts", "moe.router"])
        changed = {path for path in SPACE.axes if point.get(path) != other.get(path)}
        assert len(changed) <= 3
    assert near(SPACE, point, rng, point) == point


def test_shares_cover_a_domain_evenly():
    first, last = (at(SPACE, dict.fromkeys(SPACE.axes, share), {}) for share in (0.0, 1 - 1e-9))
    assert first["moe.num_experts"] == 0
    assert (last["moe.num_experts"], last["moe.top_k"]) == (16, 3)
    assert (first["optim.warmup_steps"], last["optim.warmup_steps"]) == (0, 20)
    assert (first["train.num_steps"], last["train.num_steps"]) == (10, 1000)
    halfway = at(SPACE, dict.fromkeys(SPACE.axes, 0.5), {})
    assert halfway["optim.learning_rate"] == pytest.approx(10**-2.5)
    assert halfway["optim.weight_decay"] == 0.5
