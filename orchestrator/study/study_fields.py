"""Whether a Study's fields hold what they are for: a study file is Python, which takes anything.

What a field may hold beyond its type is said where it is used; here each wrong type gets the rule,
the value and the remedy, in place of an error from somewhere within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moe.config import TrialConfig
from orchestrator.study.claims import Claim
from orchestrator.study.early_stopping import StoppingRule
from orchestrator.study.samplers import Auto
from search_spaces.space import Space

if TYPE_CHECKING:
    from orchestrator.study.study import Study

LADDER_POINTS = 5
_LONGEST = 200  # characters of a value that a message repeats


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _are_seeds(value: Any) -> bool:
    return isinstance(value, tuple | list | range)


def _maps(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(map(is_right, value.values()))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_SEEDS = "Write for example seeds=(0, 1)."
# By field: whether a value is right, the rule, and the remedy.
_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "question": (_is_text, "question is text", 'Write question="Is a better than b?".'),
    "baseline": (_is_text, "baseline is text, in a grid a cell's name", 'Write baseline="name".'),
    "held_fixed": (_is_text, "held_fixed is text", 'Write held_fixed="all but the router".'),
    "scales": (
        lambda v: v and _maps(v, lambda of: isinstance(of, TrialConfig)),
        "scales maps names to the configs of trials, one at least",
        "Write scales=SCALES, which studies.scales has.",
    ),
    "cells": (
        lambda v: v is None or callable(v) or _is_list(v),
        "cells is a list of Cell, or a function of the scale's config that returns one",
        "Write cells=[Cell(name=..., overrides={...})].",
    ),
    "space": (
        lambda v: v is None or callable(v) or isinstance(v, Space),
        "space is a Space, or a function of the scale's config that returns one",
        "Write space=Space(axes={...}).",
    ),
    "tune": (
        lambda v: isinstance(v, Mapping) or callable(v) or bool(v),  # said in tuning_rules
        "tune maps paths of the optimiser to the values that each cell is tried with",
        'Write tune={"optim.learning_rate": (0.002, 0.004)}, or leave it out.',
    ),
    "trials": (
        lambda v: type(v) is int,
        "trials, the points of a sampled study, is a whole number",
        "Set trials=20.",
    ),
    "warm_start": (
        lambda v: type(v) is bool,
        "warm_start is True or False",
        "Write one of these, or leave it out.",
    ),
    "first": (
        _is_list,
        "first is a list of points, each a dict of values by axis",
        'Write for example first=[{"moe.top_k": 2}], or leave it out.',
    ),
    "seeds": (_are_seeds, "seeds is a tuple of whole numbers", _SEEDS),
    "scale_seeds": (
        lambda v: _maps(v, _are_seeds),
        "scale_seeds maps scales to tuples of seeds",
        'Write for example scale_seeds={"gpu": (0, 1, 2)}, or leave it out.',
    ),
    "default_scale": (_is_text, "default_scale is the name of a scale", "Write one of scales."),
    "metric": (_is_text, "metric is the name of one of moe.metrics", 'Write metric="val/loss".'),
    "early_stopping": (
        lambda v: v is None or isinstance(v, StoppingRule),
        "early_stopping is a rule such as EarlyStopping",
        "Write early_stopping=EarlyStopping(guarded=0.2), for example, or leave it out.",
    ),
    "claims": (
        lambda v: _is_list(v) and all(isinstance(one, Claim) for one in v),
        "claims is a tuple of claims, each of orchestrator.study.claims",
        'Write claims=(Better(id="C1", statement=..., a=..., b=...),), or leave it out.',
    ),
    "published": (
        lambda v: _maps(v, lambda of: _maps(of, _is_number)),
        "published maps cells to a paper's numbers, each by corpus",
        'Write published={"cell": {"corpus": 12.3}}, or leave it out.',
    ),
}


def require_types(study: Study) -> None:
    """Raises ValueError where a field is given a value of another type than its own."""
    for name, (is_right, rule, remedy) in _RULES.items():
        value = getattr(study, name)
        if not is_right(value):
            text = repr(value)
            text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
            raise ValueError(f"{rule}; received {text} of study {study.name}. {remedy}")


def require_searched(study: Study) -> None:
    """Raises ValueError where a grid is given what only a search has: it would change nothing."""
    if study.space is not None:
        return
    name = study.name
    if study.nuisance:
        raise ValueError(
            f"nuisance is for sampled studies; received it for the grid {name}, whose cells are "
            "all run as they are. Give it a space."
        )
    if study.warm_start:
        raise ValueError(
            f"warm_start is for sampled studies; received it for the grid {name}, whose cells are "
            "all run as they are. Leave it out."
        )
    if study.first:
        raise ValueError(
            f"first is for sampled studies; received it for the grid {name}, whose cells are all "
            "run. Write the point as a Cell."
        )
    if study.trials:
        raise ValueError(
            f"trials is for sampled studies; received {study.trials} for the grid {name}, whose "
            "cells are all run, once a seed. Leave it out, and name seeds."
        )
    if not isinstance(study.sampler, Auto):
        raise ValueError(
            f"sampler is for sampled studies; received {study.sampler} for the grid {name}, whose "
            "cells are all run: no point is drawn. Leave it out."
        )


def require_ladder_points_of_one(study: Study) -> None:
    """Raises ValueError where points are to climb a ladder that the study has not."""
    if study.ladder == () and study.ladder_points != LADDER_POINTS:
        raise ValueError(
            "ladder_points is how many points climb a ladder; received "
            f"{study.ladder_points!r} of study {study.name}, which has no ladder. Leave it out, or "
            'name the rungs: ladder=("cpu", "gpu").'
        )
