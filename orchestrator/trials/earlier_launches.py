"""Earlier launches that tell a sampler what is worth a try (`Study(warm_start=True)`).

Which launches, which of their trials, and what these came to, is fixed as a launch is first run and
kept with its study: what others train later changes no draw, so that a driver that was killed is
followed by one that draws the same points.

A launch is taken, whatever its study, scale, corpus, seeds or overrides, where it searched the same
axes in the same domains for the same metric on one text: only the order within it is made use of,
and as far as it agrees with what is seen here (orchestrator.surrogate.earlier_searches). Whether it
had this study's constraints or not, its trials are measured by them: else the best of a launch that
knew none would be what this one begins with, whatever it violates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.storages import BaseStorage

from orchestrator.base.home import Home
from orchestrator.stores.choices import Choices, optuna_distributions
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.optuna_launches import (
    TOLD_COSTS,
    TOLD_EXCESS,
    TOLD_TRIALS,
    WARM_START,
    LaunchInfo,
    launches_in,
)
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.constraints import Constraint
from orchestrator.study.launch import Launch
from orchestrator.surrogate.earlier_searches import Earlier
from orchestrator.surrogate.expected_improvement import Seen
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.search_state import Search
from search_spaces.space import Space

LAUNCHES = 4  # the newest of them
TRIALS = 100  # of each: its best quarter, and the newest
LEAST = 5  # points, below which an order says nothing

# By the launch's name: config hashes of its trials, their costs (None where one diverged), and by
# the text of each constraint their excess over it (None where one did not come to its end).
Fixed = Mapping[str, Mapping[str, Any]]


def fitting(launch: Launch, storage: BaseStorage, home: Home) -> Fixed:
    """What a launch that is first run now is told of; nothing where there is none."""
    assert launch.space is not None
    found: dict[str, Mapping[str, Any]] = {}
    constraints = launch.study.constraints
    for info in reversed(launches_in(storage)):
        if info.name == launch.name or not _may_tell(info, launch):
            continue
        records = told_apart(OptunaTrials(storage, info).records(), info.attributes, home)
        records = [record for record in records if not record.is_older]
        if not _has_same_axes(records, launch.space):
            continue
        history = BoundedHistory(TRIALS, metric=launch.study.metric, constraints=constraints)
        for record in records:
            history.note(record)
        search = Search(
            space=launch.space,
            records=history.records(),
            metric=launch.study.metric,
            constraints=constraints,
            is_open=lambda values: False,
        )
        if len({record.cell_hash for record, _ in search.judged}) >= LEAST:
            found[info.name] = _told_of(search)
        if len(found) == LAUNCHES:
            break
    return found


def _told_of(search: Search) -> dict[str, Any]:
    costs = [cost if math.isfinite(cost) else None for _, cost in search.judged]
    told: dict[str, Any] = {
        TOLD_TRIALS: [record.config_hash for record, _ in search.judged],
        TOLD_COSTS: costs,
    }
    if search.constraints:
        told[TOLD_EXCESS] = {
            str(one): [seen.excess[i] if seen.excess else None for seen in search.seen]
            for i, one in enumerate(search.constraints)
        }
    return told


def warm_started(launch: Launch, search: OptunaTrials, storage: BaseStorage, home: Home) -> Launch:
    """The launch with what its sampler is told of earlier ones, fixed now if it was not before."""
    if not launch.is_warm_started:
        return launch
    fixed = search.info.attributes.get(WARM_START)
    if fixed is None:
        fixed = fitting(launch, storage, home)
        search.keep(WARM_START, fixed)
    return replace(launch, earlier=tuple(_earlier_of(launch, fixed, storage)))


def _earlier_of(launch: Launch, fixed: Fixed, storage: BaseStorage) -> Iterator[Earlier]:
    """Those that this storage has: an imported launch may come without them."""
    space = launch.space
    assert space is not None
    known = {info.name: info for info in launches_in(storage)}
    for name, told in fixed.items():
        records = OptunaTrials(storage, known[name]).records() if name in known else []
        params = {record.config_hash: record.params for record in records}
        if not params.keys() >= set(told[TOLD_TRIALS]):
            continue
        seen = []
        over = _excess_of(told, launch.study.constraints)
        for trial, cost, excess in zip(told[TOLD_TRIALS], told[TOLD_COSTS], over, strict=True):
            values = {path: params[trial][path] for path in space.axes if path in params[trial]}
            of = math.inf if cost is None else cost
            seen.append(Seen(values=values, cost=of, excess=excess))
        yield Earlier(launch=name, space=space, seen=tuple(seen))


def _excess_of(
    told: Mapping[str, Any], constraints: Sequence[Constraint]
) -> list[tuple[float, ...] | None]:
    """Of each trial, in the order of the study's list, which may change; all None in a record of
    before it was kept."""
    kept = told.get(TOLD_EXCESS) or {}
    if not constraints or not kept.keys() >= set(map(str, constraints)):
        return [None] * len(told[TOLD_TRIALS])
    rows = zip(*(kept[str(one)] for one in constraints), strict=True)
    return [None if None in row else row for row in rows]


def warm_start_lines(launch: Launch, fixed: Fixed) -> Iterator[str]:
    """For people, at `plan` and `run`."""
    if not fixed:
        yield (
            "warm start: no earlier launch of this home searched these axes in these domains for "
            f"{launch.study.metric}, with {LEAST} points that ended: the search starts cold"
        )
        return
    named = ", ".join(f"{name} ({len(told[TOLD_TRIALS])} trials)" for name, told in fixed.items())
    yield (
        f"warm start: the sampler is told of {named}; none of these trials counts here, and they "
        "weigh as far as their order agrees with what is seen here"
    )


def lacking_lines(launch: Launch, fixed: Fixed) -> Iterator[str]:
    """Of an imported launch, where that home lacks what it was told of in the other."""
    if gone := [name for name in fixed if name not in {one.launch for one in launch.earlier}]:
        yield f"warm start: this home lacks {', '.join(gone)}; points are drawn without it"


def _may_tell(info: LaunchInfo, launch: Launch) -> bool:
    of: Mapping[str, Any] = info.attributes
    one_text = len(set(info.corpora.values())) == 1
    return bool(of.get("sampled")) and of["metric"] == launch.study.metric and one_text


def _has_same_axes(records: list[TrialRecord], space: Space) -> bool:
    """Whether trials had no other axes, each in the same domain. (Axes that do not always exist
    may be missing; where another is, no trial's point is one of the space.)"""
    known, now = Choices(records).widest, optuna_distributions(space)
    return all(now.get(path) == domain for path, domain in known.items())
