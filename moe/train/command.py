"""`python -m moe.train CONFIG.json --tokens DIR --out DIR`: one run by itself, or many.

One JSON object a line on stdout for each evaluation; messages go to stderr. In DIR: config.json,
metrics.jsonl, result.json, routing.parquet and the checkpoints. The same command goes on where a
killed one was. Of several configs, or with `--jobs`, each trains in a process and a folder of its
own, DIR/NAME, and stderr tells how far they are. Exit codes: 0 done; 1 a run failed (result.json
says why); 2 bad input, one message and nothing created; 130 interrupted, or stopped by `--until`.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from moe.config import TrialConfig
from moe.data.token_store import TokenStore, verify
from moe.memory_fit import gpu_bytes, host_bytes, misfit
from moe.train.distributed import FIRST_FAILED, World
from moe.train.launched_world import is_first, joined, launched_workers, workers_here
from moe.train.many_runs import (
    INTERRUPTED,
    Jobs,
    command_of,
    find_configs,
    find_runs,
    read_config,
    slice_of,
    tokens_of,
)
from moe.train.results_archive import pack
from moe.train.run_folder import TakenOverError
from moe.train.run_recorder import Recorder
from moe.train.training_run import DivergenceError, resolve, train

_PARENT_EVERY_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    is_one = len(options.configs) == 1 and not options.configs[0].is_dir()
    many = ("jobs", "slice", "archive", "retry_failed")
    if is_one and all(not getattr(options, name) for name in many):
        return _train_one(options.configs[0], options)
    if launched_workers() > 1 or options.shard:
        return _refuse(
            ValueError(
                "torchrun's workers, and --shard, are for one run; received several configs, or "
                "options for several. Give one config, or leave torchrun and --shard out."
            )
        )
    return _train_many(options)


def _train_many(options: argparse.Namespace) -> int:
    try:
        files = find_configs(options.configs)
        found = find_runs(files, tokens=options.tokens, out=options.out)
        runs = slice_of(found, options.slice or (0, 1))
    except (ValueError, OSError) as error:
        return _refuse(error)
    passed_on = ["--threads", str(options.threads), "--device", options.device]
    jobs = options.jobs or 1
    passed_on += ["--beside", str(min(jobs, len(runs))), "--parent", str(os.getpid())]
    passed_on += ["--compile"] if options.compile else []
    passed_on += ["--dense", str(options.dense)] if options.dense else []
    if options.checkpoint_every is not None:
        passed_on += ["--checkpoint-every", str(options.checkpoint_every)]
    code = Jobs(
        runs,
        lambda run: command_of(run, *passed_on),
        at_once=jobs,
        until_s=options.until,
        retry_failed=options.retry_failed,
    ).train()
    if options.archive is not None:
        try:
            kept = pack([run.out for run in runs], options.archive)
        except OSError as error:
            print(f"error: {options.archive} cannot be written: {error}", file=sys.stderr)
            return 1
        print(f"{options.archive} holds the results of {kept} runs", file=sys.stderr)
    return code


def _train_one(file: Path, options: argparse.Namespace) -> int:
    if options.parent is not None:
        _end_with(options.parent)
    try:
        device = _device(options.device)
        config = read_config(file)
        store = TokenStore.open(tokens_of(config, options.tokens))
        verify(store.path)
        _require_memory(config, device, options)
        with joined(device, compile=options.compile, shard=options.shard) as world:
            return _train_in(world, resolve(config, store, world), store, options)
    except (ValueError, OSError) as error:
        return _refuse(error)


def _end_with(parent: int) -> None:
    """Ends this process, one of many, once the one that began it is gone, however that ended: the
    same command, given again, would train beside it. Nothing is lost but what came after the newest
    checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_EVERY_S)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _require_memory(config: TrialConfig, device: str, options: argparse.Namespace) -> None:
    most = host_bytes() / workers_here() if device == "cpu" else gpu_bytes()
    most = most and most / options.beside
    asked = {
        "device": device,
        "workers": launched_workers(),
        "shard": options.shard,
        "where": "what each has of this machine",
    }
    if most and (reason := misfit(config, most, **asked)):
        raise ValueError(reason)


