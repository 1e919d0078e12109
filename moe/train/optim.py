"""The optimisers and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from moe.config import OptimConfig
from moe.model.initialisation import decayed, growing
from moe.model.transformer import MoETransformer


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """Learning rate of optimiser step `step` (1 to `num_steps`): a function of the step alone.

    Linear from lr/warmup_steps to lr over the warmup, then by `schedule` down to
    lr * min_learning_rate_fraction, which it reaches at the last step: along a cosine or a line
    from the end of the warmup, or (wsd) along a line over the last `decay_fraction` of all steps.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    least = config.min_learning_rate_fraction
    if config.schedule == "cosine":
        progress = (step - warmup) / (num_steps - warmup)
        return peak * (least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2)
    begin = warmup
    if config.schedule == "wsd":
        begin = max(warmup, num_steps - max(1, round(config.decay_fraction * num_steps)))
    progress = max(0.0, (step - begin) / (num_steps - begin))
    return peak * (1 - (1 - least) * progress)


def set_learning_rate(optimizer: torch.optim.AdamW | MuonAndAdamW, rate: float) -> None:
    """The rate of a step, or under mup of some groups their share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def build_optimizer(model: MoETransformer, config: OptimConfig) -> torch.optim.AdamW | MuonAndAdamW:
    """Over what is trained, with weight decay where modules ask for it."""
    return MuonAndAdamW(model, config) if config.name == "muon" else build_adamw(model, config)


def build_adamw(
    model: MoETransformer, config: OptimConfig, without: Collection[int] = ()
) -> torch.optim.AdamW:
    """In two groups: with weight decay, and without (`moe.model.initialisation`); under mup in
    three: what grows with the width has 1/r of the rate, and r times the decay, so that a step
    decays it as it does at the base (2405.13698). `without`: ids of parameters that another
    optimiser has.

    The fused kernel is six times as fast as the plain one on a CPU too.
    """
    trained = [
        (n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in without
    ]
    names, ratio = decayed(model), model.config.width_ratio
    scaled = growing(model) if ratio != 1 else set()
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in trained if name in names and name not in scaled],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in trained if name not in names], "weight_decay": 0.0},
    ]
    if scaled:
        groups.append(
            {
                "params": [p for name, p in trained if name in scaled],
                "weight_decay": config.weight_decay * ratio,
                "lr": config.learning_rate / ratio,
                "rate_share": 1 / ratio,
            }
        )
    return torch.optim.AdamW(
        [group for group in groups if group["params"] or not scaled],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


class MuonAndAdamW:
    """Muon for the matrices of the blocks, AdamW for the rest, as one optimiser.

    torch.optim.Muon takes matrices alone, and orthogonalises each update. What a weight stacks
    (experts; queries, keys and values; gates and what they multiply) are matrices of their own
    (`MoETransformer.matrices`): Muon is given views, each with its view of the gradient. Updates
    are scaled to the root mean square of AdamW's (2502.16982), so that both follow one learning
    rate.
    """

    def __init__(self, model: MoETransformer, config: OptimConfig) -> None:
        self.stacked = model.matrices()
        self.views = [view for weight, parts in self.stacked for view in parts(weight.detach())]
        self.muon = torch.optim.Muon(
            self.views,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = build_adamw(model, config, without={id(weight) for weight, _ in self.stacked})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        gradients = (part for weight, parts in self.stacked for part in parts(weight.grad))
        for view, gradient in zip(self.views, gradients, strict=True):
            view.grad = gradient
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        weights: list[Tensor] = [weight for weight, _ in self.stacked]
        for tensor in (*weights, *self.views):
            tensor.grad = None
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
