"""Verdicts: each claim of a study is supported, refuted or undecided.

How the corrected decision is taken (the tests themselves are in `evidence`):

1. A claim's p is the smaller of its two, "it holds" and "its contrary holds".
2. Holm's step-down runs over *all* claims given. One without data counts with p = 1, so that
   verdicts do not grow easier while cells are missing.
3. The k-th smallest of m is held to alpha / (m - k + 1); the first that misses stops all after it.
   At p <= its level a claim is decided, for the side with the smaller p (a direction after Holm:
   Shaffer 1980). In terms of intervals: Better is supported where the 1 - level interval excludes
   0 on the good side, refuted where on the other; Equivalent is supported where the 1 - 2 level
   interval lies inside the margin, refuted where the 1 - level interval lies wholly outside.
4. The parts of a supported compound all hold, at its level. The parts of any other are held to that
   level over their number.

Under a sequential design p is 1 / max e over the looks, which is a p-value at every look, so that
Holm's procedure holds at every look as well.

The interval shown is the plain one (95%; 90% where it shows a TOST), as a table has it, or that of
the confidence sequence. It may exclude 0 while Holm leaves the claim undecided; the reason then
gives p before and after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moe.metrics import describe, perplexity
from orchestrator.report.evidence import Evidence, Rows, Sampling, Values
from orchestrator.report.findings import Finding, join
from orchestrator.report.mean_tests import BothP
from orchestrator.report.power import MAX_SEEDS, TARGET, seeds_for
from orchestrator.report.statistics import holm, holm_levels
from orchestrator.study.claims import Claim
from orchestrator.study.comparability import comparisons
from orchestrator.study.design import Design, Fixed, Sequential

FEW_SEEDS = 5  # below this the spread itself is hardly known


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim judged. What the data cannot give is None.

    `estimate` is `a` minus `b` (LargerEffect: the difference of the absolute effects; Specialises:
    the measure above its null) in the unit of `metric`, with its interval at `ci_level` over `n`
    paired seeds. A compound shows the numbers of the part that decides it, and all in `parts`.
    `effect` is the estimate in standard deviations of a seed's (paired) value. `level` is what Holm
    holds `p_value` to. `seeds_for_80`, for undecided claims: the seeds in every cell that decide it
    at that level in 80% of studies of this mean and spread; `power_at_end`, of a sequential design:
    the share of such studies that decide it by its last seed, and `leans` the verdict that more of
    them come to.

    `collapsed` names seeds that lie far from their cell's others; then `check` is the verdict by
    ranks or signs alone and `p_value` the larger of both tests', so that a claim is decided only
    where they agree. `leaks` are cells that later tokens route, of a claim that sets them against
    causal ones: it is then `causal` no longer, and no evidence for what it says of causal models.
    `registered` says whether the claim stood in the record before the data. `with_causal_routes` is
    the verdict, at the same level, on what the same weights do where a sequence's router reads no
    more than what came before; None for claims without such cells. `text_error` is the standard
    error of the estimate over the `documents` of the evaluation, in nats a token.
    """

    id: str
    statement: str
    a: str | None
    b: str | None
    verdict: Literal["supported", "refuted", "undecided"]
    metric: str | None
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    n: int
    effect: float | None
    margin: float | None
    p_value: float | None
    p_adjusted: float | None
    level: float
    seeds_for_80: int | None
    power_at_end: float | None
    reason: str
    leans: Literal["supported", "refuted"] | None = None
    collapsed: tuple[str, ...] = ()
    check: str | None = None
    leaks: tuple[str, ...] = ()
    registered: str | None = None
    with_causal_routes: Verdict | None = None
    text_error: float | None = None
    documents: int | None = None
    parts: tuple[Verdict, ...] = ()

    @property
    def causal(self) -> bool:
        return not self.leaks

    @property
    def compared(self) -> str:
        """What the estimate is the difference of; empty where nothing was compared."""
        return f"{self.a} minus {self.b}" if self.a and self.b else ""

    @property
    def perplexity_ratio(self) -> tuple[float, float | None, float | None] | None:
        """Estimate and interval of a claim on a loss, as a ratio of perplexities."""
        if self.metric is None or self.estimate is None or not describe(self.metric).is_loss:
            return None
        low, high = (None if x is None else perplexity(x) for x in (self.ci_low, self.ci_high))
        return perplexity(self.estimate), low, high

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `moe-study claims`."""
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown["perplexity_ratio"] = self.perplexity_ratio
        shown["causal"] = self.causal
        shown["compared"] = self.compared
        shown["parts"] = [part.to_dict() for part in self.parts]
        if self.with_causal_routes is not None:
            shown["with_causal_routes"] = self.with_causal_routes.to_dict()
        return shown


def judge(
    claims: Sequence[Claim],
    values: Values,
    specialization_rows: Rows | None = None,
    *,
    design: Design | None = None,
    sampling: Sampling | None = None,
    causally: tuple[Values, Sampling, Collection[str]] | None = None,
    advise: bool = True,
) -> list[Verdict]:
    """A verdict for each claim, in order, corrected over all of them.

    `values`: cell -> seed -> metric -> final value, of complete trials only. `specialization_rows`:
    the rows of `moe-study analyze`, each with its probe spec under "probe". `design`: without one,
    a t test at the seeds that are there. Missing data, and cells that were evaluated on different
    things, leave a claim undecided, with the reason. `causally`: values, sampling and cells as
    `judged_split.with_causal_routes` has them. `advise`: how many seeds give 80% power is computed,
    which is most of the work. Raises ValueError on ids that repeat.
    """
    ids = [claim.id for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the claims of a study have different ids; received {ids}. Rename one.")
    design = design or Fixed()
    evidence = Evidence(values, specialization_rows, design, sampling)
    findings = [evidence.finding(claim) for claim in claims]
    p_values = [finding.p_value for finding in findings]
    family = _Family(design=design, size=len(claims), advise=advise)
    again = dataclasses.replace(family, advise=False)
    other, replaced = None, frozenset[str]()
    if causally is not None:
        changed, as_changed, cells = causally
        replaced = frozenset(cells)
        other = Evidence(changed, specialization_rows, design, as_changed)
    verdicts = []
    for claim, finding, level, p_adjusted in zip(
        claims,
        findings,
        holm_levels(p_values, alpha=design.alpha),
        holm(p_values),
        strict=True,
    ):
        verdict = family.verdict(finding, level, p_adjusted)
        if other is not None and any(replaced & {a, b} for a, b, _ in comparisons(claim)):
            with_causal = again.verdict(other.finding(claim), level, p_adjusted)
            verdict = dataclasses.replace(verdict, with_causal_routes=with_causal)
        verdicts.append(verdict)
    return verdicts


def _side(p: BothP, level: float) -> str:
    if min(p) > level:
        return "undecided"
    return "supported" if p[0] < p[1] else "refuted"


def _leaning(power: tuple[float, float]) -> Literal["supported", "refuted"] | None:
    """The likelier of two verdicts, where one is."""
    supported, refuted = power
    if supported == refuted:
        return None
    return "supported" if supported > refuted else "refuted"


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What all claims that are judged together share."""

    design: Design
    size: int
    advise: bool

    def verdict(self, finding: Finding, level: float, p_adjusted: float) -> Verdict:
        decision = _side((finding.p_holds, finding.p_fails), level)
        seeds, at_end, leans = None, None, None
        if self.advise and decision == "undecided" and finding.power is not None:
            seeds = seeds_for(lambda n: max(finding.power(n, level)), most=self._most_seeds)
            if isinstance(self.design, Sequential):
                at_end = max(of_both := finding.power(self._most_seeds, level))
                leans = _leaning(of_both)
        part_level = level if decision == "supported" else level / max(1, len(finding.parts))
        parts = tuple(
            self.verdict(part, part_level, min(1.0, part.p_value * self.design.alpha / part_level))
            for part in finding.parts
        )
        tested = finding.tested and not finding.withheld
        return Verdict(
            id=finding.id,
            statement=finding.statement,
            a=finding.a,
            b=finding.b,
            verdict=decision,
            metric=finding.metric,
            estimate=finding.estimate,
            ci_low=finding.low,
            ci_high=finding.high,
            ci_level=finding.confidence,
            n=finding.n,
            effect=finding.effect,
            margin=finding.margin,
            p_value=finding.p_value if tested else None,
            p_adjusted=p_adjusted if tested else None,
            level=level,
            seeds_for_80=seeds,
            power_at_end=at_end,
            leans=leans,
            reason=self._reason(finding, decision, level, p_adjusted, seeds, parts),
            collapsed=finding.collapsed,
            check=_side(finding.checks[1], level) if finding.checks else None,
            leaks=finding.leaks,
            text_error=finding.text.error if finding.text else None,
            documents=finding.text.documents if finding.text else None,
            parts=parts,
        )

    @property
    def _most_seeds(self) -> int:
        return self.design.max_seeds if isinstance(self.design, Sequential) else MAX_SEEDS

    def _reason(
        self,
        finding: Finding,
        decision: str,
        level: float,
        p_adjusted: float,
        seeds: int | None,
        parts: Sequence[Verdict],
    ) -> str:
        beside = [finding.note, *self._beside(finding, level)]
        if decision != "undecided" and not finding.holds_over_text(level):
            beside.append("over seeds only, not over the documents of the evaluation")
        if decision == "supported":
            return join(*beside)
        if decision == "refuted":
            refuted = [part.id for part in parts if part.verdict == "refuted"]
            return join(*(f"{part} is refuted" for part in refuted), *beside)
        untested = [part for part in parts if part.p_value is None]
        missing = join(*(f"{part.id}: {part.reason}" for part in untested), *beside)
        if finding.withheld and not parts:
            return join(finding.withheld, missing)
        if not finding.tested:
            return missing
        p = f"p = {finding.p_value:.2g}"
        if self.size > 1:
            p += f", {p_adjusted:.2g} after Holm's correction over {self.size} claims"
        if seeds is not None:
            guess = (
                f"{seeds} seeds would decide it in {TARGET:.0%} of studies of this mean and spread"
            )
            if finding.n < FEW_SEEDS:
                guess = f"roughly {guess}, which {finding.n} seeds tell poorly"
            return join(p, guess, missing)
        if untested:
            return join(p, missing)
        return join(
            p, f"no number of seeds up to {self._most_seeds:,} gives {TARGET:.0%} power", missing
        )

    def _beside(self, finding: Finding, level: float) -> list[str]:
        """What a reader must know beside the verdict."""
        lines = []
        if finding.collapsed:
            lines.append(f"far from the other seeds of its cell: {', '.join(finding.collapsed)}")
        if finding.checks:
            by_mean, by_check = (_side(p, level) for p in finding.checks)
            kind = "bets on signs" if isinstance(self.design, Sequential) else "signed ranks"
            lines.append(f"{by_mean} by the t test, {by_check} by {kind}")
        if finding.leaks:
            lines.append(
                f"not causal: later tokens of a sequence route earlier ones in "
                f"{', '.join(finding.leaks)}, which is no evidence about causal models"
            )
        return lines
