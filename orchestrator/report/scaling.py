"""One study at several sizes: loss against training FLOPs, a fitted law a cell, and its gaps.

The sizes are the launches of the study that were run, at other scales or under other `--set`. The
law is L(C) = E + A C^-alpha, the saturating power law of arXiv 2203.15556 in one variable, the
FLOPs of a trial, with E, A, alpha >= 0. It is fitted to the means over seeds by least squares: for
each alpha of a fine grid E and A are linear, so that no starting point decides what is found.
Intervals are percentiles of a bootstrap over seeds, drawn anew at each size for all cells together,
since cells share seeds. They hold what seeds move; whether the form holds beyond the sizes that
were run they cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from moe.metrics import VAL_BITS_PER_BYTE
from orchestrator.base.errors import BadInput
from orchestrator.report.comparison import launch_cells
from orchestrator.report.figure_data import tokens_per_step
from orchestrator.report.granularity_law import FORM as GRAIN_FORM
from orchestrator.report.granularity_law import (
    GranularityLaw,
    cells_that_differ_in_grain,
    law_of,
)
from orchestrator.report.records import LaunchRecords
from orchestrator.report.statistics import mean_interval
from orchestrator.stores.configurations import told_values
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, PARAMS_ACTIVE, TrialRecord

FORM = "L(C) = E + A C^-alpha, C in training FLOPs of a trial (arXiv 2203.15556)"
LEAST_SIZES = 3
RESAMPLES, GRAIN_RESAMPLES = 400, 100
ALPHAS = np.linspace(0.005, 1.5, 300)
_EDGES = (2.5, 97.5)
_TOLD = ("model.context_length", "train.loss_start")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A cell in one launch: its cost and its final values, a number a seed."""

    launch: str
    flops: float
    tokens: float
    params_active: int
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)


@dataclass(frozen=True, kw_only=True)
class Law:
    """E, A and alpha with their 95% bounds; bounds are None where a size has one seed."""

    e: float
    a: float
    alpha: float
    e_bounds: tuple[float, float] | None
    alpha_bounds: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A cell minus the reference by their laws, at `flops`. `crossings` are FLOPs at which the
    fitted order changes, from the least size to `flops`; `share_crossing` of the resamples."""

    cell: str
    flops: float
    estimate: float
    bounds: tuple[float, float] | None
    crossings: tuple[float, ...]
    share_crossing: float | None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """`cells` by name: sizes, the cheapest first. `grains`: the law over granularity too, where
    cells differ in it alone. `turns`: pairs of sizes between which the
    measured means of a cell and the reference change their order."""

    metric: str
    reference: str | None
    cells: Mapping[str, Sequence[Size]]
    laws: Mapping[str, Law]
    gaps: Sequence[Gap]
    grains: GranularityLaw | None
    turns: Mapping[str, Sequence[tuple[str, str]]]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `moe-study scaling`."""
        found = asdict(self)
        found["form"] = FORM
        if self.grains is not None:
            found["grains"]["form"] = GRAIN_FORM
        found["cells"] = [
            {"cell": name, "sizes": sizes, "law": found["laws"].get(name)}
            for name, sizes in found["cells"].items()
        ]
        del found["laws"]
        return found


def scaling(launches: Sequence[LaunchRecords], *, reach: float = 10.0, seed: int = 0) -> Scaling:
    """`reach`: up to how many times the FLOPs of the largest size gaps are extrapolated.

    Raises BadInput where fewer than two sizes compare.
    """
    metric, notes = _metric(launches)
    cells = _sizes(launches, metric)
    cells = {name: sizes for name, sizes in cells.items() if len(sizes) > 1}
    if not cells:
        raise BadInput(
            "`scaling` reads a cell at two sizes or more, with known FLOPs and of one text; "
            f"received {', '.join(launch.info.name for launch in launches)}. Run the study at "
            "another scale, or with --set of its size or length."
        )
    baseline = launches[0].info.attributes.get("baseline")
    reference = baseline if baseline in cells else None
    fitted = {name: _points(sizes) for name, sizes in cells.items() if len(sizes) >= LEAST_SIZES}
    laws, gaps = {}, []
    if len(fitted) < len(cells):
        notes.append(f"a law needs {LEAST_SIZES} sizes of a cell: those with fewer have none")
    drawn = _resampled(cells, fitted, seed)
    for name, (flops, means) in fitted.items():
        e, a, alpha = fit(flops, means)
        laws[name] = Law(
            e=e,
            a=a,
            alpha=alpha,
            e_bounds=_bounds([law[0] for law in drawn[name]]) if drawn else None,
            alpha_bounds=_bounds([law[2] for law in drawn[name]]) if drawn else None,
        )
    if reference in laws:
        gaps = [
            _gap(name, laws, drawn, cells, reference, reach) for name in laws if name != reference
        ]
    return Scaling(
        metric=metric,
        reference=reference,
        cells=cells,
        laws=laws,
        gaps=gaps,
        grains=_grains(launches[0], {name: cells[name] for name in fitted}, seed),
        turns=_turns(cells, reference),
        notes=tuple(notes),
    )


