"""Suggestions of a sampled study, drawn beside the record rather than in it.

Each draw goes by a bounded history, and only a point that is feasible and new becomes a trial of
the record. So nothing is repeated (Optuna's TPE by itself repeats 16 of 48 suggestions on a grid of
48 points), no rejected draw leaves a state behind, the cost of a suggestion does not grow with the
study (TPE's ask took 110 ms at 10,000 trials), and a restarted driver goes on where the dead one
stopped, since the generator is seeded by the number of the point.

Where the sampler's draws are all refused or known, a space that can be enumerated gives any of its
points that are left, and is exhausted when there are none. Of a larger one nothing is proved by
draws: the launch remembers how many failed, and the next try draws others.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from optuna.distributions import BaseDistribution

from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.corpora import CORPUS_PATH
from orchestrator.study.launch import Launch, Point
from orchestrator.trials.search_state import Search
from search_spaces.drawing import with_values
from search_spaces.space import ENUMERATION_LIMIT, Infeasible

DRAWS = 2000
DRAWS_OF_SAMPLER = 50
_KNOWN_WHOLE = 2000  # feasible points, up to which a sampler is shown all of them


class SpaceExhausted(Exception):
    """Every feasible point of an enumerated space is in the launch."""


class PointNotFound(Exception):
    """No new feasible point in DRAWS draws, which proves nothing."""


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
        try:
            point = _propose_on(
                corpus, launch, history, index=index, is_new=is_new, failed_draws=failed_draws
            )
            return point, distributions_at(launch, point.overrides)
        except (SpaceExhausted, PointNotFound) as error:
            nothing.append(error)
    raise next((e for e in nothing if isinstance(e, PointNotFound)), nothing[0])


def search_of(
    launch: Launch,
    history: Iterable[TrialRecord],
    *,
    fixed: Mapping[str, Any],
    is_open: Callable[[Mapping[str, Any]], bool],
) -> Search:
    """The launch's search, among the points that have the `fixed` values."""
    space = launch.space
    assert space is not None
    size = space.size()
    feasible = None
    if size is not None and size <= _KNOWN_WHOLE:
        feasible = [v for v in launch.feasible_points or [] if fixed.items() <= v.items()]
    return Search(
        space=space,
        records=[r for r in history if r.params.get(CORPUS_PATH) == fixed.get(CORPUS_PATH)]
        if launch.searched_corpora and CORPUS_PATH in fixed
        else list(history),
        metric=launch.study.metric,
        objectives=launch.study.objectives,
        fixed=fixed,
        prior=launch.prior,
        constraints=launch.study.constraints,
        earlier=launch.earlier,
        feasible=feasible,
        is_open=is_open,
    )


class _Tried:
    """Which points are feasible and new, looked at once each, and why others are not."""

    def __init__(self, launch: Launch, is_new: Callable[[Point], bool]) -> None:
        self._launch, self._is_new = launch, is_new
        self._points: dict[tuple[tuple[str, Any], ...], Point | None] = {}
        self.refused: Counter[str] = Counter()

    def point(self, values: Mapping[str, Any]) -> Point | None:
        key = tuple(values.items())
        if key not in self._points:
            self._points[key] = self._looked_at(values)
        return self._points[key]

    def is_open(self, values: Mapping[str, Any]) -> bool:
        return self.point(values) is not None

    def _looked_at(self, values: Mapping[str, Any]) -> Point | None:
        try:
            point = self._launch.sampled_point(values, self._launch.seeds[0])
        except Infeasible as error:
            self.refused[error.reason] += 1
            return None
        if self._is_new(point):
            return point
        self.refused["in the launch already"] += 1
        return None


def _propose_on(
    corpus: str | None,
    launch: Launch,
    history: Iterable[TrialRecord],
    *,
    index: int,
    is_new: Callable[[Point], bool],
    failed_draws: int,
) -> Point:
    """A point with this corpus, drawn beside the history of those that have it too."""
    assert launch.space is not None
    seed = generator_seed(launch, index, failed_draws)
    fixed = {} if corpus is None else {CORPUS_PATH: corpus}
    tried = _Tried(launch, is_new)
    search = search_of(launch, history, fixed=fixed, is_open=tried.is_open)
    suggestions = launch.sampler.suggestions(search, seed=seed, index=index)
    for values in islice(suggestions, DRAWS_OF_SAMPLER):
        if (point := tried.point(values)) is not None:
            return point
    if launch.space.is_enumerable:
        return _any_left(corpus, launch, seed, is_new)
    generator = random.Random(f"{seed} beside the sampler")
    for _ in range(DRAWS - DRAWS_OF_SAMPLER):
        if (point := tried.point(with_values(launch.space, fixed, generator))) is not None:
            return point
    reasons = "; ".join(f"{count} x {reason}" for reason, count in tried.refused.most_common(5))
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
    all_of_them = optuna_distributions(launch.space)
    return {path: all_of_them[path] for path in launch.space.axes if path in values}
