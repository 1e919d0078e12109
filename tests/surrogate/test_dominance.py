"""Fronts and hypervolumes, against the definition, counted cell by cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator.surrogate.dominance import box_of, hypervolume, non_dominated

SIDE = 6


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def counted(costs, num):
    """Unit cells of a grid whose lower corner some row reaches."""
    cells = itertools.product(range(SIDE), repeat=num)
    return sum(
        any(all(r <= c for r, c in zip(row, cell, strict=True)) for row in costs) for cell in cells
    )


@pytest.mark.parametrize("num", [2, 3, 4])
def test_a_front_and_its_hypervolume_are_those_of_the_definition(num):
    generator = np.random.default_rng(num)
    for _ in range(40):
        costs = generator.integers(0, SIDE + 2, size=(generator.integers(1, 12), num)).astype(float)
        told = non_dominated(costs)
        assert told.tolist() == [not any(dominates(b, a) for b in costs) for a in costs]
        assert hypervolume(costs, np.full(num, float(SIDE))) == counted(costs, num)


def test_nothing_below_the_reference_point_has_no_volume():
    assert hypervolume(np.array([[1.0, 2.0]]), np.array([1.0, 3.0])) == 0.0
    assert non_dominated(np.zeros((0, 2))).tolist() == []


def test_the_box_leaves_out_what_is_infinite_and_what_lies_beyond_a_roof():
    costs = np.array([[1.0, 10.0], [2.0, np.inf], [50.0, 20.0]])
    best, reference = box_of(costs, [3.0, 1e9])
    assert best.tolist() == [1.0, 10.0]
    assert reference.tolist() == pytest.approx([3.2, 21.0])
    best, reference = box_of(np.full((2, 2), np.inf), [np.inf, np.inf])
    assert np.isfinite([*best, *reference]).all()