def _grains(
    launch: LaunchRecords, cells: Mapping[str, Sequence[Size]], seed: int
) -> GranularityLaw | None:
    told = {
        cell.name: told_values(cell.trials[0], launch.home) or {}
        for cell in launch_cells(launch)
        if cell.name in cells
    }
    grain_of = cells_that_differ_in_grain(told)
    if not grain_of:
        return None
    sizes = [(size, grain) for name, grain in grain_of.items() for size in cells[name]]
    points = [(size.flops, float(grain), size.mean) for size, grain in sizes]
    resampled = []
    if all(len(size.values) > 1 for size, _ in sizes):
        resampled = [
            [(z.flops, float(grain), _mean_of(z, drawn[z.launch])) for z, grain in sizes]
            for drawn in _draws([size for size, _ in sizes], GRAIN_RESAMPLES, seed)
        ]
    return law_of(points, resampled, list(grain_of))


def _draws(sizes: Sequence[Size], count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """`count` times seeds drawn anew, by launch, over all its sizes, which share them."""
    found: dict[str, set[int]] = {}
    for size in sizes:
        found.setdefault(size.launch, set()).update(size.values)
    seeds = {launch: sorted(of) for launch, of in found.items()}
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {launch: rng.choice(of, size=len(of)) for launch, of in seeds.items()}


def fit(flops: np.ndarray, means: np.ndarray) -> tuple[float, float, float]:
    """E, A and alpha of least squared error; A is in units of FLOPs^alpha."""
    scale = math.exp(float(np.log(flops).mean()))  # else A has a hundred digits
    x_S = flops / scale
    alphas = ALPHAS
    for _ in range(2):
        e_A, slope_A, error_A = _linear(x_S[None, :] ** -alphas[:, None], means)
        best = int(np.argmin(error_A))
        found = float(e_A[best]), float(slope_A[best]), float(alphas[best])
        step = ALPHAS[1] - ALPHAS[0]
        alphas = np.linspace(max(1e-4, found[2] - step), found[2] + step, 41)
    return found[0], found[1] * scale ** found[2], found[2]


def _linear(x_AS: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E, A (both at least 0) and the squared error, for each row of C^-alpha."""
    centred_AS = x_AS - x_AS.mean(axis=1, keepdims=True)
    slope_A = centred_AS @ (means - means.mean()) / np.maximum((centred_AS**2).sum(axis=1), 1e-300)
    slope_A = np.maximum(slope_A, 0)
    e_A = means.mean() - slope_A * x_AS.mean(axis=1)
    without_A = (x_AS @ means) / (x_AS**2).sum(axis=1)  # where E would be below 0 it is 0
    slope_A, e_A = np.where(e_A < 0, without_A, slope_A), np.maximum(e_A, 0)
    return e_A, slope_A, ((e_A[:, None] + slope_A[:, None] * x_AS - means) ** 2).sum(axis=1)


def predicted(law: tuple[float, float, float], flops: np.ndarray | float) -> Any:
    e, a, alpha = law
    return e + a * np.asarray(flops) ** -alpha


def _metric(launches: Sequence[LaunchRecords]) -> tuple[str, list[str]]:
    """What the sizes are measured by: bits per byte where their tokens are not the same."""
    notes, found = [], {launch.judged_metric for launch in launches}
    texts = {str(launch.info.attributes.get("corpus_digest")) for launch in launches}
    if len(texts) > 1:
        raise BadInput(
            "sizes are of one text, since a loss on one says nothing about another; received the "
            f"corpora {', '.join(sorted(texts))}. Name one by --corpus."
        )
    told = [
        told_values(cell.trials[0], launch.home) or {}
        for launch in launches
        for cell in launch_cells(launch)
    ]
    for path in _TOLD:
        if len(values := {str(config.get(path, "default")) for config in told}) > 1:
            notes.append(f"sizes differ in {path} too ({', '.join(sorted(values))})")
    tokens = {config.get("data.digest") for config in told}
    if len(tokens) > 1 or len(found) > 1:
        notes.append(f"sizes have different tokens, so that {VAL_BITS_PER_BYTE} is compared")
        return VAL_BITS_PER_BYTE, notes
    return found.pop(), notes


def _sizes(launches: Sequence[LaunchRecords], metric: str) -> dict[str, list[Size]]:
    cells: dict[str, list[Size]] = {}
    for launch in launches:
        for cell in launch_cells(launch):
            values = {
                r.seed: x for r in cell.trials if (x := _value(r, launch, metric)) is not None
            }
            steps = max((max(r.curve) for r in cell.trials if r.curve), default=None)
            per_step = tokens_per_step(cell.trials, launch.home)
            if values and steps and per_step:
                first = cell.trials[0].attributes
                size = Size(
                    launch=launch.info.name,
                    flops=float(steps * per_step * first[FLOPS_PER_TOKEN]),
                    tokens=steps * per_step,
                    params_active=first[PARAMS_ACTIVE],
                    values=values,
                )
                cells.setdefault(cell.name, []).append(size)
    return {name: sorted(sizes, key=lambda s: s.flops) for name, sizes in cells.items()}


def _value(record: TrialRecord, launch: LaunchRecords, metric: str) -> float | None:
    return record.final if metric == launch.judged_metric else record.metrics.get(metric)


def _points(sizes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s.flops for s in sizes]), np.array([s.mean for s in sizes])


def _resampled(
    cells: Mapping[str, Sequence[Size]],
    fitted: Mapping[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> dict[str, list[tuple[float, float, float]]]:
    """The laws of each resample, by cell; none where a size has one seed."""
    if any(len(size.values) < 2 for name in fitted for size in cells[name]):
        return {}
    laws: dict[str, list[tuple[float, float, float]]] = {name: [] for name in fitted}
    for drawn in _draws([z for name in fitted for z in cells[name]], RESAMPLES, seed):
        for name, (flops, _) in fitted.items():
            means = np.array([_mean_of(size, drawn[size.launch]) for size in cells[name]])
            laws[name].append(fit(flops, means))
    return laws


def _mean_of(size: Size, drawn: np.ndarray) -> float:
    found = [size.values[s] for s in drawn.tolist() if s in size.values]
    return sum(found) / len(found) if found else size.mean


def _gap(
    name: str,
    laws: Mapping[str, Law],
    drawn: Mapping[str, Sequence[tuple[float, float, float]]],
    cells: Mapping[str, Sequence[Size]],
    reference: str,
    reach: float,
) -> Gap:
    own, other = ((laws[c].e, laws[c].a, laws[c].alpha) for c in (name, reference))
    sizes = [*cells[name], *cells[reference]]
    at = reach * max(size.flops for size in sizes)
    grid = np.geomspace(min(size.flops for size in sizes), at, 2000)
    pairs = list(zip(drawn[name], drawn[reference], strict=True)) if drawn else []
    apart = [float(predicted(a, at) - predicted(b, at)) for a, b in pairs]
    crossing = [bool(_crossings(grid, a, b)) for a, b in pairs]
    return Gap(
        cell=name,
        flops=at,
        estimate=float(predicted(own, at) - predicted(other, at)),
        bounds=_bounds(apart) if pairs else None,
        crossings=tuple(_crossings(grid, own, other)),
        share_crossing=sum(crossing) / len(crossing) if crossing else None,
    )


def _crossings(
    grid: np.ndarray, a: tuple[float, float, float], b: tuple[float, float, float]
) -> list[float]:
    sign = np.sign(predicted(a, grid) - predicted(b, grid))
    return [float(grid[i]) for i in np.flatnonzero(sign[:-1] * sign[1:] < 0)]


def _turns(
    cells: Mapping[str, Sequence[Size]], reference: str | None
) -> dict[str, list[tuple[str, str]]]:
    """By launch, since cells of one size may cost different FLOPs."""
    if reference is None:
        return {}
    base = {size.launch: size.mean for size in cells[reference]}
    found: dict[str, list[tuple[str, str]]] = {}
    for name, sizes in cells.items():
        known = [(s.launch, s.mean - base[s.launch]) for s in sizes if s.launch in base]
        for (one, before), (two, after) in pairwise(known):
            if before * after < 0:
                found.setdefault(name, []).append((one, two))
    return found


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, _EDGES)
    return float(low), float(high)


def size_text(size: Size) -> str:
    found = mean_interval(size.values.values())
    half = "" if found.low is None else f" \N{PLUS-MINUS SIGN} {found.mean - found.low:.4f}"
    return f"{found.mean:.4f}{half} (n = {found.n})"
