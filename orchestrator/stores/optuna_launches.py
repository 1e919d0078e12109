"""The launches of a storage, each one study of Optuna, whose user attributes say what it is.

They are what readers know of a launch without its study file or corpus.
"""

from __future__ import annotations

import dataclasses
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from moe.identity import told
from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import provenance
from orchestrator.stores.optuna_private import known_tables, study_id_of
from orchestrator.stores.optuna_sql import ids_in
from orchestrator.stores.trial_record import CELL_HASH, CONFIG, TrialRecord
from orchestrator.study.chosen_values import TUNED, Choices
from orchestrator.study.constraints import CONSTRAINTS, constraints_of, listed
from orchestrator.study.launch import Launch, Point
from orchestrator.study.objectives import directions_of
from orchestrator.study.plan import typical_points
from orchestrator.study.registration import register

# User attributes of an Optuna study: the identity of a launch, for those who only read.
LAUNCH_ATTRIBUTES = ("study", "scale", "corpus", "corpus_digest", "overrides")
STARTED_AT = "started_at"
BASE = "base"  # of a sampled study, what tells its base from others (moe.identity.told)
CURRENT = "current"  # of cells that stood for several configurations: the one now asked for
LABELS_KEPT = "labels_kept"  # absent of launches whose tokens keep all labels apart
NUISANCE = "nuisance"  # axes tuned within each design; absent where there are none
OBJECTIVES = "objectives"  # absent where there is one, the metric
REGISTRATIONS = "registrations"  # what the study claimed, and since when
WARM_START = "warm_start"  # what its sampler was told of earlier launches, by their names:
TOLD_TRIALS, TOLD_COSTS = "trials", "costs"  # config hashes of trials, and what these came to
TOLD_EXCESS = "excess"  # over each of the launch's constraints; absent of before 2026-11-27
LADDER = "ladder"  # of an upper rung: where its points come from, and which they are
POINTS_ASKED = "points_asked"  # of a search: how many points the last driver was to come to
PROMOTED = "promoted"  # points that are trained to their end though early stopping ended them
RECOMMENDATION = "recommendation"  # what `recommend` came to (orchestrator.report)
OWNER = "owner"
DRIVERS = "drivers"

_WITHIN = " Trials are ranked within a corpus: a loss on one text says nothing about another."


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
    def objectives(self) -> tuple[str, ...]:
        """What a search improves at once, the metric first; empty where that is all."""
        return tuple(self.attributes.get(OBJECTIVES) or ())

    @property
    def nuisance(self) -> tuple[str, ...]:
        """Axes that are tuned within each design of a search and are never its answer; empty too of
        launches that were last run before 2026-11-27."""
        return tuple(self.attributes.get(NUISANCE) or ())

    @property
    def corpora(self) -> Mapping[str, str]:
        """Digest of each corpus that its trials train on, by CORPUS SPEC."""
        one = {self.attributes["corpus"]: self.attributes["corpus_digest"]}
        return self.attributes.get("corpora") or one


def launches_in(storage: BaseStorage) -> list[LaunchInfo]:
    """Launches in a storage, the most recently started last; other studies are left alone."""
    found = [
        LaunchInfo(study_id=study_id_of(s), name=s.study_name, attributes=s.user_attrs)
        for s in storage.get_all_studies()
        if {*LAUNCH_ATTRIBUTES, STARTED_AT} <= set(s.user_attrs)
    ]
    return sorted(found, key=lambda info: info.attributes[STARTED_AT])


