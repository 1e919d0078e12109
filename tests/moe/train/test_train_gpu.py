"""What only a GPU can show. Skips itself without one."""

from __future__ import annotations

import pytest
import torch

from moe.train.distributed import World
from moe.train.trainer import Trainer
from moe.train.training_run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
_GPU = World(device="cuda")


def test_loss_falls_and_a_stopped_run_goes_on(tmp_path, store, make_config):
    config = make_config(num_experts=4, top_k=2, precision="bf16", num_steps=60, eval_every=20)

    def stop_at_40(metrics, checkpoint):
        return metrics["step"] == 40

    options = {"world": _GPU, "checkpoint_every": 20}
    first = train(config, store, report=stop_at_40, out=tmp_path, **options)
    assert first.status == "stopped"
    result = train(config, store, report=lambda *_: None, out=tmp_path, **options)
    losses = [entry["val/loss"] for entry in result.curve]
    assert losses == sorted(losses, reverse=True)
    assert result.curve[:2] == first.curve
    assert result.metrics["cost/peak_memory_bytes"] > 0


@pytest.mark.parametrize("fields", [{}, {"num_experts": 4, "top_k": 2}], ids=str)
def test_step_does_not_wait_for_the_gpu(store, make_config, fields):
    trainer = Trainer(make_config(precision="bf16", **fields), store, _GPU)
    for step in (1, 2):
        trainer.train_step(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (3, 4, 5):
            trainer.train_step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.check(5)
