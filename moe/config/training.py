"""The sections `optim` and `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe.config.checks import axis, check_types, require

Precision = Literal["fp32", "bf16"]
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "wsd"]
Parametrization = Literal["standard", "mup"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The update, and the learning rate of each step."""

    learning_rate: float = axis(1e-3, "peak learning rate")
    min_learning_rate_fraction: float = axis(0.1, "last learning rate over the peak", "2402.13089")
    warmup_steps: int = axis(20, "steps of linear warmup")
    weight_decay: float = axis(0.1, "decay of matrices; biases, norms and embeddings have none")
    beta1: float = axis(0.9, "AdamW beta1")
    beta2: float = axis(0.95, "AdamW beta2")
    grad_clip: float = axis(1.0, "bound on the gradient's norm; 0 is none")
    name: Optimizer = axis(
        "adamw",
        "AdamW for all; or Muon for the matrices of the blocks (momentum 0.95, Nesterov, updates "
        "scaled to AdamW's root mean square, so that one learning rate serves both) and AdamW for "
        "embeddings, head, norms and biases",
        "1711.05101, 2502.16982",
    )
    schedule: Schedule = axis(
        "cosine",
        "after the warmup, down to min_learning_rate_fraction: along a cosine, a line, or flat and "
        "then a line (wsd: warmup, stable, decay)",
        "1608.03983, 2404.06395",
    )
    decay_fraction: float = axis(0.2, "wsd: share of all steps that the decay takes", "2405.18392")

    parametrization: Parametrization = axis(
        "standard",
        "how initial scales and rates follow the width: not at all (standard); or so that one "
        "learning rate serves all widths (mup): with r = d_model / base_d_model, the matrices of "
        "the blocks begin 1/sqrt(r) and routers 1/r as wide, the rates of both are 1/r of the "
        "others' (their decay a step is not), and logits are divided by r",
        "2203.03466, 2508.09752",
    )
    base_d_model: int = axis(64, "mup: the d_model at which it is the standard parametrization")
    base_d_head: int = axis(
        0,
        "mup: the width of a head at which its scores are divided by the root of it, elsewhere by "
        "that width, as much as makes both meet; 0: the model's own, where heads grow in number",
        "2203.03466",
    )

    def __post_init__(self) -> None:
        check_types(self, "optim")
        require(
            self.learning_rate > 0,
            "optim.learning_rate must be positive",
            self.learning_rate,
            "Try 0.001.",
        )
        for name in ("min_learning_rate_fraction", "warmup_steps", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            require(value >= 0, f"optim.{name} must not be negative", value, "Use 0 or more.")
        require(
            0 < self.decay_fraction <= 1,
            "optim.decay_fraction must be above 0 and at most 1",
            self.decay_fraction,
            "0.2 is usual.",
        )
        require(
            self.base_d_model >= 1,
            "optim.base_d_model must be at least 1",
            self.base_d_model,
            "Name the width that the learning rate was found at.",
        )
        require(
            self.base_d_head >= 0,
            "optim.base_d_head must be at least 0",
            self.base_d_head,
            "0 is the model's own width of a head.",
        )
        require(
            self.parametrization == "standard" or self.name == "adamw",
            "optim.parametrization=mup gives the rates of AdamW's updates",
            self.name,
            "Set optim.name=adamw, or optim.parametrization=standard.",
        )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name} must be in [0, 1)", value, "0.9 is usual.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The budget, and what changes the bits of a result."""

    num_steps: int = axis(200, "optimiser steps")
    batch_tokens: int = axis(2048, "tokens of an optimiser step, over all workers")
    micro_batch_tokens: int = axis(2048, "tokens of one forward and backward pass of one worker")
    precision: Precision = axis("fp32", "fp32, or bf16 autocast with fp32 weights")
    seed: int = axis(0, "initialisation, data order, dropout and random routers")
    eval_every: int = axis(50, "optimiser steps between evaluations; the last step always has one")
    eval_tokens: int = axis(16384, "held-out tokens of an evaluation, the same for every cell")
    loss_start: int = axis(
        0, "first position that counts in training and evaluation loss (see prefix_length)"
    )
    max_loss: float = axis(100.0, "a training loss above this many nats ends the run as diverged")

    @property
    def num_tokens(self) -> int:
        """Tokens that the whole run trains on."""
        return self.num_steps * self.batch_tokens

    def __post_init__(self) -> None:
        check_types(self, "train")
        for name in (
            "num_steps",
            "batch_tokens",
            "micro_batch_tokens",
            "eval_every",
            "eval_tokens",
        ):
            value = getattr(self, name)
            require(value >= 1, f"train.{name} must be at least 1", value, "Raise it.")
        require(
            0 <= self.seed < 2**31,
            "train.seed must be a non-negative 31-bit integer",
            self.seed,
            "Use 0, 1, 2, ...",
        )
        require(
            self.batch_tokens % self.micro_batch_tokens == 0,
            "train.micro_batch_tokens must divide train.batch_tokens",
            (self.micro_batch_tokens, self.batch_tokens),
            "Change one of the two.",
        )
        require(
            self.loss_start >= 0, "train.loss_start must not be negative", self.loss_start, "Use 0."
        )
        require(self.max_loss > 0, "train.max_loss must be positive", self.max_loss, "Raise it.")
