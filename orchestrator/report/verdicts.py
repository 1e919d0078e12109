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

The interval shown is the plain one (95%; 90% where it shows a TOST), as a table has it. It may
exclude 0 while Holm leaves the claim undecided; the reason then gives p before and after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moe.metrics import describe, perplexity
from orchestrator.report.evidence import Evidence, Finding, Rows, Values, join
from orchestrator.report.statistics import MAX_SEEDS, holm, holm_levels, seeds_until
from orchestrator.study.claims import Claim

FEW_SEEDS = 5  # below this the spread itself is hardly known


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim judged. What the data cannot give is None.

    `estimate` is a minus b (LargerEffect: the difference of the absolute effects; Specialises: the
    measure above its null) in the unit of `metric`, with its interval at `ci_level` over `n` paired
    seeds. A compound shows the numbers of the part that decides it, and all of them in `parts`.
    `level` is what Holm holds `p_value` to. `seeds_to_decide`, for undecided claims: the seeds in
    every cell at which this mean and spread would pass that level (and about one chance in two).
    """

    id: str
    statement: str
    verdict: Literal["supported", "refuted", "undecided"]
    metric: str | None
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    n: int
    margin: float | None
    p_value: float | None
    p_adjusted: float | None
    level: float
    seeds_to_decide: int | None
    reason: str
    parts: tuple[Verdict, ...] = ()

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
        shown["parts"] = [part.to_dict() for part in self.parts]
        return shown


def judge(
    claims: Sequence[Claim],
    values: Values,
    alpha: float = 0.05,
    specialization_rows: Rows | None = None,
    corpora: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """A verdict for each claim, in order, corrected over all of them.

    `values`: cell -> seed -> metric -> final value, of complete trials only. `specialization_rows`:
    the rows of `moe-study analyze`, each with its probe spec under "probe". `corpora`: the digest
    of each cell's corpus, where they have different ones. Missing data, and cells of different
    corpora, leave a claim undecided, with the reason. Raises ValueError on ids that repeat and on
    alpha outside (0, 0.5).
    """
    ids = [claim.id for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the claims of a study have different ids; received {ids}. Rename one.")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha lies between 0 and 0.5; received {alpha!r}. 0.05 is usual.")
    evidence = Evidence(values, specialization_rows, alpha, corpora)
    findings = [evidence.finding(claim) for claim in claims]
    p_values = [finding.p_value for finding in findings]
    family = _Family(alpha=alpha, size=len(claims))
    return [
        family.verdict(finding, level, p_adjusted)
        for finding, level, p_adjusted in zip(
            findings, holm_levels(p_values, alpha=alpha), holm(p_values), strict=True
        )
    ]


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What all claims that are judged together share."""

    alpha: float
    size: int

    def verdict(self, finding: Finding, level: float, p_adjusted: float) -> Verdict:
        decision, seeds = "undecided", None
        if finding.p_value <= level:
            decision = "supported" if finding.p_holds < finding.p_fails else "refuted"
        elif finding.p_at is not None:
            seeds = seeds_until(lambda n: min(finding.p_at(n)), alpha=level)
        part_level = level if decision == "supported" else level / max(1, len(finding.parts))
        parts = tuple(
            self.verdict(part, part_level, min(1.0, part.p_value * self.alpha / part_level))
            for part in finding.parts
        )
        return Verdict(
            id=finding.id,
            statement=finding.statement,
            verdict=decision,
            metric=finding.metric,
            estimate=finding.estimate,
            ci_low=finding.low,
            ci_high=finding.high,
            ci_level=finding.confidence,
            n=finding.n,
            margin=finding.margin,
            p_value=finding.p_value if finding.tested else None,
            p_adjusted=p_adjusted if finding.tested else None,
            level=level,
            seeds_to_decide=seeds,
            reason=self._reason(finding, decision, p_adjusted, seeds, parts),
            parts=parts,
        )

    def _reason(
        self,
        finding: Finding,
        decision: str,
        p_adjusted: float,
        seeds: int | None,
        parts: Sequence[Verdict],
    ) -> str:
        if decision == "supported":
            return finding.note
        if decision == "refuted":
            refuted = [part.id for part in parts if part.verdict == "refuted"]
            return join(*(f"{part} is refuted" for part in refuted), finding.note)
        untested = [part for part in parts if part.p_value is None]
        missing = join(*(f"{part.id}: {part.reason}" for part in untested), finding.note)
        if not finding.tested:
            return missing
        p = f"p = {finding.p_value:.2g}"
        if self.size > 1:
            p += f", {p_adjusted:.2g} after Holm's correction over {self.size} claims"
        if seeds is not None:
            guess = f"{seeds} seeds would decide it at this mean and spread"
            if finding.n < FEW_SEEDS:
                guess = f"roughly {guess}, which {finding.n} seeds tell poorly"
            return join(p, guess, missing)
        if untested:
            return join(p, missing)
        return join(p, f"no number of seeds up to {MAX_SEEDS:,} would decide it", missing)
