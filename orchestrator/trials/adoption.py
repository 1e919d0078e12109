"""A trial that came to its end in another home, written whole into both stores of this one.

The second writer beside the ledger, for what needs no point of a study's file. The order of writes
is the ledger's: what MLflow is to have is in the outbox before Optuna is told of an end. The trial
itself appears in Optuna in one write, so that a kill before it leaves a run that no trial knows:
`reconcile` removes it, and the same import goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from orchestrator.stores.finished_run import FinishedRun
from orchestrator.stores.mlflow_runs import MlflowRuns
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import ORIGIN_TRIAL, RUN_ID, RUN_LINK, TrialRecord


def adopt(
    search: OptunaTrials,
    tracking: MlflowRuns,
    trial: FrozenTrial,
    run: FinishedRun,
    *,
    key: str,
    origin: Mapping[str, str],
    config: str | None,
    artifacts: Sequence[tuple[str, str | None]] = (),
    waiting: TrialRecord | None = None,
) -> None:
    """`key` names the trial in every home; `origin` are tags that say where it comes from.

    With `waiting`, a trial of this home that was to find out the same takes the result, from then
    on with the times at which it did.
    """
    if waiting is not None and waiting.run_id:
        tracking.discard(waiting.run_id)  # of an attempt that came to no end here
    number = search.next_number() if waiting is None else waiting.number
    tags = {ORIGIN_TRIAL: key, **origin}
    run_id = tracking.adopt_run(run, number=number, tags=tags, config=config, artifacts=artifacts)
    attributes = {**trial.user_attrs, **tags, RUN_ID: run_id, RUN_LINK: tracking.link(run_id)}
    if waiting is None:
        search.add_finished(trial, attributes)
        return
    search.set_state(waiting.trial_id, TrialState.RUNNING)
    for step, value in sorted(trial.intermediate_values.items()):
        search.report(waiting.trial_id, step, value)
    search.set_attributes(waiting.trial_id, attributes)
    search.set_state(waiting.trial_id, trial.state, trial.values)
