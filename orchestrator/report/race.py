"""Race, then confirm: which of a search's best points is best, on seeds that chose none of them.

The best of many noisy values looks better than it is, so no value of the search counts here. The
finalists are trained on fresh seeds, the same for all: race seeds 1000, 1001, ... Whoever is worst
after each phase leaves (successive rejects, Audibert and Bubeck 2010), and at any seed whoever the
sequential test decides against, of which there are as many as other finalists: the truly best one
is told to be worse in at most `ALPHA` of races, however often they are looked at. The one left is
trained on further seeds, 2000, 2001, ..., that no choice went by: its interval is of these alone.

Where the study has constraints, whoever violates one by the mean over all its seeds so far, those
of the search among them, leaves the race; a winner that does so once it is confirmed is rejected.

All of it is a pure function of the launch's trials, so that a driver that was killed anywhere is
followed by one that goes on with the same seeds of the same points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.base.errors import BadInput
from orchestrator.report.anytime import above_p, confidence_sequence
from orchestrator.report.statistics import Estimate, mean_interval, paired_differences
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.stores.violations import marked, means_of, violated
from orchestrator.study.constraints import Constraint
from orchestrator.study.design import PRIOR_SCALE

RACE_SEEDS, CONFIRM_SEEDS, SEEDS_END = 1000, 2000, 3000
ALPHA = 0.05
SHARE = 1 / 3  # of all trainings, the search's among them
_LEAST = 6  # two finalists at two seeds each, and two to confirm
_FINALISTS = 8
_CONFIRM = 0.25  # of the race's and the confirmation's trainings


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Trainings of the race and of the confirmation, and who takes part."""

    finalists: int
    race: int
    confirm: int

    @property
    def trainings(self) -> int:
        return self.race + self.confirm


def is_fresh(record: TrialRecord) -> bool:
    """Whether a trial is of the race or its confirmation, and none of the search."""
    return RACE_SEEDS <= record.seed < SEEDS_END


def searched(
    records: Iterable[TrialRecord], constraints: Sequence[Constraint] = ()
) -> list[TrialRecord]:
    """The trials of the search, as its study asks for it now, marked by the seeds of the search
    where their points violate a constraint."""
    own = (record for record in records if not is_fresh(record) and not record.is_older)
    return marked(own, constraints)


