"""Whether a sampler object of Optuna's can draw a space: asked before anything is created."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe.config import ConfigError
from orchestrator.study.objectives import directions_of
from orchestrator.study.samplers import OfOptuna, Sampler
from search_spaces.domains import Choice, is_ordered
from search_spaces.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def require_drawable(sampler: Sampler, space: Space, names: Sequence[str]) -> None:
    """Raises ConfigError, with the sampler's own reason, where one of Optuna's cannot draw a point
    of the space; `names` are the metric, or the objectives.

    Every axis is asked for, also those that exist under a condition alone.
    """
    if not isinstance(sampler, OfOptuna):
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study made
    study = optuna.create_study(
        directions=directions_of(names), sampler=copy.deepcopy(sampler.sampler)
    )
    try:
        study.ask(_distributions(space))
    except Exception as error:  # whatever a sampler raises, a user's own too
        reason = str(error).rstrip(". ") or "without a word"
        raise ConfigError(
            f"a sampler object draws all axes of the space ({', '.join(space.axes)}); received "
            f"{sampler}, which raised {type(error).__name__}: {reason}. Give it what it asks for "
            '(a Choice in place of a Float, for instance), or choose another: sampler="gp".'
        ) from None


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """As points are drawn (orchestrator.trials.search_state): listed numbers by their rank."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    kinds = {
        "categorical": CategoricalDistribution,
        "int": IntDistribution,
        "float": FloatDistribution,
    }
    made: dict[str, BaseDistribution] = {}
    for path, given in space.distributions().items():
        domain = space.axes[path]
        if isinstance(domain, Choice) and is_ordered(domain):
            made[path] = IntDistribution(0, len(domain.values) - 1)
        else:
            made[path] = kinds[given["kind"]](**{k: v for k, v in given.items() if k != "kind"})
    return made
