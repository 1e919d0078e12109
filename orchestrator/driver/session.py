"""One driver's hold on a launch: its stores open, locked, reconciled, and left in a true state.

Everything that can be refused is refused before anything is created.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.provenance import git_state
from orchestrator.cluster import capacity, connection, nodes
from orchestrator.cluster.connection import Resources
from orchestrator.driver.cell_tuning import beside_tuning, keep_choices, require_unjudged, tuned
from orchestrator.driver.dense_runs import DenseRun, find_dense_runs
from orchestrator.driver.ladder import climbing, keep
from orchestrator.driver.leaving import leave
from orchestrator.driver.memory_admission import (
    has_memory,
    memory_here,
    memory_of_nodes,
    require_memory,
)
from orchestrator.driver.opening_lines import grown_lines, opening_lines
from orchestrator.driver.options import Options, allowed, require_folders, require_sane
from orchestrator.driver.prepared_corpora import Preparing, Tokens
from orchestrator.driver.recommending import Racer, require_no_race_seeds, require_raceable
from orchestrator.driver.until_decided import SeedAllocator, require_decidable
from orchestrator.report.allocation import Standing
from orchestrator.report.race import Race
from orchestrator.report.records import LaunchRecords
from orchestrator.report.tables import Table
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.driver_lock import driver_locks
from orchestrator.stores.mlflow_client import connect, quiet
from orchestrator.stores.mlflow_client import require_usable as require_tracking
from orchestrator.stores.mlflow_private import database_of
from orchestrator.stores.mlflow_runs import MlflowRuns, absence_named
from orchestrator.stores.moved_home import settle
from orchestrator.stores.optuna_launches import (
    OWNER,
    PROMOTED,
    REGISTRATIONS,
    LaunchInfo,
)
from orchestrator.stores.optuna_private import relational
from orchestrator.stores.optuna_storage import (
    open_storage,
    require_usable,
    storage_if_any,
    trouble_named,
)
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.parent_run import TAG_LIMIT, require_not_deleted
from orchestrator.stores.reuse import Finished, finished_elsewhere, laid_out_as_before
from orchestrator.stores.sqlite_files import with_log
from orchestrator.stores.trial_record import WORKERS, TrialRecord
from orchestrator.study.launch import Launch
from orchestrator.study.registration import tag_text
from orchestrator.trials.earlier_launches import warm_started
from orchestrator.trials.ledger import Ledger
from orchestrator.trials.reconcile import reconcile
from orchestrator.trials.spending import LeftOut
from orchestrator.trials.trained_again import TrainedAgain
from orchestrator.trials.trial_writer import Listener

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Session:
    launch: Launch
    options: Options
    info: LaunchInfo
    search: OptunaTrials
    ledger: Ledger
    tracking: MlflowRuns
    tokens: Tokens
    said: list[str]
    say: Say
    marker: str | None
    dense_runs: Mapping[str, DenseRun]
    granted: list[Resources]  # to a trial: what was asked for, then what else is allowed
    interrupted: bool = False
    undelivered: bool = False

    @property
    def records(self) -> list[TrialRecord]:
        return list(self.ledger.trials)

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        current = [r for r in self.records if not r.is_older]
        healed = {r.config_hash for r in current if r.state in ("complete", "pruned")}
        failed = {r.config_hash for r in current if r.state == "failed"} - healed
        return 1 if failed or self.undelivered or self.ledger.queue.not_found else 0

    def table(self) -> Table:
        return self.read().table(self.launch.study, self.analysis())

    def read(self) -> LaunchRecords:
        """The launch as its readers have it."""
        return LaunchRecords.of(self.options.home, self.search.info, self.records, self.search)

    def analysis(self) -> list[Mapping[str, Any]]:
        """Rows of `analyze`; a launch must end in order though their file is damaged."""
        try:
            return self.read().analysis()
        except BadInput as error:
            self.tell(str(error))
            return []

    @property
    def parent_folder(self) -> Path:
        """Where artifacts of the parent run wait until they are delivered."""
        folder = self.options.home.spool / f"parent-{self.tracking.parent_run_id}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def standings(self) -> list[Standing]:
        """Of a launch that runs until its claims are decided: where each stands, what it cost."""
        allocator = _more(self.launch, self.options, self.search.info)
        return allocator.standings(self.records) if isinstance(allocator, SeedAllocator) else []

    @property
    def race(self) -> Race | None:
        """Of a launch that is to end in a recommendation: how it stands."""
        racer = _more(self.launch, self.options, self.search.info)
        return racer.race(self.records) if isinstance(racer, Racer) else None

    def is_spent(self) -> bool:
        """Whether running trials are to end: the launch has no device time left."""
        return self.ledger.spending.exhausted() is not None

    @property
    def left_out(self) -> LeftOut | None:
        """What a budget kept from running; None where it kept nothing."""
        return self.ledger.left_out

    def tell(self, line: str) -> None:
        self.said.append(line)
        self.say(line)


@contextmanager
def opened(
    launch: Launch,
    options: Options,
    *,
    say: Say,
    listener: Listener | None = None,
    preparing: Preparing | None = None,
    start_cluster: bool = True,
) -> Iterator[Session]:
    """The launch, held. On leaving, whatever still runs is put back to waiting in both stores.

    Raises BadInput before anything is created, LaunchHeld where another driver is at work, and
    StudyError where a store goes away while the launch begins.
    """
    home = options.home
    storage_url = options.storage_url
    mlflow_uri = home.mlflow_uri if options.mlflow_uri is None else options.mlflow_uri
    quiet()
    # Torch makes this folder in /tmp as soon as an optimiser is built; workers inherit the setting.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.root / "torch-cache"))
    require_runnable(launch, options)
    home.require_writable()
    require_folders(options)
    require_usable(storage_url)
    require_tracking(mlflow_uri)
    if options.checkpoint_uri is not None:
        options.place.require_usable()
    launch, climb = climbing(launch, home, storage_url)
    launch, choices = tuned(launch, storage_url)
    worth_saying: list[str | None] = []
    granted = allowed(launch, options.resources)
    if start_cluster and options.address is None:
        connection.require_fits_here(options.resources, options.cpus or connection.local_cpus())
        memory = memory_here(options.resources)
        worth_saying.append(require_memory(launch, options.resources, memory))

    # What others trained is only taken in: nothing starts here.
    dense_runs = find_dense_runs(launch, storage_url, options.place) if start_cluster else {}
    with ExitStack() as stack:
        if options.address:
            stack.enter_context(connection.connected(options.address))
            memory = memory_of_nodes(options.resources)
            worth_saying.append(require_memory(launch, options.resources, memory))
            granted = [granted[0], *(g for g in granted[1:] if has_memory(launch, g, memory))]
            worth_saying.append(capacity.require_fits(granted[-1]))
        stack.enter_context(home.made())
        stack.enter_context(trouble_named(storage_url))
        for lock in driver_locks(home, storage_url, launch.name):
            stack.enter_context(lock)
        moved = settle(home)
        marker = _mark_place(launch, options) if options.address else None
        launch = _as_before(launch, storage_url)
        tokens = Tokens(launch, home, preparing)
        client = connect(mlflow_uri)
        with absence_named(client):
            require_not_deleted(client, launch)
        storage = open_storage(storage_url, create=True)
        for url, engine in ((storage_url, relational(storage)), (mlflow_uri, database_of(client))):
            if engine is not None and url.startswith("sqlite:///"):
                file = Path(url.removeprefix("sqlite:///"))
                stack.enter_context(with_log(file, let_go=engine.dispose))
        elsewhere = finished_elsewhere(storage, launch.name)
        search = OptunaTrials.open(
            storage, launch, now=datetime.now(UTC), reusable=_num_reusable(launch, elsewhere)
        )
        keep(climb, search)
        keep_choices(choices, search)
        if not options.recommending:  # which draws nothing
            launch = warm_started(launch, search, storage, home)
        added = search.added_choices(launch)
        owner = search.info.attributes[OWNER]
        tracking = MlflowRuns.open(client, launch, home, owner=owner, uri=mlflow_uri)
        try:
            mended = reconcile(search, tracking, metric=launch.study.metric)
            records = search.records()
            require_unjudged(launch, records)
            search.state_current(launch.points() if launch.study.is_grid else (), records)
            records = told_apart(records, search.info.attributes, home)
            session = Session(
                launch=launch,
                options=options,
                info=search.info,
                search=search,
                ledger=Ledger(
                    launch,
                    search,
                    tracking,
                    records=records,
                    finished_elsewhere=elsewhere,
                    run_tags=_run_tags(options.resources),
                    point_tags=tokens.tags_of,
                    again=_trained_again(options, search.info),
                    listener=listener,
                    say=say,
                    limits=beside_tuning(options.limits, choices),
                    workers=options.resources.workers,
                    more=_more(launch, options, search.info, elsewhere),
                ),
                tracking=tracking,
                tokens=tokens,
                said=[],
                say=say,
                marker=marker,
                dense_runs=dense_runs,
                granted=granted,
            )
            about = [
                *moved,
                *mended,
                *grown_lines(added),
                *opening_lines(session, storage),
                *filter(None, worth_saying),
            ]
            tracking.begin()
            if history := search.info.attributes.get(REGISTRATIONS):
                tracking.set_tags(
                    tracking.parent_run_id, {"registration": tag_text(history, TAG_LIMIT)}
                )
        except BaseException:
            tracking.abandon()
            raise
        try:
            for line in about:
                session.tell(line)
            yield session
        finally:
            leave(session)


def require_runnable(launch: Launch, options: Options) -> None:
    """Raises BadInput where a launch cannot be what its options ask."""
    require_sane(launch, options)
    require_no_race_seeds(launch)
    if options.until_decided:
        require_decidable(launch, options.claims)
    if options.recommending:
        require_raceable(launch)


def _more(
    launch: Launch, options: Options, info: LaunchInfo, elsewhere: Collection[str] = ()
) -> SeedAllocator | Racer | None:
    """Who asks for trials beyond those that are planned."""
    if options.recommending:
        return Racer(launch, options.home, info.attributes, options.recommending)
    if options.until_decided:
        return SeedAllocator(
            launch, options.home, info.attributes, only=options.claims, elsewhere=elsewhere
        )
    return None


def _trained_again(options: Options, info: LaunchInfo) -> TrainedAgain:
    promoted = frozenset(info.attributes.get(PROMOTED, ()))
    return TrainedAgain(failed=options.retry_failed, promoted=promoted)


def _num_reusable(launch: Launch, elsewhere: Mapping[str, Finished]) -> int:
    """Results of a grid that this home has already, and anyone may have seen."""
    if not (launch.study.is_grid and launch.study.claims):
        return 0
    return sum(point.config_hash in elsewhere for point in launch.points())


def _as_before(launch: Launch, storage_url: str) -> Launch:
    storage = storage_if_any(storage_url)
    if storage is None:
        return launch
    try:
        return laid_out_as_before(launch, storage)
    finally:
        if (engine := relational(storage)) is not None:
            engine.dispose()


def _mark_place(launch: Launch, options: Options) -> str:
    """Raises BadInput where a node of the cluster does not see where trials keep checkpoints."""
    place = options.place
    marker = nodes.mark(place, f"{options.home.root}/{launch.name}")
    nodes.require_place_on_nodes(place, marker)
    return marker


def _run_tags(resources: Resources) -> dict[str, str]:
    """What is not in a trial's identity, yet changes the last bits of its result."""
    return {
        WORKERS: str(resources.workers),
        "threads": str(resources.cpus_per_worker),
        "device": resources.device,
        "compiled": str(resources.compile).lower(),
        "sharded": str(resources.shard).lower(),
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **git_state(),
    }