def budget_of(
    records: Sequence[TrialRecord], *, share: float = SHARE, trainings: int | None = None
) -> Budget:
    """`records` are those of the search; one that was stopped early counts for the part that ran.

    `share` of all trainings, the search's among them, goes to the race and its confirmation; or
    `trainings`. Raises BadInput where these are too few, or fewer than two points are complete and
    satisfy the constraints.
    """
    ended = {r.cell_hash for r in records if r.state == "complete"}
    complete = ended - {r.cell_hash for r in records if r.violates}
    if len(complete) < 2:
        others = len(ended) - len(complete)
        raise BadInput(
            "a recommendation chooses among points that were trained to their end, two at least; "
            f"received a search with {len(complete)}"
            + (f", and {others} more that violate a constraint" if others else "")
            + ". Run the study first, or longer."
        )
    if trainings is None:
        spent = sum(
            1.0 if r.state == "complete" else max(r.curve, default=0) / (r.num_steps or math.inf)
            for r in records
        )
        trainings = round(share / (1 - share) * spent)
    if trainings < _LEAST:
        raise BadInput(
            f"a race and its confirmation need {_LEAST} trainings at least: two points at two "
            f"fresh seeds each, and two more of the one that is left; received {trainings}. Give "
            f"more: --trainings {_LEAST}, or a larger --share."
        )
    confirm = max(2, round(_CONFIRM * trainings))
    race = trainings - confirm
    most = min(len(complete), _FINALISTS)
    return Budget(finalists=max(2, min(most, race // 3)), race=race, confirm=confirm)


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the race. `values` are by race seed; `why` says what ended it, "" of who is left.

    `difference` is its mean less the winner's over seeds that both have, in the metric's unit, with
    the sequence's interval at the race's level (None at one seed)."""

    point: str  # its cell_hash
    values: Mapping[int, float]
    why: str = ""
    decided: bool = False  # by the test, not by the phases
    failed: bool = False  # on a fresh seed, where it came to no value
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values()) if self.values else math.inf


@dataclass(frozen=True, kw_only=True)
class Race:
    """How it stands. `wanted` are the (point, seed) to be trained next, of those not begun;
    `winner` is None until the race has ended, `confirmed` until the confirmation has. `rejected`
    won, and violates a constraint by the mean over all its seeds: then there is no winner."""

    budget: Budget
    finalists: tuple[Finalist, ...]
    winner: Finalist | None = None
    confirm_values: Mapping[int, float] = field(default_factory=dict)
    wanted: tuple[tuple[str, int], ...] = ()
    is_over: bool = False
    rejected: Finalist | None = None

    @property
    def told_apart(self) -> list[Finalist]:
        return [one for one in self.finalists if one.decided]

    @property
    def not_told_apart(self) -> list[Finalist]:
        """Who may be as good as the winner, for all that the race can say."""
        others = (one for one in self.finalists if one is not self.winner)
        return [one for one in others if not one.decided and not one.failed]

    def confirmed(self, values: Mapping[int, float] | None = None) -> Estimate | None:
        """Mean and interval over the confirming seeds; `values`: those of another measure."""
        values = self.confirm_values if values is None else values
        return mean_interval(values.values()) if values else None


def race_of(
    ranked: Sequence[str],
    records: Iterable[TrialRecord],
    budget: Budget,
    *,
    cost: Callable[[float], float],
    constraints: Sequence[Constraint] = (),
) -> Race:
    """Where the race of the first `budget.finalists` of the `ranked` points stands."""
    begun: dict[tuple[str, int], TrialRecord] = {}
    before: dict[str, list[TrialRecord]] = {}  # the search's seeds of a point
    for record in records:
        if record.is_older:
            continue
        if is_fresh(record):
            begun[record.cell_hash, record.seed] = record
        elif record.state == "complete":
            before.setdefault(record.cell_hash, []).append(record)
    race = _Running(list(ranked[: budget.finalists]), begun, budget, cost, constraints, before)
    if (wanted := race.run()) is not None:
        return Race(budget=budget, finalists=tuple(race.stand()), wanted=wanted)
    if not race.is_anybody_left:
        return Race(budget=budget, finalists=tuple(race.stand()), is_over=True)
    finalists = race.stand(winner := race.best)
    chosen = next(one for one in finalists if one.point == winner)
    seeds = [(winner, CONFIRM_SEEDS + i) for i in range(budget.confirm)]
    ended = {key: begun[key] for key in seeds if key in begun}
    is_over = len(ended) == len(seeds) and all(_has_ended(r) for r in ended.values())
    if is_over and (why := race.violation(winner, ended.values())):
        rejected = replace(chosen, why=why)
        others = (rejected if one is chosen else one for one in finalists)
        return Race(budget=budget, finalists=tuple(others), is_over=True, rejected=rejected)
    return Race(
        budget=budget,
        finalists=tuple(finalists),
        winner=chosen,
        confirm_values={seed: r.value for (_, seed), r in ended.items() if r.state == "complete"},
        wanted=tuple(key for key in seeds if key not in begun),
        is_over=is_over,
    )


def _has_ended(record: TrialRecord) -> bool:
    return record.state in ("complete", "pruned", "failed")


class _Running:
    """The race replayed over what is in the record, seed by seed."""

    def __init__(
        self,
        points: list[str],
        begun: Mapping[tuple[str, int], TrialRecord],
        budget: Budget,
        cost: Callable[[float], float],
        constraints: Sequence[Constraint],
        before: Mapping[str, Sequence[TrialRecord]],
    ) -> None:
        self._points, self._begun, self._budget, self._cost = points, begun, budget, cost
        self._constraints = constraints
        self._seeds = {point: list(before.get(point, ())) for point in points}  # so far
        self._alive = list(points)
        self._why: dict[str, str] = {}
        self._decided: set[str] = set()
        self._failed: set[str] = set()
        self._values: dict[str, dict[int, float]] = {point: {} for point in points}
        self._phases = _phases(len(points), budget.race)

    @property
    def is_anybody_left(self) -> bool:
        return bool(self._alive)

    @property
    def best(self) -> str:
        return min(self._alive, key=lambda point: (self._mean(point), self._points.index(point)))

    def run(self) -> tuple[tuple[str, int], ...] | None:
        """What is to be trained next, nothing while some of it runs; None once the race is over."""
        spent = 0
        for i in range(self._budget.race):
            if len(self._alive) <= 1 or spent + len(self._alive) > self._budget.race:
                return None
            seed = RACE_SEEDS + i
            trials = {point: self._begun.get((point, seed)) for point in self._alive}
            if not all(trial is not None and _has_ended(trial) for trial in trials.values()):
                return tuple((point, seed) for point, trial in trials.items() if trial is None)
            spent += len(self._alive)
            for point, trial in trials.items():
                self._take(point, trial, seed)
            for point in list(self._alive):
                if why := self.violation(point):
                    self._leave(point, why)
            if not self._alive:
                return None
            self._decide(seed)
            self._reject(i + 1)
        return None

    def _take(self, point: str, trial: TrialRecord, seed: int) -> None:
        if trial.state == "complete":
            self._values[point][seed] = trial.value
            self._seeds[point].append(trial)
        elif len(self._alive) > 1:
            self._failed.add(point)
            self._leave(point, f"{'diverged' if trial.diverged else 'failed'} at seed {seed}")

    def violation(self, point: str, more: Iterable[TrialRecord] = ()) -> str:
        """Which constraints it violates by the mean over its seeds so far, and `more` of them."""
        seeds = [*self._seeds[point], *(record for record in more if record.state == "complete")]
        said = violated(means_of(seeds, self._constraints), self._constraints)
        return said and f"violates {said}, over {len(seeds)} seeds"

    def _decide(self, seed: int) -> None:
        best = self.best
        for point in [p for p in self._alive if p != best]:
            if self._is_worse(point, best):
                self._decided.add(point)
                n = seed - RACE_SEEDS + 1
                self._leave(point, f"decided against after {n} seeds")

    def _reject(self, num_seeds: int) -> None:
        """Who is worst at the end of a phase leaves, unless one has left within it already."""
        for phase, length in enumerate(self._phases, 1):
            if num_seeds >= length and len(self._alive) > max(2, len(self._points) - phase):
                worst = max(self._alive, key=lambda p: (self._mean(p), self._points.index(p)))
                self._leave(worst, f"the worst of {len(self._alive)} after {num_seeds} seeds")

    def _leave(self, point: str, why: str) -> None:
        self._alive.remove(point)
        self._why[point] = why

    def _mean(self, point: str) -> float:
        values = self._values[point].values()
        return self._cost(statistics.fmean(values)) if values else math.inf

    def _costs(self, point: str) -> dict[int, float]:
        return {seed: self._cost(value) for seed, value in self._values[point].items()}

    @property
    def _level(self) -> float:
        return ALPHA / (len(self._points) - 1)

    def _is_worse(self, point: str, than: str) -> bool:
        differences = list(paired_differences(self._costs(point), self._costs(than)).values())
        if len(differences) < 2:
            return False
        return bool(above_p(np.array(differences), 0.0, PRIOR_SCALE)[-1] <= self._level)

    def stand(self, winner: str | None = None) -> list[Finalist]:
        """All finalists, the best first, set against the winner where there is one."""
        found = []
        for point in self._points:
            told = {}
            if winner not in (None, point):
                told = self._difference(point, winner)
                if self._is_worse(point, winner):
                    self._decided.add(point)
            found.append(
                Finalist(
                    point=point,
                    values=dict(self._values[point]),
                    why=self._why.get(point, ""),
                    decided=point in self._decided,
                    failed=point in self._failed,
                    **told,
                )
            )
        first = sorted(found, key=lambda one: (one.point not in self._alive, self._mean(one.point)))
        return first

    def _difference(self, point: str, winner: str) -> dict[str, float]:
        pairs = paired_differences(self._values[point], self._values[winner])
        differences = np.array(list(pairs.values()))
        if len(differences) < 2:
            return {}
        low, high = confidence_sequence(differences, self._level, PRIOR_SCALE)
        bounds = {"low": float(low[-1]), "high": float(high[-1])}
        finite = {key: value for key, value in bounds.items() if math.isfinite(value)}
        return {"difference": float(differences.mean()), **finite}


def _phases(finalists: int, race: int) -> list[int]:
    """Seeds of everybody left at the end of each phase but the last, ascending (successive
    rejects); two at least, since one says nothing of spread."""
    harmonic = 0.5 + sum(1 / i for i in range(2, finalists + 1))
    return [
        max(2, math.ceil((race - finalists) / (harmonic * (finalists + 1 - phase))))
        for phase in range(1, finalists - 1)
    ]
