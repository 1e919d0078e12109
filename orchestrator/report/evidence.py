"""What the data say of one claim, before any correction for the other claims.

Every claim yields two p-values, for "it holds" and for "its contrary holds"; at most one of them
can be below 0.5.

- Better, NotBetter: the two-sided paired t test, counted for the side on which the mean lies.
- Equivalent, and Specialises between two thresholds: two one-sided tests (TOST) for holding, the
  two-sided test for lying wholly outside.
- Compounds (All, Ordered, LargerEffect): the claim holds at the largest p of its parts
  (intersection-union test, Berger 1982, which needs no correction); its contrary, that some part
  fails, has the smallest p times the number of parts (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.statistics import (
    mean_interval,
    paired_differences,
    region_p_values,
    two_sided_p,
)
from orchestrator.study.claims import (
    NULL_MEAN,
    All,
    Better,
    Claim,
    Effect,
    Equivalent,
    LargerEffect,
    NotBetter,
    Ordered,
    Specialises,
    lower_is_better,
)

Values = Mapping[str, Mapping[int, Mapping[str, float]]]
Rows = Sequence[Mapping[str, Any]]
BothP = tuple[float, float]  # p for "the claim holds", p for "its contrary holds"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim's numbers. `p_at(n)` gives both p-values at n seeds of the same mean and spread.

    Without a test (missing cells, one seed) `p_at` is None, both p are 1 and `note` says why.
    """

    id: str
    statement: str
    p_holds: float = 1.0
    p_fails: float = 1.0
    p_at: Callable[[int], BothP] | None = None
    metric: str | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    n: int = 0
    margin: float | None = None
    note: str = ""
    parts: tuple[Finding, ...] = ()

    @property
    def p_value(self) -> float:
        return min(self.p_holds, self.p_fails)

    @property
    def tested(self) -> bool:
        return self.p_at is not None


class _NoDataError(Exception):
    """Why a claim cannot be tested; becomes the finding's note."""


