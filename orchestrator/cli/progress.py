"""What a run shows while it runs: trials by state, the best value, tokens a second, time left.

On a terminal one live display; elsewhere (a log, a pipe) one line as each trial ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from moe.metrics import TOKENS, TOKENS_PER_S, VAL_LOSS, Metric, describe
from orchestrator.stores.trial_record import FINISHED_STATES, STATES, TrialRecord, count_states
from orchestrator.trials.ledger import Ledger

_COLOURS = {
    "complete": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}


class RunProgress:
    """A listener of the ledger. Use as a context around the run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ledger: Ledger | None = None
        self._measure: Metric = describe(VAL_LOSS)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=None, left="-")
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)
        self._speed: dict[int, float] = {}
        self._done: dict[int, int] = {}
        self._began = time.monotonic()
        self._finished_before = 0

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def preparing(self, documents: int, size_bytes: int) -> None:
        text = f"preparing tokens: {documents} documents, {size_bytes / 1e6:.0f} MB"
        self._bar.update(self._task, description=text)

    def planned(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._measure = ledger.measure
        finished = [r for r in ledger.trials if r.state in FINISHED_STATES]
        self._finished_before = len(finished)
        self._began = time.monotonic()
        self._bar.update(self._task, description="trials")
        if not self._console.is_terminal:
            reused = ledger.queue.num_reusable
            known = f", {reused} trained before in this home" if reused else ""
            self.say(f"{ledger.queue.expected} trials, {len(finished)} of them done{known}")

    def __call__(self, record: TrialRecord, metrics: Mapping[str, Any] | None) -> None:
        if metrics is not None:
            self._speed[record.number] = metrics.get(TOKENS_PER_S, 0.0)
            self._done[record.number] = int(metrics.get(TOKENS, 0))
        if record.state in FINISHED_STATES:
            self._speed.pop(record.number, None)
            if not self._console.is_terminal:
                self.say(self._line(record))

    def _line(self, record: TrialRecord) -> str:
        value = f" {self._measure.name} {record.value:.4f}" if record.value is not None else ""
        reason = f" ({record.reason})" if record.reason else ""
        return (
            f"trial {record.number} {record.cell} seed {record.seed}: {record.state}{value}{reason}"
        )

    def __rich__(self) -> Group:
        if self._ledger is None:
            return Group(self._bar)
        records = list(self._ledger.trials)
        counts = count_states(records)
        finished = sum(counts[state] for state in FINISHED_STATES)
        expected = self._ledger.queue.expected
        self._bar.update(
            self._task, completed=finished, total=expected, left=self._left(finished, expected)
        )
        states = Text("  ").join(
            Text(f"{state} {counts[state]}", style=_COLOURS[state]) for state in STATES
        )
        complete = [r for r in records if r.value is not None]
        best = min(complete, key=lambda r: self._measure.cost(r.value), default=None)
        speed = sum(self._speed.values())
        if speed > 0:
            states.append(f"   {speed / 1e3:.1f}k tokens/s")
        if best is not None:
            states.append(f"   best {best.value:.4f} ({best.cell})")
        return Group(self._bar, states)

    def _left(self, finished: int, expected: int) -> str:
        done = finished - self._finished_before
        if done < 1:
            return "-"
        seconds = (time.monotonic() - self._began) / done * (expected - finished)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
