"""One driver and many slots on a simulated clock: what a ledger's calls take, and what waits."""

from __future__ import annotations

import argparse
import heapq
import itertools
import statistics
import time
from collections import defaultdict
from types import SimpleNamespace

from simulated_study import entry_of

from moe.metrics import TOKENS
from orchestrator.driver.session import Session
from orchestrator.study.launch import Point


class Driven(SimpleNamespace):
    """Median seconds of a suggestion, a report and a trial handed out; the outbox's CPU seconds a
    simulated one; idle and offered slot-seconds."""


class Simulation:
    """One driver and many slots on a simulated clock that runs on by what the driver really took.

    A slot waits for its driver at each report, as a Tune function does, and between two trials.
    """

    def __init__(self, session: Session, options: argparse.Namespace) -> None:
        self.ledger = session.ledger
        self.reports = options.reports
        self.step_s = options.trial_s / options.reports
        self.took: dict[str, list[float]] = defaultdict(list)
        self.free_s = 0.0  # when the driver is done with what came before
        self._run_s = 0.0
        self.delivering_s = 0.0
        self._outbox = session.tracking._outbox
        deliver = self._outbox._deliver

        def timed_deliver(*args):
            before = time.thread_time()
            try:
                deliver(*args)
            finally:
                self.delivering_s += time.thread_time() - before

        self._outbox._deliver = timed_deliver
        session.tracking.create_run = self._timed(session.tracking.create_run)

    def _timed(self, create_run):
        def timed(*args, **kwargs):
            before = time.perf_counter()
            try:
                return create_run(*args, **kwargs)
            finally:
                self._run_s += time.perf_counter() - before

        return timed

    def _let_deliver(self) -> None:
        while self._outbox.file.undelivered_bytes:
            time.sleep(0.001)

    def _act(self, kind: str, at_s: float, action):
        begin_s = max(at_s, self.free_s)
        before = time.perf_counter()
        result = action()
        spent_s = time.perf_counter() - before
        self.took[kind].append(spent_s)
        self.free_s = begin_s + spent_s
        return result

    def run(self, count: int, slots: int) -> Driven:
        events: list[tuple[float, int, int, int]] = []
        order, started, last_start_s = itertools.count(), 0, 0.0
        ends_s: list[float] = []  # of each stretch of training, of `step_s` each
        points: dict[int, Point] = {}

        def start(at_s: float) -> None:
            nonlocal started, last_start_s
            if started == count:
                return
            self._let_deliver()
            self._run_s = 0.0
            assignment = self._act("hand_out", at_s, self.ledger.next)
            if assignment is None:
                return
            self.took["suggestion"].append(self.took["hand_out"][-1] - self._run_s)
            number = assignment.record.number
            self._act("start", self.free_s, lambda: self.ledger.started(number))
            points[number] = assignment.point
            started, last_start_s = started + 1, self.free_s
            heapq.heappush(events, (self.free_s + self.step_s, next(order), number, 0))

        for _ in range(min(slots, count)):
            start(0.0)
        while events:
            at_s, _, number, index = heapq.heappop(events)
            ends_s.append(at_s)
            entry = entry_of(points[number], index, self.reports, at_s)
            self._act("report", at_s, lambda n=number, e=entry: self.ledger.progressed(n, e))
            if index + 1 < self.reports:
                heapq.heappush(events, (self.free_s + self.step_s, next(order), number, index + 1))
                continue
            tokens = entry[TOKENS]
            self._act(
                "end",
                self.free_s,
                lambda n=number, e=entry, t=tokens: self.ledger.completed(n, e, tokens=t),
            )
            del points[number]
            start(self.free_s)
        # Until nothing was left to start: what follows is the study's end, not the driver's doing.
        busy_s = sum(max(0.0, min(e, last_start_s) - (e - self.step_s)) for e in ends_s)
        slot_s = min(slots, count) * last_start_s
        return Driven(
            suggestion=statistics.median(self.took["suggestion"]),
            report=statistics.median(self.took["report"]),
            hand_out=statistics.median(self.took["hand_out"]),
            outbox=self.delivering_s / self.free_s,
            slot_s=slot_s,
            idle_s=slot_s - busy_s,
        )
