"""Peak memory of a training step as it is told beforehand, against that of a process.

Each shape trains two steps in a process of its own, on the CPU. What is measured is the peak
resident size over what it was after a step of a tiny model, which loads torch's libraries. A row is
the distance of `moe.memory.estimate` from it, over it.

    python benchmarks/peak_memory.py [--shapes dense,mixture] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from common import Row, print_result, row, tell
from data_parallel import make_store, peak_bytes

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.token_store import TokenStore
from moe.memory import estimate
from moe.train.distributed import World
from moe.train.trainer import Trainer

GOAL = 0.15
WIDE = ModelConfig(num_layers=4, d_model=256, num_heads=4, d_ff=1024, context_length=128)
LLAMA = replace(WIDE, norm="rmsnorm", position="rope", activation="swiglu", bias=False)
SHAPES: dict[str, tuple[ModelConfig, MoEConfig, OptimConfig, int]] = {
    # model, mixture, optimiser, tokens of a micro-batch
    "dense": (replace(WIDE, num_layers=8), MoEConfig(), OptimConfig(warmup_steps=1), 4096),
    "mixture": (WIDE, MoEConfig(num_experts=8, top_k=2), OptimConfig(warmup_steps=1), 2048),
    "granular": (
        WIDE,
        MoEConfig(num_experts=8, top_k=2, granularity=8, shared_experts=2, balance="switch"),
        OptimConfig(warmup_steps=1),
        2048,
    ),
    "sequences": (
        WIDE,
        MoEConfig(num_experts=4, top_k=2, routing_unit="sequence"),
        OptimConfig(warmup_steps=1),
        2048,
    ),
    "llama_muon": (
        LLAMA,
        MoEConfig(num_experts=16, top_k=2, layer_stride=2),
        OptimConfig(warmup_steps=1, name="muon"),
        2048,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--tiny", action="store_true", help="few tokens, to try the script")
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        measure(*options.process, tiny=options.tiny)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        store = make_store(Path(name))
        for shape in options.shapes.split(","):
            command = [sys.executable, __file__, "--process", shape, str(store.path)]
            command += ["--tiny"] if options.tiny else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            measured = json.loads(done.stdout)["bytes"]
            told = estimate(config_of(shape, options.tiny)).peak
            tell(f"{shape}: {told / 1e6:.0f} MB told, {measured / 1e6:.0f} MB measured")
            rows.append(
                row(
                    f"{shape}: {told / 1e6:.0f} MB told, {measured / 1e6:.0f} MB measured",
                    baseline="measured_peak",
                    ours=abs(told - measured),
                    theirs=measured,
                    unit="bytes",
                    goal=GOAL,
                )
            )
    print_result("peak_memory", rows, packages=["torch"])


def config_of(shape: str, tiny: bool) -> TrialConfig:
    model, moe, optim, tokens = SHAPES[shape]
    tokens = 256 if tiny else tokens
    return TrialConfig(
        model=model,
        moe=moe,
        data=DataConfig(),
        optim=optim,
        train=TrainConfig(
            num_steps=2, batch_tokens=tokens, micro_batch_tokens=tokens, eval_tokens=tokens
        ),
    )


def measure(shape: str, tokens: str, *, tiny: bool) -> None:
    torch.set_num_threads(1)
    store = TokenStore.open(tokens)
    config = config_of(shape, tiny)
    small = replace(config.model, num_layers=2, d_model=32, d_ff=64)
    train(
        replace(
            config,
            model=small,
            train=replace(config.train, batch_tokens=256, micro_batch_tokens=256),
        ),
        store,
    )
    before = peak_bytes()
    train(config, store)
    print(json.dumps({"bytes": peak_bytes() - before}))


def train(config: TrialConfig, store: TokenStore) -> None:
    trainer = Trainer(config, store, World())
    for step in (1, 2):
        trainer.train_step(step)


if __name__ == "__main__":
    main()
