"""The values that each cell of a grid is judged with, chosen by a launch of their own.

A launch whose study has `tune` is trained in two: first its candidates, on seeds that are not
judged (`orchestrator.study.tuning`), then its cells, each with the best of its candidates. What is
chosen is a function of the first launch's trials, kept with the second before any of its trials is
planned, so that no kill and no later trial changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from optuna.storages import BaseStorage

from moe.config import ConfigError
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.stores.optuna_launches import LaunchInfo, launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.reuse import laid_out_as_before
from orchestrator.stores.trial_record import FINISHED_STATES, TrialRecord
from orchestrator.stores.violations import marked
from orchestrator.study.chosen_values import (
    TUNED,
    Choices,
    Chosen,
    Tried,
    best_of,
    question_of,
)
from orchestrator.study.launch import Launch, Point
from orchestrator.study.tuning import (
    Candidate,
    candidates,
    tuning_launch,
    untuned_cells,
    with_values,
)
from orchestrator.study.tuning_rules import require_not_judged
from orchestrator.trials.spending import Limits, spent


def tuned(launch: Launch, url: str) -> tuple[Launch, Choices | None]:
    """The launch whose cells have what was chosen for them; itself, where its study tunes nothing.

    Raises BadInput, with the remedy, while candidates have yet to be trained, and StudyError where
    none of a cell's was trained to its end.
    """
    if not launch.study.tune:
        return launch, None
    storage = storage_if_any(url)
    if storage is None:
        raise BadInput(_not_yet(launch, "this home has none of it"))
    with trouble_named(url):
        choices = _choices(launch, storage)
    return with_values(launch, choices.values), choices


def to_be_tuned(launch: Launch, url: str, *, retry_failed: bool = False) -> Launch | None:
    """The launch that trains candidates of cells for which nothing is chosen, as far as they are
    not trained; None where nothing is left to train for it. With `retry_failed`: also where some
    of them failed. Raises BadInput as `require_unjudged`."""
    if not launch.study.tune:
        return None
    storage = storage_if_any(url)
    if storage is None:
        return tuning_launch(launch)
    with trouble_named(url):
        infos = launches_in(storage)
        lacking = _lacking(launch, _kept(launch, infos))
        if not lacking:
            return None
        for info in infos:  # refused before it is paid for
            if info.name == launch.name:
                require_unjudged(launch, OptunaTrials(storage, info).records())
        tuning = tuning_launch(launch, lacking)
        begun = _begun(launch, tuning, lacking, storage, infos)
    ended = begun is not None and not begun.unfinished
    failed = begun is not None and any(r.state == "failed" for r in begun.records.values())
    return None if ended and not (retry_failed and failed) else tuning


def require_unjudged(launch: Launch, records: Iterable[TrialRecord]) -> None:
    """Raises BadInput where the launch has trials on a tuning seed: of before its study tuned, or
    had these seeds, or brought by an import."""
    try:
        judged = {record.seed for record in records}
        require_not_judged(launch.study.tune_seeds, judged, launch.study.name)
    except ConfigError as error:
        raise BadInput(str(error)) from None


def keep_choices(choices: Choices | None, search: OptunaTrials) -> None:
    """With the launch's study, where that does not have them yet."""
    if choices is not None and search.info.attributes.get(TUNED) != choices.as_json():
        search.keep(TUNED, choices.as_json())


def beside_tuning(limits: Limits, choices: Choices | None) -> Limits:
    """The limits of a launch, a part of which its tuning has spent."""
    if choices is None:
        return limits
    return replace(limits, tokens_before=choices.tokens, device_s_before=choices.device_s)


class _Begun:
    """What has come of the candidates of some cells."""

    def __init__(
        self, launch: Launch, tuning: Launch, found: list[Candidate], records: list[TrialRecord]
    ) -> None:
        self.launch = launch
        self.all_records = records
        self.records = _by_configuration(records)
        self.points: list[tuple[Candidate, list[Point]]] = [
            (
                one,
                [tuning.point(one.trained.name, one.trained.overrides, s) for s in tuning.seeds],
            )
            for one in found
        ]

    @property
    def unfinished(self) -> int:
        """Trials that wait, run or are not there."""
        hashes = {point.config_hash for _, points in self.points for point in points}
        states = [self.records[h].state if h in self.records else "" for h in hashes]
        return sum(state not in FINISHED_STATES for state in states)

    def tried(self, cell: str) -> list[Tried]:
        return [self._tried(one, points) for one, points in self.points if one.cell == cell]

    def _tried(self, one: Candidate, points: Sequence[Point]) -> Tried:
        records = [self.records[point.config_hash] for point in points]
        lost = [record for record in records if record.value is None]
        if lost:
            why = "diverged" if any(record.diverged for record in lost) else "failed"
            seeds = ", ".join(str(record.seed) for record in lost)
            return Tried(values=one.values, mean=None, why=f"{why} at seed {seeds}")
        return Tried(
            values=one.values,
            mean=fmean(record.value for record in records),
            violates=next((record.violates for record in records if record.violates), ""),
        )


