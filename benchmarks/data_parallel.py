"""A data-parallel step: gradients in the buckets that torch's engine reduces, against a flat copy.

W processes over gloo train the same config on the CPU, each `--micro-batches` micro-batches a step.
The baseline is what stood here before: after the last backward pass all gradients are copied into
one vector, which is summed and copied back. With `--sharded` it is the same engine with the whole
model on each, and ours spreads it (FSDP2). Each variant has processes of its own. Memory is the
peak resident size of rank 0 over what it had before the model was made; seconds of a step are wall
clock of rank 0, medians over the steps, of variants in turn (with more workers than cores they wait
for each other as well).

    python benchmarks/data_parallel.py [--workers 2,4] [--steps 12] [--repeats 3] [--tiny]
    python benchmarks/data_parallel.py --sharded --workers 4
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import Row, print_result, row, tell
from torch import Tensor

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.train import trainer as trainer_module
from moe.train.distributed import World, complete_gradients
from moe.train.trainer import Trainer

MEMORY_GOAL, STEP_GOAL, SHARDED_MEMORY_GOAL = 0.9, 1.05, 0.4
PAIRS = {False: ("buckets", "flat"), True: ("sharded", "buckets")}  # ours and its baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="2,4")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--sharded", action="store_true", help="shards against whole models")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a model of a test's size")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder)
        for workers in map(int, options.workers.split(",")):
            rows += rows_of(workers, store, folder, options)
    print_result("sharded" if options.sharded else "data_parallel", rows, packages=["torch"])


def make_store(folder: Path) -> TokenStore:
    """Words of a few letters; their text costs nothing here."""
    text = " ".join(f"word{i % 97} {'abcdefg'[i % 7] * (i % 5 + 1)}" for i in range(20_000))
    lines = [json.dumps({"text": text[i : i + 500]}) for i in range(0, len(text), 500)]
    (folder / "documents.jsonl").write_text("\n".join(lines))
    spec = f"files:{folder}/documents.jsonl"
    data = DataConfig(corpus=spec)
    return TokenStore.open(prepare(data, folder / "tokens"))


def config_of(store: TokenStore, workers: int, options: argparse.Namespace) -> TrialConfig:
    width, layers = (32, 1) if options.tiny else (256, options.layers)
    micro_batch_tokens = 128
    return TrialConfig(
        model=ModelConfig(
            num_layers=layers, d_model=width, num_heads=4, d_ff=4 * width, context_length=64
        ),
        moe=MoEConfig(num_experts=8, top_k=2),
        data=DataConfig(corpus=store.meta["corpus"]["spec"]),
        optim=OptimConfig(warmup_steps=1),
        train=TrainConfig(
            num_steps=options.steps,
            batch_tokens=micro_batch_tokens * options.micro_batches * workers,
            micro_batch_tokens=micro_batch_tokens,
            eval_every=options.steps,
            eval_tokens=micro_batch_tokens,
        ),
    )


def rows_of(
    workers: int, store: TokenStore, folder: Path, options: argparse.Namespace
) -> list[Row]:
    config = config_of(store, workers, options)
    file = folder / f"config{workers}.json"
    file.write_text(config.to_json())
    variants = ours, theirs = PAIRS[options.sharded]
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for repeat in range(options.repeats):
        for variant in variants if repeat % 2 else reversed(variants):
            tell(f"{workers} workers, {variant}, {repeat + 1} of {options.repeats}")
            told[variant].append(run(variant, workers, file, store, folder))
    losses = {variant: told[variant][0]["loss"] for variant in variants}
    assert abs(losses[ours] - losses[theirs]) < 1e-3, losses
    millions = told[theirs][0]["parameters"] / 1e6
    case = f"{workers} gloo workers, {millions:.1f}M parameters"
    names = {"flat": "flat_all_reduce", "buckets": "unsharded"}
    memory_goal = MEMORY_GOAL
    if options.sharded:  # told for four workers; a smaller number has larger parts
        memory_goal = SHARDED_MEMORY_GOAL if workers >= 4 else None
    return [
        row(
            f"{case}, {what}",
            baseline=names[theirs],
            ours=of(ours),
            theirs=of(theirs),
            unit=unit,
            goal=goal,
        )
        for what, unit, goal, of in (
            (
                "peak memory of a worker",
                "bytes",
                memory_goal,
                lambda variant: int(statistics.median(t["bytes"] for t in told[variant])),
            ),
            (
                "step",
                "s",
                None if options.sharded else STEP_GOAL,
                lambda variant: statistics.median(s for t in told[variant] for s in t["seconds"]),
            ),
        )
    ]


def run(variant: str, workers: int, file: Path, store: TokenStore, folder: Path) -> dict[str, Any]:
    meeting = Path(tempfile.mkdtemp(dir=folder)) / "meeting"
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, __file__, "--worker", variant, str(rank), str(workers)),
                *(str(file), str(store.path), str(meeting)),
            ],
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"},  # as trials have it
        )
        for rank in range(workers)
    ]
    out, _ = processes[0].communicate()
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"workers of {variant} ended with {codes}")
    return json.loads(out.splitlines()[-1])


def work(variant: str, rank: str, workers: str, file: str, tokens: str, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(workers)
    )
    config = TrialConfig.from_json(Path(file).read_text())
    world = World(rank=int(rank), size=int(workers), shard=variant == "sharded")
    importlib.import_module("torch.distributed.fsdp")  # libraries are no part of a model
    before = peak_bytes()
    if variant == "flat":
        trainer_module.replicate = lambda model, world: model
    made = (FlatTrainer if variant == "flat" else Trainer)(config, TokenStore.open(tokens), world)
    seconds = []
    for step in range(1, config.train.num_steps + 1):
        dist.barrier()
        begin = time.perf_counter()
        made.train_step(step)
        seconds.append(time.perf_counter() - begin)
    told = {
        "bytes": peak_bytes() - before,
        "seconds": seconds[2:],  # the first makes the optimiser's state
        "loss": made.log.means(1, config.train.num_steps)[0],
        "parameters": sum(p.numel() for p in made.model.parameters()),
    }
    print(json.dumps(told))
    dist.destroy_process_group()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class FlatTrainer(Trainer):
    """One all-reduce of all gradients after the last backward pass, as it was done before."""

    def _backward(self, step: int) -> Tensor:
        row_C = super()._backward(step)
        complete_gradients(self.parameters)
        gradients = [parameter.grad for parameter in self.parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world.size  # the loss was multiplied by it
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)]
        )
        return row_C

    def train_step(self, step: int) -> None:
        super().train_step(step)
        for parameter in self.parameters:  # as it was: none kept between steps
            parameter.grad = None


if __name__ == "__main__":
    main()
