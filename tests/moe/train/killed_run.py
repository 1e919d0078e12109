"""Runs one training to its end in attempts, each killed with SIGKILL at a point of its own.

    python killed_run.py CONFIG.json TOKENS OUT POINT...

A point is `step:7` (inside step 7), `report:8` (in the report of step 8), `note:8` (the evaluation
of step 8 is noted, and not saved), or `file:N` (halfway through the N-th file that the attempt
writes). Attempts are forks, so that torch is imported once. All reports go to OUT/told.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # AdamW imports it: once, before the forks

from moe.config import TrialConfig
from moe.data.token_store import TokenStore
from moe.train.checkpoint import Checkpoints
from moe.train.run_folder import Storage
from moe.train.trainer import Trainer
from moe.train.training_run import train


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    """Arranges the death of this process."""
    kind, number = point.split(":")
    train_step, note, stream = Trainer.train_step, Checkpoints.note_evaluation, Storage._stream
    files = []

    def dying_step(self, step):
        if step == int(number):
            backward, self._backward = self._backward, lambda step: (backward(step), die())
        train_step(self, step)

    def dying_note(self, entry):
        note(self, entry)
        if entry["step"] == int(number):
            die()

    def dying_stream(self, path, writer):
        files.append(path)

        def half(out):
            out.write(b"half")
            out.flush()
            die()

        return stream(self, path, half if len(files) == int(number) else writer)

    match kind:
        case "step":
            Trainer.train_step = dying_step
        case "note":
            Checkpoints.note_evaluation = dying_note
        case "file":
            Storage._stream = dying_stream


def attempt(config: TrialConfig, store: TokenStore, out: Path, point: str | None) -> None:
    def report(metrics, checkpoint):
        with (out / "told.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        if point == f"report:{metrics['step']}":
            die()

    if point is not None:
        die_at(point)
    train(config, store, report=report, out=out, checkpoint_every=3)


def main() -> None:
    torch.set_num_threads(1)
    config_file, tokens, out, *points = sys.argv[1:]
    config = TrialConfig.from_json(Path(config_file).read_text())
    store = TokenStore.open(tokens)
    Path(out).mkdir()
    for point in [*points, None]:
        pid = os.fork()
        if pid == 0:
            attempt(config, store, Path(out), point)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        expected = signal.SIGKILL if point else 0
        assert status == expected, f"the attempt with {point} ended with status {status}"


main()
