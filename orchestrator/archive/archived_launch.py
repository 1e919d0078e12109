"""A launch as its export has it: trials as Optuna knows them, runs as MLflow does.

`records_of` makes of it what tables, claims, figures and the report read, without a home.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from orchestrator.archive import container
from orchestrator.archive.merged_analysis import merged_analysis
from orchestrator.base.home import Home
from orchestrator.base.whole_files import whole
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.finished_run import FinishedRun
from orchestrator.stores.optuna_launches import (
    LAUNCH_ATTRIBUTES,
    OBJECTIVES,
    OWNER,
    STARTED_AT,
    LaunchInfo,
)
from orchestrator.stores.optuna_private import study_id_of
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import (
    CELL,
    CELL_HASH,
    CONFIG_HASH,
    FLOPS_PER_TOKEN,
    ORIGIN_TRIAL,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    SEED,
)
from orchestrator.study.chosen_values import Choices

# A point of a curve in MLflow: which trial, metric, step, when it was first written, value.
CURVE_SCHEMA = pa.schema(
    [
        ("trial", pa.int32()),
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("value", pa.float64()),
    ]
)
ANALYSIS = "analysis/"
_NEEDED = {CELL, SEED, CONFIG_HASH, CELL_HASH, PARAMS_TOTAL, PARAMS_ACTIVE, FLOPS_PER_TOKEN}
_ATTRIBUTES = (
    *LAUNCH_ATTRIBUTES,
    *("metric", "sampled", "question", "baseline", "held_fixed", OWNER, STARTED_AT),
)
_STATES = {state.name for state in TrialState}


@dataclass(frozen=True, kw_only=True)
class ArchivedTrial:
    """`key` names it in every home: the search that it was first part of, and its number there."""

    key: str
    trial: FrozenTrial
    run: FinishedRun | None
    config: str | None


@dataclass(frozen=True, kw_only=True)
class AskedStudy:
    name: str
    question: str
    baseline: str
    held_fixed: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class ArchivedLaunch:
    """`files` are of a home, by their path in it: routing arrays, configs, rows of `analyze`."""

    name: str
    directions: list[str]  # of the metric, or of each objective
    attributes: Mapping[str, Any]
    trials: list[ArchivedTrial]
    files: Mapping[str, bytes]
    digest: str = ""

    # What the tracking side asks of a launch (`parent_run.NamedLaunch`).

    @property
    def study(self) -> AskedStudy:
        of = self.attributes
        return AskedStudy(
            name=of["study"],
            question=of["question"],
            baseline=of["baseline"],
            held_fixed=of["held_fixed"],
            metric=of["metric"],
        )

    @property
    def scale(self) -> str:
        return self.attributes["scale"]

    @property
    def corpus_text(self) -> str:
        return self.attributes["corpus"]

    @property
    def corpus_digest(self) -> str | None:
        return self.attributes["corpus_digest"]


def pack(launch: ArchivedLaunch) -> dict[str, bytes]:
    """The members of the launch's file."""
    head = {
        "format": container.FORMAT,
        "version": container.VERSION,
        "launch": launch.name,
        **_directions_to_json(launch.directions),
        "attributes": dict(launch.attributes),
    }
    lines = [container.as_json(_trial_to_json(trial)) for trial in launch.trials]
    return {
        container.LAUNCH: container.as_json(head),
        container.TRIALS: b"".join(line + b"\n" for line in lines),
        container.CURVES: _curves(launch.trials),
        **{container.HOME + name: content for name, content in launch.files.items()},
    }


