"""The front of a search with several objectives: the points that no other beats in all of them, and
the hypervolume that they dominate, over the device time that it took.

Means over the most seeds are compared, as in `pareto`: a point over fewer is on no front. Each
corpus has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe.metrics import Metric, describe, on_test
from orchestrator.report.judge import counted
from orchestrator.report.statistics import Estimate, mean_interval
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.objectives import FIGURES
from orchestrator.surrogate.dominance import box_of, hypervolume, non_dominated
from orchestrator.surrogate.expected_improvement import roof_of

_NAMED = 8  # points that a line names
_TIMES = 100  # at most, at which the hypervolume is told


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A point's means over `n` seeds, by objective; of a figure of its config the interval is
    nothing but the figure."""

    cell: str
    code: str
    n: int
    estimates: Mapping[str, Estimate]
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Front:
    """`points` by the first objective, the best first. The hypervolume is a share of the box from
    the `best` value of each objective to the `reference` point; None where there is no box.
    `by_time` has it after so many device seconds, those of all trials that had ended by then."""

    corpus: str | None
    points: tuple[FrontPoint, ...]
    best: Mapping[str, float]
    reference: Mapping[str, float]
    hypervolume: float | None
    by_time: tuple[tuple[float, float], ...]

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.best)

    @property
    def on_front(self) -> list[FrontPoint]:
        return [point for point in self.points if point.on_front]


def measure_of(name: str) -> Metric:
    return FIGURES.get(name) or describe(name)


def fronts_of(records: Sequence[TrialRecord], objectives: Sequence[str]) -> tuple[Front, ...]:
    """One a corpus that has a complete trial; none where there is one objective."""
    by_corpus: dict[str | None, list[TrialRecord]] = {}
    for record in counted(records) if objectives else ():
        if len(record.values) == len(objectives):
            by_corpus.setdefault(record.corpus_digest, []).append(record)
    return tuple(
        _front_of(of, [r for r in records if r.corpus_digest == digest], objectives)
        for digest, of in by_corpus.items()
    )


def _front_of(
    complete: Sequence[TrialRecord], paid: Sequence[TrialRecord], objectives: Sequence[str]
) -> Front:
    names = [_judged(name, complete) for name in objectives]
    sign = np.array([1.0 if measure_of(name).better == "lower" else -1.0 for name in names])
    values = {r.number: _values(r, objectives) for r in complete}
    groups: dict[str, list[TrialRecord]] = {}
    for record in complete:
        groups.setdefault(record.cell_hash, []).append(record)
    costs = np.array([sign * _mean(group, values) for group in groups.values()])
    seeds = np.array([len({r.seed for r in group}) for group in groups.values()])
    whole = np.flatnonzero(seeds == seeds.max())
    on_front = np.zeros(len(costs), dtype=bool)
    on_front[whole] = non_dominated(costs[whole])
    best, reference = box_of(costs, [roof_of(column) for column in costs.T])
    points = [
        FrontPoint(
            cell=group[-1].cell,
            code=group[-1].code,
            n=int(n),
            estimates={
                name: mean_interval(values[r.number][j] for r in group)
                for j, name in enumerate(names)
            },
            on_front=bool(on),
        )
        for group, n, on in zip(groups.values(), seeds, on_front, strict=True)
    ]
    order = np.argsort(costs[:, 0], kind="stable")
    by_time = tuple(_by_time(complete, paid, values, sign, best, reference))
    return Front(
        corpus=complete[0].corpus,
        points=tuple(points[i] for i in order),
        best=dict(zip(names, (sign * best).tolist(), strict=True)),
        reference=dict(zip(names, (sign * reference).tolist(), strict=True)),
        hypervolume=_share(costs[whole], best, reference),
        by_time=by_time,
    )


def _judged(name: str, complete: Sequence[TrialRecord]) -> str:
    """An objective on the test split, where the launch is judged on it and has that measure."""
    moved = on_test(name)
    if moved and all(r.is_on_test and moved in r.metrics for r in complete):
        return moved
    return name


def _values(record: TrialRecord, objectives: Sequence[str]) -> np.ndarray:
    def of(name: str, value: float) -> float:
        moved = on_test(name) if record.is_on_test else None
        return record.metrics.get(moved, value) if moved else value

    told = zip(objectives, record.values, strict=True)
    return np.array([of(name, value) for name, value in told])


def _mean(group: Sequence[TrialRecord], values: Mapping[int, np.ndarray]) -> np.ndarray:
    return np.mean([values[record.number] for record in group], axis=0)


def _share(costs: np.ndarray, best: np.ndarray, reference: np.ndarray) -> float | None:
    if not (reference > best).all():
        return None
    width = reference - best
    return hypervolume((costs - best) / width, np.ones(len(width)))


def _by_time(
    complete: Sequence[TrialRecord],
    paid: Sequence[TrialRecord],
    values: Mapping[int, np.ndarray],
    sign: np.ndarray,
    best: np.ndarray,
    reference: np.ndarray,
) -> Iterator[tuple[float, float]]:
    """Means are over the seeds that had ended by then."""
    counted_too = {record.number for record in complete}
    ended = sorted((r for r in paid if r.ended is not None), key=lambda r: (r.ended, r.number))
    every = max(1, len(ended) // _TIMES)
    groups: dict[str, list[TrialRecord]] = {}
    spent = 0.0
    for i, record in enumerate(ended):
        spent += record.device_s
        if record.number in counted_too:
            groups.setdefault(record.cell_hash, []).append(record)
        if groups and ((i + 1) % every == 0 or i + 1 == len(ended)):
            costs = np.array([sign * _mean(group, values) for group in groups.values()])
            share = _share(costs, best, reference)
            if share is not None:
                yield spent, share


def front_lines(front: Front) -> list[str]:
    """What a table says below its rows."""
    on = f" on {front.corpus}" if front.corpus else ""
    found = front.on_front
    named = "; ".join(f"{point.cell} ({_told(point)})" for point in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    *most, last = front.objectives
    lines = [f"Front of {', '.join(most)} and {last}{on}: {named}{more}."]
    if any(point.n == 1 for point in found):
        lines.append(
            "Points of one seed have no interval, and were put on the front by the values that "
            "they show: on further seeds (--seeds) they look less good."
        )
    if front.hypervolume is not None:
        box = ", ".join(
            f"{name} {_short(front.best[name])} to {_short(front.reference[name])}"
            for name in front.objectives
        )
        after = f", after {front.by_time[-1][0]:,.0f} s of device time" if front.by_time else ""
        lines.append(
            f"Hypervolume{on}: {front.hypervolume:.3f} of the box from the best value of each to "
            f"the reference point ({box}){after}."
        )
    return lines


def _told(point: FrontPoint) -> str:
    return ", ".join(estimate_text(each, name) for name, each in point.estimates.items())


def estimate_text(each: Estimate, name: str) -> str:
    """The mean with its interval, if it has one; a figure of the config has none."""
    if name in FIGURES or each.low is None:
        return _short(each.mean)
    return f"{_short(each.mean)} [{_short(each.low)}, {_short(each.high)}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"


def as_json(front: Front) -> dict[str, object]:
    return {
        "objectives": list(front.objectives),
        "corpus": front.corpus,
        "hypervolume": front.hypervolume,
        "best": dict(front.best),
        "reference": dict(front.reference),
        "points": [
            {
                "cell": point.cell,
                "n": point.n,
                **{
                    name: {"mean": of.mean, "ci_low": of.low, "ci_high": of.high}
                    for name, of in point.estimates.items()
                },
            }
            for point in front.on_front
        ],
        "by_device_s": [list(pair) for pair in front.by_time],
    }
