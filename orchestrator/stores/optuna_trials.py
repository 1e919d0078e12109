"""The Optuna side: the record of the search, written by one driver and read by everyone.

Trials are created whole (parameters, distributions, attributes in one call) and moved from state to
state through the storage interface, because `Study.tell` cannot put a trial back to WAITING and the
stock searcher leaves stopped, NaN and killed trials with untrue states.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from moe.identity import told
from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import provenance
from orchestrator.stores.choices import Choices, optuna_distributions
from orchestrator.stores.enqueued import Enqueued, enqueued, refuse, take_in
from orchestrator.stores.optuna_private import (
    give_identity,
    known_tables,
    note_attributes,
    study_id_of,
    trial_id_of,
)
from orchestrator.stores.optuna_sql import insert_waiting, read_trials
from orchestrator.stores.trial_record import (
    BATCH_TOKENS,
    CELL,
    CELL_HASH,
    CONFIG,
    CONFIG_HASH,
    CORPUS,
    CORPUS_DIGEST,
    FLOPS_PER_TOKEN,
    NUM_STEPS,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    SEED,
    TrialRecord,
)
from orchestrator.study.launch import Launch, Point
from orchestrator.study.plan import typical_points
from search_spaces.overlay import get

# User attributes of an Optuna study: the identity of a launch, for those who only read.
LAUNCH_ATTRIBUTES = ("study", "scale", "corpus", "corpus_digest", "overrides")
STARTED_AT = "started_at"
BASE = "base"  # of a sampled study, what tells its base from others (moe.identity.told)
CURRENT = "current"  # of cells that stood for several configurations: the one now asked for
LABELS_KEPT = "labels_kept"  # absent of launches whose tokens keep all labels apart
OWNER = "owner"
DRIVERS = "drivers"
FAILED_DRAWS = "failed_draws"
CHOICES_ADDED = "choices_added"

_WITHIN = " Trials are ranked within a corpus: a loss on one text says nothing about another."

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchInfo:
    """A launch as the storage has it, read without its study file or corpus."""

    study_id: int
    name: str
    attributes: Mapping[str, Any]

    @property
    def study(self) -> str:
        return self.attributes["study"]

    @property
    def corpora(self) -> Mapping[str, str]:
        """Digest of each corpus that its trials train on, by CORPUS SPEC."""
        one = {self.attributes["corpus"]: self.attributes["corpus_digest"]}
        return self.attributes.get("corpora") or one


class OptunaTrials:
    """One launch's Optuna study."""

    def __init__(self, storage: BaseStorage, info: LaunchInfo) -> None:
        self._storage = storage
        self._choices: Choices | None = None
        self._own: set[int] = set()  # ids of the launch's trials
        self.info = info

    @staticmethod
    def launches(storage: BaseStorage) -> list[LaunchInfo]:
        """Launches in a storage, the most recently started last; other studies are left alone."""
        found = [
            LaunchInfo(study_id=study_id_of(s), name=s.study_name, attributes=s.user_attrs)
            for s in storage.get_all_studies()
            if {*LAUNCH_ATTRIBUTES, STARTED_AT} <= set(s.user_attrs)
        ]
        return sorted(found, key=lambda info: info.attributes[STARTED_AT])

    @classmethod
    def alike(cls, storage: BaseStorage, info: LaunchInfo) -> Iterator[TrialRecord]:
        """Trials of the other launches of one study at one scale on one corpus, whatever was
        overridden.

        Their losses are of one kind: the held-out text and the tokens are the same. Nothing is read
        before the first is asked for.
        """
        same = ("study", "scale", "corpus_digest", "metric")
        for other in cls.launches(storage):
            is_other = other.name != info.name
            if is_other and all(other.attributes[key] == info.attributes[key] for key in same):
                yield from cls(storage, other).records()

    @classmethod
    def open(cls, storage: BaseStorage, launch: Launch, *, now: datetime) -> OptunaTrials:
        """Creates the launch's study, or loads it; study attributes are brought up to date."""
        launches = cls.launches(storage)
        existing = next((info.attributes for info in launches if info.name == launch.name), {})
        _require_metric(launch, existing)
        # The launch started last is the one that readers mean, also where a clock was set back.
        others = (i.attributes[STARTED_AT] for i in launches if i.name != launch.name)
        started = [now, *(datetime.fromisoformat(at) + timedelta(microseconds=1) for at in others)]
        attributes = {
            "study": launch.study.name,
            "scale": launch.scale,
            "corpus": launch.corpus_text,
            "corpus_digest": launch.corpus_digest,
            "corpora": {spec: launch.corpora[spec].digest for spec in launch.corpus_specs},
            "corpus_option": launch.corpus_option,
            "overrides": dict(launch.overrides),
            LABELS_KEPT: sorted(launch.labels_kept),
            STARTED_AT: max(started).isoformat(),
            OWNER: existing.get(OWNER) or uuid.uuid4().hex[:12],
            "metric": launch.study.metric,
            "sampled": not launch.study.is_grid,
            "question": launch.study.question,
            "baseline": launch.study.baseline,
            "held_fixed": launch.study.held_fixed,
            DRIVERS: _with_this(existing.get(DRIVERS, [])),
            BASE: None if launch.study.is_grid else told(launch.base_point().config),
            "early_stopping": _early_stopping(launch),
            "sampler": None if launch.study.is_grid else str(launch.study.sampler),
        }
        direction = "maximize" if launch.study.measure.better == "higher" else "minimize"
        return cls._open(storage, launch.name, direction, attributes)

    @classmethod
    def open_imported(
        cls, storage: BaseStorage, name: str, direction: str, attributes: Mapping[str, Any]
    ) -> OptunaTrials:
        """The study of a launch that comes from another home: made, or, where this home has one,
        told which code worked on it elsewhere. It stays as new as it is."""
        launches = cls.launches(storage)
        existing = next((info.attributes for info in launches if info.name == name), None)
        if existing is None:
            own = {**attributes, OWNER: uuid.uuid4().hex[:12]}
        else:
            known = existing.get(DRIVERS, [])
            others = [d for d in attributes.get(DRIVERS, []) if d not in known]
            own = {**existing, DRIVERS: [*known, *others]}
        return cls._open(storage, name, direction, own)

    @classmethod
    def _open(
        cls, storage: BaseStorage, name: str, direction: str, attributes: Mapping[str, Any]
    ) -> OptunaTrials:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            direction=direction,
            sampler=optuna.samplers.RandomSampler(),
        )
        metric = attributes["metric"]
        if study.metric_names != [metric]:
            with warnings.catch_warnings():
                # Experimental since Optuna 3.2, and what the dashboard labels its plots with.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([metric])
        for key, value in attributes.items():
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
        info = LaunchInfo(study_id=study_id_of(study), name=name, attributes=attributes)
        store = cls(storage, info)
        store._write_note()
        return store

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(
            study_name=self.info.name,
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
        )

    def _write_note(self) -> None:
        from optuna_dashboard import save_note  # slow to import, and readers do without it

        of = self.info.attributes
        save_note(
            self.study,
            f"**{of['question']}**\n\nBaseline: {of['baseline']}. "
            f"Held fixed: {of['held_fixed']}\n\n"
            f"Scale {of['scale']}, corpus {of['corpus']} ({of['corpus_digest']})."
            f"{_WITHIN if len(set(self.info.corpora.values())) > 1 else ''}\n\n"
            "Loss against training FLOPs stands among the plots, and the figures and the report "
            "among the artifacts, once the launch has come to its end.",
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
        same = [r for r in self.records() if dict(r.params) == dict(values)]
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
        distributions = self._widened(distributions)
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

    def _widened(self, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        if self._choices is None:
            self._choices = Choices(self.records())
        return self._choices.widened(distributions)

    def importances(self) -> dict[str, float]:
        """Shares of 1 by parameter, the largest first; empty where there is too little to tell.

        PED-ANOVA, as Optuna Dashboard has it. Optuna itself gives equal shares where it found none.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = optuna.importance.get_param_importances(
                    self._with_one_list_of_choices(),
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    normalize=False,
                )
        except (ValueError, RuntimeError):
            return {}
        total = sum(found.values())
        if not math.isfinite(total) or total <= 0:
            return {}
        return {name: value / total for name, value in found.items()}

    def state_current(self, points: Iterable[Point], records: Iterable[TrialRecord]) -> None:
        """Which configuration cells stand for now, of those that have stood for several."""
        stood_for: dict[str, set[str]] = {}
        for record in records:
            stood_for.setdefault(record.cell, set()).add(record.cell_hash)
        current = {
            point.cell: {CELL_HASH: point.cell_hash, CONFIG: told(point.config)}
            for point in points
            if stood_for.get(point.cell, set()) - {point.cell_hash}
        }
        if current != self.info.attributes.get(CURRENT, {}):
            self.study.set_user_attr(CURRENT, current)
            attributes = {**self.info.attributes, CURRENT: current}
            self.info = dataclasses.replace(self.info, attributes=attributes)

    def _with_one_list_of_choices(self) -> optuna.Study:
        """The study itself, or where choices were added a copy in memory under the widest lists."""
        study = self.study
        if CHOICES_ADDED not in study.user_attrs:
            return study
        copy = optuna.create_study(direction=study.direction)
        for trial in study.get_trials(deepcopy=True):
            trial.distributions = self._widened(trial.distributions)
            if trial.state.is_finished():
                copy.add_trial(trial)
        return copy

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
        distributions = self._widened(distributions)
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
            system_attrs={},
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
        """What is known of a trial before it runs."""
        accounting = point.accounting
        return {
            CELL: point.cell,
            SEED: point.seed,
            CONFIG_HASH: point.config_hash,
            CELL_HASH: point.cell_hash,
            CONFIG: told(point.config),
            PARAMS_TOTAL: accounting.params_total,
            PARAMS_ACTIVE: accounting.params_active,
            FLOPS_PER_TOKEN: accounting.flops_per_token,
            NUM_STEPS: point.config.train.num_steps,
            BATCH_TOKENS: point.config.train.batch_tokens,
            **self._corpus_of(point),
        }

    def _corpus_of(self, point: Point) -> dict[str, Any]:
        if len(set(self.info.corpora.values())) < 2:
            return {}
        return {CORPUS: point.config.data.corpus, CORPUS_DIGEST: point.corpus_digest}

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
        for key, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, value)

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

    def set_state(self, trial_id: int, state: TrialState, value: float | None = None) -> None:
        values = None if value is None else [value]
        self._storage.set_trial_state_values(trial_id, state, values)


def _with_this(drivers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The code and versions of all drivers that worked on a launch, each once."""
    own = provenance()
    return drivers if own in drivers else [*drivers, own]


def _require_metric(launch: Launch, existing: Mapping[str, Any]) -> None:
    """Values of two metrics are neither ranked nor averaged together."""
    if existing and existing["metric"] != launch.study.metric:
        raise BadInput(
            f"a launch keeps the metric that it was begun with; {launch.name} is judged by "
            f"{existing['metric']}, received {launch.study.metric}. Put the metric back, or give "
            "the study another name: what is trained is not trained again."
        )


def _early_stopping(launch: Launch) -> dict[str, Any] | None:
    stopping = launch.study.early_stopping
    if stopping is None:
        return None
    lengths = sorted({point.config.train.num_steps for point in typical_points(launch)})
    return {**stopping.as_attributes(), "num_steps": lengths}
