"""How fast this home's earlier trials went: what `plan` tells of time."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of one worker for a FLOP, and how many trials say so."""

    seconds_per_flop: float
    trials: int


def pace_of(url: str, *, scale: str) -> Pace | None:
    """The median over a record's complete trials at one scale: other sizes go at other speeds.

    None where there are none. Raises StudyError where the record cannot be read.
    """
    storage = storage_if_any(url)
    if storage is None:
        return None
    with trouble_named(url):
        found = [
            record.device_s / (record.tokens * record.attributes[FLOPS_PER_TOKEN])
            for info in launches_in(storage)
            if info.attributes["scale"] == scale
            for record in OptunaTrials(storage, info).records()
            if record.state == "complete" and record.tokens and record.device_s
        ]
    if not found:
        return None
    return Pace(seconds_per_flop=statistics.median(found), trials=len(found))
