"""`python -m moe.train CONFIG.json --tokens DIR --out DIR`: one run by itself.

One JSON object a line on stdout for each evaluation; messages go to stderr. In DIR: config.json,
metrics.jsonl, result.json, routing.parquet and the checkpoints. The same command goes on where a
killed one was. Exit codes: 0 done; 1 the run failed (result.json says why); 2 bad input, one
message and nothing created; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import torch

from moe.code_digest import moe_digest
from moe.config import TrialConfig
from moe.data.token_store import TokenStore, verify
from moe.identity import config_hash
from moe.train.machine import machine
from moe.train.run_folder import Storage, TakenOverError
from moe.train.training_run import DivergenceError, TrainResult, World, resolve, train

METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        device = _device(options.device)
        config = _read(options.config)
        world = World(device=device, compile=options.compile)
        store = TokenStore.open(options.tokens)
        verify(store.path)
        config = resolve(config, store, world)
    except (ValueError, OSError) as error:
        return _refuse(error)
    torch.set_num_threads(options.threads)
    recorder = _Recorder(options.out, device)
    every = options.checkpoint_every
    if every is None:
        every = max(1, config.train.num_steps // 10)
    try:
        result = train(
            config,
            store,
            report=recorder.report,
            out=options.out,
            world=world,
            checkpoint_every=every,
        )
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, ValueError | OSError) and not recorder.curve:
            return _refuse(error)
        if isinstance(error, TakenOverError):  # the result is the other's to write
            print(f"error: {error}", file=sys.stderr)
            return 1
        if isinstance(error, DivergenceError | OSError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        recorder.finish(config, error=f"{type(error).__name__}: {error}")
        return 1
    recorder.finish(config, result=result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m moe.train", description="Train one config.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json", help="a resolved TrialConfig")
    parser.add_argument(
        "--tokens", type=Path, required=True, metavar="DIR", help="prepared tokens of its corpus"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of this run alone"
    )
    parser.add_argument(
        "--threads", type=_positive, default=1, help="CPU threads (they change the last bits)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile, on CUDA in bfloat16 (last bits)"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="optimiser steps between checkpoints; 0 is none (default: a tenth of the run)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; received {value}")
    return value


def _read(path: Path) -> TrialConfig:
    try:
        return TrialConfig.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a config is JSON in UTF-8; received {path}, which is not ({error.reason}). "
            "Give the file that `moe-study plan --write-configs` wrote."
        ) from None


def _device(choice: str) -> str:
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


class _Recorder:
    """The files and lines of a run, beside what `train` itself writes."""

    def __init__(self, out: Path, device: str) -> None:
        self.out = out
        self.device = device
        self.curve: list[dict[str, float]] = []

    def report(self, entry: dict[str, float], checkpoint: object) -> None:
        """A run that goes on replays its curve, so that the file is whole each time."""
        line = json.dumps(entry, allow_nan=False)
        print(line, flush=True)
        with (self.out / METRICS_FILE).open("a" if self.curve else "w") as file:
            file.write(line + "\n")
        self.curve.append(entry)

    def finish(
        self, config: TrialConfig, *, result: TrainResult | None = None, error: str | None = None
    ) -> None:
        last: dict[str, Any] = self.curve[-1] if self.curve else {}
        record = {
            "config_hash": config_hash(config),
            "moe_digest": moe_digest(),
            "moe_digests": result.moe_digests if result else [moe_digest()],
            "status": result.status if result else "failed",
            "metrics": last,
            "curve": self.curve,
            "late_metrics": result.late_metrics if result else [],
            "tokens": last.get("tokens", 0),
            "device_s": last.get("cost/device_s", 0.0),
            "threads": torch.get_num_threads(),
            "versions": _versions(),
            "machine": machine(self.device),
            "error": error,
        }
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        Storage.at(self.out).write(RESULT_FILE, text.encode())


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
