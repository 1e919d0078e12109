"""How each tensor of the model begins, and whether weight decay applies to it: its module says so.

A module that owns tensors keeps a rule for each in its `rules`, by the tensor's name in it; the
functions below build torch's own modules with theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from moe.config import ModelConfig
from moe.model.seeding import named_generator

INIT_STD = 0.02  # GPT-2's

# How a tensor's two sides follow the width of the model: "inner" with both, "readout" with its
# inputs alone, "" with at most its outputs.
Growth = Literal["", "inner", "readout"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """value: a tensor without `std` is filled with it. std: else drawn from a normal around 0.

    slices: each index of the first dimension has a stream of its own, so that N experts are the
        first of 2N. decays: whether weight decay applies. growth: what mup goes by (2203.03466,
        table 8; its output weights are the head, whose logits are divided instead).
    """

    value: float = 0.0
    std: float | None = None
    slices: bool = False
    decays: bool = False
    growth: Growth = ""

    def fill(self, tensor: Tensor, seed: int, name: str, width_ratio: float) -> None:
        if self.std is None:
            tensor.fill_(self.value)
            return
        std = (
            self.std
            * {"": 1.0, "inner": width_ratio**-0.5, "readout": 1 / width_ratio}[self.growth]
        )
        if self.slices:
            for i, part in enumerate(tensor):
                part.normal_(0, std, generator=named_generator(seed, name, i))
        else:
            tensor.normal_(0, std, generator=named_generator(seed, name))


ZEROS, ONES = Rule(value=0.0), Rule(value=1.0)


def matrix(std: float = INIT_STD, growth: Growth = "inner") -> Rule:
    return Rule(std=std, decays=True, growth=growth)


def residual_std(model: ModelConfig) -> float:
    """Of weights that write to the residual stream, which 2 * num_layers of them add to (GPT-2)."""
    return INIT_STD / math.sqrt(2 * model.num_layers)


def linear(
    inputs: int, outputs: int, *, bias: bool, std: float = INIT_STD, growth: Growth = "inner"
) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.rules = {"weight": matrix(std, growth), "bias": ZEROS}
    return layer


def embedding(rows: int, width: int) -> nn.Embedding:
    """Not decayed: a row that no token of a batch touches would shrink for nothing."""
    table = nn.Embedding(rows, width)
    table.rules = {"weight": Rule(std=INIT_STD)}
    return table


@torch.no_grad()
def initialise(model: nn.Module, seed: int, width_ratio: float = 1.0) -> None:
    """Every tensor has a stream of its own, by (seed, name): cells of one seed begin alike in the
    parts that they share. `width_ratio`: r of mup. Raises ValueError for a parameter without a
    rule."""
    ruled = set()
    for name, rule, tensor in _ruled(model):
        rule.fill(tensor, seed, name, width_ratio)
        ruled.add(name)
    if missing := {name for name, _ in model.named_parameters()} - ruled:
        raise ValueError(
            f"a module says how its tensors begin; received {', '.join(sorted(missing))} without. "
            "Add them to its `rules`."
        )


def _ruled(model: nn.Module) -> Iterator[tuple[str, Rule, Tensor]]:
    """The tensors that there are, with name and rule."""
    for owner, module in model.named_modules():
        for leaf, rule in getattr(module, "rules", {}).items():
            if (tensor := getattr(module, leaf)) is not None:
                yield f"{owner}.{leaf}" if owner else leaf, rule, tensor


def decayed(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: matrices, but no embeddings."""
    return {n for n, rule, t in _ruled(model) if rule.decays and isinstance(t, nn.Parameter)}


def growing(model: nn.Module) -> set[str]:
    """Names of the parameters whose inputs grow with the width: mup divides their rates."""
    return {n for n, rule, t in _ruled(model) if rule.growth and isinstance(t, nn.Parameter)}
