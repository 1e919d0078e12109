"""Bounds on what a point comes to, beside the metric that a search improves.

A point is judged by the mean over its complete seeds. One whose runs do not have the metric (a
dense model has no experts that could be dead) cannot violate it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from moe.metrics import METRICS, metric_named

CONSTRAINTS = "constraints"  # of a launch: what `as_attributes` says of each
_OF_CONFIG = ("flops", "param", "memory")


@dataclass(frozen=True)
class Constraint:
    """`metric` is one of moe.metrics, as it is after the last step; one of the bounds is given."""

    metric: str
    _: KW_ONLY
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if type(self.metric) is not str:
            raise ValueError(
                f"the metric of a constraint is text; received {self.metric!r}. Write for example "
                'Constraint("router/dead_experts", at_most=0).'
            )
        _require_no_figure(self.metric)
        measure = metric_named(self.metric, "a constraint bounds a metric of moe.metrics")
        if measure.is_of_test:
            raise ValueError(
                "searches are bounded by what they may see, and nothing goes by the test split; "
                f"received a constraint on {self.metric!r}. Bound "
                f"{self.metric.replace('test/', 'val/', 1)!r}."
            )
        bounds = [bound for bound in (self.at_most, self.at_least) if bound is not None]
        if len(bounds) != 1 or type(bounds[0]) not in (int, float) or not math.isfinite(bounds[0]):
            raise ValueError(
                "a constraint has one bound, a finite number; received "
                f"at_most={self.at_most!r}, at_least={self.at_least!r} for {self.metric}. Write "
                f"Constraint({self.metric!r}, at_most=0), and two constraints for a range."
            )

    def __str__(self) -> str:
        return f"{self.metric} {self.bound}"

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}"

    def excess(self, value: float) -> float:
        """By how much a value violates it; 0 and less do not."""
        return value - self.at_most if self.at_most is not None else self.at_least - value

    def as_attributes(self) -> dict[str, Any]:
        """Plain data, for the launch's record."""
        if self.at_most is not None:
            return {"metric": self.metric, "at_most": self.at_most}
        return {"metric": self.metric, "at_least": self.at_least}


def _require_no_figure(name: str) -> None:
    """Raises ValueError where what is to be bounded is known before a run: a rule bounds that."""
    of_config = any(word in name.lower() for word in _OF_CONFIG)
    if of_config and name not in (metric.name for metric in METRICS):
        raise ValueError(
            "a constraint bounds what a run measures (moe.metrics), and what a config costs is "
            f"known before it is trained; received {name!r}. Write a Rule of the space: "
            "Space(..., rules=(Rule(holds=lambda config: account(config).flops_per_token < 1e6, "
            'reason="too dear"),)), with moe.accounting for FLOPs and parameters, moe.memory for '
            "memory."
        )


def as_constraints(value: Any) -> tuple[Constraint, ...]:
    """Raises ValueError where it is no list of constraints, each once."""
    is_list = isinstance(value, Sequence) and all(isinstance(one, Constraint) for one in value)
    if not is_list or len({str(one) for one in value}) < len(value):
        raise ValueError(
            f"constraints is a list of Constraint, each once; received {value!r}. Write "
            'constraints=(Constraint("router/dead_experts", at_most=0),).'
        )
    return tuple(value)


def constraints_of(attributes: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Those that a launch was started with."""
    return tuple(Constraint(**one) for one in attributes.get(CONSTRAINTS) or ())


def listed(constraints: Iterable[Constraint]) -> str:
    return "; ".join(map(str, constraints))