class Evidence:
    """Final values (cell -> seed -> metric) and rows of `analyze`, asked claim by claim.

    `corpora`: digest of each cell's corpus, where they have different ones.
    """

    def __init__(
        self,
        values: Values,
        rows: Rows | None,
        alpha: float,
        corpora: Mapping[str, str] | None = None,
    ) -> None:
        self.values, self.rows, self.alpha = values, rows or (), alpha
        self.corpora = corpora or {}

    def finding(self, claim: Claim) -> Finding:
        """Never raises on missing data: the finding's note names it."""
        match claim:
            case Ordered():
                return _all(claim, [self.finding(step) for step in claim.steps])
            case All():
                return _all(claim, [self.finding(part) for part in claim.parts])
            case LargerEffect():
                return _all(claim, [self._larger(claim, other) for other in claim.than])
            case Specialises():
                return self._specialises(claim)
            case Better() | NotBetter() | Equivalent():
                return self._pair(claim)
        raise TypeError(f"no test for a claim of type {type(claim).__name__}")

    def _pair(self, claim: Better | NotBetter | Equivalent) -> Finding:
        margin = claim.by if isinstance(claim, Better) else claim.margin
        try:
            self._require_one_corpus(claim.a, claim.b)
            a, b = self._metric(claim.a, claim.metric), self._metric(claim.b, claim.metric)
            return self._region(
                paired_differences(a, b),
                _region_of(claim, margin),
                id=claim.id,
                statement=claim.statement,
                metric=claim.metric,
                margin=margin or None,
                note=_unpaired(a, b),
            )
        except _NoDataError as missing:
            return Finding(id=claim.id, statement=claim.statement, note=str(missing))

    def _larger(self, claim: LargerEffect, other: Effect) -> Finding:
        """|E| > |F| where E - F and E + F have one sign, |E| < |F| where they have opposite signs.

        Both are tested by two-sided paired t tests and both must reject, so that no sign has to be
        read off the data first. Shown is |E| - |F|, with the signs of the means.
        """
        label: dict[str, Any] = {
            "id": f"{claim.id}.{other.name}",
            "statement": f"the effect of {claim.effect.name} is larger than that of {other.name}",
        }
        try:
            e, f = self._effect(claim.effect, claim.metric), self._effect(other, claim.metric)
            seeds = sorted(e.keys() & f.keys())
            sign_e, sign_f = (math.copysign(1, sum(x[s] for s in seeds)) for x in (e, f))
            contrast = {seed: sign_e * e[seed] - sign_f * f[seed] for seed in seeds}
            label |= {"metric": claim.metric, **_interval(contrast, 1 - self.alpha)}
        except _NoDataError as missing:
            return Finding(**label, note=str(missing))
        if len(seeds) < 2:
            return Finding(**label, note=join("one seed: no interval", _unpaired(e, f)))
        minus, plus = (mean_interval(e[s] + sign * f[s] for s in seeds) for sign in (-1, 1))

        def p_at(n: int) -> BothP:
            p = max(float(two_sided_p(sample.mean, sample.sd, n)) for sample in (minus, plus))
            agreement = minus.mean * plus.mean
            return (p if agreement > 0 else 1.0), (p if agreement < 0 else 1.0)

        holds, fails = p_at(len(seeds))
        return Finding(**label, p_holds=holds, p_fails=fails, p_at=p_at, note=_unpaired(e, f))

    def _specialises(self, claim: Specialises) -> Finding:
        """One finding a probe with such labels; several probes must all agree."""
        rows = [row for row in self.rows if probe_labels(row["probe"]) in claim.labels]
        probes = sorted({row["probe"] for row in rows})
        if not probes:
            note = f"no analysed probe has labels called {' or '.join(claim.labels)}"
            return Finding(id=claim.id, statement=claim.statement, note=note)
        if len(probes) == 1:
            return self._specialises_on(claim, rows, claim.id, f"probe {probes[0]}")
        parts = []
        for i, probe in enumerate(probes, start=1):
            of_probe = [row for row in rows if row["probe"] == probe]
            parts.append(self._specialises_on(claim, of_probe, f"{claim.id}.{i}", f"probe {probe}"))
        return _all(claim, parts)

    def _specialises_on(self, claim: Specialises, rows: Rows, id: str, note: str) -> Finding:
        try:
            sample = _above_null(rows, claim.cell, claim.measure)
            if claim.control is not None:
                control = _above_null(rows, claim.control, claim.measure)
                note = join(note, _unpaired(sample, control))
                sample = paired_differences(sample, control)
            return self._region(
                sample,
                (claim.at_least, math.inf if claim.at_most is None else claim.at_most),
                id=id,
                statement=claim.statement,
                metric=claim.measure,
                note=note,
            )
        except _NoDataError as missing:
            return Finding(id=id, statement=claim.statement, note=join(str(missing), note))

    def _region(
        self, sample: Mapping[int, float], region: tuple[float, float], *, note: str, **label: Any
    ) -> Finding:
        """The finding that the mean over seeds of `sample` lies in an open region."""
        low, high = region
        both_ends = math.isfinite(low) and math.isfinite(high)
        label |= _interval(sample, 1 - (2 if both_ends else 1) * self.alpha)
        if len(sample) < 2:
            return Finding(**label, note=join("one seed: no interval", note))
        found = mean_interval(sample.values())

        def p_at(n: int) -> BothP:
            inside, outside = region_p_values(found.mean, found.sd, n, low=low, high=high)
            return float(inside), float(outside)

        if found.sd == 0:
            note = join(note, "the same at every seed: check that the seeds are replicates")
        holds, fails = p_at(found.n)
        return Finding(**label, p_holds=holds, p_fails=fails, p_at=p_at, note=note)

    def _metric(self, cell: str, metric: str) -> dict[int, float]:
        trials = self.values.get(cell)
        if not trials:
            raise _NoDataError(f"cell {cell} has no complete trial")
        found = {seed: row[metric] for seed, row in trials.items() if row.get(metric) is not None}
        if not found:
            raise _NoDataError(f"cell {cell} has no {metric}")
        for seed, value in sorted(found.items()):
            if not math.isfinite(value):
                raise _NoDataError(f"cell {cell}, seed {seed}: {metric} is {value}")
        return found

    def _require_one_corpus(self, a: str, b: str) -> None:
        if self.corpora.get(a) != self.corpora.get(b) and {a, b} <= self.values.keys():
            raise _NoDataError(
                f"{a} and {b} were trained on different text, where losses do not compare"
            )

    def _effect(self, effect: Effect, metric: str) -> dict[int, float]:
        """The signed mean over the effect's pairs, at each seed that all its cells share."""
        for a, b in effect.pairs:
            self._require_one_corpus(a, b)
        pairs = [
            paired_differences(self._metric(a, metric), self._metric(b, metric))
            for a, b in effect.pairs
        ]
        seeds = set.intersection(*(set(pair) for pair in pairs))
        return {seed: sum(pair[seed] for pair in pairs) / len(pairs) for seed in sorted(seeds)}


