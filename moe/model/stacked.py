"""Weights that stack several matrices, for who treats each by itself (moe/train/optim.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

# A weight, and how it (or its gradient) falls into its matrices, as views.
Stacked = tuple[nn.Parameter, Callable[[Tensor], Sequence[Tensor]]]


def one_matrix(weight: nn.Parameter) -> Stacked:
    return weight, lambda whole: [whole]
