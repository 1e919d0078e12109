"""Training GPT-2 small on one GPU: tokens a second and model-FLOPs utilisation (MFU).

A mixture of 4 experts with 2 chosen, and its granular form of 64 with 32 chosen, beside the dense
model of equal active width: `moe.train.trainer.Trainer` in bfloat16, as a trial runs it, eager and
compiled, all against the eager dense model. MFU stands in `case`: FLOPs of `moe.accounting` over
the GPU's peak (`--peak-tflops` where it is not known here). A step that makes the host wait for the
device is counted there too, and graphs that were compiled after the first steps; there should be
none of either between two looks at the step log.

Without a GPU it prints no rows.

    python benchmarks/gpu.py [--steps 18] [--micro-batch-tokens 16384]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings

import torch
from common import MIN_REPEATS, Row, print_result, row, samples, tell

from moe.accounting import account
from moe.config import GPT2_VOCAB_SIZE, TrialConfig
from moe.data.token_store import Batch
from moe.train.distributed import World
from moe.train.trainer import Trainer
from search_spaces.overlay import overlay
from studies.scales import PAPER

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
CELLS = {
    "dense": {"moe.num_experts": 0, "model.ffn_multiple": 2.0},
    "N4-K2": {},
    "N64-K32": {"moe.granularity": 16},
}
DENSE = "dense eager"
_LOOK = 20  # steps between looks at the step log, which wait for the device


class RandomTokens:
    """Stands for a token store: what a GPU computes does not hang on which tokens these are."""

    def batch(self, *, num_sequences: int, context_length: int, start: int, stop: int, **_: object):
        shape = (stop - start, context_length + 1)
        ids = torch.randint(GPT2_VOCAB_SIZE, shape).numpy()
        return Batch(ids_BS=ids[:, :-1], targets_BS=ids[:, 1:], labels={})


def make_config(cell: str, micro_batch_tokens: int) -> TrialConfig:
    config = overlay(PAPER, {"model.dropout": 0.0, **CELLS[cell]})
    train = dataclasses.replace(
        config.train, batch_tokens=micro_batch_tokens, micro_batch_tokens=micro_batch_tokens
    )
    return dataclasses.replace(config, train=train)


class Run:
    def __init__(self, cell: str, options: argparse.Namespace, *, compiled: bool) -> None:
        self.config = make_config(cell, options.micro_batch_tokens)
        self.trainer = Trainer(self.config, RandomTokens(), World(device="cuda", compile=compiled))
        self.steps, self.step = options.steps, 0

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.step += 1
            if self.step % _LOOK == 0:
                self.step += 1
            self.trainer.train_step(self.step)

    def host_waits(self) -> int:
        """In a few steps without a look at the log."""
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                self.step = self.step // _LOOK * _LOOK + 1
                self.trainer.train_step(self.step)
        torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(w.message) for w in caught)


def rows_of(options: argparse.Namespace) -> list[Row]:
    name = torch.cuda.get_device_name()
    known = (peak for part, peak in PEAK_TFLOPS.items() if part in name)
    peak_flops = 1e12 * (options.peak_tflops or next(known, float("nan")))
    runs = {
        f"{cell} {kind}": Run(cell, options, compiled=kind == "compiled")
        for cell in CELLS
        for kind in ("eager", "compiled")
    }
    for run in runs.values():
        run()
    graphs = num_graphs()
    waits = {name: run.host_waits() for name, run in runs.items()}

    def wall_s(function) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    taken = samples(runs, repeats=options.repeats, measure=wall_s)
    tokens = options.steps * options.micro_batch_tokens
    speed = {cell: tokens / sorted(s)[len(s) // 2] for cell, s in taken.items()}
    mfu = {
        cell: account(run.config).flops_per_token * speed[cell] / peak_flops
        for cell, run in runs.items()
    }
    later = num_graphs() - graphs
    return [
        row(
            f"gpt2-small {name} bf16, MFU {mfu[name]:.3f} (dense eager {mfu[DENSE]:.3f}), "
            f"{waits[name]} host waits in 3 steps, {later} graphs of all runs compiled later",
            baseline="dense",
            ours=speed[name],
            theirs=speed[DENSE],
            unit="tokens/s",
        )
        for name in runs
        if name != DENSE
    ]


def num_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--peak-tflops", type=float, help="bfloat16, dense, of this GPU")
    options = parser.parse_args()
    rows = []
    if torch.cuda.is_available():
        rows = rows_of(options)
    else:
        tell("no GPU here: nothing is measured")
    print_result("gpu", rows, packages=("torch",))


if __name__ == "__main__":
    main()
