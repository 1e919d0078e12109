"""The best learning rate over widths, under both parametrizations (optim.parametrization).

Mixtures of four experts over the bytes of Python's own standard library, each trained from the same
order of batches at every width, rate and seed; the loss is the mean over the last tenth of the
steps. Under mup (2203.03466) the best rate should stay where it was at the base width, under the
standard parametrization it should fall with the width. One thread.

    python benchmarks/rate_transfer.py [--widths 32,64,128] [--steps 80] [--seeds 0]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from moe.config import ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.model.transformer import MoETransformer
from moe.train.optim import build_optimizer, learning_rate, set_learning_rate

CONTEXT, SEQUENCES, D_HEAD = 32, 16, 16
RATES = tuple(2.0**-power for power in range(9, 2, -1))
LIMIT_BYTES = 2_000_000


def text() -> Tensor:
    """The first bytes of the standard library's modules, in the order of their names."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return torch.tensor(list(b"".join(f.read_bytes() for f in files)[:LIMIT_BYTES]))


def config_of(width: int, parametrization: str, rate: float, steps: int, base: int, seed: int):
    tokens = CONTEXT * SEQUENCES
    return TrialConfig(
        model=ModelConfig(
            num_layers=2,
            d_model=width,
            num_heads=width // D_HEAD,
            d_ff=4 * width,
            context_length=CONTEXT,
        ),
        moe=MoEConfig(num_experts=4, top_k=2, balance="switch"),
        optim=OptimConfig(
            learning_rate=rate,
            warmup_steps=steps // 10,
            parametrization=parametrization,
            base_d_model=base,
        ),
        train=TrainConfig(
            num_steps=steps, batch_tokens=tokens, micro_batch_tokens=tokens, seed=seed
        ),
    )


def train(config: TrialConfig, bytes_T: Tensor) -> float:
    """Mean loss in nats a byte over the last tenth of the steps; infinite where it diverged."""
    steps = config.train.num_steps
    generator = torch.Generator().manual_seed(config.train.seed)
    model = MoETransformer(config)
    optimizer = build_optimizer(model, config.optim)
    losses = []
    for step in range(1, steps + 1):
        start_B = torch.randint(0, len(bytes_T) - CONTEXT - 1, (SEQUENCES,), generator=generator)
        ids_BS = bytes_T[start_B[:, None] + torch.arange(CONTEXT + 1)]
        set_learning_rate(optimizer, learning_rate(config.optim, step, steps))
        output = model(ids_BS[:, :-1], ids_BS[:, 1:], step=step)
        (output.loss + output.aux_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    mean = statistics.fmean(losses[-max(1, steps // 10) :])
    return mean if mean == mean else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", default="0")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    widths, seeds = ([int(n) for n in text.split(",")] for text in (asked.widths, asked.seeds))
    bytes_T, found = text(), {}
    for parametrization in ("standard", "mup"):
        for width in widths:
            losses = {}
            for rate in RATES:
                configs = [
                    config_of(width, parametrization, rate, asked.steps, widths[0], seed)
                    for seed in seeds
                ]
                losses[rate] = statistics.fmean(train(config, bytes_T) for config in configs)
            best = min(losses, key=losses.get)
            found[f"{parametrization} {width}"] = {"best_rate": best, "loss": losses}
            shown = " ".join(f"{rate:.4f}:{loss:.3f}" for rate, loss in losses.items())
            print(f"{parametrization:>8} {width:>4}  best {best:.4f}  {shown}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