def _train_in(
    world: World, config: TrialConfig, store: TokenStore, options: argparse.Namespace
) -> int:
    torch.set_num_threads(options.threads)
    every = options.checkpoint_every
    if every is None:
        every = max(1, config.train.num_steps // 10)
    with _asked_to_stop(options.until) as stops:
        recorder = Recorder(options.out, world, stops)
        try:
            result = train(
                config,
                store,
                report=recorder.report,
                out=options.out,
                world=world,
                checkpoint_every=every,
                dense=options.dense,
            )
        except KeyboardInterrupt:
            _say("interrupted; the same command continues", world)
            return INTERRUPTED
        except Exception as error:
            return _failed(error, config, recorder)
    recorder.finish(config, result=result)
    if result.status == "stopped":
        step = result.curve[-1]["step"]
        _say(f"stopped after step {step}; the same command continues", world)
        return INTERRUPTED
    return 0


def _say(line: str, world: World) -> None:
    if world.is_main:
        print(line, file=sys.stderr)


def _failed(error: Exception, config: TrialConfig, recorder: Recorder) -> int:
    if isinstance(error, ValueError | OSError) and not recorder.curve:
        return _refuse(error)
    if isinstance(error, TakenOverError):  # the result is the other's to write
        _say(f"error: {error}", recorder.world)
        return 1
    if isinstance(error, DivergenceError | OSError):
        _say(f"error: {error}", recorder.world)
    elif recorder.world.is_main or not str(error).startswith(FIRST_FAILED):
        traceback.print_exception(error)
    recorder.finish(config, error=f"{type(error).__name__}: {error}")
    return 1


@contextmanager
def _asked_to_stop(until_s: float | None) -> Iterator[Callable[[], bool]]:
    """Whether the run is to stop at the evaluation that asks: at SIGTERM, or after `until_s`."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    end = math.inf if until_s is None else time.monotonic() + until_s
    try:
        yield lambda: bool(heard) or time.monotonic() >= end
    finally:
        signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="python -m moe.train", description="Train one config, or many."
    )
    made.add_argument(
        "configs",
        type=Path,
        nargs="+",
        metavar="CONFIG.json",
        help="a resolved TrialConfig, several, or a folder of them",
    )
    made.add_argument(
        "--tokens",
        type=Path,
        required=True,
        metavar="DIR",
        help="prepared tokens of its corpus, or a folder of such by digest",
    )
    made.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of this run alone; of many, they have folders in it",
    )
    made.add_argument(
        "--jobs", type=_positive, metavar="N", help="train N at a time, the longest first"
    )
    made.add_argument(
        "--until",
        type=_seconds,
        metavar="SECONDS",
        help="from then on stop at the next evaluation, with a checkpoint; the command continues",
    )
    made.add_argument(
        "--slice", type=_slice, metavar="K/N", help="every N-th run from the K-th on, K from 0"
    )
    made.add_argument(
        "--archive",
        type=Path,
        metavar="FILE.tar.gz",
        help="write the results, without checkpoints, into a file that `moe-study ingest` takes",
    )
    made.add_argument(
        "--retry-failed", action="store_true", help="of many: try again what failed before"
    )
    made.add_argument(
        "--threads", type=_positive, default=1, help="CPU threads (they change the last bits)"
    )
    made.add_argument(
        "--dense",
        type=Path,
        metavar="DIR",
        help="folder of the finished run that moe.upcycled_from names",
    )
    made.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each worker holds a part of weights, gradients and moments",
    )
    # Of one run of many, told by the process that starts it: how many share the machine, and whose.
    made.add_argument("--beside", type=_positive, default=1, help=argparse.SUPPRESS)
    made.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument(
        "--compile", action="store_true", help="torch.compile, on CUDA in bfloat16 (last bits)"
    )
    made.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="optimiser steps between checkpoints; 0 is none (default: a tenth of the run)",
    )
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; received {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0; received {text}")
    return value


def _slice(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and int(k) < int(n)):
        raise argparse.ArgumentTypeError(f"is K/N with K from 0 to N - 1; received {text}")
    return int(k), int(n)


def _device(choice: str) -> str:
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def _refuse(error: Exception) -> int:
    if is_first():
        print(f"error: {error}", file=sys.stderr)
    return 2
