"""The estimate of a step's peak memory, against what torch allocates."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moe.memory import estimate
from moe.memory_fit import host_bytes, misfit
from moe.train.distributed import World
from moe.train.trainer import Trainer

WIDE = {"d_model": 64, "d_ff": 256, "context_length": 32, "micro_batch_tokens": 512}
CASES = {
    "dense": {},
    "accumulated": {"batch_tokens": 1024, "dropout": 0.1},
    "llama": {
        **{"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False},
        **{"tied_embeddings": False, "num_kv_heads": 1, "qk_norm": "head"},
    },
    "mixture": {"num_experts": 8, "top_k": 2},
    "many experts": {"num_experts": 32, "top_k": 1, "gate": "switch", "balance": "switch"},
    "granular": {"num_experts": 4, "top_k": 2, "granularity": 8, "shared_experts": 2},
    "sequences": {"num_experts": 4, "top_k": 2, "routing_unit": "sequence"},
    "expert choice": {"num_experts": 8, "top_k": 2, "selection": "expert", "gate": "switch"},
    "hash": {"num_experts": 8, "top_k": 2, "router": "hash", "layer_stride": 2},
    "muon": {"num_experts": 16, "top_k": 1, "gate": "switch", "name": "muon"},
    "bf16": {"num_experts": 4, "top_k": 2, "precision": "bf16"},
}


def allocated(config, store) -> int:
    """The most bytes of tensors at once, in two steps of a fresh model."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer = Trainer(config, store, World())
        for step in (1, 2):
            trainer.train_step(step)
    events = profiled.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    total = torch.tensor([change for _, change in sorted(changes, key=lambda c: c[0])]).cumsum(0)
    return int(total.max())


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_torch_allocates(make_config, store, name):
    config = make_config(**{"batch_tokens": 512, **WIDE, **CASES[name]})
    assert estimate(config).allocated == pytest.approx(allocated(config, store), rel=0.1)


def test_gradients_of_several_workers_stay(make_config):
    config = make_config(**{"batch_tokens": 512, **WIDE, "micro_batch_tokens": 256})
    one, two = estimate(config), estimate(config, workers=2)
    assert two.gradients == one.gradients
    alone = dataclasses.replace(config.train, batch_tokens=256)
    single = estimate(dataclasses.replace(config, train=alone))
    assert two.peak > single.peak


def test_shards_are_parts(make_config):
    config = make_config(**{**WIDE, "batch_tokens": 512, "micro_batch_tokens": 64, "num_layers": 8})
    alone, shards = estimate(config, workers=4), estimate(config, workers=4, shard=True)
    assert shards.weights * 4 == pytest.approx(alone.weights, rel=0.01)
    assert shards.optimizer * 4 == pytest.approx(alone.optimizer, rel=0.01)
    assert shards.peak < alone.peak
    assert estimate(config, shard=True) == estimate(config), "one worker has nothing to shard"


def test_what_cannot_fit_is_told_with_what_would(make_config):
    config = make_config(**{"batch_tokens": 512, **WIDE})
    peak = estimate(config).peak
    assert misfit(config, peak) is None
    assert misfit(config, peak * 0.9) is None, "an estimate is not that sure"
    reason = misfit(config, peak / 2, where="on this GPU")
    assert "on this GPU" in reason
    size = int(reason.partition("train.micro_batch_tokens=")[2].split()[0])
    smaller = dataclasses.replace(config.train, micro_batch_tokens=size)
    assert estimate(dataclasses.replace(config, train=smaller)).peak <= peak / 2
    assert "--shard over" in misfit(config, peak * 0.6)
    assert "micro_batch" not in misfit(config, estimate(config).weights)


def test_the_machine_has_memory():
    assert 2**28 < host_bytes() < 2**60


def test_it_needs_no_torch():
    code = "import sys, moe.memory, moe.memory_fit; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