def _by_configuration(records: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """Of each the trial that says the most: one that failed may have been repeated."""
    order = ("complete", "running", "waiting", "failed", "pruned")
    found: dict[str, TrialRecord] = {}
    for record in records:
        known = found.get(record.config_hash)
        if known is None or order.index(record.state) < order.index(known.state):
            found[record.config_hash] = record
    return found


def _kept(launch: Launch, infos: Iterable[LaunchInfo]) -> Choices | None:
    own = next((info for info in infos if info.name == launch.name), None)
    return Choices.of(own.attributes) if own else None


def _lacking(launch: Launch, kept: Choices | None) -> list[str]:
    """Cells for which nothing is chosen, or that were another question when it was."""
    known = kept.cells if kept else {}
    merged = {cell.name: cell for cell in launch.cells}
    names = dict.fromkeys(one.cell for one in candidates(launch.study, launch.base))
    return [
        name
        for name in names
        if name in merged
        and (name not in known or known[name].of != question_of(launch, merged[name]))
    ]


def _begun(
    launch: Launch,
    tuning: Launch,
    cells: Sequence[str],
    storage: BaseStorage,
    infos: Iterable[LaunchInfo],
) -> _Begun | None:
    info = next((info for info in infos if info.name == tuning.name), None)
    if info is None:
        return None
    found = [one for one in candidates(launch.study, launch.base) if one.cell in cells]
    records = marked(OptunaTrials(storage, info).records(), launch.study.constraints)
    return _Begun(launch, laid_out_as_before(tuning, storage), found, records)


def _choices(launch: Launch, storage: BaseStorage) -> Choices:
    infos = launches_in(storage)
    kept = _kept(launch, infos)
    lacking = _lacking(launch, kept)
    asked = {one.cell for one in candidates(launch.study, launch.base)}
    stands = {name: one for name, one in (kept.cells if kept else {}).items() if name in asked}
    if kept is not None and not lacking:
        untuned = untuned_cells(launch.study, launch.base)
        return replace(kept, cells=stands, untuned=untuned)
    tuning = tuning_launch(launch, lacking)
    begun = _begun(launch, tuning, lacking, storage, infos)
    if begun is None:
        raise BadInput(_not_yet(launch, "this home has none of it"))
    if begun.unfinished:
        raise BadInput(_not_yet(launch, f"{begun.unfinished} of its trials have yet to be trained"))
    cost = spent(begun.all_records, tuning)
    return Choices(
        launch=tuning.name,
        metric=launch.study.metric,
        axes=launch.study.tuned_over(launch.base),
        seeds=launch.study.tune_seeds,
        cells={
            **stands,
            **{cell: _chosen(launch, cell, begun.tried(cell)) for cell in lacking},
        },
        untuned=untuned_cells(launch.study, launch.base),
        tokens=max(int(cost["tokens"]), kept.tokens if kept else 0),
        device_s=max(cost["device_s"], kept.device_s if kept else 0.0),
    )


def _chosen(launch: Launch, name: str, tried: Sequence[Tried]) -> Chosen:
    best = best_of(tried, launch.study.measure.cost)
    if best is None:
        raise StudyError(
            f"a cell is judged with the best of the values that it was tried with; of {name} none "
            f"was trained to its end on all tuning seeds ({'; '.join(map(str, tried))}). Try "
            f"others: change tune of {launch.study.name}; or, if it was no fault of theirs, "
            "--retry-failed."
        )
    cell = next(cell for cell in launch.cells if cell.name == name)
    return Chosen(of=question_of(launch, cell), values=best.values, tried=tuple(tried))


def _not_yet(launch: Launch, why: str) -> str:
    axes = ", ".join(launch.study.tuned_over(launch.base))
    return (
        f"{launch.study.name} trains its cells with the best {axes} of each, which "
        f"{tuning_launch(launch).name} chooses; {why}. `moe-study run` does that first, to its end."
    )
