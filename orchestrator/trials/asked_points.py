"""Points that somebody asked for, by some or all of their values: the rest is drawn.

That a few draws found none is no proof: a finite space is looked through, and of another it is said
how many draws there were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from moe.config import ConfigError
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.launch import Launch, Point
from orchestrator.trials.sampling import DRAWS_OF_SAMPLER, generator_seed, search_of
from search_spaces.drawing import with_values
from search_spaces.space import Infeasible

DRAWS_OF_THE_REST = 1000


def completed_point(
    launch: Launch,
    history: Iterable[TrialRecord],
    values: Mapping[str, Any],
    *,
    index: int,
    known_as: Callable[[Point], str | None] = lambda _: None,
) -> Point:
    """The point that somebody asked for; what was left open is drawn by the sampler, or, where that
    finds none, looked for among all points or at random.

    `known_as` names a point that the launch has already. Raises ConfigError where a value is none
    of its axis, or no new feasible point has these values, or was found.
    """
    assert launch.space is not None
    fixed = launch.space.require_within(values)
    seed = generator_seed(launch, index, 0)
    asked = _Asked(launch, fixed, known_as)
    generator = random.Random(f"{seed} beside the sampler")
    point = asked.tried(with_values(launch.space, fixed, generator))
    if asked.is_whole:  # nothing is left to draw
        if point is None:
            raise ConfigError(asked.refused)
        return point
    search = search_of(launch, history, fixed=fixed, is_open=asked.is_open)
    suggestions = launch.sampler.suggestions(search, seed=seed, index=index)
    for drawn in islice(suggestions, DRAWS_OF_SAMPLER):
        if (point := asked.tried(drawn)) is not None:
            return point
    if launch.space.is_enumerable:
        points = [v for v in launch.feasible_points or [] if fixed.items() <= v.items()]
        for values in generator.sample(points, len(points)):
            if (point := asked.tried(values)) is not None:
                return point
        if not points:  # for the reason
            asked.tried(with_values(launch.space, fixed, generator))
        raise ConfigError(
            f"no new feasible point has the values {fixed}. Of one it is said: {asked.refused}"
        )
    for _ in range(DRAWS_OF_THE_REST):
        if (point := asked.tried(with_values(launch.space, fixed, generator))) is not None:
            return point
    raise ConfigError(
        f"no new feasible point with the values {fixed} was found in {DRAWS_OF_THE_REST:,} draws "
        f"of the rest, which proves nothing. Give more values. Of one it is said: {asked.refused}"
    )


class _Asked:
    """Points with the values that somebody asked for. `refused`: why the last one was none;
    `is_whole`: whether it had no other values than these."""

    def __init__(
        self, launch: Launch, fixed: Mapping[str, Any], known_as: Callable[[Point], str | None]
    ) -> None:
        self._launch, self._fixed, self._known_as = launch, fixed, known_as
        self.refused, self.is_whole = "", False

    def is_open(self, values: Mapping[str, Any]) -> bool:
        return self.tried(values) is not None

    def tried(self, values: Mapping[str, Any]) -> Point | None:
        self.is_whole = set(values) <= set(self._fixed)
        if idle := [path for path in self._fixed if path not in values]:
            self.refused = (
                f"a point has values for the axes that exist there ({', '.join(values)}); received "
                f"one for {', '.join(idle)}. Leave it out, or change what it hangs on."
            )
            return None
        try:
            point = self._launch.sampled_point(values, self._launch.seeds[0])
        except Infeasible as error:
            self.refused = str(error)
            return None
        if (name := self._known_as(point)) is not None:
            self.refused = (
                f"no point is trained twice; received {dict(point.overrides)}, which this launch "
                f"has as {name}. Leave it out, or ask for another."
            )
            return None
        return point
