"""Suggestions of a sampled study, drawn beside the record rather than in it.

Each draw uses a study in memory, holding a bounded history, and only a point that is feasible and
new becomes a trial of the record. So nothing is repeated (default TPE repeated 16 of 48 suggestions
on a 48-point grid), no rejected draw leaves a state behind, the cost of a suggestion does not grow
with the study (TPE's ask took 110 ms at 10,000 trials), and a restarted driver goes on where the
dead one stopped, since the generator is seeded by the number of the point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.launch import Launch, Point
from orchestrator.trial import DIVERGED_AT
from search_spaces.space import Infeasible

HISTORY_LIMIT = 500
_DRAWS = 200
_DRAWS_FROM_TPE = 50


class SpaceExhausted(Exception):
    """No new feasible point was drawn."""


def bounded_history(trials: Sequence[FrozenTrial], limit: int = HISTORY_LIMIT) -> list[FrozenTrial]:
    """The best and the newest of the finished trials, half each, and all that run or wait.

    TPE splits its history into good and bad; the best half keeps the good side whole. A trial that
    diverged is as bad as can be; one that failed otherwise says nothing about its point.
    """
    open_trials = [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    judged = (TrialState.COMPLETE, TrialState.PRUNED)
    finished = [t for t in trials if t.state in judged or _diverged(t)]
    if len(finished) <= limit:
        return finished + open_trials
    complete = [t for t in finished if t.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda t: t.value)[: limit // 2]
    kept = {t.number for t in best}
    newest = [t for t in finished if t.number not in kept][-(limit - len(best)) :]
    return sorted(best + newest, key=lambda t: t.number) + open_trials


def _diverged(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and trial.user_attrs.get(DIVERGED_AT) is not None


def _generator_seed(launch: Launch, index: int) -> int:
    text = f"{launch.name}\0{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def propose(
    launch: Launch,
    trials: Sequence[FrozenTrial],
    *,
    index: int,
    is_new: Callable[[Point], bool],
) -> tuple[Point, dict[str, optuna.distributions.BaseDistribution]]:
    """The study's point number `index`, with its distributions.

    Raises SpaceExhausted where many draws found nothing new.
    """
    assert launch.space is not None
    seed = _generator_seed(launch, index)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=10)
    )
    study.add_trials([_as_shadow(trial) for trial in bounded_history(trials)])
    for draw in range(_DRAWS):
        if draw == _DRAWS_FROM_TPE:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        trial = study.ask()
        values = launch.space.suggest(trial)
        try:
            point = launch.sampled_point(values, launch.seeds[0])
        except Infeasible:
            study.tell(trial, state=TrialState.FAIL)
            continue
        if is_new(point):
            return point, trial.distributions
        study.tell(trial, state=TrialState.FAIL)
    raise SpaceExhausted(
        f"no new feasible point in {_DRAWS} draws: the space of {launch.study.name} is exhausted"
    )


def _as_shadow(trial: FrozenTrial) -> FrozenTrial:
    """A trial as the sampler may see it: waiting ones count as running, for the constant liar.

    TPE leaves failed trials out and takes a pruned one without values for worse than all others, so
    this is how it is told of a divergence.
    """
    seen_as = {TrialState.WAITING: TrialState.RUNNING, TrialState.FAIL: TrialState.PRUNED}
    state = seen_as.get(trial.state, trial.state)
    return optuna.trial.create_trial(
        state=state,
        params=trial.params,
        distributions=trial.distributions,
        value=trial.value if state == TrialState.COMPLETE else None,
        intermediate_values={} if _diverged(trial) else trial.intermediate_values,
    )
