"""The step as a GPU would run it, as far as a CPU shows: nothing asks what a tensor holds."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moe.model import experts
from moe.train.trainer import Trainer
from moe.train.training_run import World

aten = torch.ops.aten
# Each of these has the host wait for the device, on a GPU.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.equal.default,
}


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found, self.seen = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        if func in WAITS:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_experts": 0},
        {"num_experts": 4, "top_k": 2, "balance": "switch", "z_loss_coefficient": 1e-3},
        {"num_experts": 4, "top_k": 2, "routing_unit": "sequence"},
        {"num_experts": 4, "top_k": 2, "balance": "loss_free", "balance_coefficient": 0.01},
        {"num_experts": 4, "top_k": 1, "gate": "switch", "granularity": 2},
    ],
    ids=str,
)
def test_a_step_in_bfloat16_waits_for_nothing(store, make_config, monkeypatch, fields):
    monkeypatch.setattr(experts, "is_grouped", lambda x_URD: True)
    monkeypatch.setattr(experts, "by_sequence", lambda *_: False)  # a CPU's own way
    trainer = Trainer(make_config(precision="bf16", **fields), store, World())
    trainer.is_cuda = True  # which leaves the look at the log to every twentieth step
    for step in (1, 2):
        trainer.train_step(step)
    with Waits() as waits:
        trainer.train_step(3)
    assert waits.found == []
    assert aten._fused_adamw_.default in waits.seen, "all weights in one kernel"
    with Waits() as waits:
        assert torch.ones(2).max().item() == 1
        torch.ones(2).nonzero()
    assert len(waits.found) == 2, "such would have been seen"
