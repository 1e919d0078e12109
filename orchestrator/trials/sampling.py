"""Suggestions of a sampled study, drawn beside the record rather than in it.

Each draw uses a study in memory, holding a bounded history, and only a point that is feasible and
new becomes a trial of the record. So nothing is repeated (default TPE repeated 16 of 48 suggestions
on a 48-point grid), no rejected draw leaves a state behind, the cost of a suggestion does not grow
with the study (TPE's ask took 110 ms at 10,000 trials), and a restarted driver goes on where the
dead one stopped, since the generator is seeded by the number of the point.

Where the sampler's draws are all refused or known, a space that can be enumerated gives any of its
points that are left, and is exhausted when there are none. Of a larger one nothing is proved by
draws: the launch remembers how many failed, and the next try draws others.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from moe.metrics import VAL_LOSS, describe
from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.optuna_private import study_id_of
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.corpora import CORPUS_PATH
from orchestrator.study.launch import Launch, Point
from orchestrator.study.samplers import Sampler
from search_spaces.space import ENUMERATION_LIMIT, Infeasible, Space

DRAWS = 2000
DRAWS_OF_SAMPLER = 50
_SHADOW_STATE = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
    "waiting": TrialState.RUNNING,
    "failed": TrialState.PRUNED,
}


class SpaceExhausted(Exception):
    """Every feasible point of an enumerated space is in the launch."""


class PointNotFound(Exception):
    """No new feasible point in DRAWS draws, which proves nothing."""


class BoundedHistory:
    """What the sampler is shown: the best quarter and the newest of the judged trials, and the
    newest that run or wait.

    Kept up to date as trials change, so that no suggestion looks through all of them, and a matter
    of which trials there are, not of the order in which they ended: a restarted driver draws what
    the dead one would have drawn. TPE takes at most 25 trials as the good ones: the best quarter
    keeps that side whole. A trial that diverged is as bad as can be; one that failed otherwise says
    nothing about its point. benchmarks/study_scale.py measures what the bound costs.
    """

    def __init__(self, limit: int = Sampler.history_limit, *, metric: str = VAL_LOSS) -> None:
        self._limit = limit
        self._cost = describe(metric).cost
        self._unfinished: dict[int, TrialRecord] = {}
        self._judged: dict[int, TrialRecord] = {}
        self._newest: list[int] = []  # numbers, ascending
        self._best: list[tuple[float, int]] = []  # cost and number, best first

    def note(self, record: TrialRecord) -> None:
        """Takes a trial as it is now."""
        self._unfinished.pop(record.number, None)
        if record.state in ("running", "waiting"):
            self._unfinished[record.number] = record
        elif record.state == "pruned" and record.attempt == 0:
            pass  # a seed that was never started, of a point that its other seeds tell of
        elif record.state in ("complete", "pruned") or record.diverged:
            self._judge(record)

    def _judge(self, record: TrialRecord) -> None:
        number = record.number
        if number in self._judged:
            return
        self._judged[number] = record
        bisect.insort(self._newest, number)
        del self._newest[: -self._limit]
        if record.state == "complete":
            bisect.insort(self._best, (self._cost(record.value), number))
            del self._best[self._limit // 4 :]

    def records(self) -> list[TrialRecord]:
        best = {number for _, number in self._best}
        room = self._limit - len(best)
        newest = [number for number in self._newest if number not in best][-room:]
        running = sorted(self._unfinished)[-self._limit :]
        return [self._judged[n] for n in sorted([*best, *newest])] + [
            self._unfinished[n] for n in running
        ]


class SearchHistory:
    """A bounded history of each corpus that points may have: losses on different text do not
    compare, so that each is searched by itself."""

    def __init__(self, limit: int, *, metric: str) -> None:
        self._limit = limit
        self._metric = metric
        self._of: dict[str | None, BoundedHistory] = {}

    def note(self, record: TrialRecord) -> None:
        corpus = record.params.get(CORPUS_PATH)
        history = self._of.setdefault(corpus, BoundedHistory(self._limit, metric=self._metric))
        history.note(record)

    def records(self) -> list[TrialRecord]:
        return [record for history in self._of.values() for record in history.records()]


class _Shadow(FrozenTrial):
    """Optuna copies a trial deeply as it is added, at each suggestion anew; these are only read."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shadow:
        return self


def study_of(
    history: Iterable[TrialRecord],
    sampler: BaseSampler,
    *,
    metric: str = VAL_LOSS,
    space: Space | None = None,
) -> optuna.Study:
    """A study in memory that holds a history, for a sampler to draw beside.

    Trials are shown under the choices that `space` has now: an axis may have got more since.
    """
    now = optuna_distributions(space) if space else {}
    storage = InMemoryStorage()
    direction = "maximize" if describe(metric).better == "higher" else "minimize"
    study = optuna.create_study(storage=storage, sampler=sampler, direction=direction)
    for record in history:
        storage.create_new_trial(study_id_of(study), template_trial=_as_shadow(record, now))
    return study


