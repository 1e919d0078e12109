"""In one home the same configuration is never paid for twice: what other launches have finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

from optuna.storages import BaseStorage

from moe.code_digest import moe_digest, trains_as
from orchestrator.stores.optuna_launches import LABELS_KEPT, launches_in
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import (
    CHECKPOINT_PLACE,
    COMMIT,
    MACHINE,
    MOE_DIGEST,
    REUSED_FROM,
)
from orchestrator.study.launch import Launch


def laid_out_as_before(launch: Launch, storage: BaseStorage) -> Launch:
    """The launch on tokens laid out as earlier ones of this corpus have them here.

    Before the end of November 2026 no sequence mixed values of any label column. Where results of
    that layout are, a launch goes on with it: others could be neither continued nor shared. One
    that is here keeps its own, whatever was imported beside it.
    """
    same = {
        info.name: info.attributes
        for info in launches_in(storage)
        if info.attributes["corpus_digest"] == launch.corpus_digest
    }
    known = [same[launch.name]] if launch.name in same else same.values()
    before = any(of.get(LABELS_KEPT, True) for of in known)
    return launch.with_all_labels_apart() if before else launch


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A complete trial of another launch; `curve` holds values of that launch's `metric`."""

    launch: str
    run_id: str | None
    metrics: Mapping[str, float]
    metric: str
    curve: Mapping[int, float]
    ended_ms: int
    moe_digest: str
    commit: str | None
    machine: Mapping[str, str]
    checkpoint_place: str | None

    @property
    def last_step(self) -> int:
        return max(self.curve, default=0)


def finished_elsewhere(storage: BaseStorage, own_launch: str) -> dict[str, Finished]:
    """By config hash. Results of code that trains otherwise are left out: they are not the same."""
    found: dict[str, Finished] = {}
    code = trains_as(moe_digest())
    for info in launches_in(storage):
        if info.name == own_launch:
            continue
        for record in OptunaTrials(storage, info).records():
            paid_here = record.state == "complete" and not record.attributes.get(REUSED_FROM)
            if paid_here and record.code == code:
                found[record.config_hash] = Finished(
                    launch=info.name,
                    run_id=record.run_id,
                    metrics=record.metrics,
                    metric=info.attributes["metric"],
                    curve=record.curve,
                    ended_ms=int(record.ended.astimezone(UTC).timestamp() * 1000),
                    moe_digest=record.attributes[MOE_DIGEST],
                    commit=record.attributes.get(COMMIT),
                    machine={key: told for key in MACHINE if (told := record.attributes.get(key))},
                    checkpoint_place=record.attributes.get(CHECKPOINT_PLACE),
                )
    return found
