"""Suggestions of a sampled study, drawn beside the record rather than in it.

Each draw uses a study in memory, holding a bounded history, and only a point that is feasible and
new becomes a trial of the record. So nothing is repeated (default TPE repeated 16 of 48 suggestions
on a 48-point grid), no rejected draw leaves a state behind, the cost of a suggestion does not grow
with the study (TPE's ask took 110 ms at 10,000 trials), and a restarted driver goes on where the
dead one stopped, since the generator is seeded by the number of the point.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.stores.trial_record import DIVERGED_AT, TrialRecord
from orchestrator.study.launch import Launch, Point
from orchestrator.study.samplers import Sampler
from search_spaces.space import Infeasible

_DRAWS = 200
_DRAWS_OF_SAMPLER = 50
_SHADOW_STATE = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
    "waiting": TrialState.RUNNING,
    "failed": TrialState.PRUNED,
}


class SpaceExhausted(Exception):
    """No new feasible point was drawn."""


class BoundedHistory:
    """What the sampler is shown: the best quarter and the newest of the judged trials, and the
    newest that run or wait.

    Kept up to date as trials change, so that no suggestion looks through all of them, and a matter
    of which trials there are, not of the order in which they ended: a restarted driver draws what
    the dead one would have drawn. TPE takes at most 25 trials as the good ones: the best quarter
    keeps that side whole. A trial that diverged is as bad as can be; one that failed otherwise says
    nothing about its point. benchmarks/study_scale.py measures what the bound costs.
    """

    def __init__(self, limit: int = Sampler.history_limit) -> None:
        self._limit = limit
        self._unfinished: dict[int, TrialRecord] = {}
        self._judged: dict[int, TrialRecord] = {}
        self._newest: list[int] = []  # numbers, ascending
        self._best: list[tuple[float, int]] = []  # value and number, best first

    def note(self, record: TrialRecord) -> None:
        """Takes a trial as it is now."""
        self._unfinished.pop(record.number, None)
        if record.state in ("running", "waiting"):
            self._unfinished[record.number] = record
        elif record.state in ("complete", "pruned") or _diverged(record):
            self._judge(record)

    def _judge(self, record: TrialRecord) -> None:
        number = record.number
        if number in self._judged:
            return
        self._judged[number] = record
        bisect.insort(self._newest, number)
        del self._newest[: -self._limit]
        if record.state == "complete":
            bisect.insort(self._best, (record.value, number))
            del self._best[self._limit // 4 :]

    def records(self) -> list[TrialRecord]:
        best = {number for _, number in self._best}
        room = self._limit - len(best)
        newest = [number for number in self._newest if number not in best][-room:]
        running = sorted(self._unfinished)[-self._limit :]
        return [self._judged[n] for n in sorted([*best, *newest])] + [
            self._unfinished[n] for n in running
        ]


def _diverged(record: TrialRecord) -> bool:
    return record.state == "failed" and record.attributes.get(DIVERGED_AT) is not None


class _Shadow(FrozenTrial):
    """Optuna copies a trial deeply as it is added, at each suggestion anew; these are only read."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shadow:
        return self


def study_of(history: Iterable[TrialRecord], sampler: BaseSampler) -> optuna.Study:
    """A study in memory that holds a history, for a sampler to draw beside."""
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=sampler)
    for record in history:
        storage.create_new_trial(study._study_id, template_trial=_as_shadow(record))
    return study


def _generator_seed(launch: Launch, index: int) -> int:
    text = f"{launch.name}\0{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def propose(
    launch: Launch,
    history: Iterable[TrialRecord],
    *,
    index: int,
    is_new: Callable[[Point], bool],
) -> tuple[Point, dict[str, optuna.distributions.BaseDistribution]]:
    """The study's point number `index`, with its distributions.

    Raises SpaceExhausted where many draws found nothing new.
    """
    assert launch.space is not None
    seed = _generator_seed(launch, index)
    study = study_of(history, launch.study.sampler.optuna_sampler(seed=seed, index=index))
    for draw in range(_DRAWS):
        if draw == _DRAWS_OF_SAMPLER:
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


def _as_shadow(record: TrialRecord) -> _Shadow:
    """A trial as the sampler may see it: waiting ones count as running, for the constant liar.

    TPE leaves failed trials out and takes a pruned one without values for worse than all others, so
    this is how it is told of a divergence.
    """
    return _Shadow(
        number=record.number,
        trial_id=record.number,
        state=_SHADOW_STATE[record.state],
        value=record.value if record.state == "complete" else None,
        datetime_start=None,
        datetime_complete=None,
        params=dict(record.params),
        distributions=dict(record.distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values={} if _diverged(record) else dict(record.curve),
    )
