"""What the rows of a table say of each other: each against the baseline, the best against the rest.

Both are claims like any other, judged by the tests of the study's design with all that guards a
verdict (cells that were evaluated alike, collapsed seeds checked by ranks, seeds in the order in
which a sequential design counts them), each family under Holm's correction of its own. They were
not stated before the data, and stand beside the study's claims, not in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from moe.metrics import describe
from orchestrator.report.evidence import Sampling, Values
from orchestrator.report.verdicts import Verdict, judge
from orchestrator.study.claims import Better
from orchestrator.study.comparability import unlike
from orchestrator.study.design import Design

# Pairs of cells to the verdicts that the first is better than the second.
Against = Callable[[list[tuple[str, str]]], list[Verdict]]

MOST_COMPARED = 200  # rows of a search: more leave nothing decided after the correction


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell minus the baseline, paired by seed. `decided`: whether it is told from 0 after Holm's
    correction over all rows; None without an interval. `reason` says why there is none."""

    estimate: float
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    n: int
    p_adjusted: float | None
    decided: bool | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class RowContrasts:
    """`differences` by cell, from `baseline`. `best` are cells that are decided to be better than
    every other that compares with them: at most one of each corpus, none where none is."""

    baseline: str | None = None
    differences: Mapping[str, Difference] = field(default_factory=dict)
    best: frozenset[str] = frozenset()


def row_contrasts(
    values: Values,
    metric: str,
    baseline: str | None,
    *,
    design: Design,
    sampling: Sampling,
    barred: Collection[str] = (),
) -> RowContrasts:
    """`values` are those that the study's claims are judged on. A baseline that is no cell (a
    sampled study's) gives no differences. `barred` cells violate a constraint: none of them is the
    best, nor need the best be better."""
    if describe(metric).better not in ("lower", "higher"):
        return RowContrasts()

    def against(a_b: list[tuple[str, str]]) -> list[Verdict]:
        claims = [
            Better(id=f"{a} - {b}", statement=f"{a} beats {b}", a=a, b=b, metric=metric)
            for a, b in a_b
        ]
        return judge(claims, values, design=design, sampling=sampling, advise=False)

    return RowContrasts(
        baseline=baseline if baseline in values else None,
        differences=_differences(values, baseline, against),
        best=frozenset(
            _best({c: of for c, of in values.items() if c not in barred}, metric, sampling, against)
        ),
    )


def _differences(values: Values, baseline: str | None, against: Against) -> dict[str, Difference]:
    others = [cell for cell in values if cell != baseline]
    if baseline not in values or not 0 < len(others) <= MOST_COMPARED:
        return {}
    verdicts = against([(cell, baseline) for cell in others])
    return {
        cell: Difference(
            estimate=v.estimate,
            ci_low=v.ci_low,
            ci_high=v.ci_high,
            ci_level=v.ci_level,
            n=v.n,
            p_adjusted=v.p_adjusted,
            decided=None if v.ci_low is None else v.verdict != "undecided",
            reason=v.reason,
        )
        for cell, v in zip(others, verdicts, strict=True)
        if v.estimate is not None
    }


def _best(values: Values, metric: str, sampling: Sampling, against: Against) -> Iterator[str]:
    """Of each group of cells whose values compare, and among causal ones where there are any."""
    measure = describe(metric)
    groups: list[list[str]] = []
    for cell in values:
        for group in groups:
            if _compare(group[0], cell, metric, sampling):
                group.append(cell)
                break
        else:
            groups.append([cell])
    for group in groups:
        causal = [cell for cell in group if _is_causal(cell, sampling)] or group
        means = {
            cell: sum(found) / len(found)
            for cell in causal
            if (found := [row[metric] for row in values[cell].values() if metric in row])
        }
        rest = sorted(means, key=lambda cell: measure.cost(means[cell]))
        if not 2 <= len(rest) <= MOST_COMPARED or len(values[rest[0]]) < 2:
            continue
        best = rest.pop(0)
        if all(v.verdict == "supported" for v in against([(best, other) for other in rest])):
            yield best


def _compare(a: str, b: str, metric: str, sampling: Sampling) -> bool:
    how = sampling.evaluated
    return a not in how or b not in how or unlike(how[a], how[b], metric) is None


def _is_causal(cell: str, sampling: Sampling) -> bool:
    how = sampling.evaluated.get(cell)
    return how is None or how.is_causal
