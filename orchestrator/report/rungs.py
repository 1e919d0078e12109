"""Whether a rung's value foretells the final one, from full curves: what early stopping rests on.

Kendall's tau between the metric at a rung and at the end, over trials that ran to the end. Those
that were stopped have no end, so after stopping for real this speaks of the survivors only, among
whom ranks agree less or more than among all. Where the rule guards a share of points, these alone
speak: they are a sample of all points, whose tau has an interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from orchestrator.report.statistics import kendall_tau
from orchestrator.report.tau_over_points import interval_over_points
from orchestrator.stores.optuna_launches import BASE
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.comparability import evaluation
from orchestrator.study.early_stopping import StoppingRule, rule_of

MIN_CURVES = 10


@dataclass(frozen=True, kw_only=True)
class Rung:
    """`share` of a trial's own steps; `step` where all trials have as many, else None.

    `judged_at`: the evaluation at which a trial is judged for it, where all trials have as many
    steps and some was seen to its end; the last step is none, since nothing is left to save there.
    `tau` is None with fewer than MIN_CURVES curves, or where all values are equal. `low` and `high`
    are its 95% interval, over `n` points that were guarded; None where none are.
    """

    share: float
    step: int | None
    tau: float | None
    n: int
    judged_at: int | None = None
    low: float | None = None
    high: float | None = None


def rungs(
    rule: StoppingRule,
    lengths: Sequence[int],
    records: Iterable[TrialRecord],
    *,
    by_point: bool = False,
) -> list[Rung]:
    """Each rung with its correlation, over trials of `lengths` steps; each trial has its own rungs,
    and the n-th of one stands for the n-th of another, as the rule compares them.

    A trial is judged at its first evaluation at or past a rung. Of several corpora the one with
    most full curves speaks: trials are judged within a corpus. `by_point`: a curve is the mean over
    the seeds of a point, with the interval that holds for a sample of all points.
    """
    of_corpus: dict[str | None, dict[Any, list[Mapping[int, float]]]] = {}
    for i, r in enumerate(records):
        if (
            r.state == "complete"
            and max(r.curve, default=0) in lengths
            and r.num_steps in (None, max(r.curve))
            and all(map(math.isfinite, r.curve.values()))
        ):
            of_units = of_corpus.setdefault(r.corpus_digest, {})
            of_units.setdefault(r.cell_hash if by_point else i, []).append(r.curve)
    units = max(of_corpus.values(), key=len, default={})
    curves = {unit: _mean_curve(seeds) for unit, seeds in units.items()}
    final = {number: curve[-1] for number, curve in curves.items()}
    steps_of = {length: rule.rungs(length) for length in lengths}
    longest = max(lengths)
    found = []
    for index, step in enumerate(steps_of[longest]):
        at = {
            number: next(value for reached, value in curve if reached >= own[index])
            for number, curve in curves.items()
            if index < len(own := steps_of[final[number][0]])
        }
        last = {number: final[number][1] for number in at}
        tau = kendall_tau(at, last).tau if len(at) >= MIN_CURVES else None
        only = step if len(lengths) == 1 else None
        seen = sorted({reached for curve in curves.values() for reached, _ in curve})
        judged_at = next((reached for reached in seen if reached >= step), None) if only else None
        low, high = (
            interval_over_points(tau, len(at)) if by_point and tau is not None else (None, None)
        )
        found.append(
            Rung(
                share=step / longest,
                step=only,
                tau=tau,
                n=len(at),
                judged_at=judged_at,
                low=low,
                high=high,
            )
        )
    return found


def _mean_curve(seeds: Sequence[Mapping[int, float]]) -> list[tuple[int, float]]:
    """At the steps that all seeds of a point have."""
    steps = sorted(set.intersection(*map(set, seeds)))
    return [(step, fmean(curve[step] for curve in seeds)) for step in steps]


def rungs_of_launch(
    attributes: Mapping[str, Any],
    records: Iterable[TrialRecord],
    *,
    launch: str = "",
    others: Iterable[TrialRecord] = (),
) -> tuple[list[Rung], list[int]]:
    """The rungs that a launch was started with, and the steps that its trials may have; none
    without early stopping. `others` are trials of launches on the same text, of which those speak
    that are evaluated as the launch's own are: where the rule guards points of `launch`, these
    speak alone. Trials of a configuration that the study had before say nothing."""
    kept = attributes.get("early_stopping")
    if not kept:
        return [], []
    lengths = kept["num_steps"]
    if isinstance(lengths, int):  # launches of before 2026-11-25 have the base's alone
        lengths = [lengths]
    rule, records = rule_of(kept), [r for r in records if not r.is_older]
    if sample := _guarded(rule, launch, records):
        return rungs(rule, lengths, sample, by_point=True), lengths
    alike = _evaluated_alike(attributes, records, others)
    return rungs(rule, lengths, chain(records, alike)), lengths


def _evaluated_alike(
    attributes: Mapping[str, Any], own: Sequence[TrialRecord], others: Iterable[TrialRecord]
) -> Iterator[TrialRecord]:
    """Losses over other positions, or of longer contexts, have ranks and falls of their own."""
    told = [attributes.get(BASE), *(r.config for r in own)]
    ours = {evaluation(config) for config in told if config is not None}
    return (r for r in others if r.config is not None and evaluation(r.config) in ours)


def _guarded(rule: StoppingRule, launch: str, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials of points that the rule guarded from their beginning: those asked for after the
    last one that was stopped all the same, before the rule was told to guard."""
    own = [r for r in records if rule.guards(launch, r.cell_hash)]
    diverged = {r.cell_hash for r in own if r.diverged}  # of whose seeds all are stopped
    stopped = (r.number for r in own if r.state == "pruned" and r.cell_hash not in diverged)
    since = max(stopped, default=-1)
    early = {r.cell_hash for r in own if r.number <= since}
    return [r for r in own if r.cell_hash not in early]


