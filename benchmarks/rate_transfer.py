"""The best learning rate over widths, under both parametrizations (optim.parametrization).

Mixtures of four experts over the bytes of Python's own standard library, each trained from the same
order of batches at every width, rate and seed; the loss is the mean over the last tenth of the
steps. Under mup (2203.03466) the best rate should stay where it was at the base width, under the
standard parametrization it should fall with the width. The best rate of a seed is the lowest point
of the parabola, in log2 of the rate, through the lowest loss and its neighbours; what is told is
the mean over seeds and its standard error, and by which factor a width's best rate differs from
the base width's at the same seed. One thread.

    python benchmarks/rate_transfer.py [--widths 32,64,128] [--steps 300] [--seeds 0,1,2]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moe.config import ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.model.transformer import MoETransformer
from moe.train.optim import build_optimizer, learning_rate, set_learning_rate

CONTEXT, SEQUENCES, D_HEAD = 32, 16, 16
RATES = tuple(2.0**-power for power in range(10, 2, -1))
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


def best_power(losses: Mapping[float, float]) -> float:
    """log2 of the best rate; an end of the rates where the lowest loss is there."""
    powers = [math.log2(rate) for rate in sorted(losses)]
    values = [losses[rate] for rate in sorted(losses)]
    at = min(range(len(values)), key=values.__getitem__)
    if at in (0, len(values) - 1) or not math.isfinite(values[at + 1]):
        return powers[at]
    left, here, right = values[at - 1 : at + 2]
    return powers[at] + (left - right) / (2 * (left - 2 * here + right))


def told(powers: Sequence[float]) -> str:
    error = statistics.stdev(powers) / math.sqrt(len(powers)) if len(powers) > 1 else math.nan
    return f"{statistics.fmean(powers):+.2f} (se {error:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--parametrizations", default="standard,mup")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    widths, seeds = ([int(n) for n in text.split(",")] for text in (asked.widths, asked.seeds))
    bytes_T, found, at_base = text(), [], {}
    for parametrization in asked.parametrizations.split(","):
        base: dict[int, float] = {}
        for width in widths:
            is_base = width == widths[0]  # where both parametrizations are the same model
            losses = dict(at_base) if is_base else {}
            for seed in (s for s in seeds if s not in losses):
                losses[seed] = {
                    rate: train(
                        config_of(width, parametrization, rate, asked.steps, widths[0], seed),
                        bytes_T,
                    )
                    for rate in RATES
                }
            at_base = at_base or losses
            best = {seed: best_power(of) for seed, of in losses.items()}
            base = base or best
            moved = [best[seed] - base[seed] for seed in seeds]
            print(
                f"{parametrization:>8} {width:>4}  log2 of the best rate {told([*best.values()])}, "
                f"against width {widths[0]} {told(moved)}, "
                f"loss {statistics.fmean(min(one.values()) for one in losses.values()):.3f}",
                file=sys.stderr,
            )
            found.append(
                {
                    "parametrization": parametrization,
                    "width": width,
                    "log2_best_rate": best,
                    "losses": losses,
                }
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
