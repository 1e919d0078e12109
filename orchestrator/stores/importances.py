"""How much of a search's spread each of its parameters explains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection

import optuna

from orchestrator.stores.optuna_trials import CHOICES_ADDED, OptunaTrials


def importances(trials: OptunaTrials, *, without: Collection[int] = ()) -> dict[str, float]:
    """Shares of 1 by parameter, the largest first; empty where there is too little to tell.
    Trials of the numbers `without` are left out.

    PED-ANOVA, as Optuna Dashboard has it. Optuna itself gives equal shares where it found none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                _comparable(trials, without),
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                normalize=False,
            )
    except (ValueError, RuntimeError):
        return {}
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    return {name: value / total for name, value in found.items()}


def _comparable(trials: OptunaTrials, without: Collection[int]) -> optuna.Study:
    """The study itself; or a copy in memory, where choices were added under the widest lists."""
    study = trials.study
    if CHOICES_ADDED not in study.user_attrs and not without:
        return study
    copy = optuna.create_study(direction=study.direction)
    for trial in study.get_trials(deepcopy=True):
        trial.distributions = trials.choices.widened(trial.distributions)
        if trial.state.is_finished() and trial.number not in without:
            copy.add_trial(trial)
    return copy
