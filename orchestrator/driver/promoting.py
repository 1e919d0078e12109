"""Points that early stopping ended, to be trained to their end: noted with the launch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from moe.code_digest import moe_digest, trains_as
from orchestrator.base.home import Home
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.driver_lock import driver_locks
from orchestrator.stores.optuna_launches import PROMOTED, launches_in
from orchestrator.stores.optuna_storage import open_storage, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.trials.trained_again import promotable


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """`step`: the last that all of its seeds came to. `anew`: why it begins from nothing where it
    does."""

    cell: str
    seeds: tuple[int, ...]
    step: int
    anew: str | None

    def line(self) -> str:
        seeds = f"seeds {', '.join(map(str, self.seeds))}"
        if self.anew:
            return f"{self.cell} ({seeds}) will be trained from its first step: {self.anew}"
        return (
            f"{self.cell} ({seeds}) will go on from its checkpoint; it was stopped at {self.step}"
        )

    def as_json(self) -> dict[str, Any]:
        return {"cell": self.cell, "seeds": self.seeds, "step": self.step, "anew": self.anew}


def promote(
    launch: LaunchRecords, cells: Sequence[str], home: Home, optuna_storage: str | None
) -> list[Promoted]:
    """Raises BadInput where one of the cells cannot be promoted, LaunchHeld where a driver is at
    work: nothing is noted then."""
    found = promotable(launch.trials, cells)
    url = home.optuna_storage if optuna_storage is None else optuna_storage
    with ExitStack() as stack:
        stack.enter_context(trouble_named(url))
        for lock in driver_locks(home, url, launch.info.name):
            stack.enter_context(lock)
        storage = open_storage(url, create=False)
        info = next(one for one in launches_in(storage) if one.name == launch.info.name)
        points = {trials[0].cell_hash for trials in found}
        known = info.attributes.get(PROMOTED, ())
        OptunaTrials(storage, info).keep(PROMOTED, sorted({*known, *points}))
    return [_promoted(trials) for trials in found]


def _promoted(trials: Sequence[TrialRecord]) -> Promoted:
    curves = [set(record.curve) for record in trials]
    return Promoted(
        cell=trials[0].cell,
        seeds=tuple(sorted(record.seed for record in trials)),
        step=max(set.intersection(*curves), default=0),
        anew=_why_anew(trials),
    )


def _why_anew(trials: Sequence[TrialRecord]) -> str | None:
    """None also where checkpoints were kept elsewhere: `run --checkpoint-uri` finds them."""
    if any(record.code and record.code != trains_as(moe_digest()) for record in trials):
        return "other code trained what there is"
    return None
