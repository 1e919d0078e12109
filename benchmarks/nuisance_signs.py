"""Whether comparisons of designs have the right sign, at a fixed learning rate and with the rate
tuned within each design.

On the recorded table of search_saves.py (24 designs, four rates each): pairs of designs that differ
in one axis and, each at its own best rate, by more than 0.01 nats. A study at one rate trains each
design once. With `nuisance`, so many points of the table are drawn at random, and `effects_about`
(what `recommend` tells) compares each design with its neighbours: of all its contrasts, and of
those whose interval leaves zero out, which alone are told as costs, how many have the other sign.

    python benchmarks/nuisance_signs.py [--seeds 6] [--points 36,48,72]
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import search_table
from common import Row, limit, print_result, row, tell
from search_saves import TABLE, Table

from orchestrator.surrogate.effects import effects_about
from orchestrator.surrogate.expected_improvement import Seen

RATE = "optim.learning_rate"
GAP = 0.01  # nats, below which one seed tells nothing
GOAL = 0.05
Design = tuple[tuple[str, Any], ...]


class Designs:
    """The end of every design at every rate, and what it comes to at its own best."""

    def __init__(self) -> None:
        table = Table(TABLE)
        self.ends: dict[Design, dict[float, float]] = {}
        for cell_hash, point in table.points.items():
            design, rate = parted(point.overrides)
            self.ends.setdefault(design, {})[rate] = table.losses[cell_hash][-1]
        self.rates = sorted(next(iter(self.ends.values())))
        self.best = {design: min(ends.values()) for design, ends in self.ends.items()}
        self.pairs = [
            (a, b)
            for a, b in itertools.combinations(self.ends, 2)
            if len(set(a) - set(b)) == 1 and abs(self.truth(a, b)) > GAP
        ]

    def truth(self, a: Design, b: Design) -> float:
        return self.best[a] - self.best[b]

    def share_reversed_at(self, rate: float) -> float:
        other = [(self.ends[a][rate] - self.ends[b][rate]) * self.truth(a, b) < 0
                 for a, b in self.pairs]  # fmt: skip
        return statistics.fmean(other)


def parted(params: Mapping[str, Any]) -> tuple[Design, float]:
    rest = {path: value for path, value in params.items() if path != RATE}
    return tuple(sorted(rest.items())), params[RATE]


@dataclass
class Signs:
    """Of the contrasts of some searches: how many there are, have the other sign, are told, are
    told with the other sign; of pairs that nothing is said of."""

    pairs: int = 0
    contrasts: int = 0
    reversed: int = 0
    told: int = 0
    told_reversed: int = 0
    why_not: str = ""


def signs_of(designs: Designs, points: int, seeds: int) -> Signs:
    found = Signs()
    for seed in range(seeds):
        every = [(design, rate) for design in designs.ends for rate in designs.rates]
        drawn = random.Random(seed).sample(every, points)
        seen = [
            Seen(values={**dict(design), RATE: rate}, cost=designs.ends[design][rate])
            for design, rate in drawn
        ]
        for a in {a for a, _ in designs.pairs}:
            reference = {**dict(a), RATE: designs.rates[0]}  # the rate is tuned, wherever it stands
            effects = effects_about(reference, search_table.SPACE, seen, nuisance=[RATE])
            found.why_not = effects.why_not
            of = {(effect.path, effect.value): effect for effect in effects.main}
            for b in (b for one, b in designs.pairs if one == a):
                found.pairs += 1
                effect = of.get(next(iter(set(b) - set(a))))
                if effect is None:
                    continue
                is_reversed = effect.cost * designs.truth(b, a) < 0
                found.contrasts += 1
                found.reversed += is_reversed
                found.told += effect.is_clear
                found.told_reversed += is_reversed and effect.is_clear
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--points", default="36,48,72")
    options = parser.parse_args()
    designs = Designs()
    at_fixed = {rate: designs.share_reversed_at(rate) for rate in designs.rates}
    for rate, share in at_fixed.items():
        tell(
            f"{len(designs.pairs)} pairs, all at the rate {rate:g}: {share:.1%} have the other sign"
        )
    fixed = statistics.fmean(at_fixed.values())
    tell(f"at a fixed rate, over the four: {fixed:.1%}")
    rows: list[Row] = []
    for points in map(int, options.points.split(",")):
        found = signs_of(designs, points, options.seeds)
        cost = points / len(designs.ends)
        case = f"{points} points ({cost:g} times a fixed rate's cost), {options.seeds} seeds"
        if not found.contrasts:
            tell(f"{case}: nothing is told; {found.why_not}")
            continue
        share, told = found.reversed / found.contrasts, found.told / found.pairs
        tell(
            f"{case}: of {found.contrasts} contrasts {share:.1%} have the other sign; {found.told} "
            f"are told ({told:.1%}), {found.told_reversed} of them with the other sign"
        )
        rows.append(row(f"other sign, {case}", baseline="fixed rate", ours=share, theirs=fixed,
                        unit="share"))  # fmt: skip
        of_told = found.told_reversed / max(found.told, 1)
        rows.append(limit(f"other sign of what is told, {case}", ours=of_told, at_most=GOAL,
                          unit="share"))  # fmt: skip
    print_result("nuisance_signs", rows, packages=("numpy", "scipy"))


if __name__ == "__main__":
    main()
