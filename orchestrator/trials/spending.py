"""What a launch may cost, and what of it is spent: by the record of the search, earlier drivers'
trials included.

Tokens are known before a trial starts: it starts only if the budget holds all of it, and then ends.
Device time is known only as it passes: once it is spent, running trials are put back to waiting at
their last checkpoints. Either way the same command with a larger budget goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moe.metrics import DEVICE_S
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.launch import Launch, Point

if TYPE_CHECKING:
    from orchestrator.trials.ledger import Ledger

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a launch did not run because of its budget."""

    reason: str
    trials: list[int]
    trials_not_drawn: int

    def __str__(self) -> str:
        waiting = ", ".join(map(str, self.trials[:20])) + (", ..." if self.trials[20:] else "")
        drawn = f", and {self.trials_not_drawn} more are not drawn" * bool(self.trials_not_drawn)
        return (
            f"stopped by {self.reason}; trials {waiting or 'none'} wait{drawn}. The same command "
            "with a larger budget goes on"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None is no limit."""

    tokens: int | None = None
    device_s: float | None = None

    @property
    def any(self) -> bool:
        return self.tokens is not None or self.device_s is not None


def tokens_of(record: TrialRecord, batch_tokens: int) -> int:
    """Trained so far in this launch; `batch_tokens` are a step's where none are in the record."""
    if record.is_reused:
        return 0
    of_a_step = record.params.get("train.batch_tokens", batch_tokens)
    return max(record.tokens, max(record.curve, default=0) * of_a_step)


def spent(records: Iterable[TrialRecord], launch: Launch) -> dict[str, float]:
    records = list(records)
    batch_tokens = launch.base.train.batch_tokens
    return {
        "tokens": sum(tokens_of(record, batch_tokens) for record in records),
        "device_s": sum(record.device_s for record in records),
    }


def left_out_of(ledger: Ledger) -> LeftOut | None:
    """None where there is no budget, or it kept nothing from running."""
    budget = ledger.budget
    reason = budget and (budget.refused or budget.exhausted())
    unknown = {record.number for record in ledger.agenda.unknown}
    waiting = [
        record.number
        for record in ledger.records.values()
        if record.state == "waiting" and record.number not in unknown
    ]
    not_drawn = ledger.agenda.expected - len(ledger.records)
    if not reason or not (waiting or not_drawn):
        return None
    return LeftOut(reason=reason, trials=waiting, trials_not_drawn=not_drawn)


class Budget:
    """One launch's limits against its records, which the ledger keeps up to date."""

    def __init__(
        self,
        limits: Limits,
        records: Mapping[int, TrialRecord],
        *,
        workers: int,
        launch: Launch,
        now: Clock = time.monotonic,
    ) -> None:
        self.limits = limits
        self._records = records
        self._workers = workers
        self._batch_tokens = launch.base.train.batch_tokens
        self._now = now
        self._seen: dict[int, tuple[float, float]] = {}  # device seconds and clock, when last heard
        self.refused: str | None = None

    def heard(self, number: int, metrics: Mapping[str, Any] | None = None) -> None:
        """A running trial began, or reported its device seconds."""
        spent = float((metrics or {}).get(DEVICE_S) or self._records[number].device_s)
        self._seen[number] = (spent, self._now())

    @property
    def tokens_spent(self) -> int:
        """Trained so far; a running trial counts what it has reported."""
        return sum(self._tokens_so_far(record) for record in self._records.values())

    @property
    def device_s_spent(self) -> float:
        return sum(self.device_s_of(record) for record in self._records.values())

    def _tokens_so_far(self, record: TrialRecord) -> int:
        return tokens_of(record, self._batch_tokens)

    def device_s_of(self, record: TrialRecord) -> float:
        if record.state != "running" or record.number not in self._seen:
            return record.device_s
        spent, heard = self._seen[record.number]
        return spent + (self._now() - heard) * self._workers

    def admits(
        self, record: TrialRecord, point: Point, running: Iterable[tuple[int, Point]]
    ) -> bool:
        """Whether a waiting trial may start, beside those that run and will be run to their end.

        Why not stands in `refused`.
        """
        self.refused = self.exhausted()
        if self.refused or self.limits.tokens is None:
            return not self.refused
        still = sum(p.tokens - self._tokens_so_far(self._records[number]) for number, p in running)
        rest = point.tokens - self._tokens_so_far(record)
        taken = self.tokens_spent + still
        if taken + rest > self.limits.tokens:
            self.refused = (
                f"--max-tokens {self.limits.tokens:,}: {taken:,} are spent, and the next trial "
                f"needs {rest:,}"
            )
        return not self.refused

    def exhausted(self) -> str | None:
        """Why running trials are to end now; None while they may go on."""
        limit = self.limits.device_s
        if limit is not None and (spent := self.device_s_spent) >= limit:
            return f"--max-device-hours {limit / 3600:g}: {spent / 3600:.4g} device-hours are spent"
        return None
