"""What a run by itself tells and leaves beside the files of `train`: its curve, its result."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import torch

from moe.code_digest import moe_digest
from moe.config import TrialConfig
from moe.identity import config_hash
from moe.train.distributed import World
from moe.train.machine import machine
from moe.train.results_archive import METRICS_FILE, RESULT_FILE
from moe.train.run_folder import Storage
from moe.train.training_run import TrainResult


class Recorder:
    """The files and lines of a run, beside what `train` itself writes."""

    def __init__(self, out: Path, world: World, stops: Callable[[], bool]) -> None:
        self.out = out
        self.world = world
        self.stops = stops
        self.curve: list[dict[str, float]] = []

    def report(self, entry: dict[str, float], checkpoint: object) -> bool:
        """A run that goes on replays its curve, so that the file is whole each time."""
        line = json.dumps(entry, allow_nan=False)
        print(line, flush=True)
        with (self.out / METRICS_FILE).open("a" if self.curve else "w") as file:
            file.write(line + "\n")
        self.curve.append(entry)
        return self.stops()

    def finish(
        self, config: TrialConfig, *, result: TrainResult | None = None, error: str | None = None
    ) -> None:
        """By the first worker alone."""
        if not self.world.is_main:
            return
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
            "workers": self.world.size,
            "sharded": self.world.is_sharded,
            "machine": machine(self.world.device),
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