def read(path: Path) -> ArchivedLaunch:
    """Raises BadInput on a file that is damaged or foreign, naming what is wrong."""
    members, digest = container.read(path)
    try:
        head = json.loads(members[container.LAUNCH])
        points = _read_curves(members[container.CURVES])
        lines = members[container.TRIALS].decode().splitlines()
        trials = [_trial_from_json(json.loads(line), points) for line in lines]
        launch = ArchivedLaunch(
            name=head["launch"],
            directions=head["directions"] if "directions" in head else [head["direction"]],
            attributes=head["attributes"],
            trials=trials,
            files={
                name.removeprefix(container.HOME): content
                for name, content in members.items()
                if name.startswith(container.HOME)
            },
            digest=digest,
        )
        _require_whole(launch)
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise container.refused(path, f"{type(error).__name__}: {error}") from None
    return launch


@contextmanager
def records_of(launch: ArchivedLaunch) -> Iterator[LaunchRecords]:
    """What readers of a home read, from a storage in memory and a folder that goes again."""
    search = _in_memory(launch)
    with TemporaryDirectory() as folder:
        home = Home(Path(folder))
        unpack_files(launch, home)
        yield LaunchRecords.of(home, search.info, search.records(), search)


def _in_memory(launch: ArchivedLaunch) -> OptunaTrials:
    """Raises ValueError on trials that Optuna would not have."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=launch.name, directions=launch.directions
    )
    for key, value in launch.attributes.items():
        study.set_user_attr(key, value)
    for archived in launch.trials:
        study.add_trial(archived.trial)
    attributes = dict(launch.attributes)
    return OptunaTrials(
        storage, LaunchInfo(study_id=study_id_of(study), name=launch.name, attributes=attributes)
    )


def unpack_files(launch: ArchivedLaunch, home: Home) -> None:
    """Each is whole when it appears. What the home has already stays; of `analyze` it gets the
    trials that it lacks."""
    for name, content in launch.files.items():
        path = _place_of(name, home)
        if path.exists():
            if not name.startswith(ANALYSIS):
                continue
            content = merged_analysis(path, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_bytes(content)


def _place_of(name: str, home: Home) -> Path:
    """A run's folder is named by its code, which this code may know under an earlier digest."""
    match name.split("/"):
        case ["checkpoints", config_hash, digest, file]:
            return home.run_folder(config_hash, digest) / file
    return home.root / name


def _require_whole(launch: ArchivedLaunch) -> None:
    """Raises ValueError where something is missing that every launch has."""
    if unknown := set(launch.directions) - {"minimize", "maximize"}:
        raise ValueError(f"its direction is {', '.join(map(repr, unknown))}")
    if len(launch.directions) != len(launch.attributes.get(OBJECTIVES) or ["metric"]):
        raise ValueError("it has other objectives than directions")
    if missing := set(_ATTRIBUTES) - launch.attributes.keys():
        raise ValueError(f"the launch has no {', '.join(sorted(missing))}")
    Choices.of(launch.attributes)
    keys = [archived.key for archived in launch.trials]
    if len(set(keys)) != len(keys):
        raise ValueError("a trial is in it twice")
    for archived in launch.trials:
        trial = archived.trial
        if missing := _NEEDED - trial.user_attrs.keys():
            raise ValueError(f"trial {trial.number} has no {', '.join(sorted(missing))}")
        finite = [value for value in trial.values or () if math.isfinite(value)]
        if trial.state == TrialState.COMPLETE and len(finite) != len(launch.directions):
            raise ValueError(f"trial {trial.number} is complete without a finite value")
        if trial.state.is_finished() and archived.run is None:
            raise ValueError(f"trial {trial.number} has ended and has no run")
    _in_memory(launch)


def _directions_to_json(directions: Sequence[str]) -> dict[str, Any]:
    return {"direction": directions[0]} if len(directions) == 1 else {"directions": directions}


def _values_to_json(values: Sequence[float | None]) -> dict[str, Any]:
    return {"value": values[0]} if len(values) == 1 else {"values": values}


def _values_from_json(line: Mapping[str, Any]) -> list[float] | None:
    values = line["values"] if "values" in line else [line["value"]]
    return None if values == [None] else values