def generator_seed(launch: Launch, index: int, failed_draws: int) -> int:
    text = f"{launch.name}\0{index}" + (f"\0{failed_draws}" if failed_draws else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def propose(
    launch: Launch,
    history: Iterable[TrialRecord],
    *,
    index: int,
    is_new: Callable[[Point], bool],
    failed_draws: int = 0,
) -> tuple[Point, dict[str, BaseDistribution]]:
    """The study's point number `index`, with its distributions.

    Where the corpus is an axis, points take the corpora in turn: a search each, equally long.
    `failed_draws`: how many draws of this launch have found nothing; with it the generator is
    seeded anew. Raises SpaceExhausted where every point was looked at, and none is new; and
    PointNotFound where there are too many points for that, and draws found nothing.
    """
    corpora: tuple[str | None, ...] = launch.searched_corpora or (None,)
    history = list(history)
    nothing: list[SpaceExhausted | PointNotFound] = []
    for turn in range(len(corpora)):
        corpus = corpora[(index + turn) % len(corpora)]
        own = [r for r in history if r.params.get(CORPUS_PATH) == corpus]
        try:
            return _propose_on(
                corpus, launch, own, index=index, is_new=is_new, failed_draws=failed_draws
            )
        except (SpaceExhausted, PointNotFound) as error:
            nothing.append(error)
    raise next((e for e in nothing if isinstance(e, PointNotFound)), nothing[0])


def _propose_on(
    corpus: str | None,
    launch: Launch,
    history: Iterable[TrialRecord],
    *,
    index: int,
    is_new: Callable[[Point], bool],
    failed_draws: int,
) -> tuple[Point, dict[str, BaseDistribution]]:
    """A point with this corpus, drawn beside the history of those that have it too."""
    assert launch.space is not None
    seed = generator_seed(launch, index, failed_draws)
    sampler = launch.study.sampler.optuna_sampler(seed=seed, index=index)
    study = study_of(history, sampler, metric=launch.study.metric, space=launch.space)
    refused: Counter[str] = Counter()

    def tried(values: Mapping[str, Any]) -> Point | None:
        if values.get(CORPUS_PATH) != corpus:
            refused["on a corpus whose turn it is not"] += 1
            return None
        try:
            point = launch.sampled_point(values, launch.seeds[0])
        except Infeasible as error:
            refused[error.reason] += 1
            return None
        if is_new(point):
            return point
        refused["in the launch already"] += 1
        return None

    for _ in range(DRAWS_OF_SAMPLER):
        if corpus is not None:
            study.enqueue_trial({CORPUS_PATH: corpus})
        trial = study.ask()
        if (point := tried(launch.space.suggest(trial))) is not None:
            return point, trial.distributions
        study.tell(trial, state=TrialState.FAIL)
    if launch.space.is_enumerable:
        point = _any_left(corpus, launch, seed, is_new)
        return point, distributions_at(launch, point.overrides)
    generator = random.Random(seed)
    for _ in range(DRAWS - DRAWS_OF_SAMPLER):
        if (point := tried(launch.space.draw(generator))) is not None:
            return point, distributions_at(launch, point.overrides)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in refused.most_common(5))
    raise PointNotFound(
        f"a new feasible point of {launch.study.name} was not found in {DRAWS:,} draws, which "
        f"proves nothing ({reasons}). The same command draws others. Better: narrow the domains to "
        f"where points are feasible; {ENUMERATION_LIMIT:,} points and fewer are looked through"
    )


def _any_left(
    corpus: str | None, launch: Launch, seed: int, is_new: Callable[[Point], bool]
) -> Point:
    """A random one of the feasible points that are new, whatever points were taken before it."""

    def rank(values: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}\0{sorted(values.items())}".encode()).digest()

    feasible = launch.feasible_points or []
    for values in sorted((v for v in feasible if v.get(CORPUS_PATH) == corpus), key=rank):
        point = launch.sampled_point(values, launch.seeds[0])
        if is_new(point):
            return point
    raise SpaceExhausted(
        f"the space of {launch.study.name} is exhausted: all of its {len(feasible)} feasible "
        "points are in this launch"
    )


def distributions_at(launch: Launch, values: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Those of the axes that exist at a point of the space."""
    assert launch.space is not None
    study = optuna.create_study(storage=InMemoryStorage())
    study.enqueue_trial(dict(values))
    trial = study.ask()
    launch.space.suggest(trial)
    return trial.distributions


def _grown(own: BaseDistribution, now: BaseDistribution | None, value: Any) -> BaseDistribution:
    both = isinstance(own, CategoricalDistribution) and isinstance(now, CategoricalDistribution)
    return now if both and value in now.choices else own


def _as_shadow(record: TrialRecord, now: Mapping[str, BaseDistribution]) -> _Shadow:
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
        distributions={
            path: _grown(own, now.get(path), record.params[path])
            for path, own in record.distributions.items()
        },
        user_attrs={},
        system_attrs={},
        intermediate_values={} if record.diverged else dict(record.curve),
    )
