from __future__ import annotations

import pytest

from moe.config import OptimConfig
from moe.model.transformer import MoETransformer
from moe.train.optim import build_optimizer, learning_rate


def test_schedule_rises_linearly_then_falls_along_a_cosine():
    config = OptimConfig(learning_rate=1.0, warmup_steps=4, min_learning_rate_fraction=0.1)
    rates = [learning_rate(config, step, 14) for step in range(1, 15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[8] == pytest.approx(0.55)  # half of the way from 1 to 0.1
    assert rates[-1] == pytest.approx(0.1)
    assert rates[3:] == sorted(rates[3:], reverse=True)


@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 1), (5, 5), (9, 3), (0, 7)])
def test_schedule_has_a_positive_rate_at_every_step(warmup, num_steps):
    config = OptimConfig(learning_rate=0.5, warmup_steps=warmup)
    rates = [learning_rate(config, step, num_steps) for step in range(1, num_steps + 1)]
    assert all(0 < rate <= 0.5 for rate in rates)


def test_matrices_alone_are_decayed(make_config):
    config = make_config(num_experts=4, top_k=2)
    model = MoETransformer(config)
    decayed, exempt = build_optimizer(model, config.optim).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == config.optim.weight_decay
    assert exempt["weight_decay"] == 0
    assert {names[p].rsplit(".", 1)[1] for p in decayed["params"]} == {
        "weight",
        "weight_in",
        "weight_out",
    }
    exempt_names = {names[p] for p in exempt["params"]}
    assert {"token_embedding.weight", "blocks.0.ffn.experts.bias_in"} <= exempt_names
    assert all("norm" in n or "embedding" in n or "bias" in n for n in exempt_names)
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)
