"""The rungs of a ladder: what is best at one scale is trained at the next (`Study(ladder=...)`).

Nothing is drawn at an upper rung. Its points are the best of the finished launch at the rung below,
as its values over the larger scale, and stand first in its study as points of a user's own would:
one list, which the queue knows already. They are fixed before any is trained and kept with the
launch, so that neither a kill nor what the lower rung does later changes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.storages import BaseStorage

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.recommending import best_points
from orchestrator.report.race import searched
from orchestrator.report.rank_agreement import LEAST, agreement_text, rank_agreement
from orchestrator.report.statistics import RankCorrelation
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.optuna_launches import LADDER, POINTS_ASKED, LaunchInfo, launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.corpora import CORPUS_PATH
from orchestrator.study.launch import Launch
from search_spaces.overlay import overlay

Values = Mapping[str, Any]
_NAMED = 3  # pairs of launches that lines tell of


@dataclass(frozen=True, kw_only=True)
class Climb:
    """`below` names the launch that the points come from, the best first, and `asked` says how many
    were wanted; `passed_over` are points that were better than some of these and cannot be run at
    this scale, with the reason."""

    below: str
    asked: int
    points: tuple[Values, ...]
    passed_over: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "from": self.below,
            "asked": self.asked,
            "points": [dict(point) for point in self.points],
            "passed_over": list(self.passed_over),
        }


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two launches of one study, at a rung and the one below it, and how their orders agree."""

    below: str
    above: str
    agreement: RankCorrelation


def climbing(launch: Launch, home: Home, url: str) -> tuple[Launch, Climb | None]:
    """The launch with the points of the rung below; itself, where it has none below it.

    Raises BadInput, with the remedy, while there is no finished launch at that rung.
    """
    if launch.rung_below is None:
        return launch, None
    storage = storage_if_any(url)
    if storage is None:
        raise BadInput(_not_there(launch, "this home has none"))
    with trouble_named(url):
        climb = _climb_of(launch, home, storage)
    taken = climb.points[: launch.trials]
    study = replace(launch.study, first=taken)
    return replace(launch, study=study, trials=len(taken)), climb


def keep(climb: Climb | None, search: OptunaTrials) -> None:
    """With the launch's study, where that does not have so many yet."""
    kept = search.info.attributes.get(LADDER) or {}
    if climb is not None and climb.asked > kept.get("asked", 0):
        search.keep(LADDER, climb.as_json())


def climb_lines(launch: Launch, kept: Mapping[str, Any] | None) -> Iterator[str]:
    """For people, at `plan` and `run`."""
    if launch.rung_below is None or kept is None:
        return
    cells = [point.cell for point in launch.first_points()]
    yield (
        f"ladder: nothing is drawn at the rung {launch.scale}; the best {len(cells)} points of "
        f"{kept['from']} are trained to their end, best first: {', '.join(cells)}"
    )
    for line in kept["passed_over"]:
        yield f"ladder: passed over, since it cannot be run at this scale: {line}"


def pair_lines(launch: Launch, pairs: Sequence[Pair]) -> Iterator[str]:
    """What the home knows of these two rungs before anything is spent."""
    for pair in pairs[:_NAMED]:
        yield f"ladder: {pair.below} and {pair.above}: {agreement_text(pair.agreement)}"
    if not pairs:
        yield (
            f"ladder: nothing is known yet of whether ranks at {launch.rung_below} hold at "
            f"{launch.scale}: no two launches of this home ran {LEAST} points at both"
        )


def known_pairs(launch: Launch, home: Home, url: str) -> list[Pair]:
    """Of launches of one study that this home has at these two rungs, the newest first."""
    storage = storage_if_any(url)
    if storage is None:
        return []
    rungs: tuple[list[tuple[LaunchInfo, list[TrialRecord]]], ...] = ([], [])
    with trouble_named(url):
        for info in reversed(launches_in(storage)):
            of = info.attributes
            if not of.get("sampled") or of["metric"] != launch.study.metric:
                continue
            for rung, scale in zip(rungs, (launch.rung_below, launch.scale), strict=True):
                if of["scale"] == scale:
                    rung.append((info, _records(storage, info, home)))
    found = []
    for above, ours in rungs[1]:
        for below, theirs in rungs[0]:
            agreement = rank_agreement(ours, theirs) if above.study == below.study else None
            if agreement is not None:
                found.append(Pair(below=below.name, above=above.name, agreement=agreement))
    return found


