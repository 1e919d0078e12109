"""The Optuna side: the record of the search, written by one driver and read by everyone.

Trials are created whole (parameters, distributions, attributes in one call) and moved from state to
state through the storage interface, because `Study.tell` cannot put a trial back to WAITING and the
stock searcher leaves stopped, NaN and killed trials with untrue states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.base.errors import BadInput
from orchestrator.stores.choices import Choices, optuna_distributions
from orchestrator.stores.enqueued import Enqueued, enqueued, refuse, take_in
from orchestrator.stores.optuna_launches import (
    LaunchInfo,
    launches_in,
    open_launch,
    state_current,
    write_note,
)
from orchestrator.stores.optuna_private import (
    CONSTRAINT_VALUES,
    give_identity,
    known_tables,
    note_attributes,
    trial_id_of,
)
from orchestrator.stores.optuna_sql import insert_waiting, read_trials, set_user_attributes
from orchestrator.stores.trial_record import CELL, METRICS, TrialRecord, attributes_of
from orchestrator.stores.violations import excesses
from orchestrator.study.constraints import constraints_of
from orchestrator.study.launch import Launch, Point
from search_spaces.overlay import get

FAILED_DRAWS = "failed_draws"
CHOICES_ADDED = "choices_added"


class OptunaTrials:
    """One launch's Optuna study."""

    def __init__(self, storage: BaseStorage, info: LaunchInfo) -> None:
        self._storage = storage
        self._choices: Choices | None = None
        self._own: set[int] = set()  # ids of the launch's trials
        self.info = info

    @classmethod
    def open(
        cls, storage: BaseStorage, launch: Launch, *, now: datetime, reusable: int = 0
    ) -> OptunaTrials:
        """The launch's study, made or brought up to date: `reusable` of its results are known from
        other launches. Raises BadInput on another metric."""
        return cls(storage, open_launch(storage, launch, now=now, reusable=reusable))

    @classmethod
    def alike(cls, storage: BaseStorage, info: LaunchInfo) -> Iterator[TrialRecord]:
        """Trials of the other launches of one study at one scale on one corpus, whatever was
        overridden. Nothing is read before the first is asked for."""
        same = ("study", "scale", "corpus_digest", "metric")
        for other in launches_in(storage):
            is_other = other.name != info.name
            if is_other and all(other.attributes[key] == info.attributes[key] for key in same):
                yield from cls(storage, other).records()

    def beside(self, name: str) -> OptunaTrials | None:
        """Another launch of the same storage."""
        found = (one for one in launches_in(self._storage) if one.name == name)
        return next((OptunaTrials(self._storage, info) for info in found), None)

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(
            study_name=self.info.name,
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
        )

    def records(self) -> list[TrialRecord]:
        """All trials, in the order of their numbers."""
        found = [TrialRecord.of(trial) for trial in self.trials()]
        self._own = {record.trial_id for record in found}
        return found

    def trials(self) -> list[FrozenTrial]:
        """As Optuna has them, without those that others put into the study."""
        return [trial for trial in self._all() if CELL in trial.user_attrs]

    def next_number(self) -> int:
        """Of the next trial, for the one driver that holds the launch."""
        return len(self._all())

    def _all(self) -> list[FrozenTrial]:
        engine = known_tables(self._storage)
        if engine is not None:
            return read_trials(engine, self.info.study_id)
        return self._storage.get_all_trials(self.info.study_id, deepcopy=False)

    def added_choices(self, launch: Launch) -> dict[str, list[Any]]:
        """By path, what the launch's space offers and no trial knew; it is recorded with the study.

        Raises BadInput where the space lacks what trials had.
        """
        records = self.records()
        self._choices = Choices(records)
        if launch.space is None:
            return {}
        added = self._choices.added(optuna_distributions(launch.space))
        if added:
            attributes = self._storage.get_study_user_attrs(self.info.study_id)
            entry = {"at_trial": len(records), "choices": added}
            grown = [*attributes.get(CHOICES_ADDED, []), entry]
            if attributes.get(CHOICES_ADDED, [{}])[-1:] != [entry]:
                self._storage.set_study_user_attr(self.info.study_id, CHOICES_ADDED, grown)
        return added

    def enqueue(self, launch: Launch, values: Mapping[str, Any]) -> int:
        """Asks for a point, or a part of one, in Optuna's own way; returns the trial's number.

        Raises BadInput where a trial of the launch has these values, or was asked for with them.
        """
        same = [
            r
            for r in self.records()
            if dict(r.params) == dict(values)  # over this base: the study may have been edited
            and r.cell_hash == launch.sampled_point(values, r.seed).cell_hash
        ]
        waiting = [asked.number for asked in self.enqueued() if asked.values == values]
        if same or waiting:
            found = f"trial {same[0].number}, {same[0].state}" if same else f"trial {waiting[0]}"
            raise BadInput(
                f"no point is trained twice; received {dict(values)}, which {launch.name} has as "
                f"{found}. Leave it out, or ask for another."
            )
        self.study.enqueue_trial(dict(values))
        return max(asked.number for asked in self.enqueued() if asked.values == values)

    def enqueued(self) -> list[Enqueued]:
        """Points that somebody asked for in Optuna's own way, not yet taken in."""
        return enqueued(self._storage, self.info.study_id, self._own)

    def take_in(
        self,
        asked: Enqueued,
        point: Point,
        *,
        distributions: Mapping[str, BaseDistribution],
        note: str = "",
    ) -> TrialRecord:
        """The trial of such a point, as one of the launch; another where Optuna refuses that."""
        distributions = self.choices.widened(distributions)
        taken = take_in(
            self._storage,
            self.info.study_id,
            asked.trial_id,
            params={path: get(point.config, path) for path in distributions},
            distributions=distributions,
            attributes=self._attributes_of(point),
        )
        if not taken:
            record = self.add_waiting(point, distributions=distributions, note=note)
            refuse(self._storage, asked.trial_id, f"taken in as trial {record.number}")
            return record
        self._own.add(asked.trial_id)
        return TrialRecord.of(self._storage.get_trial(asked.trial_id))

    def refuse(self, asked: Enqueued, reason: str) -> None:
        refuse(self._storage, asked.trial_id, reason)

    @property
    def choices(self) -> Choices:
        """The widest list of each axis's choices that its trials were made with."""
        if self._choices is None:
            self._choices = Choices(self.records())
        return self._choices

    def state_current(self, points: Iterable[Point], records: Iterable[TrialRecord]) -> None:
        """Which configuration cells stand for now, of those that have stood for several."""
        self.info = state_current(self._storage, self.info, points, records)

    def keep(self, key: str, value: Any) -> None:
        """What was decided as the launch was first run, for all its drivers and readers."""
        self._storage.set_study_user_attr(self.info.study_id, key, value)
        attributes = {**self.info.attributes, key: value}
        self.info = dataclasses.replace(self.info, attributes=attributes)
        write_note(self.study, self.info)

    def add_waiting(
        self,
        point: Point,
        *,
        distributions: Mapping[str, BaseDistribution],
        note: str = "",
    ) -> TrialRecord:
        """A new WAITING trial with everything that is known before it runs.

        `note`: markdown beside it in Optuna Dashboard.
        """
        distributions = self.choices.widened(distributions)
        params = {path: get(point.config, path) for path in distributions}
        template = optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions=dict(distributions),
            user_attrs=self._attributes_of(point),
        )
        self._create(template, note)
        self._own.add(trial_id_of(template))
        return TrialRecord.of(template)

    def add_finished(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """A trial that ended elsewhere, with its own times, in one write; or one that waits."""
        kept = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=dict(attributes),
            system_attrs=self._constraint_values(attributes),
            intermediate_values=trial.intermediate_values,
        )
        self.study.add_trial(kept)

    def require_same_space(self, trials: Iterable[FrozenTrial]) -> None:
        """Raises BadInput where trials that are to come have other choices than those here."""
        known: dict[str, BaseDistribution] = {}
        for record in self.records():
            known = {**record.distributions, **known}
        for trial in trials:  # `Study.add_trial` looks at this in a database, not in a journal
            try:
                for path, distribution in trial.distributions.items():
                    earlier = known.setdefault(path, distribution)
                    check_distribution_compatibility(earlier, distribution)
            except ValueError as error:
                raise BadInput(
                    "trials that are brought to a launch have the choices of its axes; "
                    f"{trial.user_attrs[CELL]} has others ({error}). Bring them to a home that "
                    "does not have the launch yet."
                ) from None

    def _attributes_of(self, point: Point) -> dict[str, Any]:
        return attributes_of(point, with_corpus=len(set(self.info.corpora.values())) > 1)

    def _create(self, trial: FrozenTrial, note: str) -> None:
        """Writes a trial, which thereby gets its number and id."""
        engine = known_tables(self._storage)
        if engine is not None:
            insert_waiting(engine, self.info.study_id, trial, lambda i: note_attributes(i, note))
            return
        trial_id = self._storage.create_new_trial(self.info.study_id, template_trial=trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        give_identity(trial, number=number, trial_id=trial_id)
        for key, value in note_attributes(trial_id, note).items():
            self._storage.set_study_system_attr(self.info.study_id, key, value)

    @property
    def failed_draws(self) -> int:
        """Draws of this launch that found no new point, over all its drivers."""
        return self._storage.get_study_user_attrs(self.info.study_id).get(FAILED_DRAWS, 0)

    def note_failed_draws(self, draws: int) -> None:
        total = self.failed_draws + draws
        self._storage.set_study_user_attr(self.info.study_id, FAILED_DRAWS, total)

    def set_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Of a trial that has not ended. With its final metrics, how far it is from its launch's
        constraints, where Optuna and its dashboard look for that."""
        engine = known_tables(self._storage)
        if engine is None or not set_user_attributes(engine, trial_id, attributes):
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
        for key, value in self._constraint_values(attributes).items():
            self._storage.set_trial_system_attr(trial_id, key, value)

    def _constraint_values(self, attributes: Mapping[str, Any]) -> dict[str, list[float]]:
        metrics, constraints = attributes.get(METRICS), constraints_of(self.info.attributes)
        if not metrics or not constraints:
            return {}
        return {CONSTRAINT_VALUES: excesses(metrics, constraints)}

    def set_attributes_of_waiting(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Through RUNNING: a WAITING trial changes nothing but its state."""
        self.set_state(trial_id, TrialState.RUNNING)
        self.set_attributes(trial_id, attributes)
        self.set_state(trial_id, TrialState.WAITING)

    def study_attributes(self) -> dict[str, Any]:
        """System attributes of the study: what the dashboard keeps there."""
        return self._storage.get_study_system_attrs(self.info.study_id)

    def set_study_attribute(self, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(self.info.study_id, key, value)

    def report(self, trial_id: int, step: int, value: float) -> None:
        self._storage.set_trial_intermediate_value(trial_id, step, value)

    def set_state(
        self, trial_id: int, state: TrialState, value: float | Sequence[float] | None = None
    ) -> None:
        """`value`: the final one, or those of all objectives."""
        values = [value] if isinstance(value, float | int) else value
        self._storage.set_trial_state_values(trial_id, state, values)
