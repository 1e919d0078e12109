"""What a sampler is shown of a launch: a bounded part of its trials, of each corpus by itself."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from moe.metrics import VAL_LOSS, describe
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.stores.violations import excesses
from orchestrator.study.constraints import Constraint
from orchestrator.study.corpora import CORPUS_PATH
from orchestrator.study.samplers import Sampler


class BoundedHistory:
    """What the sampler is shown: the best quarter and the newest of the judged trials, and the
    newest that run or wait.

    Kept up to date as trials change, so that no suggestion looks through all of them, and a matter
    of which trials there are, not of the order in which they ended: a restarted driver draws what
    the dead one would have drawn. TPE takes at most 25 trials as the good ones: the best quarter
    keeps that side whole. One that violates a constraint is among the best after all that do not,
    the least violation first. Of several objectives the best are those that no other trial
    dominates, the newest half of the limit where they are more. A trial that diverged is as bad as
    can be; one that failed otherwise says nothing about its point. benchmarks/study_scale.py
    measures what the bound costs.
    """

    def __init__(
        self,
        limit: int = Sampler.history_limit,
        *,
        metric: str = VAL_LOSS,
        constraints: Sequence[Constraint] = (),
        objectives: Sequence[str] = (),
    ) -> None:
        self._limit = limit
        self._constraints = constraints
        self._cost = describe(metric).cost
        self._costs = [describe(name).cost for name in objectives]
        self._front: dict[int, tuple[float, ...]] = {}  # costs, of several objectives
        self._unfinished: dict[int, TrialRecord] = {}
        self._judged: dict[int, TrialRecord] = {}
        self._newest: list[int] = []  # numbers, ascending
        self._best: list[tuple[float, float, int]] = []  # violation, cost, number; best first

    def note(self, record: TrialRecord) -> None:
        """Takes a trial as it is now."""
        self._unfinished.pop(record.number, None)
        if record.state in ("running", "waiting"):
            self._unfinished[record.number] = record
        elif record.state == "pruned" and record.attempt == 0:
            pass  # a seed that was never started, of a point that its other seeds tell of
        elif record.state in ("complete", "pruned") or record.diverged:
            self._judge(record)

    def _judge(self, record: TrialRecord) -> None:
        number = record.number
        if number in self._judged:
            return
        self._judged[number] = record
        bisect.insort(self._newest, number)
        del self._newest[: -self._limit]
        if record.state == "complete" and self._costs:
            self._to_front(record)
        elif record.state == "complete":
            over = sum(max(0.0, e) for e in excesses(record.metrics, self._constraints))
            bisect.insort(self._best, (over, self._cost(record.value), number))
            del self._best[self._limit // 4 :]

    def _to_front(self, record: TrialRecord) -> None:
        costs = tuple(c(v) for c, v in zip(self._costs, record.values, strict=True))
        if not any(_dominates(other, costs) for other in self._front.values()):
            kept = {n: c for n, c in self._front.items() if not _dominates(costs, c)}
            self._front = {**kept, record.number: costs}

    def records(self) -> list[TrialRecord]:
        best = {number for _, _, number in self._best}
        best |= set(sorted(self._front)[-self._limit // 2 :])
        room = self._limit - len(best)
        newest = [number for number in self._newest if number not in best][-room:]
        running = sorted(self._unfinished)[-self._limit :]
        return [self._judged[n] for n in sorted([*best, *newest])] + [
            self._unfinished[n] for n in running
        ]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


class SearchHistory:
    """A bounded history of each corpus that points may have: losses on different text do not
    compare, so that each is searched by itself."""

    def __init__(
        self,
        limit: int,
        *,
        metric: str,
        objectives: Sequence[str] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._limit = limit
        self._told = {"metric": metric, "objectives": objectives, "constraints": constraints}
        self._of: dict[str | None, BoundedHistory] = {}

    def note(self, record: TrialRecord) -> None:
        corpus = record.params.get(CORPUS_PATH)
        if corpus not in self._of:
            self._of[corpus] = BoundedHistory(self._limit, **self._told)
        self._of[corpus].note(record)

    def records(self) -> list[TrialRecord]:
        return [record for history in self._of.values() for record in history.records()]
