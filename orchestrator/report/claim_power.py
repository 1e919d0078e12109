"""What `plan` says of a study's claims before they are paid for: their power, and enough seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from moe.metrics import describe
from orchestrator.report.evidence import Values, region_of
from orchestrator.report.mean_tests import BothP, tests_of
from orchestrator.report.power import MAX_SEEDS, seeds_for
from orchestrator.report.statistics import mean_interval, paired_differences
from orchestrator.study.claims import (
    All,
    Better,
    Claim,
    Equivalent,
    NotBetter,
    Ordered,
    lower_is_better,
)
from orchestrator.study.design import Design, Sequential

PERCENT = math.log(1.01)  # one percent of perplexity
_MOST_PAIRS = 300


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of a seed's paired difference, and where it is known from."""

    sd: float
    source: str


SpreadOf = Callable[[str, str, str], Spread | None]  # of cells a and b, in a metric


@dataclass(frozen=True, kw_only=True)
class ClaimPower:
    """`power` is the chance of a verdict at `n` seeds, were the truth as `of_interest` says, at the
    strictest level that Holm's correction may hold the claim to. None with the reason in
    `missing`."""

    claim: str
    of_interest: str
    n: int
    level: float
    spread: float | None = None
    spread_from: str = ""
    power: float | None = None
    seeds_for_80: int | None = None
    missing: str = ""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One test of a claim: where the difference must lie, and where it would."""

    a: str
    b: str
    metric: str
    region: tuple[float, float]
    truth: float


def powers(
    claims: Sequence[Claim], design: Design, num_seeds: int, spread_of: SpreadOf
) -> list[ClaimPower]:
    """Of each claim; `num_seeds` are those of the launch, where the design names no number."""
    if isinstance(design, Sequential):
        n = most = design.max_seeds
    else:
        n, most = design.seeds or num_seeds, MAX_SEEDS
    level = design.alpha / max(1, len(claims))
    return [_power(claim, design, n, most, level, spread_of) for claim in claims]


def _power(
    claim: Claim, design: Design, n: int, most: int, level: float, spread_of: SpreadOf
) -> ClaimPower:
    told: dict[str, Any] = {"claim": claim.id, "n": n, "level": level}
    try:
        steps = _steps(claim)
    except _NotToldError as error:
        return ClaimPower(**told, of_interest="", missing=str(error))
    told["of_interest"] = "; ".join(dict.fromkeys(map(_words, steps)))
    spreads = [spread_of(step.a, step.b, step.metric) for step in steps]
    if any(spread is None for spread in spreads):
        return ClaimPower(
            **told, missing="no spread is known: run a pilot of 3 seeds, or give --spread"
        )
    worst = max(spreads, key=lambda spread: spread.sd)
    told |= {"spread": worst.sd, "spread_from": worst.source}
    if n < 2:
        return ClaimPower(**told, missing="one seed has no spread: no verdict")
    test = tests_of(design)[0]
    of_steps = [
        test.power(step.truth, spread.sd, *step.region)
        for step, spread in zip(steps, spreads, strict=True)
    ]

    def power(seeds: int) -> float:
        """Of a compound at least this: that every step is found."""
        found: list[BothP] = [of(seeds, level) for of in of_steps]
        return max(0.0, 1 - sum(1 - supported for supported, _ in found))

    return ClaimPower(**told, power=power(n), seeds_for_80=seeds_for(power, most=most))


class _NotToldError(Exception):
    """Why nothing is told of a claim."""


def _steps(claim: Claim) -> list[_Step]:
    match claim:
        case Better():
            interest = claim.of_interest
            if interest is None and describe(claim.metric).is_loss:
                interest = PERCENT
            if interest is None:
                raise _NotToldError("state of_interest: the gain that is worth finding")
            gain = claim.by + interest
            truth = -gain if lower_is_better(claim.metric) else gain
            return [_step(claim, claim.by, truth)]
        case NotBetter() | Equivalent():
            return [_step(claim, claim.margin, 0.0)]
        case Ordered():
            return [step for each in claim.steps for step in _steps(each)]
        case All():
            return [step for each in claim.parts for step in _steps(each)]
    raise _NotToldError(f"{type(claim).__name__} has no effect of interest to tell its power at")


def _step(claim: Better | NotBetter | Equivalent, margin: float, truth: float) -> _Step:
    return _Step(
        a=claim.a,
        b=claim.b,
        metric=claim.metric,
        region=region_of(claim, margin),
        truth=truth,
    )


def _words(step: _Step) -> str:
    if step.truth == 0:
        bound = min(abs(bound) for bound in step.region if math.isfinite(bound))
        return f"no difference, margin {bound:.4g}"
    return f"a difference of {abs(step.truth):.4g}"


def spread_in(values: Values, a: str, b: str, metric: str) -> tuple[float, int] | None:
    """Of the paired differences of two cells, over how many seeds; None below two."""
    pair = paired_differences(_of(values, a, metric), _of(values, b, metric))
    if len(pair) < 2:
        return None
    found = mean_interval(pair.values())
    return (found.sd, found.n) if found.sd else None


def pooled_spread(launches: Sequence[Values], metric: str) -> tuple[float, int] | None:
    """The median over pairs of cells of launches that compare, and how many pairs."""
    found: list[float] = []
    for values in launches:
        for a, b in combinations(values, 2):
            spread = spread_in(values, a, b, metric)
            found += [] if spread is None else [spread[0]]
            if len(found) == _MOST_PAIRS:
                return statistics.median(found), len(found)
    return (statistics.median(found), len(found)) if found else None


def _of(values: Values, cell: str, metric: str) -> dict[int, float]:
    trials: Mapping[int, Mapping[str, float]] = values.get(cell, {})
    return {s: v for s, row in trials.items() if (v := row.get(metric)) is not None}
