"""What of a launch is still to run: its grid, or points drawn as they are needed; in what order.

A trial is planned once for each configuration, whatever an earlier driver has left of the plan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from moe.config import ConfigError
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.launch import Launch, Point
from orchestrator.trials.asked_points import completed_point
from orchestrator.trials.drawn_beside import Drawing
from orchestrator.trials.grid import distributions_of, grid_distributions, note_of
from orchestrator.trials.sampling import (
    DRAWS,
    PointNotFound,
    SpaceExhausted,
    distributions_at,
    propose,
)
from orchestrator.trials.seed_groups import SeedGroups
from orchestrator.trials.spending import Spending
from orchestrator.trials.trained_again import TrainedAgain
from orchestrator.trials.trial_table import Trials

Add = Callable[[Point, Mapping[str, BaseDistribution], str], TrialRecord]


class FailedDraws(Protocol):
    """The launch's memory of draws that found nothing."""

    @property
    def failed_draws(self) -> int: ...
    def note_failed_draws(self, draws: int) -> None: ...


class More(Protocol):
    """Who asks for further trials, when all that were planned have ended. Of a sampled study they
    are of points that it has: none is drawn then."""

    def more(self, trials: Iterable[TrialRecord]) -> list[Point]: ...
    def known_point(self, record: TrialRecord) -> Point | None: ...


