"""The launch of a file, taken into a home: both stores have it then as if it had been run here.

Everything that can be refused is refused before anything is made. What the home has already is not
taken again, so that the same import goes on after a kill, and homes' seeds of one launch merge.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.archive.archived_launch import (
    ArchivedLaunch,
    ArchivedTrial,
    key_of,
    unpack_files,
)
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.base.run_files import artifacts_in
from orchestrator.stores.driver_lock import driver_locks
from orchestrator.stores.mlflow_client import connect, quiet
from orchestrator.stores.mlflow_client import require_usable as require_tracking
from orchestrator.stores.mlflow_private import database_of
from orchestrator.stores.mlflow_runs import MlflowRuns, absence_named
from orchestrator.stores.moved_home import settle
from orchestrator.stores.optuna_launches import (
    LABELS_KEPT,
    OBJECTIVES,
    OWNER,
    LaunchInfo,
    launches_in,
    open_imported,
)
from orchestrator.stores.optuna_private import relational
from orchestrator.stores.optuna_storage import (
    open_storage,
    require_usable,
    storage_if_any,
    trouble_named,
)
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.parent_run import require_not_deleted
from orchestrator.stores.sqlite_files import with_log
from orchestrator.stores.trial_record import (
    CONFIG_HASH,
    ORIGIN_FILE,
    ORIGIN_LAUNCH,
    STATE_OF,
    TrialRecord,
)
from orchestrator.study.chosen_values import Choices, values_text
from orchestrator.trials.adoption import adopt
from orchestrator.trials.reconcile import reconcile

# What a home has of a configuration, and what of the file says more.
_BETTER = {
    (TrialState.PRUNED, TrialState.COMPLETE),
    (TrialState.FAIL, TrialState.COMPLETE),
    (TrialState.FAIL, TrialState.PRUNED),
}


@dataclass(kw_only=True)
class Imported:
    """`known` are trials that this home had already, `waiting` those that wait here now."""

    taken: int = 0
    waiting: int = 0
    known: int = 0
    undelivered: bool = False


def import_launch(
    launch: ArchivedLaunch,
    home: Home,
    *,
    optuna_storage: str | None = None,
    mlflow_uri: str | None = None,
    say: Callable[[str], None],
) -> Imported:
    """Raises BadInput before anything is created, LaunchHeld where a driver is at work, and
    StudyError where a store goes away: the same command goes on then."""
    storage_url = home.optuna_storage if optuna_storage is None else optuna_storage
    uri = home.mlflow_uri if mlflow_uri is None else mlflow_uri
    quiet()
    home.require_writable()
    require_usable(storage_url)
    require_tracking(uri)
    _require_fits(launch, storage_url)
    with ExitStack() as stack:
        stack.enter_context(home.made())
        stack.enter_context(trouble_named(storage_url))
        for lock in driver_locks(home, storage_url, launch.name):
            stack.enter_context(lock)
        for line in settle(home):
            say(line)
        client = connect(uri)
        with absence_named(client):
            require_not_deleted(client, launch)
        storage = open_storage(storage_url, create=True)
        for url, engine in ((storage_url, relational(storage)), (uri, database_of(client))):
            if engine is not None and url.startswith("sqlite:///"):
                file = Path(url.removeprefix("sqlite:///"))
                stack.enter_context(with_log(file, let_go=engine.dispose))
        info = open_imported(storage, launch.name, launch.directions, launch.attributes)
        search = OptunaTrials(storage, info)
        tracking = MlflowRuns.open(
            client, launch, home, owner=search.info.attributes[OWNER], uri=uri
        )
        done = False
        try:
            for line in reconcile(search, tracking, metric=launch.attributes["metric"]):
                say(line)
            tracking.begin()
            unpack_files(launch, home)
            imported = _take(launch, home, search, tracking, say)
            done = True
        finally:
            delivered = tracking.close("FINISHED" if done else "KILLED")
        imported.undelivered = not delivered or bool(tracking.rejected)
        return imported


def _take(
    launch: ArchivedLaunch,
    home: Home,
    search: OptunaTrials,
    tracking: MlflowRuns,
    say: Callable[[str], None],
) -> Imported:
    own = search.info.attributes[OWNER]
    here = {key_of(trial, own): trial for trial in search.trials()}
    records = {record.number: record for record in search.records()}
    coming = {archived.key for archived in launch.trials}
    # By configuration: what was found out here, or comes from a third home.
    ended: dict[str, FrozenTrial] = {}
    waiting: dict[str, TrialRecord] = {}
    for key, trial in here.items():
        if trial.state.is_finished() and key not in coming:
            best = ended.get(trial.user_attrs[CONFIG_HASH])
            if best is None or trial.state == TrialState.COMPLETE:
                ended[trial.user_attrs[CONFIG_HASH]] = trial
        elif not trial.state.is_finished():
            waiting[trial.user_attrs[CONFIG_HASH]] = records[trial.number]
    planned = {trial.user_attrs[CONFIG_HASH] for trial in here.values()}
    origin = {ORIGIN_LAUNCH: launch.name, ORIGIN_FILE: launch.digest}
    done = Imported()
    for archived in launch.trials:
        trial, config_hash = archived.trial, archived.trial.user_attrs[CONFIG_HASH]
        if not trial.state.is_finished():
            if config_hash not in planned:
                search.add_finished(trial, trial.user_attrs)
                done.waiting += 1
            continue
        same = ended.get(config_hash)
        covered = same is not None and (same.state, trial.state) not in _BETTER
        if archived.key in here and here[archived.key].state.is_finished():
            done.known += 1
            continue
        if covered:
            done.known += 1
            say(_not_taken(archived, same))
            continue
        filled = waiting.pop(config_hash, None) if trial.state != TrialState.FAIL else None
        adopt(
            search,
            tracking,
            trial,
            archived.run,
            key=archived.key,
            origin=origin,
            config=archived.config,
            artifacts=_artifacts(home, archived),
            waiting=filled,
        )
        planned.add(config_hash)
        done.taken += 1
    return done


def _not_taken(archived: ArchivedTrial, same: FrozenTrial) -> str:
    trial = archived.trial
    return (
        f"{trial.user_attrs['cell']} seed {trial.user_attrs['seed']} is trial {same.number} here, "
        f"{STATE_OF[same.state]} already: {_shown(same)} here, {_shown(trial)} in the file"
    )


def _shown(trial: FrozenTrial) -> str:
    return ", ".join(map(str, trial.values)) if trial.values else STATE_OF[trial.state]


def _artifacts(home: Home, archived: ArchivedTrial) -> list[tuple[str, str]]:
    record = TrialRecord.of(archived.trial)
    return artifacts_in(home.run_folder(record.config_hash, record.code_digest))


def _require_fits(launch: ArchivedLaunch, storage_url: str) -> None:
    """Raises BadInput where this home has a launch of the same name that is another one."""
    found = _existing(launch.name, storage_url)
    if found is None:
        return
    storage, info = found
    for key in ("metric", OBJECTIVES, "scale", "corpus_digest", "sampled"):
        here, there = info.attributes.get(key), launch.attributes.get(key)
        if here != there:
            raise BadInput(
                f"launches of one name are one launch; {launch.name} has {key} {here!r} here and "
                f"{there!r} in the file. "
                "Import it into another --home."
            )
    _require_same_choices(launch, info)
    if bool(info.attributes.get(LABELS_KEPT, True)) != bool(
        launch.attributes.get(LABELS_KEPT, True)
    ):
        raise BadInput(
            f"one launch has one layout of its tokens; the trials of {launch.name} here and in the "
            "file keep other labels apart. Import it into another --home."
        )
    OptunaTrials(storage, info).require_same_space(archived.trial for archived in launch.trials)


def _require_same_choices(launch: ArchivedLaunch, info: LaunchInfo) -> None:
    """Raises BadInput where a cell was given other values there: its seeds are of two cells."""
    here, there = Choices.of(info.attributes), Choices.of(launch.attributes)
    for name in here.cells if here and there else ():
        ours, theirs = here.cells[name], there.cells.get(name)
        if theirs is not None and (ours.of, ours.values) != (theirs.of, theirs.values):
            raise BadInput(
                f"launches of one name are one launch, whose cells were tuned once; {launch.name} "
                f"has {name} with {values_text(ours.values)} here and "
                f"{values_text(theirs.values)} in the file, or chose it by other values or seeds. "
                "Import it into another --home."
            )


def _existing(name: str, storage_url: str) -> tuple[BaseStorage, LaunchInfo] | None:
    storage = storage_if_any(storage_url)
    if storage is None:
        return None
    with trouble_named(storage_url):
        infos = [info for info in launches_in(storage) if info.name == name]
    return (storage, infos[0]) if infos else None
