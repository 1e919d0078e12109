"""A grid as Optuna Dashboard shows it: a distribution for each path, a note for each trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from moe.config import TrialConfig
from orchestrator.study.launch import Point
from search_spaces.axes import describe_axes
from search_spaces.overlay import get


def moved_paths(points: Iterable[Point]) -> list[str]:
    """The config paths that tell the cells of a grid apart, in the order of first use."""
    return list(dict.fromkeys(path for point in points for path in point.overrides))


def _has_effect(config: TrialConfig, path: str) -> bool:
    if config.moe.is_dense:
        return not path.startswith("moe.") or path == "moe.num_experts"
    return path != "model.ffn_multiple"


def grid_distributions(
    points: Iterable[Point],
) -> dict[str, BaseDistribution]:
    """One distribution for each moved path, wide enough for all cells.

    Text takes all legal values of its axis, in their order: Optuna refuses a categorical whose
    choices changed, and a study that gains a cell must go on.
    """
    points = list(points)
    legal = {axis.path: axis.choices for axis in describe_axes()}
    distributions: dict[str, BaseDistribution] = {}
    for path in moved_paths(points):
        values = [get(point.config, path) for point in points]
        if legal.get(path):
            distributions[path] = CategoricalDistribution(legal[path])
        elif all(type(value) is int for value in values):
            distributions[path] = IntDistribution(min(values), max(values))
        elif all(type(value) in (int, float) for value in values):
            distributions[path] = FloatDistribution(float(min(values)), float(max(values)))
        else:
            distributions[path] = CategoricalDistribution(sorted(set(values)))
    return distributions


def distributions_of(
    point: Point, distributions: Mapping[str, BaseDistribution]
) -> dict[str, BaseDistribution]:
    """Those of the launch's distributions that say something about this point."""
    return {path: d for path, d in distributions.items() if _has_effect(point.config, path)}


def note_of(point: Point, baseline: Point | None) -> str:
    """What differs from the baseline, for a trial's note in Optuna Dashboard."""
    if baseline is None or baseline.cell_hash == point.cell_hash:
        return "The baseline." if baseline else ""
    changed = {
        path: (get(baseline.config, path), get(point.config, path))
        for path in dict.fromkeys([*point.overrides, *baseline.overrides])
    }
    lines = [f"- `{p}`: {a} -> {b}" for p, (a, b) in changed.items() if a != b]
    return f"Against {baseline.cell}:\n\n" + "\n".join(lines)
