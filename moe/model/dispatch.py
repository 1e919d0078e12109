"""What the ways through the experts share: who goes where, and how what comes back is added up.

Assignments of units to experts are sorted by expert, so that each expert is a plain matrix product
over rows that lie together. A token and a whole sequence are handled alike: a unit is R rows, R = 1
token or the S positions of a sequence, and all rows of a unit are moved, weighted and sorted as
one. Every unit has K experts; or, where experts choose or have no room for all, some number from 0
on: then what has a dimension K elsewhere is one long row of the A assignments, unit by unit.

Shapes:  U routed units   R rows of a unit   K chosen   N experts   D d_model   F d_expert
         P columns of the first product: F, with SwiGLU 2F
         A = U*K assignments, or fewer         C = R*D, a unit's rows laid end to end
         c, r: assignments and rows of one expert
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Dispatch(NamedTuple):
    """Assignments sorted by expert. by_expert_A: where the sorted assignment stood, unit by unit;
    unit_A: its unit; slot_UK: where each unit's assignments went (the inverse of by_expert_A), [A]
    where units have different numbers of them; start_U: where each unit's first stood."""

    by_expert_A: Tensor
    unit_A: Tensor
    slot_UK: Tensor
    start_U: Tensor

    @property
    def is_ragged(self) -> bool:
        """Whether units have different numbers of experts."""
        return self.slot_UK.ndim == 1


def sort_by_expert(expert_index_UK: Tensor, kept_UK: Tensor | None = None) -> Dispatch:
    """`kept_UK`: which assignments take place; None for all, which waits for no device."""
    num_units, k = expert_index_UK.shape
    device = expert_index_UK.device
    if kept_UK is None:
        by_expert_A = expert_index_UK.flatten().argsort(stable=True)
        unit_A = by_expert_A // k
        start_U = torch.arange(0, num_units * k, k, device=device)
    else:
        place_A = kept_UK.flatten().nonzero().squeeze(1)
        by_expert_A = expert_index_UK.flatten()[place_A].argsort(stable=True)
        unit_A = place_A[by_expert_A] // k
        start_U = F.pad(kept_UK.sum(1).cumsum(0)[:-1], (1, 0))
    slot_A = torch.empty_like(by_expert_A)
    slot_A[by_expert_A] = torch.arange(len(slot_A), device=device)
    slot_UK = slot_A if kept_UK is not None else slot_A.view_as(expert_index_UK)
    return Dispatch(by_expert_A, unit_A, slot_UK, start_U)


def gated_sum(y_ARD: Tensor, dispatch: Dispatch, gate_UK: Tensor | None) -> Tensor:
    """Of each unit the sum of gate * y over its assignments, without gates the plain sum: [U, R,
    D], zero for a unit without any. An embedding bag gathers and sums in one pass."""
    weights_A = None if gate_UK is None else gate_UK.flatten()
    y_UC = F.embedding_bag(
        dispatch.slot_UK.flatten(),
        y_ARD.flatten(1),
        dispatch.start_U,
        per_sample_weights=weights_A,
        mode="sum",
    )
    return y_UC.view(-1, *y_ARD.shape[1:])


def affine(x: Tensor, weight: Tensor, bias_N: Tensor | None, n: int, *, out: Tensor) -> None:
    """Expert n's product, with its bias where experts have one."""
    if bias_N is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias_N[n], x, weight, out=out)


def empty_like(weights: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Room for the gradients of the weights, where there are any."""
    return [None if weight is None else torch.empty_like(weight) for weight in weights]