def probe_labels(probe: str) -> str:
    """What a PROBE SPEC's labels are called: topic, syntax, ... or a table's label column."""
    kind, _, rest = probe.partition(":")
    if kind == "conllu":
        return "syntax"
    return rest.rpartition(":")[2].partition("=")[0] if kind == "table" else rest


def join(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)


def _region_of(claim: Better | NotBetter | Equivalent, margin: float) -> tuple[float, float]:
    """Where a minus b must lie for the claim to hold."""
    if isinstance(claim, Equivalent):
        return -margin, margin
    down = lower_is_better(claim.metric)
    bound = -margin if down else margin
    return (-math.inf, bound) if down == isinstance(claim, Better) else (bound, math.inf)


def _above_null(rows: Rows, cell: str, measure: str) -> dict[int, float]:
    """seed -> mean over layers of the measure minus its permutation null's mean."""
    layers: dict[int, list[float]] = {}
    for row in rows:
        if row["cell"] == cell and row["layer"] is not None:  # None: the row of their mean
            found, null = row.get(measure), row.get(NULL_MEAN[measure])
            if found is None or null is None or not math.isfinite(found - null):
                where = f"cell {cell}, seed {row['seed']}"
                raise _NoDataError(f"{where}: {measure} or {NULL_MEAN[measure]} is missing")
            layers.setdefault(row["seed"], []).append(found - null)
    if not layers:
        raise _NoDataError(f"cell {cell} was not analysed")
    return {seed: sum(above) / len(above) for seed, above in sorted(layers.items())}


def _unpaired(a: Mapping[int, float], b: Mapping[int, float]) -> str:
    alone = sorted(a.keys() ^ b.keys())
    return f"unpaired seeds left out: {', '.join(map(str, alone))}" if alone else ""


def _interval(sample: Mapping[int, float], confidence: float) -> dict[str, Any]:
    if not sample:
        raise _NoDataError("the cells share no seed")
    found = mean_interval(sample.values(), confidence=confidence)
    shown = {"estimate": found.mean, "low": found.low, "high": found.high, "n": found.n}
    return shown | {"confidence": confidence if found.n > 1 else None}


def _all(claim: Claim, parts: Sequence[Finding]) -> Finding:
    """The compound, with the numbers of the part that decides it."""

    def combine(both: Iterable[BothP]) -> BothP:
        holds, fails = zip(*both, strict=True)
        return max(holds), min(1.0, len(parts) * min(fails))

    def p_at(n: int) -> BothP:
        return combine(part.p_at(n) if part.p_at else (1.0, 1.0) for part in parts)

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
        p_at=p_at if any(part.tested for part in parts) else None,
        metric=shown.metric,
        estimate=shown.estimate,
        low=shown.low,
        high=shown.high,
        confidence=shown.confidence,
        n=shown.n,
        margin=shown.margin,
        parts=tuple(parts),
    )
