"""`recommend`: fresh seeds for a search's best points, until one of them is left and confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe.code_digest import moe_digest, trains_as
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.race import (
    RACE_SEEDS,
    SEEDS_END,
    SHARE,
    Budget,
    Race,
    budget_of,
    is_fresh,
    race_of,
    searched,
)
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.stores.violations import marked
from orchestrator.study.launch import Launch, Point
from orchestrator.surrogate.columns import TWIN, Columns, distance
from orchestrator.surrogate.effects import Effects, effects_about
from orchestrator.surrogate.expected_improvement import Seen, fitted_to
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.search_state import Search
from search_spaces.domains import Choice, is_ordered
from search_spaces.space import Infeasible, Space

_MODELLED = 200  # trials, of which the process is fitted


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `recommend` may spend: a share of all trainings, or so many."""

    share: float = SHARE
    trainings: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise BadInput(
                "--share, what the race gets of all trainings, lies between 0 and 1; received "
                f"{self.share:g}. A third is usual."
            )

    def budget(self, search: list[TrialRecord]) -> Budget:
        """Raises BadInput where there is too little to choose from, or to spend."""
        return budget_of(search, share=self.share, trainings=self.trainings)


def require_raceable(launch: Launch) -> None:
    """Raises BadInput where a study has no points to choose among, or not on one text."""
    if launch.study.is_grid:
        raise BadInput(
            f"a recommendation is of a search; received the grid {launch.study.name}, whose claims "
            "say what is better. Ask `moe-study claims`, or give it a Sequential design and "
            "`run --until-decided`."
        )
    if launch.study.objectives:
        raise BadInput(
            "a recommendation is one point, and of several objectives no point of the front is the "
            f"best; {launch.study.name} has {', '.join(launch.study.objectives)}. Read the front "
            "in `moe-study table`; more seeds (run --seeds 0,1,2) give its points intervals, and a "
            "study of their cells, with claims, decides between them."
        )
    if launch.has_corpora:
        raise BadInput(
            "a recommendation is on one text, since losses on different ones do not compare; "
            f"received {launch.corpus_text}. Search each by itself: --corpus SPEC."
        )


def require_no_race_seeds(launch: Launch) -> None:
    """Raises BadInput where a search would choose by seeds that its race is to be fair by: they are
    told apart by their numbers alone."""
    if launch.study.is_grid:
        return
    if taken := [seed for seed in launch.seeds if RACE_SEEDS <= seed < SEEDS_END]:
        raise BadInput(
            f"seeds {RACE_SEEDS} to {SEEDS_END - 1} are those of `recommend`, which no point is "
            f"chosen by; received {taken} for a search. Give it others, in the study or with "
            "--seeds."
        )


def best_points(launch: Launch, search: Iterable[TrialRecord]) -> list[str]:
    """The points that were trained to their end, the best first by what a Gaussian process over all
    trials believes of them: one lucky seed is no reason. None violates a constraint. Of points that
    differ in what is tuned within a design alone, the best; those that are all but equal to a
    better one come last, since no race tells them apart."""
    assert launch.space is not None
    search = list(search)
    barred = {r.cell_hash for r in marked(search, launch.study.constraints) if r.violates}
    shown, seen = _modelled(launch, search)
    columns = Columns(launch.space)
    complete = {r.cell_hash: r for r in shown if r.state == "complete"}
    complete = {h: r for h, r in complete.items() if h not in barred}
    complete = {h: r for h, r in complete.items() if launch.space.has(r.params)}
    if not complete:
        return []
    rows = columns.rows([record.params for record in complete.values()])
    believed = fitted_to(columns, seen).predict(rows)[0]
    points = [list(complete)[i] for i in np.argsort(believed, kind="stable")]
    designs: dict[tuple[Any, ...], str] = {}
    for point in points:
        values = complete[point].params.items()
        design = tuple(v for v in sorted(values) if v[0] not in launch.study.nuisance)
        designs.setdefault(design, point)
    row_of = dict(zip(complete, rows, strict=True))
    ranked: list[str] = []
    twins: list[str] = []
    for point in designs.values():
        is_twin = any(columns.are_twins(row_of[point], row_of[other]) for other in ranked)
        (twins if is_twin else ranked).append(point)
    return [*ranked, *twins]


def effects_of(
    launch: Launch, records: Iterable[TrialRecord], reference: Mapping[str, Any]
) -> Effects:
    """What leaving a point's values costs, by all trials of the launch, the race's too; of values
    alone that the space has beside the others."""
    space = launch.space
    assert space is not None

    def is_feasible(values: Mapping[str, Any]) -> bool:
        try:
            space.config(launch.base, values)
        except Infeasible:
            return False
        return True

    _, seen = _modelled(launch, (r for r in records if not r.is_older))
    return effects_about(
        reference, space, seen, nuisance=launch.study.nuisance, is_feasible=is_feasible
    )


def ends_of(space: Space, params: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of a point's axes those whose number is the lowest or highest of its domain, or all but that,
    with both ends: better ones may lie beyond. Not where nothing does: below a count of 1, or 0."""
    found = {}
    for path, value in params.items():
        domain = space.axes[path]
        if not is_ordered(domain):
            continue
        is_list = isinstance(domain, Choice)
        low, high = (domain.values[0], domain.values[-1]) if is_list else (domain.low, domain.high)
        is_least = low <= 0 or (type(low) is int and low == 1)
        ends = [high] if is_least else [low, high]
        if low != high and any(distance(domain, value, end) <= TWIN for end in ends):
            found[path] = (low, high)
    return found


def _modelled(
    launch: Launch, trials: Iterable[TrialRecord]
) -> tuple[list[TrialRecord], list[Seen]]:
    """Trials that a process is fitted to, and what it sees of them."""
    history = BoundedHistory(
        _MODELLED, metric=launch.study.metric, constraints=launch.study.constraints
    )
    for record in trials:
        history.note(record)
    shown = history.records()
    search = Search(
        space=launch.space,
        records=shown,
        metric=launch.study.metric,
        is_open=lambda values: False,
    )
    return shown, search.seen


class Racer:
    """Asked for more trials when all that were planned have ended."""

    def __init__(
        self, launch: Launch, home: Home, attributes: Mapping[str, Any], asked: Asked
    ) -> None:
        require_raceable(launch)
        self._launch, self._home, self._attributes = launch, home, attributes
        self._asked = asked

    def more(self, trials: Iterable[TrialRecord]) -> list[Point]:
        """The next trials of the race, or of the confirmation; none once it is over."""
        records = told_apart(trials, self._attributes, self._home)
        params = {r.cell_hash: r.params for r in records if not r.is_older}
        race = self.race(records)
        return [self._launch.sampled_point(params[point], seed) for point, seed in race.wanted]

    def known_point(self, record: TrialRecord) -> Point | None:
        """The space itself knows the points of a search."""
        return None

    def race(self, trials: Iterable[TrialRecord]) -> Race:
        """How it stands. Raises BadInput as `Asked.budget`.

        What other code trained of a race that was begun is trained anew: tables keep such rows
        apart, and no paired difference is of two codes.
        """
        now = trains_as(moe_digest())
        records = [
            record
            for record in told_apart(trials, self._attributes, self._home)
            if not is_fresh(record) or record.code in ("", now)
        ]
        study = self._launch.study
        search = searched(records, study.constraints)
        budget = self._asked.budget(search)
        ranked = best_points(self._launch, search)
        return race_of(
            ranked, records, budget, cost=study.measure.cost, constraints=study.constraints
        )
