"""What one GPU gives, in ten minutes: one command, one JSON object with the machine.

    python benchmarks/gpu.py [--minutes 10] [--parts layer,models,scale,jobs]

layer    benchmarks/layer_speed.py on the GPU, in bfloat16
models   GPT-2 small as a mixture of 4 experts with 2 chosen, and granular with 64 and 32, beside
         the dense model of equal active width: tokens a second and model-FLOPs utilisation (MFU, in
         `case`: FLOPs of `moe.accounting` over the GPU's peak, `--peak-tflops` where it is not
         known here), eager and compiled. A step that makes the host wait for the device is counted,
         and graphs that were compiled after the first steps: there should be none of either between
         two looks at the step log.
scale    the scale `gpu` as studies have it: tokens a second of its mixture beside its dense model
jobs     trials of the scale `cpu` through `python -m moe.train --jobs N`: how many an hour

A part that no time is left for is left out, and said. Without a GPU it prints no rows; `--tiny
--device cpu` runs everything at the size of a test.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from common import MIN_REPEATS, Row, print_result, row, samples, tell

from moe.accounting import account
from moe.config import DataConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import Batch
from moe.train.distributed import World
from moe.train.trainer import Trainer
from search_spaces.overlay import overlay
from studies.scales import CPU, GPU, PAPER, SMOKE

HERE = Path(__file__).resolve().parent
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
CELLS = {
    "dense": {"moe.num_experts": 0, "model.ffn_multiple": 2.0},
    "N4-K2": {},
    "N64-K32": {"moe.granularity": 16},
}
JOBS = (1, 4, 8, 16)
JOB_STEPS = 100  # of a trial that is measured; one of the scale has more
_LOOK = 20  # steps between looks at the step log, which wait for the device


class RandomTokens:
    """Stands for a token store: what a GPU computes does not hang on which tokens these are."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def batch(self, *, num_sequences: int, context_length: int, start: int, stop: int, **_: object):
        shape = (stop - start, context_length + 1)
        ids = torch.randint(self.vocab_size, shape).numpy()
        return Batch(ids_BS=ids[:, :-1], targets_BS=ids[:, 1:], labels={})


class Run:
    def __init__(self, config: TrialConfig, options: argparse.Namespace, *, compiled: bool) -> None:
        self.config, self.device = config, options.device
        store = RandomTokens(config.data.vocab_size)
        world = World(device=options.device, compile=compiled)
        self.trainer = Trainer(config, store, world)
        self.steps, self.step = options.steps, 0

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.step += 1
            if self.step % _LOOK == 0:
                self.step += 1
            self.trainer.train_step(self.step)

    def host_waits(self) -> int:
        """In a few steps without a look at the log."""
        if self.device == "cpu":
            return 0
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                self.step = self.step // _LOOK * _LOOK + 1
                self.trainer.train_step(self.step)
        torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(w.message) for w in caught)


def layer_rows(options: argparse.Namespace) -> Iterator[Row]:
    small = ["--tiny", "--batched-bytes", "1e9"] if options.tiny else []
    told = _json_of("layer_speed.py", "--device", options.device, *small, options=options)
    yield from told["rows"]


def model_rows(options: argparse.Namespace) -> Iterator[Row]:
    tokens = options.micro_batch_tokens
    base = SMOKE if options.tiny else overlay(PAPER, {"model.dropout": 0.0})
    sizes = {"train.batch_tokens": tokens, "train.micro_batch_tokens": tokens}
    configs = {
        cell: overlay(base, {**sizes, **changes})
        for cell, changes in CELLS.items()
        if not (options.tiny and cell == "N64-K32")
    }
    yield from _speeds("gpt2-small", configs, options, compiled=options.device != "cpu")


def scale_rows(options: argparse.Namespace) -> Iterator[Row]:
    base = SMOKE if options.tiny else GPU
    configs = {
        cell: dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, batch_tokens=config.train.micro_batch_tokens),
        )
        for cell in ("dense", "N4-K2")
        for config in [overlay(base, CELLS[cell])]
    }
    yield from _speeds("scale gpu", configs, options, compiled=False)


