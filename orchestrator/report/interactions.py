"""Two axes at a time: what one choice does at each value of another, where a grid has both.

Two axes make a plot where the launch has a cell for each pair of their values, all else equal. What
moves along with the two of them (the gate with the unit of routing) is not held equal, and is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from moe.config import TrialConfig
from orchestrator.report.figure_data import CellTrials, Interval
from orchestrator.report.mean_tests import TTest, tests_of
from orchestrator.study.design import Design

MOST_SHOWN = 6
_DEFAULTS = TrialConfig().to_dict()

Values = Mapping[str, Any]  # of a cell, by path
Grid = Mapping[tuple[Any, Any], str]  # the name of the cell at each pair of values


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How much more `row` differs from the first row at `column` than at the first column: a number
    a seed that all four cells have, their mean, and its interval by the study's test."""

    row: str
    column: str
    found: Interval


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """A cell's interval for each row and column; `along` are axes that move with the two."""

    row_axis: str
    column_axis: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    intervals: Mapping[tuple[str, str], Interval]
    contrasts: tuple[Contrast, ...]
    along: tuple[str, ...]


def interactions(
    cells: Sequence[CellTrials], design: Design, *, tuned: Collection[str] = ()
) -> list[Interaction]:
    """Of a grid, those over the most cells first, at most `MOST_SHOWN`. What was `tuned` for each
    cell by itself is no axis, and not held equal.

    Intervals are those of the design's own test, each by itself.
    """
    test = tests_of(design)[0]
    found = []
    for digest in dict.fromkeys(cell.corpus_digest for cell in cells):
        trials = {cell.name: cell for cell in cells if cell.corpus_digest == digest}
        every = {name: _values(cell, tuned) for name, cell in trials.items()}
        mixtures = {name: of for name, of in every.items() if _at(of, "moe.num_experts")}
        values = mixtures or every  # of a dense model a mixture's axes say nothing
        key, following = _key(values)
        for pair in combinations(key, 2):
            for grid in _grids(values, pair, key):
                ours = [values[name] for name in grid.values()]
                along = tuple(p for p in following if len({_at(of, p) for of in ours}) > 1)
                found.append(_interaction(pair, grid, along, trials, test, design.alpha))
    found.sort(key=lambda each: -len(each.intervals))
    return found[:MOST_SHOWN]


def _values(cell: CellTrials, without: Collection[str]) -> Values:
    """What the cell sets, and where it does not, what its config has."""
    values = {**(cell.trials[0].config or {}), **cell.trials[0].params}
    return {path: value for path, value in values.items() if path not in without}


def _at(values: Values, path: str) -> Any:
    section, _, name = path.partition(".")
    value = values.get(path, _DEFAULTS.get(section, {}).get(name))
    return tuple(value) if isinstance(value, list) else value


def _key(cells: Mapping[str, Values]) -> tuple[list[str], list[str]]:
    """The axes that tell the cells apart, and those that follow from them: of two that move
    together, the one that the study names first is among the former."""
    paths = dict.fromkeys(path for values in cells.values() for path in values)
    key = [path for path in paths if len({_at(values, path) for values in cells.values()}) > 1]
    following: list[str] = []

    def is_told_apart(by: Sequence[str]) -> bool:
        found = {tuple(_at(values, path) for path in by) for values in cells.values()}
        return len(found) == len(cells)

    for path in key[::-1]:
        rest = [other for other in key if other != path]
        if is_told_apart(rest):
            key = rest
            following.insert(0, path)
    return key, following


def _grids(
    cells: Mapping[str, Values], pair: tuple[str, str], key: Sequence[str]
) -> Iterator[Grid]:
    """Full grids of at least two values each, all else of the key equal."""
    groups: dict[tuple[Any, ...], dict[tuple[Any, Any], str]] = {}
    for name, values in cells.items():
        held = tuple(_at(values, path) for path in key if path not in pair)
        groups.setdefault(held, {})[_at(values, pair[0]), _at(values, pair[1])] = name
    for group in groups.values():
        rows = list(dict.fromkeys(a for a, _ in group))
        columns = [
            b for b in dict.fromkeys(b for _, b in group) if all((a, b) in group for a in rows)
        ]
        if len(rows) > 1 and len(columns) > 1:
            yield {(a, b): group[a, b] for a in rows for b in columns}


def _interaction(
    pair: tuple[str, str],
    grid: Grid,
    along: tuple[str, ...],
    trials: Mapping[str, CellTrials],
    test: TTest,
    alpha: float,
) -> Interaction:
    rows, columns = (_in_order({key[side] for key in grid}, grid, side) for side in (0, 1))
    losses = {
        key: {record.seed: record.final for record in trials[name].trials}
        for key, name in grid.items()
    }

    def interval(name: str, values: Sequence[float]) -> Interval:
        low, high = (
            test.interval(np.asarray(values), alpha, one_sided=False)
            if len(values) > 1
            else (None, None)
        )
        return Interval(cell=name, values=values, mean=float(np.mean(values)), low=low, high=high)

    contrasts = []
    for row in rows[1:]:
        for column in columns[1:]:
            four = [losses[a, b] for a in (row, rows[0]) for b in (column, columns[0])]
            seeds = [seed for seed in four[0] if all(seed in of for of in four)]
            if seeds:
                each = [(four[0][s] - four[2][s]) - (four[1][s] - four[3][s]) for s in seeds]
                found = interval(f"{row} at {column}", each)
                contrasts.append(Contrast(row=str(row), column=str(column), found=found))
    return Interaction(
        row_axis=pair[0],
        column_axis=pair[1],
        rows=tuple(map(str, rows)),
        columns=tuple(map(str, columns)),
        intervals={
            (str(a), str(b)): interval(name, list(losses[a, b].values()))
            for (a, b), name in grid.items()
        },
        contrasts=tuple(contrasts),
        along=along,
    )


def _in_order(values: set[Any], grid: Grid, side: int) -> list[Any]:
    """Numbers by size, names as the study has them."""
    if all(isinstance(value, (int, float)) for value in values):
        return sorted(values)
    return list(dict.fromkeys(key[side] for key in grid))