class TrialQueue:
    """`trials` are the launch's, `add` makes one more.

    `reusable` has the configurations whose result is known: such a trial costs nothing. `unknown`
    are trials that wait and that the study's file no longer has. `exhausted` says that every
    feasible point is in the launch, `not_found` that draws found no further one, which proves
    nothing: `draws` remembers them, so that the next driver draws others. `kept_back` says which
    limit held the first waiting trial back when last asked for one.
    """

    def __init__(
        self,
        launch: Launch,
        trials: Trials,
        add: Add,
        *,
        draws: FailedDraws,
        groups: SeedGroups,
        reusable: Container[str],
        spending: Spending,
        again: TrainedAgain,
        more: More | None = None,
    ) -> None:
        self._launch = launch
        self._more = more
        self._trials = trials
        self._add = add
        self._draws = draws
        self._groups = groups
        self._reusable = reusable
        self._spending = spending
        self._points: dict[str, Point] = {}
        self._waiting: OrderedDict[int, None] = OrderedDict()  # in the order of handing out
        self._free: OrderedDict[int, None] = OrderedDict()  # those of them that cost nothing
        self._with_hash: dict[str, list[int]] = {}  # and all of them by configuration
        self._held: set[int] = set()  # at a rung, until the other seeds of the point are there
        self._stopped: list[int] = []  # of points that were stopped: to be ended, not handed out
        self._drawing: Drawing[tuple[Point, dict[str, BaseDistribution]]] = Drawing()
        self.unknown: list[TrialRecord] = []
        self.exhausted: str | None = None
        self.not_found: str | None = None
        self.kept_back: str | None = None
        if launch.study.is_grid:
            self._plan_grid(again)
        else:
            self._plan_sampled(again)
            if more is None:
                self._queue_first()

    # The plan ------------------------------------------------------------------------------------

    def _plan_grid(self, again: TrainedAgain) -> None:
        points = self._launch.points()
        self._points = {p.config_hash: p for p in reversed(points)}
        for record in self._trials.waiting() if self._more else ():
            if (point := self._more.known_point(record)) is not None:
                self._points.setdefault(record.config_hash, point)
        self._queue_known()
        covered = self._covered(again)
        new = []
        for point in points:
            if point.config_hash not in covered and not self._groups.is_stopped(point.cell_hash):
                covered.add(point.config_hash)
                new.append(point)
        self._queue_cells(new, points)

    def _extend(self) -> None:
        """Further seeds, once nothing runs or waits and time is left."""
        if self._more is None or self._trials.num_begun or self._spending.exhausted():
            return
        points = self._more.more(self._trials)
        if self._launch.study.is_grid:
            self._queue_cells(points, self._launch.points())
            return
        for point in points:
            note = note_of(point, self._launch.base_point())
            self._queue(point, distributions_at(self._launch, point.overrides), note)

    def _queue_cells(self, points: Iterable[Point], grid: Iterable[Point]) -> None:
        """New trials among those of the grid."""
        launch = self._launch
        distributions = grid_distributions(grid)
        baseline = next((c for c in launch.cells if c.name == launch.study.baseline), None)
        against: dict[int, Point] = {}
        for point in points:
            if baseline is not None and point.seed not in against:
                against[point.seed] = launch.point(baseline.name, baseline.overrides, point.seed)
            note = note_of(point, against.get(point.seed))
            self._queue(point, distributions_of(point, distributions), note)

    def _plan_sampled(self, again: TrainedAgain) -> None:
        for record in self._trials.waiting():
            self._known(record)
        self._queue_known()
        covered = self._covered(again)
        seeds: dict[str, set[int]] = {}
        for record in self._trials:
            if record.config_hash in covered:
                seeds.setdefault(record.cell_hash, set()).add(record.seed)
        for record in list(self._trials):
            missing = [s for s in self._launch.seeds if s not in seeds.get(record.cell_hash, ())]
            if not missing or self._groups.is_stopped(record.cell_hash) or not self._known(record):
                continue  # the seeds of a point that was stopped are not started
            for seed in missing:
                point = self._launch.sampled_point(record.params, seed)
                if point.config_hash not in covered:
                    covered.add(point.config_hash)
                    note = note_of(point, self._launch.base_point())
                    self._queue(point, record.distributions, note)

    def _known(self, record: TrialRecord) -> bool:
        """Whether a sampled trial's point is one of the study's file; its point is kept."""
        if record.config_hash in self._points:
            return True
        with suppress(ConfigError):  # the file's space has changed since: see `unknown`
            point = self._launch.sampled_point(record.params, record.seed)
            self._points[point.config_hash] = point
        return record.config_hash in self._points

    def _queue_first(self) -> None:
        """What the study wants tried before all else, where the launch does not have it."""
        made: list[TrialRecord] = []
        for point in self._launch.first_points():
            if not self._trials.has_cell(point.cell_hash):
                made += self._queue_point(point, distributions_at(self._launch, point.overrides))
        for record in reversed(made):
            self._first(record.number)

    def _queue_point(
        self, point: Point, distributions: Mapping[str, BaseDistribution]
    ) -> list[TrialRecord]:
        """A point as one waiting trial for each seed."""
        note = note_of(point, self._launch.base_point())
        others = [
            self._launch.sampled_point(point.overrides, seed) for seed in self._launch.seeds[1:]
        ]
        return [self._queue(one, distributions, note) for one in (point, *others)]

    def _first(self, number: int) -> None:
        for queue in (self._waiting, self._free):
            if number in queue:
                queue.move_to_end(number, last=False)

    # Points that somebody asked for --------------------------------------------------------------

    def asked_point(self, values: Mapping[str, Any]) -> Point:
        """The point of some values, what is left open drawn. Raises ConfigError with the reason."""
        if self._launch.study.is_grid:
            raise ConfigError(
                "a grid takes no points: its cells are all run. Write the point as a Cell."
            )

        def known_as(point: Point) -> str | None:
            return point.cell if self._trials.has_cell(point.cell_hash) else None

        return completed_point(
            self._launch,
            self._trials.shown_to_sampler,
            values,
            index=self._trials.num_cells,
            known_as=known_as,
        )

    def put_asked(self, record: TrialRecord, point: Point) -> None:
        """A trial of such a point at the first seed, and others for the other seeds: all next."""
        made = [record]
        self._points[record.config_hash] = point
        self._put(record)
        note = note_of(point, self._launch.base_point())
        for seed in self._launch.seeds[1:]:
            other = self._launch.sampled_point(point.overrides, seed)
            made.append(self._queue(other, record.distributions, note))
        for one in reversed(made):
            self._first(one.number)

    def _covered(self, again: TrainedAgain) -> set[str]:
        return {r.config_hash for r in self._trials if not again.has(r)}

    def _queue_known(self) -> None:
        for record in self._trials.waiting():
            if record.config_hash not in self._points:
                self.unknown.append(record)
            elif self._groups.is_stopped(record.cell_hash):
                self._stopped.append(record.number)
            elif self._groups.waits(record):
                self._held.add(record.number)
            else:
                self._put(record)

    def _queue(
        self, point: Point, distributions: Mapping[str, BaseDistribution], note: str
    ) -> TrialRecord:
        self._points[point.config_hash] = point
        record = self._add(point, distributions, note)
        self._put(record)
        return record

    def _put(self, record: TrialRecord, *, first: bool = False) -> None:
        queues = [self._waiting]
        if record.config_hash in self._reusable:
            queues.append(self._free)
        for queue in queues:
            queue[record.number] = None
            queue.move_to_end(record.number, last=not first)
        same = self._with_hash.setdefault(record.config_hash, [])
        same.insert(0 if first else len(same), record.number)

    def _sample(self, patience_s: float | None) -> None:
        """The next point of a sampled study, as one waiting trial for each seed; where it is not
        drawn in `patience_s`, and trials are under way, none yet."""
        trials, index, failed = self._trials, self._trials.num_cells, self._draws.failed_draws
        if index >= self._launch.trials or self.exhausted or self.not_found:
            return
        draw = partial(
            propose,
            self._launch,
            trials.shown_to_sampler,
            index=index,
            is_new=lambda candidate: not trials.has_cell(candidate.cell_hash),
            failed_draws=failed,
        )
        patience_s = patience_s if self.may_have_more else None
        try:
            drawn = self._drawing.drawn((index, failed), draw, patience_s=patience_s)
        except SpaceExhausted as error:
            self.exhausted = str(error)
            return
        except PointNotFound as error:
            self.not_found = str(error)
            self._draws.note_failed_draws(DRAWS)
            return
        if drawn is not None:
            self._queue_point(*drawn)

    # What is next --------------------------------------------------------------------------------

    def next(self, draw_patience_s: float | None = None) -> int | None:
        """The first waiting trial if the limits hold it, else the first that costs nothing. None
        also while others are under way and the next point is not drawn in `draw_patience_s`."""
        if not self._waiting:
            if self._launch.study.is_grid or self._more is not None:
                self._extend()
            else:
                self._sample(draw_patience_s)
        if not self._waiting:
            return None
        first = next(iter(self._waiting))
        record = self._trials[first]
        if first in self._free:
            return first
        self.kept_back = self._spending.why_not(record, self.point_of(record))
        if self.kept_back is None:
            return first
        return next(iter(self._free), None)

    def waiting_with(self, config_hash: str) -> int | None:
        """The waiting trial of one configuration."""
        return next(iter(self._with_hash.get(config_hash, ())), None)

    def point_of(self, record: TrialRecord) -> Point:
        return self._points[record.config_hash]

    def hand_out(self, number: int) -> None:
        record = self._trials[number]
        del self._waiting[number]
        self._free.pop(number, None)
        self._with_hash[record.config_hash].remove(number)

    def put_first(self, number: int) -> None:
        """A trial that was handed out is to be handed out again, before all others."""
        self._put(self._trials[number], first=True)

    def hold(self, number: int) -> None:
        """A trial that was handed out waits at a rung for the other seeds of its point."""
        self._held.add(number)

    def is_held(self, number: int) -> bool:
        return number in self._held

    def release(self, number: int) -> None:
        """A held trial goes on, before all others."""
        self._held.remove(number)
        self.put_first(number)

    def next_stopped(self) -> int | None:
        """A waiting trial of a point that was stopped, to be withdrawn."""
        return self._stopped[0] if self._stopped else None

    def withdraw(self, number: int) -> None:
        """A waiting trial is to be ended without running."""
        if number in self._waiting:
            self.hand_out(number)
        self._held.discard(number)
        if number in self._stopped:
            self._stopped.remove(number)

    @property
    def expected(self) -> int:
        """Trials that the launch will have when it is done."""
        is_planned = self._launch.study.is_grid or self._more is not None
        if is_planned or self.exhausted or self.not_found:
            return len(self._trials)
        seeds = len(self._launch.seeds)
        missing = self._launch.trials - self._trials.num_cells
        return len(self._trials) + max(0, missing) * seeds

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def num_reusable(self) -> int:
        """Waiting trials whose configuration was trained before, in this home."""
        return len(self._free)

    @property
    def is_all_started(self) -> bool:
        """Whether no trial is left to start."""
        return not self._waiting and not self._held and self.expected == len(self._trials)

    @property
    def may_have_more(self) -> bool:
        """Whether a trial may yet be left to start, though none is now: one that runs may be lost
        and come back, come to a rung where others wait for it, or end early and leave room within
        the limits."""
        return self._trials.num_begun > sum(map(self._trials.has_begun, self._held))
