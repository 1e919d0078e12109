"""What was found of one claim, and how the findings of its parts make that of a compound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import norm

from orchestrator.report.mean_tests import BothP, Power
from orchestrator.report.text_error import TextError
from orchestrator.study.claims import Claim


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim's numbers. `power(n, level)` gives the chances that n seeds of this mean and spread
    would decide it, for it and against it.

    Without a test (missing cells, one seed) `power` is None, both p are 1 and `note` says why.
    `effect` is the estimate in standard deviations of a seed's (paired) value. `collapsed` names
    seeds far from their cell's others, "cell, seed N: +0.31"; then `checks` holds the p-values of
    the t test and those of the test that it was checked by. `withheld` says why the design has not
    come to its test yet. `a` and `b` are what the estimate is the difference of. `leaks` are cells
    whose route depends on later tokens, of a claim that also has causal ones. `region` is where the
    estimate lies if the claim holds, `text` how far it hangs on the documents.
    """

    id: str
    statement: str
    a: str | None = None
    b: str | None = None
    p_holds: float = 1.0
    p_fails: float = 1.0
    power: Power | None = None
    metric: str | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    n: int = 0
    effect: float | None = None
    margin: float | None = None
    note: str = ""
    collapsed: tuple[str, ...] = ()
    checks: tuple[BothP, BothP] | None = None
    withheld: str = ""
    leaks: tuple[str, ...] = ()
    region: tuple[float, float] | None = None
    text: TextError | None = None
    parts: tuple[Finding, ...] = ()

    @property
    def p_value(self) -> float:
        return min(self.p_holds, self.p_fails)

    def holds_over_text(self, level: float) -> bool:
        """Whether the estimate lies on its side of the region's edges over documents as well, by a
        normal test of that level; True where that is not known."""
        if self.text is None or self.region is None or self.estimate is None:
            return True
        reach = norm.isf(level / 2) * self.text.error
        edges = [edge for edge in self.region if math.isfinite(edge)]
        return all(abs(self.estimate - edge) > reach for edge in edges)

    @property
    def tested(self) -> bool:
        return self.power is not None


def join(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)


def compound(claim: Claim, parts: Sequence[Finding]) -> Finding:
    """The compound, with the numbers of the part that decides it."""

    def combine(both: Iterable[BothP]) -> BothP:
        holds, fails = zip(*both, strict=True)
        return max(holds), min(1.0, len(parts) * min(fails))

    def power(n: int, level: float) -> BothP:
        """At least: that all parts are found, or that some part is found to fail at its share."""
        none = (0.0, 0.0)
        holds = [part.power(n, level)[0] if part.power else 0.0 for part in parts]
        share = level / len(parts)
        fails = [(part.power(n, share) if part.power else none)[1] for part in parts]
        return max(0.0, 1 - sum(1 - p for p in holds)), max(fails)

    holds, fails = combine((part.p_holds, part.p_fails) for part in parts)
    if fails < holds:
        shown = min(parts, key=lambda part: part.p_fails)
    else:
        shown = max(parts, key=lambda part: (part.p_holds, not part.tested))
    return Finding(
        id=claim.id,
        statement=claim.statement,
        p_holds=holds,
        p_fails=fails,
        power=power if any(part.tested for part in parts) else None,
        a=shown.a,
        b=shown.b,
        metric=shown.metric,
        estimate=shown.estimate,
        low=shown.low,
        high=shown.high,
        confidence=shown.confidence,
        n=shown.n,
        effect=shown.effect,
        margin=shown.margin,
        collapsed=tuple(dict.fromkeys(line for part in parts for line in part.collapsed)),
        withheld=next((part.withheld for part in parts if part.withheld), ""),
        leaks=tuple(dict.fromkeys(cell for part in parts for cell in part.leaks)),
        parts=tuple(parts),
    )
