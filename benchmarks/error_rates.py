"""How often verdicts are false, under every design and every way of looking that the product
offers.

Each row is 2,000 simulated studies, judged by `orchestrator.report.verdicts.judge` as the product
does. A verdict is false where the truth of the simulation contradicts it. Beside them: how often
confidence sequences hold the mean at all looks, and the power that `plan` tells against the share
of studies that were decided.

    python benchmarks/error_rates.py [--studies 2000] [--row NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.report import anytime
from orchestrator.report.claim_power import Spread, powers
from orchestrator.report.evidence import Sampling
from orchestrator.report.verdicts import judge
from orchestrator.study import (
    All,
    Better,
    Claim,
    Effect,
    Equivalent,
    Fixed,
    LargerEffect,
    NotBetter,
    Sequential,
)

MARGIN, SD, COLLAPSE = 0.01, 0.005, 0.3
EITHER = ("supported", "refuted")
FIXED, SEQUENTIAL = Fixed(), Sequential(max_seeds=20)
ALL_LOOKS = range(2, 21)


def better(a: str, b: str, id: str = "B") -> Better:
    return Better(id=id, statement=f"{a} beats {b}", a=a, b=b)


def equivalent(a: str, b: str, id: str = "E") -> Equivalent:
    return Equivalent(id=id, statement=f"{a} is {b}", a=a, b=b, margin=MARGIN)


FOUR = (
    better("a", "b", "B1"),
    better("a", "c", "B2"),
    equivalent("a", "d", "E1"),
    NotBetter(id="N", statement="e no better than a", a="e", b="a", margin=MARGIN),
)
FOUR_MEANS = {"a": 0.0, "b": 0.0, "c": 0.0, "d": MARGIN, "e": -MARGIN}
LARGER = LargerEffect(
    id="L",
    statement="a to b moves as much as c to d",
    effect=Effect(name="e", pairs=(("a", "b"),)),
    than=(Effect(name="f", pairs=(("c", "d"),)),),
)
BOTH = All(id="A", statement="s", parts=(better("a", "b", "1"), better("c", "b", "2")))


@dataclass(frozen=True, kw_only=True)
class Row:
    """`means` of its cells, all on the edge of every claim; `false` are the verdicts that are wrong
    there: both, but of an equivalence. Two cells that differ by the margin are not equivalent, so
    that only "supported" is; a little nearer, only "refuted" is. `prone` are cells of which one
    seed in ten collapses. `looks`: numbers of seeds at which it is judged."""

    name: str
    claims: tuple[Claim, ...]
    means: Mapping[str, float]
    design: Fixed | Sequential
    looks: Sequence[int]
    false: tuple[str, ...] = EITHER
    prone: tuple[str, ...] = ()


EQUAL, AT_MARGIN = {"a": 0.0, "b": 0.0}, {"a": MARGIN, "b": 0.0}
KINDS: tuple[tuple[str, tuple[Claim, ...], Mapping[str, float], tuple[str, ...]], ...] = (
    ("better, equal cells", (better("a", "b"),), EQUAL, EITHER),
    ("equivalent at the margin, supported", (equivalent("a", "b"),), AT_MARGIN, ("supported",)),
    ("equivalent at the margin, refuted", (equivalent("a", "b"),), AT_MARGIN, ("refuted",)),
    ("larger effect, equal effects", (LARGER,), {"a": 0.1, "b": 0.0, "c": 0.1, "d": 0.0}, EITHER),
    ("compound, one part equal", (BOTH,), {"a": -0.1, "b": 0.0, "c": 0.0}, EITHER),
    ("four claims, Holm", FOUR, FOUR_MEANS, EITHER),
)
# A p of the product never rises with a further look, so the last look decides for all before it,
# except where a collapsed seed brings in a second test: those rows are judged at every look.
ROWS = (
    *(
        Row(
            name=f"fixed 5, {name}",
            claims=claims,
            means=means,
            design=FIXED,
            looks=(5,),
            false=false,
        )
        for name, claims, means, false in KINDS
    ),
    *(
        Row(
            name=f"sequential, {name}",
            claims=claims,
            means=means,
            design=SEQUENTIAL,
            looks=(20,),
            false=false,
        )
        for name, claims, means, false in KINDS
    ),
    *(
        Row(
            name=f"{label}, better, collapse in {' and '.join(prone)}",
            claims=(better("a", "b"),),
            means=EQUAL,
            design=design,
            looks=looks,
            prone=prone,
        )
        for label, design, looks in (
            ("fixed 5", FIXED, (5,)),
            ("fixed 10", FIXED, (10,)),
            ("sequential", SEQUENTIAL, ALL_LOOKS),
        )
        for prone in (("a",), ("a", "b"))
    ),
)


def drawn(rng: np.random.Generator, row: Row, seeds: int) -> dict[str, np.ndarray]:
    values = {cell: mean + rng.normal(0, SD, seeds) for cell, mean in row.means.items()}
    for cell in row.prone:
        values[cell] = values[cell] + COLLAPSE * (rng.random(seeds) < 0.1)
    return values


def is_decided(row: Row, values: Mapping[str, np.ndarray], n: int) -> bool:
    told = {
        cell: {seed: {"val/loss": float(x)} for seed, x in enumerate(of_cell[:n])}
        for cell, of_cell in values.items()
    }
    found = judge(row.claims, told, design=row.design, sampling=Sampling(), advise=False)
    return any(verdict.verdict in row.false for verdict in found)


def error_rate(row: Row, studies: int) -> float:
    rng = np.random.default_rng(17)
    false = 0
    for _ in range(studies):
        values = drawn(rng, row, max(row.looks))
        false += any(is_decided(row, values, n) for n in row.looks)
    return false / studies


def peeking(studies: int, most: int) -> float:
    """For comparison: a plain t test at every look, which no design offers."""
    x = np.random.default_rng(17).normal(0, SD, (studies, most))
    n, mean, sd = anytime.running_moments(x)
    from scipy import special

    p = 2 * special.stdtr(n - 1, -np.abs(mean) / sd * np.sqrt(n))
    return float((p <= 0.05).any(axis=1).mean())


def coverage(studies: int, looks: int, prior_scale: float, *, one_sided: bool) -> float:
    """The share of studies whose sequence holds the mean at every look; `one_sided`: the lower
    bound alone does."""
    x = np.random.default_rng(18).normal(0, SD, (studies, looks))
    n, mean, sd = anytime.running_moments(x)
    reach = (anytime.one_sided_radius if one_sided else anytime.radius)(n, 0.05, prior_scale)
    off = mean if one_sided else np.abs(mean)
    with np.errstate(invalid="ignore"):
        return 1 - float((off > reach * sd).any(axis=1).mean())


def power_rows(studies: int) -> list[tuple[str, float, float]]:
    """By name what `plan` tells, and the share of studies that found it."""
    spread = SD * np.sqrt(2)  # of the difference of two cells

    def spread_of(a: str, b: str, metric: str) -> Spread:
        return Spread(sd=float(spread), source="known")

    found = []
    for design in (Fixed(seeds=5), Fixed(seeds=12), Sequential(max_seeds=12)):
        for claim, mean in (
            (Better(id="B", statement="s", a="a", b="b", of_interest=0.01), -0.01),
            (equivalent("a", "b"), 0.0),
        ):
            (told,) = powers([claim], design, 5, spread_of)
            row = Row(
                name="", claims=(claim,), means={"a": mean, "b": 0.0}, design=design, looks=(1,)
            )
            rng = np.random.default_rng(19)
            hits = sum(is_decided(row, drawn(rng, row, told.n), told.n) for _ in range(studies))
            found.append((f"{type(claim).__name__}, {design}", told.power, hits / studies))
    return found


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--row", help="rows whose name holds this")
    asked = parser.parse_args()
    if asked.row is None:
        for most in (5, 20):
            rate = peeking(asked.studies, most)
            say(f"| a plain t test at 2 to {most} seeds, for comparison | {rate:.1%} |")
        for one_sided in (False, True):
            share = coverage(asked.studies, 300, SEQUENTIAL.prior_scale, one_sided=one_sided)
            kind = "one-sided bound" if one_sided else "interval"
            say(f"| sequence, 2 to 300 seeds: {kind} holds the mean | {share:.1%} |")
        for name, told, share in power_rows(asked.studies):
            say(f"| power of {name}: told, found | {told:.1%}, {share:.1%} |")
    for row in ROWS:
        if asked.row is None or asked.row in row.name:
            say(f"| {row.name} | {error_rate(row, asked.studies):.1%} |")


if __name__ == "__main__":
    main()
