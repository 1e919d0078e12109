"""How far apart points are: by order where there is one, and by what exists."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.surrogate.columns import Columns
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space

SPACE = Space(
    axes={
        "moe.num_experts": Choice((0, 2, 4, 8)),
        "moe.top_k": Choice((1, 2)),
        "moe.router": Choice(("learned", "frozen", "random")),
        "optim.learning_rate": Float(low=1e-4, high=1e-2, log=True),
        "optim.warmup_steps": Int(low=0, high=10),
        "moe.granularity": Choice((1,)),
    }
)


def point(**values):
    names = {"experts": "moe.num_experts", "k": "moe.top_k", "router": "moe.router"}
    names |= {"rate": "optim.learning_rate", "warmup": "optim.warmup_steps"}
    dense = {"experts": 0, "rate": 1e-3, "warmup": 5}
    return {names[name]: value for name, value in {**dense, **values}.items()}


def squared(a, b):
    columns = Columns(SPACE)
    rows = columns.rows([a, b])
    difference = (rows[0] - rows[1]) ** 2
    return {
        name: difference[columns.groups == i].sum()
        for i, name in enumerate(columns.names)
        if difference[columns.groups == i].sum() > 1e-12
    }


def test_numbers_lie_by_rank_ranges_by_magnitude_and_names_equally_far():
    mixture = point(experts=2, k=1, router="learned")
    assert squared(mixture, {**mixture, "moe.num_experts": 8}) == pytest.approx(
        {"moe.num_experts": (2 / 3) ** 2}
    )
    for other in ("frozen", "random"):
        found = squared(mixture, {**mixture, "moe.router": other})
        assert found == pytest.approx({"moe.router": 1.0})
    assert squared(mixture, {**mixture, "moe.top_k": 2}) == pytest.approx({"moe.top_k": 1.0})
    faster = {**mixture, "optim.learning_rate": 1e-2}
    assert squared(mixture, faster) == pytest.approx({"optim.learning_rate": 0.25})
    assert squared(mixture, {**mixture, "optim.warmup_steps": 6}) == pytest.approx(
        {"optim.warmup_steps": 0.01}
    )


def test_an_axis_that_is_missing_is_known_to_be():
    found = squared(point(), point(experts=2, k=1, router="learned"))
    assert found["moe.top_k exists"] == found["moe.router exists"] == 1.0
    assert "optim.learning_rate" not in found
    columns = Columns(SPACE)
    assert "moe.granularity" not in columns.names, "one value tells nothing apart"
    assert columns.rows([]).shape == (0, len(columns.groups))
    assert np.all((columns.rows([point()]) >= 0) & (columns.rows([point()]) <= 1))


@pytest.mark.parametrize(
    ("change", "are_twins"),
    [
        ({}, True),
        ({"optim.learning_rate": 1.2e-3}, True),  # 4% of two decades
        ({"optim.learning_rate": 1.3e-3}, False),
        ({"optim.warmup_steps": 6}, False),  # a tenth of its range
        ({"moe.num_experts": 4}, False),
        ({"moe.router": "frozen"}, False),
        ({"moe.num_experts": 0}, False),  # and with it K and the router
    ],
)
def test_twins_differ_in_ranges_alone_and_little(change, are_twins):
    mixture = point(experts=2, k=1, router="learned")
    other = {**mixture, **change}
    if not other["moe.num_experts"]:
        other = {p: v for p, v in other.items() if p not in ("moe.top_k", "moe.router")}
    columns = Columns(SPACE)
    a, b = columns.rows([mixture, other])
    assert columns.are_twins(a, b) == are_twins
    assert columns.are_twins(np.stack([b, b]), a[None]).tolist() == [are_twins] * 2
