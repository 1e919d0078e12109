"""What the data say of one claim, before any correction for the other claims.

Every claim yields two p-values, for "it holds" and for "its contrary holds". The test is that of
the study's design: a t test at one number of seeds, or one that holds at every look.

- Better, NotBetter: the two-sided paired test, counted for the side on which the mean lies.
- Equivalent, and Specialises between two thresholds: two one-sided tests (TOST) for holding, the
  two-sided test for lying wholly outside.
- Where a seed of the claim's cells has collapsed, a test that ranks or signs alone decide checks
  it: the claim's p is the larger of the two, so that it is decided only where both agree.
- Compounds (All, Ordered, LargerEffect): the claim holds at the largest p of its parts
  (intersection-union test, Berger 1982, which needs no correction); its contrary, that some part
  fails, has the smallest p times the number of parts (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.report.collapse import collapsed
from orchestrator.report.findings import Finding, compound, join
from orchestrator.report.mean_tests import BothP, Power, SidedTest, tests_of
from orchestrator.report.statistics import mean_interval, paired_differences
from orchestrator.report.text_error import TextError
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
from orchestrator.study.comparability import Evaluated, unlike
from orchestrator.study.design import Design, Fixed

Values = Mapping[str, Mapping[int, Mapping[str, float]]]
Rows = Sequence[Mapping[str, Any]]


class _NoDataError(Exception):
    """Why a claim cannot be tested; becomes the finding's note."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the values of a launch came about, as far as its tests need to know.

    `order`: seeds as they were first asked for, which a sequential test follows; seeds that it does
    not name come last, by their number. `running`: (cell, seed) that have begun or wait: a
    sequential test goes no further than the first of them. `seeds`: those that a fixed design is
    judged on; None: any. `evaluated`: of each cell, how its values come about, where that is known.
    `text`: how far the difference of two cells in a metric hangs on the documents.
    """

    order: Sequence[int] = ()
    running: Collection[tuple[str, int]] = ()
    seeds: Collection[int] | None = None
    evaluated: Mapping[str, Evaluated] = field(default_factory=dict)
    text: Callable[[str, str, str], TextError | None] = lambda a, b, metric: None


class Evidence:
    """Final values (cell -> seed -> metric) and rows of `analyze`, asked claim by claim."""

    def __init__(
        self,
        values: Values,
        rows: Rows | None,
        design: Design,
        sampling: Sampling | None = None,
    ) -> None:
        self.values, self.rows, self.design = values, rows or (), design
        self.sampling = sampling or Sampling()
        self.test, self.check = tests_of(self.design)
        self._place = {seed: i for i, seed in enumerate(self.sampling.order)}

    def finding(self, claim: Claim) -> Finding:
        """Never raises on missing data: the finding's note names it."""
        match claim:
            case Ordered():
                return compound(claim, [self.finding(step) for step in claim.steps])
            case All():
                return compound(claim, [self.finding(part) for part in claim.parts])
            case LargerEffect():
                return compound(claim, [self._larger(claim, other) for other in claim.than])
            case Specialises():
                return self._specialises(claim)
            case Better() | NotBetter() | Equivalent():
                return self._pair(claim)
        raise TypeError(f"no test for a claim of type {type(claim).__name__}")

    def _pair(self, claim: Better | NotBetter | Equivalent) -> Finding:
        margin = claim.by if isinstance(claim, Better) else claim.margin
        cells = (claim.a, claim.b)
        named = {"id": claim.id, "statement": claim.statement, "a": claim.a, "b": claim.b}
        try:
            self._require_alike(claim.a, claim.b, claim.metric)
            a, b = self._metric(claim.a, claim.metric), self._metric(claim.b, claim.metric)
            return self._region(
                self._in_order(paired_differences(a, b), cells),
                region_of(claim, margin),
                cells=cells,
                off=self._off(cells, claim.metric),
                metric=claim.metric,
                margin=margin or None,
                leaks=self._leaks(cells),
                note=_unpaired(a, b),
                text=self.sampling.text(claim.a, claim.b, claim.metric),
                **named,
            )
        except _NoDataError as missing:
            return Finding(**named, note=str(missing))

    def _larger(self, claim: LargerEffect, other: Effect) -> Finding:
        """|E| > |F| where E - F and E + F have one sign, |E| < |F| where they have opposite signs.

        Both are tested by two-sided paired tests and both must reject, so that no sign has to be
        read off the data first. Shown is |E| - |F|, with the signs of the means.
        """
        cells = tuple(dict.fromkeys((*claim.effect.cells, *other.cells)))
        label: dict[str, Any] = {
            "id": f"{claim.id}.{other.name}",
            "statement": f"the effect of {claim.effect.name} is larger than that of {other.name}",
            "a": f"|{claim.effect.name}|",
            "b": f"|{other.name}|",
            "leaks": self._leaks(cells),
        }
        try:
            e, f = self._effect(claim.effect, claim.metric), self._effect(other, claim.metric)
            shared = self._in_order({seed: 0.0 for seed in e if seed in f}, cells)
            sign_e, sign_f = (math.copysign(1, sum(x[s] for s in shared)) for x in (e, f))
            contrast = {seed: sign_e * e[seed] - sign_f * f[seed] for seed in shared}
            label |= {"metric": claim.metric, **self._shown(contrast)}
        except _NoDataError as missing:
            return Finding(**label, note=str(missing))
        if len(shared) < 2:
            return Finding(**label, note=join("one seed: no interval", _unpaired(e, f)))
        minus, plus = (np.array([e[s] + sign * f[s] for s in shared]) for sign in (-1, 1))

        def both(test: SidedTest) -> BothP:
            (up, down), (up_sum, down_sum) = test.two_sided(minus, 0), test.two_sided(plus, 0)
            holds = min(max(up, up_sum), max(down, down_sum))
            return holds, min(max(up, down_sum), max(down, up_sum))

        powers = [self._power(x, (0.0, math.inf)) for x in (minus, plus)]

        def power(n: int, level: float) -> BothP:
            """At least: that both are found."""
            (up, down), (up_sum, down_sum) = (of(n, level) for of in powers)
            holds = max(up + up_sum, down + down_sum) - 1
            return max(0.0, holds), max(0.0, max(up + down_sum, down + up_sum) - 1)

        off = self._off(cells, claim.metric)
        return Finding(
            **label,
            **self._decided(both, off, cells),
            power=power,
            collapsed=off,
            note=_unpaired(e, f),
        )

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
        return compound(claim, parts)

    def _specialises_on(self, claim: Specialises, rows: Rows, id: str, note: str) -> Finding:
        named = {"id": id, "statement": claim.statement, "a": claim.cell}
        named["b"] = claim.control or "its permutation null"
        try:
            sample = _above_null(rows, claim.cell, claim.measure)
            if claim.control is not None:
                control = _above_null(rows, claim.control, claim.measure)
                note = join(note, _unpaired(sample, control))
                sample = paired_differences(sample, control)
            return self._region(
                self._in_order(sample, claim.cells),
                (claim.at_least, math.inf if claim.at_most is None else claim.at_most),
                cells=claim.cells,
                off=_named(claim.cell, collapsed(sample)),
                metric=claim.measure,
                note=note,
                **named,
            )
        except _NoDataError as missing:
            return Finding(**named, note=join(str(missing), note))

    def _region(
        self,
        sample: Mapping[int, float],
        region: tuple[float, float],
        *,
        cells: Sequence[str],
        off: tuple[str, ...],
        note: str,
        **label: Any,
    ) -> Finding:
        """The finding that the mean over seeds of `sample` lies in an open region."""
        both_ends = all(map(math.isfinite, region))
        label["region"] = region
        label |= self._shown(sample, one_sided=both_ends)
        if len(sample) < 2:
            return Finding(**label, note=join("one seed: no interval", note))
        x = np.array(list(sample.values()))
        if np.ptp(x) == 0:
            note = join(note, "the same at every seed: check that the seeds are replicates")
        return Finding(
            **label,
            **self._decided(lambda test: test.region(x, *region), off, cells),
            power=self._power(x, region),
            collapsed=off,
            note=note,
        )

    def _decided(
        self, test_by: Callable[[SidedTest], BothP], off: Sequence[str], cells: Sequence[str]
    ) -> dict[str, Any]:
        """Both p-values; where seeds collapsed, the larger of those of the test and its check."""
        asked, running = self.sampling.seeds, self.sampling.running
        if isinstance(self.design, Fixed) and asked is not None:
            late = sorted({seed for cell, seed in running if cell in cells and seed in asked})
            if late:
                named = f"{'seed' if len(late) == 1 else 'seeds'} {', '.join(map(str, late))}"
                return {"withheld": f"a fixed design is judged once, and has yet to see {named}"}
        holds, fails = test_by(self.test)
        if not off:
            return {"p_holds": holds, "p_fails": fails}
        check_holds, check_fails = test_by(self.check)
        return {
            "p_holds": max(holds, check_holds),
            "p_fails": max(fails, check_fails),
            "checks": ((holds, fails), (check_holds, check_fails)),
        }

    def _power(self, x: np.ndarray, region: tuple[float, float]) -> Power:
        found = mean_interval(x)
        return self.test.power(found.mean, found.sd, *region)

    def _shown(self, sample: Mapping[int, float], *, one_sided: bool = False) -> dict[str, Any]:
        """Estimate, its size in standard deviations, and its interval."""
        if not sample:
            raise _NoDataError("the cells share no seed")
        x = np.array(list(sample.values()))
        found = mean_interval(x)
        shown: dict[str, Any] = {"estimate": found.mean, "n": found.n}
        if found.n < 2:
            return shown
        low, high = self.test.interval(x, self.design.alpha, one_sided=one_sided)
        bounds = {"low": low, "high": high} if math.isfinite(low) else {}
        return shown | {
            **bounds,
            "effect": found.mean / found.sd if found.sd else None,
            "confidence": 1 - (2 if one_sided else 1) * self.design.alpha,
        }

    def _in_order(self, sample: Mapping[int, float], cells: Sequence[str]) -> dict[int, float]:
        """The seeds that the design's test counts, in its order."""
        waits: set[int] = set()
        if not isinstance(self.design, Fixed):
            waits = {seed for cell, seed in self.sampling.running if cell in cells}
        found: dict[int, float] = {}
        for seed in sorted({*sample, *waits}, key=lambda s: (self._place.get(s, math.inf), s)):
            if seed in waits:
                break  # a seed that is slow to come must not be left out for what it will say
            found[seed] = sample[seed]
        return found

    def _off(self, cells: Sequence[str], metric: str) -> tuple[str, ...]:
        return tuple(
            line for cell in cells for line in _named(cell, collapsed(self._metric(cell, metric)))
        )

    def _leaks(self, cells: Sequence[str]) -> tuple[str, ...]:
        known = {cell: e for cell in cells if (e := self.sampling.evaluated.get(cell)) is not None}
        leaking = tuple(cell for cell, how in known.items() if not how.is_causal)
        return leaking if 0 < len(leaking) < len(cells) else ()

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

    def _require_alike(self, a: str, b: str, metric: str) -> None:
        how = self.sampling.evaluated
        if a in how and b in how and {a, b} <= self.values.keys():
            why = unlike(how[a], how[b], metric)
            if why is not None:
                raise _NoDataError(f"{a} and {b} were evaluated on {why}")

    def _effect(self, effect: Effect, metric: str) -> dict[int, float]:
        """The signed mean over the effect's pairs, at each seed that all its cells share."""
        for a, b in effect.pairs:
            self._require_alike(a, b, metric)
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


def region_of(claim: Better | NotBetter | Equivalent, margin: float) -> tuple[float, float]:
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


def _named(cell: str, off: Mapping[int, float]) -> tuple[str, ...]:
    return tuple(f"{cell}, seed {seed}: {distance:+.3g}" for seed, distance in off.items())
