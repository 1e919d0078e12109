"""A whole training step against a dense GPT-2-style model, written out here, of equal active FLOPs.

Both take the same tokens from the same loader, one micro-batch a step: forward, backward, norm of
the gradient, clipping, fused AdamW. The dense model is plain PyTorch (nanoGPT's shape: nn.Linear,
F.scaled_dot_product_attention, tied head, exact GELU); its FFN is as wide as the experts that a
token passes. Ours is `moe.train.trainer.Trainer`, its loss log and router losses included.

Rows `without_metrics` and `without_loader` are our own step with that part taken out; their goal of
1.01 is the share that the part may cost. What metrics cost is timed by itself, since a difference
of two steps is lost in the noise: statistics and reporting of one evaluation, spread over the steps
between evaluations, and the router losses of every step.

Seconds are CPU time of the one thread that computes, medians of interleaved repeats.

    python benchmarks/train_step.py [--repeats 7] [--steps 3]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import MIN_REPEATS, Row, medians, print_result, row
from torch import Tensor, nn

from moe.accounting import account
from moe.config import DataConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.train.distributed import World
from moe.train.evaluate import DeviceBatch
from moe.train.optim import learning_rate
from moe.train.routing_stats import RoutingHistory, RoutingSnapshot, RoutingTotals
from moe.train.trainer import Trainer
from orchestrator.stores.outbox_files import OutboxFile
from studies.scales import CPU, CPU_2025_11, GPU

STEP_GOAL = 1.10  # what an MoE layer may cost beyond a dense one
PART_GOAL = 1.01


class DenseBlock(nn.Module):
    def __init__(self, d_model: int, num_heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, width), nn.Linear(width, d_model)

    def forward(self, x_BSD: Tensor) -> Tensor:
        batch, length, d_model = x_BSD.shape
        heads = (batch, length, self.num_heads, d_model // self.num_heads)
        q, k, v = self.qkv(self.norm1(x_BSD)).split(d_model, dim=2)
        y = F.scaled_dot_product_attention(
            *(t.view(heads).transpose(1, 2) for t in (q, k, v)), is_causal=True
        )
        x_BSD = x_BSD + self.out(y.transpose(1, 2).reshape(batch, length, d_model))
        return x_BSD + self.down(F.gelu(self.up(self.norm2(x_BSD))))


class DenseGPT(nn.Module):
    def __init__(self, config: TrialConfig, width: int) -> None:
        super().__init__()
        model = config.model
        self.tokens = nn.Embedding(config.data.vocab_size, model.d_model)
        self.positions = nn.Embedding(model.context_length, model.d_model)
        self.blocks = nn.Sequential(
            *(DenseBlock(model.d_model, model.num_heads, width) for _ in range(model.num_layers))
        )
        self.norm = nn.LayerNorm(model.d_model)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids_BS: Tensor, targets_BS: Tensor) -> Tensor:
        x_BSD = self.tokens(ids_BS) + self.positions.weight[: ids_BS.shape[1]]
        x_BSD = self.norm(self.blocks(x_BSD))
        logits = F.linear(x_BSD, self.tokens.weight).flatten(0, 1)
        return F.cross_entropy(logits, targets_BS.flatten())


class DenseTrainer:
    def __init__(self, config: TrialConfig, store: TokenStore) -> None:
        self.config, self.store = config, store
        self.model = DenseGPT(config, config.moe.active_experts * config.d_expert)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
            fused=True,
        )

    def train_step(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optim, step, self.config.train.num_steps)
        batch = load(self.config, self.store, step)
        self.model(batch.ids_BS, batch.targets_BS).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def load(config: TrialConfig, store: TokenStore, step: int) -> DeviceBatch:
    batch = store.batch(
        seed=config.train.seed,
        step=step - 1,
        num_sequences=config.train.batch_tokens // config.model.context_length,
        context_length=config.model.context_length,
    )
    return DeviceBatch.of(batch, config, "cpu")


def rows_of(name: str, config: TrialConfig, folder: Path, options: argparse.Namespace) -> list[Row]:
    store = TokenStore.open(prepare(config.data, folder / "tokens"))
    ours = Trainer(config, store, World())
    dense = DenseTrainer(config, store)
    clock = {"ours": 0, "dense": 0}

    def steps(kind: str, trainer: Trainer | DenseTrainer) -> None:
        for _ in range(options.steps):
            clock[kind] += 1
            trainer.train_step(clock[kind])

    seconds = medians(
        {"ours": lambda: steps("ours", ours), "dense": lambda: steps("dense", dense)},
        repeats=options.repeats,
    )
    step_s = {kind: value / options.steps for kind, value in seconds.items()}
    parts = {
        "loader": loader_s(config, store, options),
        "metrics": metrics_s(ours, folder, options),
    }
    case = f"{name} {_shape(config)}"
    return [
        row(
            f"{case} step",
            baseline="dense",
            ours=step_s["ours"],
            theirs=step_s["dense"],
            unit="s",
            goal=STEP_GOAL,
        ),
        *(
            row(
                f"{case} step with its {part}",
                baseline=f"without_{part}",
                ours=step_s["ours"],
                theirs=step_s["ours"] - spent,
                unit="s",
                goal=PART_GOAL,
            )
            for part, spent in parts.items()
        ),
    ]


def loader_s(config: TrialConfig, store: TokenStore, options: argparse.Namespace) -> float:
    def read() -> None:
        for step in range(1, 11):
            load(config, store, step)

    return medians({"loader": read}, repeats=options.repeats)["loader"] / 10


def metrics_s(trainer: Trainer, folder: Path, options: argparse.Namespace) -> float:
    """A step's share: router losses that only inform, its row of the log, and its part of the
    statistics and the report of an evaluation (whose forward passes are no metric's cost)."""
    config, model = trainer.config, trainer.model
    batch = load(config, trainer.store, 1)
    with torch.no_grad():
        _, decisions = model.hidden(batch.ids_BS)
    layers, experts = len(config.moe_layers), config.moe.total_experts
    spool = OutboxFile(folder / "spool.jsonl")
    history = RoutingHistory(layers=config.moe_layers)
    row_C = torch.zeros(4)

    def of_step() -> None:
        if config.moe.balance != "switch" and not config.moe.z_loss_coefficient:
            with torch.no_grad():
                model._auxiliary(decisions, batch.ids_BS.shape[1])
        trainer.log.write(1, row_C)
        trainer.log.check(1, 1, 100.0)

    def of_evaluation() -> None:
        totals = RoutingTotals(layers, experts, "cpu")
        for _ in range(config.train.eval_tokens // config.train.micro_batch_tokens):
            totals.add(decisions)
        probe = torch.stack([block.expert_index[:512] for block in decisions])
        snapshot = RoutingSnapshot.of(totals, model.router_bias(), probe)
        history.add(1, snapshot)
        entry = snapshot.health() | dict(zip("abcd", trainer.log.means(1, 1), strict=True))
        points = [[key, value, time.time_ns() // 10**6, 1] for key, value in entry.items()]
        spool.append({"op": "metrics", "run_id": "r" * 32, "points": points})

    seconds = medians({"step": of_step, "evaluation": of_evaluation}, repeats=options.repeats)
    spool.close()
    return seconds["step"] + seconds["evaluation"] / config.train.eval_every


def _shape(config: TrialConfig) -> str:
    model, moe = config.model, config.moe
    flops = account(config).flops_per_token
    return (
        f"L{model.num_layers}-d{model.d_model}-N{moe.total_experts}-K{moe.active_experts}"
        f"-T{config.train.micro_batch_tokens} ({flops / 1e6:.2f} MFLOPs a token)"
    )


def make_configs(folder: Path, tiny: bool) -> dict[str, TrialConfig]:
    """The scales `cpu`, `cpu-2025-11` and `gpu`, one micro-batch a step, on bytes: the tokenizer is
    no part."""
    generator = np.random.default_rng(0)
    words = ["router", "expert", "token", "gate", "load", "of", "the", "a", "to"]
    for i in range(300):
        text = " ".join(generator.choice(words, size=1000))
        (folder / f"part-{i}.txt").write_text(f"{i} {text}")
    data = DataConfig(corpus=f"files:{folder}/part-*.txt", tokenizer="byte")
    made = {}
    for name, base in (("cpu", CPU), ("cpu-2025-11", CPU_2025_11), ("gpu", GPU)):
        tokens = 2048
        train = dataclasses.replace(
            base.train, batch_tokens=tokens, micro_batch_tokens=tokens, precision="fp32"
        )
        model = base.model
        if tiny:
            model = dataclasses.replace(model, num_layers=1, d_model=16, num_heads=2, d_ff=32)
        made[name] = dataclasses.replace(base, data=data, train=train, model=model)
    return {"cpu": made["cpu"]} if tiny else made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--steps", type=int, default=3, help="steps of a repeat")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a model of no weight, for a test")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scale, config in make_configs(folder, options.tiny).items():
            rows += rows_of(scale, config, folder, options)
    print_result("train_step", rows, packages=("torch", "numpy"))


if __name__ == "__main__":
    main()