def _speeds(
    title: str, configs: dict[str, TrialConfig], options: argparse.Namespace, *, compiled: bool
) -> Iterator[Row]:
    name = torch.cuda.get_device_name() if options.device != "cpu" else ""
    known = (peak for part, peak in PEAK_TFLOPS.items() if part in name)
    peak_flops = 1e12 * (options.peak_tflops or next(known, float("nan")))
    kinds = ("eager", "compiled") if compiled else ("eager",)
    runs = {
        f"{cell} {kind}": Run(config, options, compiled=kind == "compiled")
        for cell, config in configs.items()
        for kind in kinds
    }
    for run in runs.values():
        run()
    graphs = num_graphs()
    waits = {name: run.host_waits() for name, run in runs.items()}

    def wall_s(function) -> float:
        _wait(options.device)
        begin = time.perf_counter()
        function()
        _wait(options.device)
        return time.perf_counter() - begin

    taken = samples(runs, repeats=options.repeats, measure=wall_s)
    speed = {
        cell: options.steps * runs[cell].config.train.batch_tokens / sorted(s)[len(s) // 2]
        for cell, s in taken.items()
    }
    mfu = {
        cell: account(run.config).flops_per_token * speed[cell] / peak_flops
        for cell, run in runs.items()
    }
    later = num_graphs() - graphs
    for name in runs:
        if name != "dense eager":
            yield row(
                f"{title} {name}, MFU {mfu[name]:.3f} (dense eager {mfu['dense eager']:.3f}), "
                f"{waits[name]} host waits in 3 steps, {later} graphs of all runs compiled later",
                baseline="dense",
                ours=speed[name],
                theirs=speed["dense eager"],
                unit="tokens/s",
            )


def job_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Seconds of a trial of `cpu`'s mixture, N at once, from trials of fewer steps: the start of
    their processes is taken out by a second round with twice the steps."""
    base, steps = (SMOKE, 2) if options.tiny else (CPU, JOB_STEPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in range(200):
            words = (f"word{(part * 1000 + i) * 7919 % 9973}" for i in range(1000))
            (folder / f"part{part}.txt").write_text(" ".join(words))
        data = dataclasses.replace(base.data, corpus=f"files:{folder}/part*.txt")
        tokens = prepare(data, folder / "tokens")
        one = None
        for jobs in JOBS[: 2 if options.tiny else None]:
            spent = [
                _jobs_s(base, data, tokens, folder / f"{jobs}-{n}", jobs, n, options)
                for n in (steps, 2 * steps)
            ]
            a_step = max(spent[1] - spent[0], 1e-9) / steps / jobs
            each = base.train.num_steps * a_step
            one = each if one is None else one
            yield row(
                f"trials of scale cpu, {jobs} at once: {3600 / each:.0f} an hour",
                baseline="one_at_a_time",
                ours=each,
                theirs=one,
                unit="s",
            )
            if options.device == "cpu" and not options.tiny:
                return


def _jobs_s(
    base: TrialConfig,
    data: DataConfig,
    tokens: Path,
    folder: Path,
    jobs: int,
    steps: int,
    options: argparse.Namespace,
) -> float:
    """Wall seconds of as many trials as there are jobs."""
    (folder / "configs").mkdir(parents=True)
    for seed in range(jobs):
        train = dataclasses.replace(
            base.train, num_steps=steps, eval_every=steps, eval_tokens=4096, seed=seed
        )
        config = dataclasses.replace(base, train=train, data=data)
        (folder / "configs" / f"seed{seed}.json").write_text(config.to_json())
    command = [
        *(sys.executable, "-m", "moe.train", str(folder / "configs"), "--tokens", str(tokens)),
        *("--out", str(folder / "out"), "--jobs", str(jobs), "--device", options.device),
    ]
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{jobs} jobs ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - begin


def _json_of(script: str, *arguments: str, options: argparse.Namespace) -> dict:
    left = max(1.0, options.until - time.monotonic())
    command = [sys.executable, str(HERE / script), "--repeats", str(options.repeats), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=left, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def num_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


PARTS = {"models": model_rows, "scale": scale_rows, "jobs": job_rows, "layer": layer_rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="in the order that is given")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--peak-tflops", type=float, help="bfloat16, dense, of this GPU")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of a test's size")
    options = parser.parse_args()
    options.until = time.monotonic() + 60 * options.minutes
    rows: list[Row] = []
    if options.device != "cpu" and not torch.cuda.is_available():
        tell("no GPU here: nothing is measured")
        options.parts = ""
    for part in filter(None, options.parts.split(",")):
        if time.monotonic() >= options.until:
            tell(f"{part}: left out, no time is left of {options.minutes:g} minutes")
            continue
        try:
            for found in PARTS[part](options):
                rows.append(found)
                tell(f"{found['ratio']:.3f} {found['case']}")
        except subprocess.TimeoutExpired:
            tell(f"{part}: cut off after {options.minutes:g} minutes")
    print_result("gpu", rows, packages=("torch",))


if __name__ == "__main__":
    main()
