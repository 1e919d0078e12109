"""The last training steps' scalars, kept on the device so that a step never waits for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOSS, GRAD_NORM, BALANCE_LOSS, Z_LOSS = range(4)
NUM_COLUMNS = 4
PAPER_WINDOW = 100  # arXiv 2402.13089 averages its last 100 iterations


class DivergenceError(RuntimeError):
    """Training left the finite numbers, or its loss passed train.max_loss."""

    def __init__(self, step: int, loss: float, reason: str) -> None:
        super().__init__(
            f"training diverged at step {step}: {reason}. "
            "Lower optim.learning_rate, lengthen optim.warmup_steps, or set optim.grad_clip."
        )
        self.step = step
        self.loss = loss
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[int, float, str]]:
        return type(self), (self.step, self.loss, self.reason)


class StepLog:
    """A ring over steps of (loss, gradient norm, balance loss, z-loss). Steps count from 1."""

    def __init__(self, capacity: int, device: str) -> None:
        self.rows_SC = torch.zeros(max(capacity, PAPER_WINDOW), NUM_COLUMNS, device=device)

    def write(self, step: int, row_C: Tensor) -> None:
        self.rows_SC[(step - 1) % len(self.rows_SC)] = row_C

    def read(self, first: int, last: int) -> Tensor:
        """Rows of the steps first..last, in order, on the CPU (float64)."""
        assert 1 <= first <= last < first + len(self.rows_SC)
        where_S = torch.arange(first - 1, last) % len(self.rows_SC)
        return self.rows_SC.cpu()[where_S].double()

    def means(self, first: int, last: int) -> list[float]:
        """Mean of each column over the steps first..last."""
        return self.read(first, last).mean(0).tolist()

    def check(self, first: int, last: int, max_loss: float) -> None:
        """Raises DivergenceError at the first of the steps that left the finite numbers."""
        if first > last:
            return
        for step, row in enumerate(self.read(first, last).tolist(), start=first):
            check_loss("loss", step, row[LOSS], max_loss)
            if not math.isfinite(row[GRAD_NORM]):
                reason = (
                    f"the gradient's norm is {row[GRAD_NORM]} at a loss of {row[LOSS]:.4g} nats"
                )
                raise DivergenceError(step, row[LOSS], reason)


def check_loss(name: str, step: int, loss: float, max_loss: float) -> None:
    """Raises DivergenceError if `loss` is not finite or above `max_loss` (nats)."""
    if not math.isfinite(loss):
        raise DivergenceError(step, loss, f"the {name} is {loss}")
    if loss > max_loss:
        raise DivergenceError(
            step, loss, f"the {name} is {loss:.4g} nats, above train.max_loss={max_loss:g}"
        )
