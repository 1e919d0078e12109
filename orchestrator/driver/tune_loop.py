"""Hands what is missing of a launch to Ray Tune. Idempotent: what is done is not done again."""

from __future__ import annotations

import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from moe.code_digest import moe_digest
from orchestrator.base.checkpoint_place import run_name
from orchestrator.base.errors import StudyError
from orchestrator.cluster import capacity, connection
from orchestrator.cluster.connection import Resources
from orchestrator.driver.session import Session
from orchestrator.stores.run_requests import StoreUnavailable
from orchestrator.stores.trial_record import CHECKPOINT_PLACE, UPCYCLED_TOKENS, TrialRecord
from orchestrator.trials.ledger import Assignment


def run(session: Session) -> None:
    """Returns when nothing is left to run, or after an interruption (`session.interrupted`)."""
    options = session.options
    try:
        with _interruptible(session):
            first = _next(session)
            if first is None:
                return
            with connection.connected(options.address, cpus=options.cpus):
                capacity.require_fits(session.granted[-1])
                _tune_while_nodes_are_lost(session, first)
    except KeyboardInterrupt:
        session.interrupted = True
    finally:
        shutil.rmtree(options.home.tune, ignore_errors=True)


def _next(session: Session) -> Assignment | None:
    try:
        return session.ledger.next()
    except StoreUnavailable as error:
        raise StudyError(f"{error}. Once it answers, the same command goes on.") from None


def _tune_while_nodes_are_lost(session: Session, first: Assignment | None) -> None:
    """Again with fewer workers each time that the room for more is lost for good."""
    from orchestrator.driver import elastic

    choices = session.granted
    if len(choices) > 1 and not capacity.may_grow():
        fitting = elastic.held(choices) or choices[0]
        first = _with_fewer(session, choices[0], fitting, first)
        choices = choices[choices.index(fitting) :]
    while first is not None:
        fewer = _tune(session, first, choices)
        if fewer is None:
            return
        shutil.rmtree(session.options.home.tune, ignore_errors=True)
        first = _with_fewer(session, choices[0], fewer, None)
        choices = choices[choices.index(fewer) :]


def _with_fewer(
    session: Session, before: Resources, now: Resources, first: Assignment | None
) -> Assignment | None:
    """The trial to begin with, under so many workers."""
    if before.workers == now.workers:
        return first
    session.tell(
        f"the cluster's nodes hold {now}, not {before.workers}: trials go on with these "
        "(--min-workers)"
    )
    session.ledger.go_on_with(now.workers)
    return _next(session)


def _tune(session: Session, first: Assignment, choices: Sequence[Resources]) -> Resources | None:
    """With the first of the choices. Returns another one where that is all that is left."""
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    from orchestrator.cluster import driver_heartbeat
    from orchestrator.cluster.holders import waiting_line
    from orchestrator.cluster.token_transfer import this_node, token_source
    from orchestrator.driver.elastic import LostRoom
    from orchestrator.driver.trial_actors import shares_actors, trainable
    from orchestrator.driver.tune_adapters import (
        LedgerCallback,
        LedgerSearcher,
        StopWhen,
        make_scheduler,
        number_of,
    )
    from orchestrator.driver.waiting import WaitingNotice
    from orchestrator.driver.worker import Job

    options, resources = session.options, choices[0]
    home, place, rule = options.home, options.place, session.launch.study.early_stopping
    driver_node = this_node() if options.address else None
    shared = shares_actors(session.launch, resources)
    source = f"moe-study-tokens-{uuid.uuid4().hex}" if options.address else None

    def make_job(assignment: Assignment) -> Job:
        config, record = assignment.point.config, assignment.record
        if place.name != record.attributes.get(CHECKPOINT_PLACE, str(home.checkpoints)):
            session.ledger.annotate(record.number, {CHECKPOINT_PLACE: place.name})
        start = session.dense_runs.get(config.moe.starts_from)
        if start is not None:
            session.ledger.annotate(record.number, {UPCYCLED_TOKENS: start.tokens})
        return Job(
            number=record.number,
            study=session.launch.study.name,
            cell=assignment.point.cell,
            config=config.to_dict(),
            tokens=str(session.tokens.of(assignment.point)),
            out=run_name(record.config_hash, moe_digest()),
            workers=resources.workers,
            threads=resources.cpus_per_worker,
            device=resources.device,
            compile=resources.compile,
            shard=resources.shard,
            checkpoint_every=config.train.eval_every,
            rungs=rule.rungs(config.train.num_steps) if rule else (),
            heartbeat=heartbeat_name,
            driver_node=driver_node,
            token_source=source,
            marker=session.marker,
            dense=None if start is None else start.run,
            system_metrics=options.system_metrics,
            alone=not shared,
        )

    def run_folder(record: TrialRecord) -> Path | None:
        folder = home.run_folder(record.config_hash, moe_digest())
        if place.is_home:
            return folder
        return place.copy_to_driver(place.run_folder(record.config_hash, moe_digest()), folder)

    searcher = LedgerSearcher(
        session.ledger, make_job, first=first, may_start=lambda: session.tracking.reachable
    )
    callback = LedgerCallback(session.ledger, run_folder)

    def failure() -> StudyError | None:
        return searcher.failure or callback.failure

    def waits(seconds: float) -> None:
        session.tell(capacity.lacking_line(resources) or waiting_line(resources, seconds))

    room = LostRoom(choices)
    watching = [WaitingNotice(waits)] if options.address else []
    tuner = tune.Tuner(
        trainable(session.launch, resources, place),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(session.launch, session.ledger),
            num_samples=-1,
            max_concurrent_trials=options.concurrency,
            reuse_actors=shared,
            trial_dirname_creator=lambda trial: f"{number_of(trial)}-{trial.trial_id}",
        ),
        run_config=RunConfig(
            storage_path=str(options.home.tune),
            name="trials",
            failure_config=FailureConfig(max_failures=options.max_failures),
            callbacks=[callback, *watching, *([room] if len(choices) > 1 else [])],
            stop=StopWhen(
                lambda: (
                    session.interrupted
                    or failure() is not None
                    or session.is_spent()
                    or room.fewer is not None
                )
            ),
            verbose=0,
        ),
    )
    tokens = token_source(home.tokens, source) if source else nullcontext()
    # A cluster that this driver started itself ends with it.
    heartbeat = driver_heartbeat.heartbeat() if options.address else nullcontext("")
    with heartbeat as heartbeat_name, tokens:
        tuner.fit()
    if (failed := failure()) is not None:
        raise failed
    return None if session.interrupted or session.is_spent() else room.fewer


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends all trials in order, a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        if session.interrupted:
            raise KeyboardInterrupt
        session.interrupted = True
        session.say("stopping; press Ctrl-C again to stop at once")

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
