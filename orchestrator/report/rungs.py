"""Whether a rung's value foretells the final one, from full curves: what early stopping rests on.

Kendall's tau between the metric at a rung and at the end, over trials that ran to the end. Those
that were stopped have no end, so after stopping for real this speaks of the survivors only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.statistics import kendall_tau
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.early_stopping import StoppingRule, rule_of

MIN_CURVES = 10


@dataclass(frozen=True, kw_only=True)
class Rung:
    """`tau` is None with fewer than MIN_CURVES curves, or where all values are equal."""

    step: int
    tau: float | None
    n: int


def rungs(rule: StoppingRule, num_steps: int, records: Iterable[TrialRecord]) -> list[Rung]:
    """Each rung with its correlation. A trial is judged at its first evaluation at or past it."""
    curves = {
        i: sorted(r.curve.items())
        for i, r in enumerate(records)
        if r.state == "complete"
        and max(r.curve, default=0) == num_steps
        and all(map(math.isfinite, r.curve.values()))
    }
    final = {number: curve[-1][1] for number, curve in curves.items()}
    found = []
    for step in rule.rungs(num_steps):
        at = {
            number: next(value for reached, value in curve if reached >= step)
            for number, curve in curves.items()
        }
        tau = kendall_tau(at, final).tau if len(at) >= MIN_CURVES else None
        found.append(Rung(step=step, tau=tau, n=len(at)))
    return found


def rungs_of_launch(
    attributes: Mapping[str, Any], records: Iterable[TrialRecord]
) -> tuple[list[Rung], int]:
    """The rungs that a launch was started with, and its steps; none without early stopping."""
    kept = attributes.get("early_stopping")
    if not kept:
        return [], 0
    return rungs(rule_of(kept), kept["num_steps"], records), kept["num_steps"]


def rung_line(found: Sequence[Rung], num_steps: int) -> str:
    """One line for people."""
    steps = ", ".join(str(rung.step) for rung in found)
    n = found[0].n if found else 0
    if n < MIN_CURVES:
        return (
            f"early stopping at steps {steps} of {num_steps}: {n} full curves are too few to tell "
            f"whether ranks there hold to the end ({MIN_CURVES} are needed)"
        )
    taus = ", ".join(f"{r.tau:.2f}" if r.tau is not None else "-" for r in found)
    return (
        f"early stopping at steps {steps} of {num_steps}: Kendall's tau with the final value "
        f"{taus}, over {n} full curves"
    )
