"""Hands what is missing of a launch to Ray Tune. Idempotent: what is done is not done again."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moe.identity import moe_digest
from orchestrator import cluster
from orchestrator.errors import StudyError, Unreachable
from orchestrator.ledger import Assignment
from orchestrator.session import Session
from orchestrator.tracking import LOOP_PATIENCE_S, Away


def run(session: Session) -> None:
    """Returns when nothing is left to run, or after an interruption (`session.interrupted`)."""
    options = session.options
    try:
        with _interruptible(session):
            try:
                first = session.ledger.next()
            except Away as error:
                raise Unreachable(f"{error}. Start it again, then run again.") from None
            if first is None:
                return
            with cluster.connected(options.address, cpus=options.cpus):
                cluster.require_fits(options.resources)
                _tune(session, first)
    except KeyboardInterrupt:
        session.interrupted = True
    finally:
        shutil.rmtree(options.home.tune, ignore_errors=True)


def _tune(session: Session, first: Assignment) -> None:
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    from orchestrator.driver import LedgerCallback, LedgerSearcher, StopWhen, make_scheduler
    from orchestrator.worker import Job, train_trial

    options, resources = session.options, session.options.resources

    def make_job(assignment: Assignment) -> Job:
        config = assignment.point.config
        return Job(
            number=assignment.record.number,
            config=config.to_dict(),
            tokens=str(session.tokens.of(assignment.point)),
            out=str(options.home.run_folder(assignment.record.config_hash, moe_digest())),
            workers=resources.workers,
            threads=resources.cpus_per_worker,
            device=resources.device,
            checkpoint_every=config.train.eval_every,
        )

    session.tracking.patience_s = LOOP_PATIENCE_S
    searcher = LedgerSearcher(
        session.ledger, make_job, first=first, may_start=lambda: session.tracking.reachable
    )
    callback = LedgerCallback(session.ledger)

    def failure() -> StudyError | None:
        return searcher.failure or callback.failure

    bundles = [resources.bundle for _ in range(resources.workers)]
    tune.Tuner(
        tune.with_resources(train_trial, tune.PlacementGroupFactory(bundles)),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(session.launch, session.ledger),
            num_samples=-1,
            max_concurrent_trials=options.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['job']['number']}",
        ),
        run_config=RunConfig(
            storage_path=str(options.home.tune),
            name="trials",
            failure_config=FailureConfig(max_failures=options.max_failures),
            callbacks=[callback],
            stop=StopWhen(lambda: session.interrupted or failure() is not None),
            verbose=0,
        ),
    ).fit()
    if (failed := failure()) is not None:
        raise failed


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
