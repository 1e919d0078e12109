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
from typing import Any

from moe.metrics import DEVICE_S
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.launch import Launch, Point
from orchestrator.trials.trial_table import Trials

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
    """None is no limit. `..._before` is what another launch spent for this one, and counts as a
    part of it: the tuning of its cells."""

    tokens: int | None = None
    device_s: float | None = None
    tokens_before: int = 0
    device_s_before: float = 0.0

    @property
    def any(self) -> bool:
        return self.tokens is not None or self.device_s is not None


def spent(records: Iterable[TrialRecord], launch: Launch) -> dict[str, float]:
    records = list(records)
    batch_tokens = launch.base.train.batch_tokens
    return {
        "tokens": sum(record.tokens_trained(batch_tokens) for record in records),
        "device_s": sum(record.device_s for record in records),
    }


class Spending:
    """One launch's limits against what its trials have spent."""

    def __init__(
        self, limits: Limits, trials: Trials, *, workers: int, now: Clock = time.monotonic
    ) -> None:
        self.limits = limits
        self._trials = trials
        self.workers = workers  # of each trial that runs
        self._now = now
        self._heard: dict[int, tuple[float, float]] = {}  # device seconds and clock, when last told
        self._heard_s = self._heard_at = 0.0  # sums of these
        self._lost: dict[int, float] = {}  # device seconds of trials whose process is gone

    def heard(self, number: int, metrics: Mapping[str, Any] | None = None) -> None:
        """A trial begins to run, or reports its device seconds."""
        known = self._lost.get(number, self._trials[number].device_s)
        self.ended(number)
        spent, at = float((metrics or {}).get(DEVICE_S) or known), self._now()
        self._heard[number] = (spent, at)
        self._heard_s += spent
        self._heard_at += at

    def ended(self, number: int) -> None:
        """A trial does not run any more: what it has spent is in its record."""
        self._lost.pop(number, None)
        spent, at = self._heard.pop(number, (0.0, 0.0))
        self._heard_s -= spent
        self._heard_at -= at

    def lost(self, number: int) -> None:
        """A trial's process is gone: while it waits to be started again it spends nothing."""
        spent = self.device_s_of(self._trials[number])
        self.ended(number)
        self._lost[number] = spent

    @property
    def device_s_spent(self) -> float:
        """Running trials have also spent what passed since they were last heard of."""
        passed = len(self._heard) * self._now() - self._heard_at
        running = self._heard_s + passed * self.workers + sum(self._lost.values())
        return self.limits.device_s_before + self._trials.device_s_at_rest + running

    def device_s_of(self, record: TrialRecord) -> float:
        if record.number not in self._heard:
            return self._lost.get(record.number, record.device_s)
        spent, heard = self._heard[record.number]
        return spent + (self._now() - heard) * self.workers

    def why_not(self, record: TrialRecord, point: Point) -> str | None:
        """Why a waiting trial may not start, beside those that have begun and will be run to their
        end; None where it may."""
        if (reason := self.exhausted()) or self.limits.tokens is None:
            return reason
        rest = point.tokens - self._trials.tokens_of(record)
        taken = self.limits.tokens_before + self._trials.tokens_committed
        if taken + rest <= self.limits.tokens:
            return None
        return (
            f"--max-tokens {self.limits.tokens:,}: {taken:,} are spent, and the next trial "
            f"needs {rest:,}"
        )

    def exhausted(self) -> str | None:
        """Why running trials are to end now; None while they may go on."""
        limit = self.limits.device_s
        if limit is not None and (spent := self.device_s_spent) >= limit:
            return f"--max-device-hours {limit / 3600:g}: {spent / 3600:.4g} device-hours are spent"
        return None
