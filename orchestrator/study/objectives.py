"""What a search with several objectives improves at once: metrics of a run, and figures that a
config has before it is trained (moe.accounting), of which less is better."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from moe.accounting import Accounting, account
from moe.config import TrialConfig
from moe.metrics import METRICS, Metric, describe, metric_named

FIGURES: dict[str, Metric] = {
    field.name: Metric(
        name=field.name,
        unit="FLOPs" if field.name.startswith("flops") else "parameters",
        better="lower",
        reduction="of the config",
        meaning="counted by moe.accounting",
    )
    for field in dataclasses.fields(Accounting)
}


def objective_named(name: Any, what: str) -> Metric:
    """Raises ValueError as `metric_named`, with near matches among figures too."""
    if type(name) is not str:
        raise ValueError(f'{what}; received {name!r}. Write its name: "flops_per_token".')
    if name in FIGURES:
        return FIGURES[name]
    known = [*(m.name for m in METRICS if m.better != "neither"), *FIGURES]
    try:
        measure = metric_named(name, what)
    except ValueError:
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
        raise ValueError(f"{what}; received {name!r}. {hint}") from None
    measure.require_direction(what)
    return measure


def require_objectives(objectives: Any) -> None:
    """Raises ValueError where they are none that one study can have."""
    what = (
        "objectives are metrics with a direction (moe.metrics) and figures of the config "
        "(moe.accounting)"
    )
    if not isinstance(objectives, tuple) or len(objectives) < 2:
        raise ValueError(
            f"objectives are a tuple of at least two names; received {objectives!r}. Write "
            'objectives=("val/loss", "flops_per_token"), or metric="val/loss" for one.'
        )
    for name in objectives:
        if objective_named(name, what).is_of_test:
            raise ValueError(
                f"a search goes by its objectives, and nothing goes by the test split; received "
                f"{name!r}. Write {name.replace('test/', 'val/', 1)!r}."
            )
    if len(set(objectives)) < len(objectives):
        raise ValueError(
            f"an objective stands once; received {', '.join(objectives)}. Leave the second out."
        )
    if objectives[0] in FIGURES:
        raise ValueError(
            "the first objective is the study's metric, which a run measures; received "
            f"{objectives[0]}, which a config has before it is trained. Write a metric first."
        )


def figures_of(objectives: Sequence[str], config: TrialConfig) -> dict[str, float]:
    """Of the objectives, those that are known before training."""
    if not any(name in FIGURES for name in objectives):
        return {}
    counted = account(config)
    return {name: float(getattr(counted, name)) for name in objectives if name in FIGURES}


def values_of(
    objectives: Sequence[str], metrics: Mapping[str, Any], config: TrialConfig
) -> dict[str, float | None]:
    """By name, in their order; None for what a run did not measure."""
    found = {**metrics, **figures_of(objectives, config)}
    return {name: found.get(name) for name in objectives}


def directions_of(names: Sequence[str]) -> list[str]:
    """As Optuna calls them."""
    return ["maximize" if describe(name).better == "higher" else "minimize" for name in names]