def _not_there(launch: Launch, why: str) -> str:
    return (
        f"the rung {launch.scale} trains the best points of a finished launch at the rung "
        f"{launch.rung_below}; {why}. Run that first, to its end: moe-study run with --scale "
        f"{launch.rung_below}."
    )


def _climb_of(launch: Launch, home: Home, storage: BaseStorage) -> Climb:
    infos = launches_in(storage)
    own = next((info for info in infos if info.name == launch.name), None)
    kept = (own.attributes.get(LADDER) if own else None) or {}
    name, asked = kept.get("from"), kept.get("asked", 0)
    chosen = _Chosen(launch)
    for values in kept.get("points", ()):
        chosen.take(values)
    if launch.trials > asked:
        below = _below(launch, infos, name)
        name, asked = below.name, launch.trials
        for values in _ranked(launch, below, _records(storage, below, home)):
            if len(chosen.points) == asked:
                break
            chosen.take(values)
    if not chosen.points:
        why = f"of {name} none can be run here: {'; '.join(chosen.passed_over)}"
        raise BadInput(_not_there(launch, why))
    return Climb(
        below=name,
        asked=asked,
        points=tuple(chosen.points),
        passed_over=tuple(dict.fromkeys((*kept.get("passed_over", ()), *chosen.passed_over))),
    )


class _Chosen:
    """Points that can be run at a launch's scale, each configuration once."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._known: set[str] = set()
        self.points: list[Values] = []
        self.passed_over: list[str] = []

    def take(self, values: Values) -> None:
        launch = self._launch
        assert launch.space is not None
        try:
            typed = launch.space.require_within(values)
            point = launch.sampled_point(typed, launch.seeds[0])
        except ConfigError as error:
            self.passed_over.append(str(error).rstrip("."))
            return
        if point.cell_hash not in self._known:
            self._known.add(point.cell_hash)
            self.points.append(typed)


def _below(launch: Launch, infos: list[LaunchInfo], kept: str | None) -> LaunchInfo:
    """The launch that was kept; else the newest at the rung below, one with this launch's overrides
    and text before all others."""

    def fit(info: LaunchInfo) -> tuple[bool, bool]:
        of = info.attributes
        return (
            of["overrides"] == dict(launch.overrides),
            of["corpus_digest"] == launch.corpus_digest,
        )

    rung = [
        info
        for info in infos
        if info.study == launch.study.name and info.attributes["scale"] == launch.rung_below
    ]
    if kept is not None:
        rung = [info for info in rung if info.name == kept]
    if not rung:
        raise BadInput(_not_there(launch, f"this home has no {kept or 'such launch'}"))
    return max(reversed(rung), key=fit)


def _ranked(launch: Launch, info: LaunchInfo, records: list[TrialRecord]) -> Iterator[Values]:
    """The points of a finished launch, the best first: by a process over all of its trials, those
    of a race among them."""
    current = [record for record in records if not record.is_older]
    below = _as_below(launch, info)
    if why := _unfinished(below, info, searched(current)):
        raise BadInput(_not_there(launch, f"{info.name} is not finished: {why}"))
    params = {record.cell_hash: record.params for record in current}
    ranked = best_points(below, current)
    if not ranked:
        raise BadInput(_not_there(launch, f"{info.name} has no complete trial in this space"))
    return iter([params[point] for point in ranked])


def _as_below(launch: Launch, info: LaunchInfo) -> Launch:
    """This launch's study at the scale of the one below, as far as its points are to be ranked."""
    given = {CORPUS_PATH: launch.corpus_spec, **info.attributes["overrides"]}
    scale = info.attributes["scale"]
    base = overlay(launch.study.scales[scale], given)
    return replace(launch, scale=scale, base=base, space=launch.study.space_over(base))


def _unfinished(below: Launch, info: LaunchInfo, search: list[TrialRecord]) -> str:
    begun = sum(record.state in ("waiting", "running") for record in search)
    if begun:
        return f"{begun} of its trials wait or run"
    points = len({record.cell_hash for record in search})
    climbed = info.attributes.get(LADDER)
    # `run --trials` asks for more or fewer than the study's file; older launches did not keep it.
    asked = info.attributes.get(POINTS_ASKED) or below.study.trials
    wanted = len(climbed["points"]) if climbed else asked
    if points < wanted and below.space is not None and not climbed and below.space.is_enumerable:
        wanted = min(wanted, len(below.space.feasible_points(below.base) or []))
    return f"it has {points} of {wanted} points" if points < wanted else ""


def _records(storage: BaseStorage, info: LaunchInfo, home: Home) -> list[TrialRecord]:
    return told_apart(OptunaTrials(storage, info).records(), info.attributes, home)