def open_launch(
    storage: BaseStorage, launch: Launch, *, now: datetime, reusable: int = 0
) -> LaunchInfo:
    """Creates the launch's study, or loads it; study attributes are brought up to date. `reusable`:
    results of it that the storage has of other launches."""
    known = launches_in(storage)
    existing = next((info.attributes for info in known if info.name == launch.name), {})
    _require_metric(launch, existing)
    _require_constraints(launch, existing)
    # The launch started last is the one that readers mean, also where a clock was set back.
    others = (i.attributes[STARTED_AT] for i in known if i.name != launch.name)
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
        CONSTRAINTS: [one.as_attributes() for one in launch.study.constraints] or None,
        "sampler": None if launch.study.is_grid else str(launch.sampler),
    }
    if not launch.draws:  # the record keeps who drew its points, and how many were to come
        attributes |= {k: existing[k] for k in ("sampler", POINTS_ASKED) if k in existing}
    elif not launch.study.is_grid and launch.rung_below is None:
        attributes[POINTS_ASKED] = launch.trials
    if launch.study.objectives:
        attributes[OBJECTIVES] = list(launch.study.objectives)
    if launch.study.nuisance or NUISANCE in existing:
        attributes[NUISANCE] = list(launch.study.nuisance)
    decided = (WARM_START, LADDER, PROMOTED, TUNED, RECOMMENDATION)
    attributes |= {key: existing[key] for key in decided if key in existing}
    if TUNED in attributes and not launch.study.tune:
        attributes[TUNED] = None  # its cells are as the study has them again
    attributes[REGISTRATIONS] = _registered(storage, known, launch, now=now, reusable=reusable)
    directions = directions_of(launch.study.objectives or [launch.study.metric])
    return _study_with(storage, launch.name, directions, attributes)


def _registered(
    storage: BaseStorage,
    known: Iterable[LaunchInfo],
    launch: Launch,
    *,
    now: datetime,
    reusable: int,
) -> list[dict[str, Any]]:
    """What the study claims, beside what it claimed before."""
    info = next((info for info in known if info.name == launch.name), None)
    history = (info.attributes.get(REGISTRATIONS) or []) if info else []
    results = _count_complete(storage, info.study_id) if info else 0
    return register(history, launch.study, launch.seeds, now=now, results=max(results, reusable))


def _count_complete(storage: BaseStorage, study_id: int) -> int:
    """Optuna's own `get_n_trials` reads the trials whole: 14 s of 10,000."""
    engine = known_tables(storage)
    if engine is None:
        return storage.get_n_trials(study_id, state=TrialState.COMPLETE)
    return len(ids_in(engine, study_id, TrialState.COMPLETE))


def open_imported(
    storage: BaseStorage, name: str, directions: Sequence[str], attributes: Mapping[str, Any]
) -> LaunchInfo:
    """The study of a launch that comes from another home: made, or, where this home has one,
    told which code worked on it elsewhere. It stays as new as it is."""
    existing = next((info.attributes for info in launches_in(storage) if info.name == name), None)
    if existing is None:
        own = {**attributes, OWNER: uuid.uuid4().hex[:12]}
    else:
        known = existing.get(DRIVERS, [])
        others = [d for d in attributes.get(DRIVERS, []) if d not in known]
        own = {**existing, DRIVERS: [*known, *others]}
        own |= {TUNED: _joined(existing, attributes)} if attributes.get(TUNED) else {}
    return _study_with(storage, name, directions, own)


def _joined(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen for a launch's cells in two homes; `import` refuses where they differ."""
    ours, theirs = Choices.of(here), Choices.of(there)
    assert theirs is not None
    if ours is None:
        return theirs.as_json()
    return dataclasses.replace(ours, cells={**theirs.cells, **ours.cells}).as_json()


def _study_with(
    storage: BaseStorage, name: str, directions: Sequence[str], attributes: Mapping[str, Any]
) -> LaunchInfo:
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        directions=list(directions),
        sampler=optuna.samplers.RandomSampler(),
    )
    names = attributes.get(OBJECTIVES) or [attributes["metric"]]
    if study.metric_names != names:
        with warnings.catch_warnings():
            # Experimental since Optuna 3.2, and what the dashboard labels its plots with.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
    for key, value in attributes.items():
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    info = LaunchInfo(study_id=study_id_of(study), name=name, attributes=attributes)
    write_note(study, info)
    return info


