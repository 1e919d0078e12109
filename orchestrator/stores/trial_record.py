"""A trial as the record of the search has it: the one form that every reader and writer shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from moe.code_digest import trains_as
from moe.identity import told
from moe.metrics import DEVICE_S as COST
from orchestrator.stores.optuna_private import trial_id_of
from orchestrator.study.launch import Point

# Optuna tells of every study that is made, a sampler's own in memory too: no news for a user. Set
# here, since whoever speaks to Optuna knows this module.
optuna.logging.set_verbosity(optuna.logging.WARNING)

# User attributes of an Optuna trial.
CELL = "cell"
SEED = "seed"
CORPUS = "corpus"  # of a trial whose launch has several; else the launch says it
CORPUS_DIGEST = "corpus_digest"
CONFIG_HASH = "config_hash"
CELL_HASH = "cell_hash"
CONFIG = "config"  # what tells its configuration from others; absent before December 2026
RUN_ID = "mlflow.run_id"
RUN_LINK = "mlflow.link"
PARAMS_TOTAL = "params_total"
PARAMS_ACTIVE = "params_active"
FLOPS_PER_TOKEN = "flops_per_token"
NUM_STEPS = "num_steps"  # of the trial's own config, as is the next: cells may differ in both
BATCH_TOKENS = "batch_tokens"
METRICS = "metrics"
TOKENS = "tokens"
WORKERS = "workers"  # that train it, or did last; one where it is not said
WORKERS_BEFORE = "workers.before"  # how far it came with how many others, where it lost nodes
DEVICE_S = "device_s"  # of a trial that did not complete; one that did has it in its metrics
ERROR = "error"
ATTEMPT = "attempt"
REUSED_FROM = "reused_from"
MOE_DIGEST = "moe_digest"
COMMIT = "git.commit"
# What it was trained with and on (moe.train.machine, which needs torch): no part of its identity.
TORCH, PROCESSOR = MACHINE = ("torch", "processor")
ORIGIN = "origin"
ORIGIN_TRIAL = "origin.trial"  # of an imported one: its first search, and its number there
ORIGIN_LAUNCH = "origin.launch"
ORIGIN_FILE = "origin.file_sha256"
DIVERGED_AT = "diverged_at_step"
UPCYCLED_TOKENS = "upcycled.tokens"  # that the dense trial cost, which it started from
CHECKPOINT_PLACE = "checkpoint_place"  # without credentials; absent where it is the home

STATES = ("complete", "pruned", "failed", "running", "waiting")

STATE_OF = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
MLFLOW_STATUS_OF = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "running": "RUNNING",
    "waiting": "SCHEDULED",
}
FINISHED_STATES = ("complete", "pruned", "failed")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    number: int
    trial_id: int
    state: str
    cell: str
    seed: int
    config_hash: str
    cell_hash: str
    run_id: str | None
    value: float | None
    tokens: int
    params: Mapping[str, Any]
    error: str | None
    attempt: int
    attributes: Mapping[str, Any]
    curve: Mapping[int, float] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    is_older: bool = False  # of a configuration that its study had before: judged by nothing
    asked_as: str = ""  # the cell's name then, of one that is older
    judged_value: float | None = None
    is_on_test: bool = False
    violates: str = ""  # which constraints, of a complete one, by the mean over its point's seeds
    values: tuple[float, ...] = ()  # of all objectives, where its study has several

    @property
    def metrics(self) -> Mapping[str, float]:
        """Final metrics; empty unless the trial is complete."""
        return self.attributes.get(METRICS, {}) if self.state == "complete" else {}

    @property
    def final(self) -> float | None:
        """What tables and claims go by: `value`, which a search improves, or where `is_on_test` the
        same measure on the test split."""
        return self.judged_value if self.is_on_test else self.value

    @property
    def corpus(self) -> str | None:
        """CORPUS SPEC of its text; None where its launch has one corpus."""
        return self.attributes.get(CORPUS)

    @property
    def corpus_digest(self) -> str | None:
        """What trials must share for their losses to compare; None as `corpus`."""
        return self.attributes.get(CORPUS_DIGEST)

    @property
    def is_reused(self) -> bool:
        """Completed from another launch's result: nothing was spent on it here."""
        return bool(self.attributes.get(REUSED_FROM))

    @property
    def reason(self) -> str:
        """Why it failed, or whose result it has; empty for a trial that just ran."""
        source = self.attributes.get(REUSED_FROM)
        return self.error or (f"reused from run {source}" if source else "")

    @property
    def device_s(self) -> float:
        """Seconds times workers over all attempts, as far as the record has them."""
        if self.is_reused:
            return 0.0
        final = self.attributes.get(METRICS) or {}
        return float(self.attributes.get(DEVICE_S) or final.get(COST) or 0.0)

    def tokens_trained(self, batch_tokens: int) -> int:
        """In this launch, so far; `batch_tokens` are a step's where the record does not say so."""
        if self.is_reused:
            return 0
        if self.state in FINISHED_STATES and self.tokens:
            return self.tokens
        of_a_step = self.batch_tokens or batch_tokens
        return max(self.tokens, max(self.curve, default=0) * of_a_step)

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The values of its configuration that are not their axis's default, by path."""
        return self.attributes.get(CONFIG)

    @property
    def code(self) -> str:
        """What results are pooled by: the code that trained this one, whatever way it was written.
        Empty of a trial that never started."""
        return trains_as(self.attributes.get(MOE_DIGEST) or "")

    @property
    def diverged(self) -> bool:
        """Whether it failed because its loss left the range of what training allows."""
        return self.state == "failed" and self.attributes.get(DIVERGED_AT) is not None

    @property
    def num_steps(self) -> int | None:
        """Steps of a whole run of it; None in launches of before 2026-11-25 that moved no steps."""
        return self.attributes.get(NUM_STEPS) or self.params.get("train.num_steps")

    @property
    def batch_tokens(self) -> int | None:
        """Tokens of a step; None as above."""
        return self.attributes.get(BATCH_TOKENS) or self.params.get("train.batch_tokens")

    @property
    def code_digest(self) -> str:
        """Digest of the code that finished the trial (the last, where it changed under the run)."""
        return (self.attributes.get(MOE_DIGEST) or "").rpartition("+")[2]

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        attributes = dict(trial.user_attrs)  # a journal's own dicts change as it is written
        values = tuple(trial.values or ()) if trial.state == TrialState.COMPLETE else ()
        return cls(
            number=trial.number,
            trial_id=trial_id_of(trial),
            state=STATE_OF[trial.state],
            cell=attributes[CELL],
            seed=attributes[SEED],
            config_hash=attributes[CONFIG_HASH],
            cell_hash=attributes[CELL_HASH],
            run_id=attributes.get(RUN_ID),
            value=values[0] if values else None,
            values=values if len(values) > 1 else (),
            tokens=attributes.get(TOKENS) or 0,
            params=trial.params,
            error=attributes.get(ERROR) if trial.state == TrialState.FAIL else None,
            attempt=attributes.get(ATTEMPT, 0),
            attributes=attributes,
            curve=dict(trial.intermediate_values),
            distributions=trial.distributions,
            started=trial.datetime_start,
            ended=trial.datetime_complete,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": self.state,
            "cell": self.cell,
            "seed": self.seed,
            "config_hash": self.config_hash,
            "mlflow_run_id": self.run_id,
            "value": self.value,
            **({"values": list(self.values)} if self.values else {}),
            "tokens": self.tokens,
            "params": dict(self.params),
            "error": self.error,
            "device_s": self.device_s,
            "reused_from": self.attributes.get(REUSED_FROM),
        }


def attributes_of(point: Point, *, with_corpus: bool) -> dict[str, Any]:
    """What is known of a trial before it runs; its corpus only where its launch has several."""
    accounting = point.accounting
    corpus = {CORPUS: point.config.data.corpus, CORPUS_DIGEST: point.corpus_digest}
    return {
        CELL: point.cell,
        SEED: point.seed,
        CONFIG_HASH: point.config_hash,
        CELL_HASH: point.cell_hash,
        CONFIG: told(point.config),
        PARAMS_TOTAL: accounting.params_total,
        PARAMS_ACTIVE: accounting.params_active,
        FLOPS_PER_TOKEN: accounting.flops_per_token,
        NUM_STEPS: point.config.train.num_steps,
        BATCH_TOKENS: point.config.train.batch_tokens,
        **(corpus if with_corpus else {}),
    }


def count_states(records: list[TrialRecord]) -> dict[str, int]:
    counts = dict.fromkeys(STATES, 0)
    for record in records:
        counts[record.state] += 1
    return counts
