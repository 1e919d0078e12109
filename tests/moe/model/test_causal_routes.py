"""A sequence routed by its whole mean, evaluated as a model that writes would route it.

Each position is routed by the mean of the positions up to it. Of one block that can be had the slow
way: what a prefix's last position does when the prefix is a text of its own.
"""

from __future__ import annotations

import pytest
import torch

from moe.model.transformer import MoETransformer

SEQUENCE = {"num_experts": 4, "routing_unit": "sequence", "router_init_std": 1.0}
MEANS = [
    SEQUENCE | {"top_k": 2, "gate": "double_softmax"},
    SEQUENCE | {"top_k": 1, "gate": "switch"},
    SEQUENCE | {"top_k": 2, "router": "random"},
    SEQUENCE | {"top_k": 2, "balance": "loss_free", "shared_experts": 1},
]


@pytest.mark.parametrize("fields", MEANS, ids=str)
def test_of_one_block_it_is_that_of_every_prefix(make_config, fields):
    model = MoETransformer(make_config(num_layers=1, **fields)).eval()
    ids_BS, targets_BS = torch.randint(0, 257, (2, 3, 8))
    with torch.no_grad():
        causal = model(ids_BS, targets_BS, step=5, routes_causally=True)
        of_prefixes = 0.0
        for end in range(1, 9):
            logits_BV = model.logits(ids_BS[:, :end], step=5)[:, -1]
            targets_B = targets_BS[:, end - 1]
            of_prefixes += torch.nn.functional.cross_entropy(logits_BV, targets_B, reduction="sum")
        whole = model(ids_BS, targets_BS, step=5)
    torch.testing.assert_close(causal.loss_sum, of_prefixes)
    assert abs(float(whole.loss_sum - causal.loss_sum)) > 1e-4


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_later_tokens_reach_no_earlier_loss(make_config, scope):
    model = MoETransformer(
        make_config(num_layers=3, **SEQUENCE | {"top_k": 2, "routing_scope": scope})
    ).eval()
    ids_BS = torch.randint(0, 257, (4, 8))
    changed_BS = ids_BS.clone()
    changed_BS[:, 5:] = torch.randint(0, 257, (4, 3))
    with torch.no_grad():
        for causally, same in ((True, True), (False, False)):
            before, after = (
                model.hidden(ids, step=1, routes_causally=causally)[0][:, :5]
                for ids in (ids_BS, changed_BS)
            )
            assert torch.allclose(before, after, atol=1e-6) == same


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_experts": 4, "top_k": 2},
        {"num_experts": 4, "top_k": 2, "router": "hash"},
        SEQUENCE
        | {"top_k": 2, "sequence_representation": "prefix", "prefix_length": 2, "loss_start": 2},
    ],
    ids=str,
)
def test_other_routers_are_as_they_were(make_config, fields):
    model = MoETransformer(make_config(**fields)).eval()
    ids_BS = torch.randint(0, 257, (2, 8))
    with torch.no_grad():
        a, b = (model(ids_BS, ids_BS, routes_causally=causally) for causally in (True, False))
    assert torch.equal(a.loss_sum, b.loss_sum)
