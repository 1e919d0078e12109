"""How a driver leaves a launch: nothing runs on, both stores say the same, files are delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.urls import redact
from orchestrator.report.table_files import write_environment, write_registration, write_table
from orchestrator.stores.optuna_launches import REGISTRATIONS
from orchestrator.stores.parent_run import STOPPED_BY

if TYPE_CHECKING:
    from orchestrator.driver.session import Session


def leave(session: Session) -> None:
    ledger, tracking = session.ledger, session.tracking
    try:
        ledger.release_running()
        for why in filter(None, (ledger.queue.exhausted, ledger.queue.not_found)):
            session.tell(why)
        if (left_out := session.left_out) is not None and not session.interrupted:
            session.tell(str(left_out))
            tracking.set_tags(tracking.parent_run_id, {STOPPED_BY: str(left_out)})
        folder = session.parent_folder
        files = [*write_table(session.table(), folder), write_environment(folder)]
        if history := session.search.info.attributes.get(REGISTRATIONS):
            files.append(write_registration(history, folder))
        for path in files:
            tracking.log_artifact(tracking.parent_run_id, path)
    finally:  # a store or disk that fails here must not keep the outbox from being delivered
        try:
            delivered = tracking.close("KILLED" if session.interrupted else "FINISHED")
        except KeyboardInterrupt:  # a second one, while MLflow is waited for
            session.interrupted, delivered = True, False
        for line in tracking.rejected:
            session.tell(f"MLflow refused {line}")
        session.undelivered = not delivered or bool(tracking.rejected)
        if session.undelivered:
            session.tell(_how_to_deliver(session))


def _how_to_deliver(session: Session) -> str:
    uri = session.options.mlflow_uri
    return (
        f"metrics are not yet in MLflow; {session.tracking.outbox_path} keeps them. Once it is "
        f"back: moe-study deliver --home {session.options.home.root}"
        + (f" --mlflow-uri {redact(uri)}" if uri else "")
    )
