"""What a run shows while it runs: trials by state, the best value, tokens a second, time left.

On a terminal one live display, with the trials that run and how far each is; elsewhere (a log, a
pipe) one line as each trial ends, and one a minute in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from moe.metrics import TOKENS, TOKENS_PER_S, VAL_LOSS, Metric, describe
from orchestrator.report.tables import best_row
from orchestrator.stores.trial_record import (
    FINISHED_STATES,
    FLOPS_PER_TOKEN,
    STATES,
    TrialRecord,
    count_states,
)
from orchestrator.stores.violations import marked
from orchestrator.trials.ledger import Ledger

LINE_EVERY_S = 60.0
_RUNNING_SHOWN = 8
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
        self._done_before = 0.0
        self._said_at = self._began

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
        records, count = self._asked_now()
        finished = [r for r in records if r.state in FINISHED_STATES]
        self._done_before = sum(map(_flops, records))
        self._began = time.monotonic()
        self._bar.update(self._task, description="trials")
        if not self._console.is_terminal:
            reused = ledger.queue.num_reusable
            known = f", {reused} trained before in this home" if reused else ""
            self.say(f"{count} {'trial' if count == 1 else 'trials'}, {len(finished)} done{known}")

    def __call__(self, record: TrialRecord, metrics: Mapping[str, Any] | None) -> None:
        if metrics is not None:
            self._speed[record.number] = metrics.get(TOKENS_PER_S, 0.0)
            self._done[record.number] = int(metrics.get(TOKENS, 0))
        if record.state in FINISHED_STATES:
            self._speed.pop(record.number, None)
            if not self._console.is_terminal:
                self.say(self._line(record))
        elif not self._console.is_terminal and self._ledger is not None:
            now = time.monotonic()
            if now - self._said_at >= LINE_EVERY_S:
                self._said_at = now
                self.say(self._minute_line())

    def _asked_now(self) -> tuple[list[TrialRecord], int]:
        """Trials of the study as it is now, and how many there will be: those of configurations
        that it had before an edit are done with, and no part of this."""
        assert self._ledger is not None
        records = list(self._ledger.trials)
        own = [record for record in records if not record.is_older]
        return own, self._ledger.queue.expected - (len(records) - len(own))

    def _minute_line(self) -> str:
        """The time, how many trials are done, which run and how far, and the time left."""
        records, expected = self._asked_now()
        finished = sum(r.state in FINISHED_STATES for r in records)
        running = ", ".join(_how_far(r) for r in records if r.state == "running") or "none"
        left = self._left(records, expected)
        done = f"{finished} of {expected} done"
        return f"{time.strftime('%H:%M')} {done}; running: {running}; left {left}"

    def _line(self, record: TrialRecord) -> str:
        value = f" {self._measure.name} {record.value:.4f}" if record.value is not None else ""
        reason = f" ({record.reason})" if record.reason else ""
        return (
            f"trial {record.number} {record.cell} seed {record.seed}: {record.state}{value}{reason}"
        )

    def __rich__(self) -> Group:
        if self._ledger is None:
            return Group(self._bar)
        records, expected = self._asked_now()
        counts = count_states(records)
        finished = sum(counts[state] for state in FINISHED_STATES)
        self._bar.update(
            self._task, completed=finished, total=expected, left=self._left(records, expected)
        )
        states = Text("  ").join(
            Text(f"{state} {counts[state]}", style=_COLOURS[state]) for state in STATES
        )
        of_corpus: dict[str | None, list[TrialRecord]] = {}  # whose losses do not compare
        for record in records:
            of_corpus.setdefault(record.corpus_digest, []).append(record)
        speed = sum(self._speed.values())
        if speed > 0:
            states.append(f"   {speed / 1e3:.1f}k tokens/s")
        for own in of_corpus.values():
            own = marked(own, self._ledger.constraints)
            if (best := best_row(own, self._measure)) is None:
                continue
            cell, mean, seeds = best
            over = f", mean of {seeds} seeds" if seeds > 1 else ""
            on = f" on {own[0].corpus}" if len(of_corpus) > 1 else ""
            states.append(f"   best {mean:.4f} ({cell}{over}{on})")
        running = [r for r in records if r.state == "running"]
        lines = [Text(f"  {_how_far(r)}", style="dim") for r in running[:_RUNNING_SHOWN]]
        if len(running) > _RUNNING_SHOWN:
            lines.append(Text(f"  and {len(running) - _RUNNING_SHOWN} more", style="dim"))
        return Group(self._bar, states, *lines)

    def _left(self, records: Sequence[TrialRecord], expected: int) -> str:
        """Time left at the pace so far. Trials count by their own FLOPs, since they differ in steps
        and sizes; those that were stopped early tell what share of theirs the others will take."""
        seconds = time.monotonic() - self._began
        left_s = seconds_left(records, expected, self._done_before, seconds)
        return "-" if left_s is None else f"{int(left_s // 60)}:{int(left_s % 60):02d}"


def _how_far(record: TrialRecord) -> str:
    """Cell and seed of a running trial, with the share of its steps that it has reported."""
    step, steps = max(record.curve, default=0), record.num_steps
    share = f" {step / steps:.0%}" if steps else ""
    return f"{record.cell} seed {record.seed}{share}"


def seconds_left(
    records: Sequence[TrialRecord], expected: int, done_before: float, seconds: float
) -> float | None:
    """`done_before`: FLOPs trained when the clock began. None where nothing was reported since.

    From the first report on all that is left is taken to go at the pace so far, and each trial to
    its last step until some have ended, which tell what share of their steps trials take.
    """
    done = {r.number: _flops(r) for r in records}
    whole = {r.number: max(_flops(r, whole=True), done[r.number]) for r in records}
    ended = [r.number for r in records if r.state in FINISHED_STATES and done[r.number]]
    gained = sum(done.values()) - done_before
    if gained <= 0:
        return None
    share = 1.0
    if ended:
        share = sum(done[n] for n in ended) / sum(whole[n] for n in ended)
    not_drawn = (expected - len(records)) * sum(whole.values()) / len(records)
    left = sum(
        max(0.0, share * whole[r.number] - done[r.number])
        for r in records
        if r.state not in FINISHED_STATES
    )
    return seconds / gained * (left + share * not_drawn)


def _flops(record: TrialRecord, *, whole: bool = False) -> float:
    """Of training: so far in this launch, or of a whole run."""
    batch_tokens = record.batch_tokens or 0
    tokens = (
        (record.num_steps or 0) * batch_tokens if whole else record.tokens_trained(batch_tokens)
    )
    return float(tokens * record.attributes[FLOPS_PER_TOKEN])
