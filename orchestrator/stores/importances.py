"""How much of a search's spread each of its parameters explains, and how sure that is."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.stores.optuna_trials import CHOICES_ADDED, OptunaTrials

COMPLETE_PER_AXIS = 8
_PARTS = 8  # of the jackknife
_T = 2.365  # 97.5% of Student's t with seven degrees of freedom


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A share of 1, and its 95% interval; None where there are too few trials for one."""

    share: float
    low: float | None = None
    high: float | None = None


def importances(
    trials: OptunaTrials, *, without: Collection[int] = (), nuisance: Collection[str] = ()
) -> dict[str, Importance]:
    """By parameter, the largest share first; empty where there is too little to tell. Trials of the
    numbers `without` are left out.

    `nuisance` are axes that are tuned within each design: of each design only the trials at its
    best values of them count, by the mean over seeds, and they have no share themselves. Else a
    rate that suits no design would explain most of a search for designs.

    PED-ANOVA, as Optuna Dashboard has it. The interval is that of a jackknife over eighths of the
    trials, for which there are eight complete trials an axis at the least.
    """
    study = _comparable(trials, without)
    if nuisance:
        study = _at_each_designs_best(study, nuisance)
    shares = _shares(study)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < complete_needed(max(1, len(shares))):
        return {name: Importance(share=share) for name, share in shares.items()}
    parts = [_shares(_study_of(part, study)) for part in _without_each_part(complete)]
    return {name: _with_interval(name, share, parts) for name, share in shares.items()}


def complete_needed(num_axes: int) -> int:
    """Complete trials from which on importances have intervals."""
    return COMPLETE_PER_AXIS * num_axes


def _shares(study: optuna.Study) -> dict[str, float]:
    """Optuna itself gives equal shares where it found none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                normalize=False,
            )
    except (ValueError, RuntimeError):
        return {}
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    return {name: value / total for name, value in found.items()}


def _without_each_part(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """The trials are dealt out in their order, since a search's later ones are unlike its first."""
    return [[t for i, t in enumerate(trials) if i % _PARTS != part] for part in range(_PARTS)]


def _with_interval(name: str, share: float, parts: Sequence[Mapping[str, float]]) -> Importance:
    without = np.array([part.get(name, 0.0) for part in parts])
    half = _T * float(np.sqrt((_PARTS - 1) / _PARTS * ((without - without.mean()) ** 2).sum()))
    return Importance(share=share, low=max(0.0, share - half), high=min(1.0, share + half))


def _comparable(trials: OptunaTrials, without: Collection[int]) -> optuna.Study:
    """The study itself; or a copy in memory: of its first objective, where it has several, and
    where choices were added under the widest lists."""
    study = trials.study
    several = len(study.directions) > 1
    if CHOICES_ADDED not in study.user_attrs and not without and not several:
        return study
    kept = []
    for trial in study.get_trials(deepcopy=True):
        trial.distributions = trials.choices.widened(trial.distributions)
        if several and trial.values:
            trial.values = trial.values[:1]
        if trial.state.is_finished() and trial.number not in without:
            kept.append(trial)
    return _study_of(kept, study)


def _at_each_designs_best(study: optuna.Study, nuisance: Collection[str]) -> optuna.Study:
    """Its complete trials at the best nuisance values of their designs, without these axes."""
    designs: dict[Any, dict[Any, list[FrozenTrial]]] = {}
    for trial in study.get_trials(deepcopy=True, states=(TrialState.COMPLETE,)):
        tuned = tuple((path, trial.params[path]) for path in nuisance if path in trial.params)
        of = trial.distributions
        trial.distributions = {path: of[path] for path in of if path not in nuisance}
        trial.params = {path: v for path, v in trial.params.items() if path not in nuisance}
        design = tuple(sorted(trial.params.items()))
        designs.setdefault(design, {}).setdefault(tuned, []).append(trial)
    sign = 1 if study.directions[0] == StudyDirection.MINIMIZE else -1

    def cost(of_one: list[FrozenTrial]) -> float:
        return sign * statistics.fmean(trial.value for trial in of_one)

    best = [min(of_design.values(), key=cost) for of_design in designs.values()]
    return _study_of(sorted(itertools.chain(*best), key=lambda trial: trial.number), study)


def _study_of(trials: Sequence[FrozenTrial], like: optuna.Study) -> optuna.Study:
    study = optuna.create_study(direction=like.directions[0])
    study.add_trials(trials)
    return study