def rung_line(found: Sequence[Rung], lengths: Sequence[int]) -> str:
    """One line for people."""
    if len(lengths) == 1:
        where = f"steps {', '.join(str(rung.step) for rung in found)} of {lengths[0]}"
        where += _missed(found, lengths[0])
    else:
        shares = ", ".join(f"{rung.share:.0%}" for rung in found)
        where = f"{shares} of each trial's own steps ({_range(lengths)})"
    n = found[0].n if found else 0
    if n < MIN_CURVES:
        return (
            f"early stopping at {where}: {n} full curves are too few to tell whether ranks there "
            f"hold to the end ({MIN_CURVES} are needed)"
        )
    taus = ", ".join(map(_tau, found))
    of = f"{n} full curves"
    if found[0].low is not None:
        of = f"{n} points that were guarded against it (95% intervals)"
    return f"early stopping at {where}: Kendall's tau with the final value {taus}, over {of}"


def _tau(rung: Rung) -> str:
    if rung.tau is None:
        return "-"
    if rung.low is None:
        return f"{rung.tau:.2f}"
    return f"{rung.tau:.2f} [{rung.low:.2f}, {rung.high:.2f}]"


def _missed(found: Sequence[Rung], length: int) -> str:
    """Rungs between two evaluations, which is where a trial is judged for them."""
    late = [r for r in found if r.judged_at not in (None, r.step)]
    parts = [
        f"{r.step} never, since no evaluation lies between it and the end"
        if r.judged_at == length
        else f"{r.step} at the evaluation of step {r.judged_at}"
        for r in late
    ]
    return f" (judged: {'; '.join(parts)})" if parts else ""


def _range(lengths: Sequence[int]) -> str:
    if len(lengths) <= 4:
        return ", ".join(map(str, lengths))
    return f"{min(lengths)} to {max(lengths)}"