def state_current(
    storage: BaseStorage,
    info: LaunchInfo,
    points: Iterable[Point],
    records: Iterable[TrialRecord],
) -> LaunchInfo:
    """The launch, told which configuration cells stand for now, of those that have stood for
    several."""
    stood_for: dict[str, set[str]] = {}
    for record in records:
        stood_for.setdefault(record.cell, set()).add(record.cell_hash)
    current = {
        point.cell: {CELL_HASH: point.cell_hash, CONFIG: told(point.config)}
        for point in points
        if stood_for.get(point.cell, set()) - {point.cell_hash}
    }
    if current == info.attributes.get(CURRENT, {}):
        return info
    storage.set_study_user_attr(info.study_id, CURRENT, current)
    return dataclasses.replace(info, attributes={**info.attributes, CURRENT: current})


def write_note(
    study: optuna.Study,
    info: LaunchInfo,
    *,
    verdicts: str = "",
    importance: str = "",
    violating: str = "",
) -> None:
    """What the launch's page in Optuna Dashboard says of it; `verdicts`, `importance` (how far its
    chart of importances is to be believed) and `violating` (which points violate its constraints)
    are markdown."""
    from optuna_dashboard import save_note  # slow to import, and readers do without it

    of = info.attributes
    origin = "".join(line + "\n\n" for line in origin_lines(of))
    save_note(
        study,
        f"**{of['question']}**\n\nBaseline: {of['baseline']}. "
        f"Held fixed: {of['held_fixed']}\n\n"
        f"Scale {of['scale']}, corpus {of['corpus']} ({of['corpus_digest']})."
        f"{_WITHIN if len(set(info.corpora.values())) > 1 else ''}\n\n"
        f"{_bounded(info, violating)}"
        f"{origin}"
        f"{verdicts}"
        f"{importance}"
        "The metric against training FLOPs stands among the plots, and the figures and the report "
        "among the artifacts, once the launch has come to its end.",
    )


def _bounded(info: LaunchInfo, violating: str) -> str:
    constraints = constraints_of(info.attributes)
    if not constraints:
        return ""
    return (
        f"Constraints: {listed(constraints)}. A point is judged by the mean over its seeds; the "
        f"charts here mark each trial by its own values. {violating}\n\n"
    )


def origin_lines(attributes: Mapping[str, Any]) -> list[str]:
    """Where a launch's points come from, if not from its study or its own search alone."""
    lines = []
    if (choices := Choices.of(attributes)) is not None:
        lines += choices.sentences()
    if told := attributes.get(WARM_START):
        named = ", ".join(f"{name} ({len(of[TOLD_TRIALS])} trials)" for name, of in told.items())
        lines.append(
            f"Warm start: the sampler was told of {named}; none of these trials counts here."
        )
    if climbed := attributes.get(LADDER):
        over = "".join(f" Passed over: {line}." for line in climbed["passed_over"])
        lines.append(
            f"Ladder: its points are the best of {climbed['from']}, fixed before any was trained "
            f"here.{over}"
        )
    return lines


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
    before = tuple(existing.get(OBJECTIVES) or ()) if existing else launch.study.objectives
    if before != launch.study.objectives:
        raise BadInput(
            f"a launch keeps the objectives that it was begun with; {launch.name} has "
            f"{', '.join(before) or 'one, its metric'}, received "
            f"{', '.join(launch.study.objectives) or 'none'}. Put them back, or give the study "
            "another name: what is trained is not trained again."
        )


def _require_constraints(launch: Launch, existing: Mapping[str, Any]) -> None:
    """What Optuna has of a trial's constraints cannot change once it has ended."""
    if not existing:
        return
    before, now = constraints_of(existing), launch.study.constraints
    if set(before) != set(now):
        raise BadInput(
            f"a launch keeps the constraints that it was begun with; {launch.name} has "
            f"{listed(before) or 'none'}, received {listed(now) or 'none'}. Put them back, or give "
            "the study another name: what is trained is not trained again."
        )


def _early_stopping(launch: Launch) -> dict[str, Any] | None:
    stopping = launch.study.early_stopping
    if stopping is None:
        return None
    lengths = sorted({point.config.train.num_steps for point in typical_points(launch)})
    return {**stopping.as_attributes(), "num_steps": lengths}