def _trial_to_json(archived: ArchivedTrial) -> dict[str, Any]:
    trial, run = archived.trial, archived.run
    return {
        "key": archived.key,
        "number": trial.number,
        "state": trial.state.name,
        **_values_to_json(trial.values or [None]),
        "params": trial.params,
        "distributions": {
            name: json.loads(distribution_to_json(distribution))
            for name, distribution in trial.distributions.items()
        },
        "attributes": trial.user_attrs,
        "curve": sorted(trial.intermediate_values.items()),
        "started": _to_text(trial.datetime_start),
        "ended": _to_text(trial.datetime_complete),
        "config": archived.config,
        "run": run
        and {
            "name": run.name,
            "status": run.status,
            "start_ms": run.start_ms,
            "end_ms": run.end_ms,
            "tags": dict(run.tags),
            "params": dict(run.params),
            "datasets": run.datasets,
        },
    }


def _trial_from_json(
    line: dict[str, Any], points: Mapping[int, list[tuple[str, float, int, int]]]
) -> ArchivedTrial:
    state = TrialState[line["state"]] if line["state"] in _STATES else None
    if state is None:
        raise ValueError(f"a trial has the state {line['state']!r}")
    trial = FrozenTrial(
        number=line["number"],
        state=state,
        value=None,
        values=_values_from_json(line),
        datetime_start=_from_text(line["started"]),
        datetime_complete=_from_text(line["ended"]),
        params=line["params"],
        distributions={
            name: json_to_distribution(json.dumps(kept))
            for name, kept in line["distributions"].items()
        },
        user_attrs=line["attributes"],
        system_attrs={},
        intermediate_values={int(step): value for step, value in line["curve"]},
        trial_id=line["number"],
    )
    run = line["run"] and FinishedRun(**line["run"], points=points.get(trial.number, []))
    return ArchivedTrial(key=line["key"], trial=trial, run=run, config=line["config"])


def _curves(trials: list[ArchivedTrial]) -> bytes:
    """Sorted, so that equal curves are equal bytes and neighbours alike compress well."""
    rows = sorted(
        (metric, archived.trial.number, step, timestamp_ms, value)
        for archived in trials
        if archived.run
        for metric, value, timestamp_ms, step in archived.run.points
    )
    metrics, numbers, steps, stamps, values = zip(*rows, strict=True) if rows else ([],) * 5
    table = pa.table(
        {
            "trial": pa.array(numbers, pa.int32()),
            "metric": pa.array(metrics, pa.string()).dictionary_encode(),
            "step": pa.array(steps, pa.int64()),
            "timestamp_ms": pa.array(stamps, pa.int64()),
            "value": pa.array(values, pa.float64()),
        },
    ).cast(CURVE_SCHEMA)
    stream = io.BytesIO()
    pq.write_table(
        table,
        stream,
        compression="zstd",
        compression_level=19,
        use_dictionary=["metric", "trial", "step"],
        column_encoding={"timestamp_ms": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
    )
    return stream.getvalue()


def _read_curves(content: bytes) -> dict[int, list[tuple[str, float, int, int]]]:
    """By trial, in the order of their writing."""
    columns = pq.read_table(io.BytesIO(content)).cast(CURVE_SCHEMA).to_pydict()
    found: dict[int, list[tuple[str, float, int, int]]] = {}
    for number, metric, step, timestamp_ms, value in zip(*columns.values(), strict=True):
        found.setdefault(number, []).append((metric, value, timestamp_ms, step))
    for points in found.values():
        points.sort(key=lambda point: (point[2], point[3], point[0]))
    return found


def _to_text(moment: datetime | None) -> str | None:
    """Optuna gives local time without a zone; a file is read in another one."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _from_text(text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)


def key_of(trial: FrozenTrial, owner: str) -> str:
    """Of a trial of the search `owner`; an imported one keeps the name of its origin."""
    return trial.user_attrs.get(ORIGIN_TRIAL) or f"{owner}/{trial.number}"
