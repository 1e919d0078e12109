"""How many seeds a study's claims are judged on, and how often it may look at them.

A t test at n seeds keeps its error rate if it is made once, at an n that was settled before. Adding
seeds until a verdict appears does not: two equal cells, looked at with 2 to 20 seeds, are "decided"
in 26% of studies at a nominal 5%. So a study states one of two designs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe.config.checks import require

PRIOR_SCALE = 3.0
_ALPHA = 0.05


def _require_alpha(alpha: float) -> None:
    require(
        isinstance(alpha, float) and 0 < alpha < 0.5,
        "alpha, the share of studies that may have a false verdict, lies between 0 and 0.5",
        alpha,
        "0.05 is usual.",
    )


def _require_seeds(what: str, seeds: int) -> None:
    require(
        type(seeds) is int and 2 <= seeds <= 10_000,
        f"{what} is a whole number of seeds from 2 to 10,000, since one has no spread",
        seeds,
        "`moe-study plan` prints how many give 80% power.",
    )


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Judged once, at `seeds` seeds a cell; None: at those that the launch is first run with.

    Until they are there claims are undecided. Verdicts on more seeds are exploratory.
    """

    seeds: int | None = None
    alpha: float = _ALPHA

    def __post_init__(self) -> None:
        _require_alpha(self.alpha)
        if self.seeds is not None:
            _require_seeds("seeds of a Fixed design", self.seeds)

    def __str__(self) -> str:
        seeds = "the launch's" if self.seeds is None else self.seeds
        return f"fixed, {seeds} seeds, looked at once, alpha {self.alpha:g}"


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """Judged after every seed, up to `max_seeds` a cell, by tests that stay valid at every look.

    `prior_scale` is the size of effect, in standard deviations of a paired difference, at which the
    test is aimed: 3 decides large effects from three seeds on, 1 needs five of them and less of
    small ones (orchestrator.report.anytime).
    """

    max_seeds: int
    alpha: float = _ALPHA
    prior_scale: float = PRIOR_SCALE

    def __post_init__(self) -> None:
        _require_alpha(self.alpha)
        _require_seeds("max_seeds", self.max_seeds)
        require(
            isinstance(self.prior_scale, float | int)
            and math.isfinite(self.prior_scale)
            and 0.01 <= self.prior_scale <= 100,
            "prior_scale is a number of standard deviations from 0.01 to 100",
            self.prior_scale,
            f"{PRIOR_SCALE:g} suits effects of one to ten.",
        )

    def __str__(self) -> str:
        return (
            f"sequential, a look after every seed up to {self.max_seeds}, alpha {self.alpha:g}, "
            f"prior scale {self.prior_scale:g}"
        )


Design = Fixed | Sequential
