"""Experts that choose, room for a few, and learned noise, against loops written from the rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moe.config import ConfigError
from moe.model.expert_capacity import within_capacity
from moe.model.moe_layer import MoELayer
from moe.model.router import RouterContext, Routing, count_tokens
from moe.model.selection import capacity, taken_by_experts
from moe.model.transformer import MoETransformer


def naive_kept(index_UK: Tensor, room: int, value_UK: Tensor | None = None) -> Tensor:
    """One assignment after another finds room or does not; best `value` first, if there is one."""
    queue = [(u, k) for u in range(len(index_UK)) for k in range(index_UK.shape[1])]
    if value_UK is not None:
        queue.sort(key=lambda place: -value_UK[place].item())
    used: dict[int, int] = {}
    kept_UK = torch.zeros_like(index_UK, dtype=torch.bool)
    for place in queue:
        expert = index_UK[place].item()
        kept_UK[place] = used.get(expert, 0) < room
        used[expert] = used.get(expert, 0) + 1
    return kept_UK


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("dropping", ["order", "probability"])
@pytest.mark.parametrize("room", [1, 3, 24])
def test_who_finds_room_equals_the_loop(room, dropping, rows):
    logits_UN = torch.randn(24, 5)
    logits_UN[::3] = logits_UN[0]  # ties go to who comes first
    probs_UN = logits_UN.softmax(1)
    index_UK = probs_UN.topk(2).indices
    routing = Routing(
        unit="token",
        expert_index=index_UK,
        gate=torch.rand(24, 2),
        counts_N=count_tokens(index_UK, 5, rows),
        probs=probs_UN,
    )
    limited = within_capacity(routing, room, dropping, rows)
    value_UK = probs_UN.gather(1, index_UK) if dropping == "probability" else None
    kept_UK = naive_kept(index_UK, room, value_UK)
    assert torch.equal(limited.kept, kept_UK)
    assert torch.equal(limited.gate, routing.gate * kept_UK)
    assert torch.equal(limited.counts_N, routing.counts_N), "the load is what was chosen"
    assert torch.equal(limited.served_N, count_tokens(index_UK[kept_UK], 5, rows))
    assert torch.equal(limited.passed >= 0, kept_UK)


def test_an_expert_takes_its_units_of_largest_gate_and_of_equal_ones_the_first():
    gate_UN = torch.rand(40, 6).round(decimals=1)
    kept_UN = taken_by_experts(gate_UN, 7)
    for e in range(6):
        ranked = sorted(range(40), key=lambda u: (-gate_UN[u, e].item(), u))
        assert kept_UN[:, e].nonzero().flatten().tolist() == sorted(ranked[:7])


def test_room_is_a_share_rounded_up(make_config):
    moe = make_config(num_experts=4, top_k=2).moe
    assert [capacity(moe, 20, factor) for factor in (0.01, 1.0, 1.1, 1.25, 3.0)] == [
        *(1, 10, 11, 13, 20)
    ]
    fine = make_config(num_experts=3, top_k=1, granularity=2).moe
    assert capacity(fine, 10) == 4


def run_layer(layer: MoELayer, x_BSD: Tensor) -> tuple[Tensor, Routing]:
    ids_BS = torch.arange(x_BSD.shape[0] * x_BSD.shape[1]).view(x_BSD.shape[:2])
    label_B = torch.zeros(len(x_BSD), dtype=torch.int64)
    return layer(x_BSD, RouterContext(ids_BS=ids_BS, label_B=label_B, step=0), None)


def naive_output(layer: MoELayer, x_BSD: Tensor, routing: Routing, gate_UK: Tensor) -> Tensor:
    """Each kept assignment adds gate * expert(x); gates are given, so that gradients reach them."""
    x_URD = x_BSD.reshape(len(routing.expert_index), -1, x_BSD.shape[-1])
    experts, y = layer.experts, []
    for u, x_RD in enumerate(x_URD):
        y_RD = torch.zeros_like(x_RD)
        for k, e in enumerate(routing.expert_index[u].tolist()):
            if routing.kept is None or routing.kept[u, k]:
                hidden = torch.nn.functional.gelu(x_RD @ experts.weight_in[e] + experts.bias_in[e])
                out_RD = hidden @ experts.weight_out[e] + experts.bias_out[e]
                y_RD = y_RD + gate_UK[u, k] * out_RD
        y.append(y_RD)
    return torch.stack(y).view_as(x_BSD)


CHOICES = [
    {"selection": "expert", "gate": "switch"},
    {"selection": "expert", "gate": "sigmoid", "top_k": 1, "gate_scale": 2.0},
    {"capacity_factor": 0.5},
    {"capacity_factor": 0.5, "dropping": "probability", "balance": "loss_free"},
    {"capacity_factor": 0.5, "routing_unit": "sequence"},
    {"capacity_factor": 0.25, "router": "hash"},
    {"capacity_factor": 1.0, "router": "label", "top_k": 1},
]


@pytest.mark.parametrize("fields", CHOICES, ids=str)
def test_the_layer_equals_the_loop_over_what_is_kept(make_config, fields):
    layer = MoELayer(make_config(**{"num_experts": 4, "top_k": 2, **fields}), 0).double()
    for tensor in layer.state_dict().values():
        tensor.normal_()
    x_BSD = torch.randn(4, 8, 8, dtype=torch.float64, requires_grad=True)
    fast_BSD, routing = run_layer(layer, x_BSD)
    assert not routing.kept.all()
    if "selection" in fields:
        gate_UK = routing.probs if fields["gate"] == "switch" else routing.logits.sigmoid()
        gate_UK = gate_UK * fields.get("gate_scale", 1.0)
        num_taken = 32 * layer.moe.top_k // 4
        assert torch.equal(routing.kept, taken_by_experts(gate_UK, num_taken))
        assert routing.counts_N.tolist() == [num_taken] * 4
    else:
        gate_UK = routing.gate
        room = math.ceil(len(gate_UK) * layer.moe.top_k * layer.moe.capacity_factor / 4)
        assert (routing.served_N <= room * (32 // len(gate_UK))).all()
    naive_BSD = naive_output(layer, x_BSD, routing, gate_UK.double())
    torch.testing.assert_close(fast_BSD, naive_BSD, rtol=1e-6, atol=1e-6)
    wanted = (x_BSD, *layer.parameters())
    dy_BSD = torch.randn_like(fast_BSD)
    got = torch.autograd.grad(fast_BSD, wanted, dy_BSD, retain_graph=True)
    expected = torch.autograd.grad(naive_BSD, wanted, dy_BSD)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-5)


def test_room_for_all_is_no_limit_and_experts_that_take_all_do_not_choose(make_config):
    ids_BS = torch.randint(0, 257, (2, 8))
    plain = {"num_experts": 4, "top_k": 2}
    all_chosen = {**plain, "top_k": 4, "gate": "switch"}
    for fields, same in (
        ({**plain, "capacity_factor": 2.0, "dropping": "probability"}, plain),
        ({**all_chosen, "selection": "expert"}, all_chosen),
    ):
        outputs = [MoETransformer(make_config(**f))(ids_BS, ids_BS).loss for f in (fields, same)]
        assert torch.equal(*outputs)


def test_learned_noise_moves_the_choice_in_training_alone(make_config):
    config = make_config(num_experts=4, top_k=2, noisy_top_k=True)
    layer = MoELayer(config, 0)
    for tensor in layer.state_dict().values():
        tensor.normal_()
    x_BSD = torch.randn(200, 8, 8)
    with torch.no_grad():
        layer.router.noise_weight.copy_(torch.randn(4, 8) / 2)
        torch.manual_seed(1)
        noisy = run_layer(layer, x_BSD)[1].logits
        torch.manual_seed(1)
        assert torch.equal(noisy, run_layer(layer, x_BSD)[1].logits)
        plain = run_layer(layer.eval(), x_BSD)[1].logits
        assert torch.equal(plain, x_BSD.flatten(0, 1) @ layer.router.weight.T)
        width = (x_BSD.flatten(0, 1) @ layer.router.noise_weight.T).exp().log1p()
    unit = (noisy - plain) / width
    assert abs(unit.mean().item()) < 0.05
    assert abs(unit.std().item() - 1) < 0.05
    run_layer(layer.train(), x_BSD)[0].square().sum().backward()
    assert layer.router.noise_weight.grad.abs().max() > 0


def test_noise_begins_at_ln_2_and_is_trained_like_the_router(make_config):
    model = MoETransformer(make_config(num_experts=4, top_k=2, noisy_top_k=True))
    for layer in model.moe_layers():
        assert layer.router.noise_weight.abs().max() == 0
        assert {id(layer.router.noise_weight), id(layer.router.weight)} <= {
            id(weight) for weight, _ in layer.matrices()
        }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"selection": "expert"}, "not normalised over the chosen"),
        ({"selection": "expert", "gate": "switch", "router": "hash"}, "experts choose by scores"),
        ({"selection": "expert", "gate": "switch", "routing_unit": "sequence"}, "unit is the"),
        ({"selection": "expert", "gate": "switch", "balance": "switch"}, "nothing is left to"),
        ({"selection": "expert", "gate": "switch", "expert_groups": 2}, "limits the experts"),
        ({"selection": "expert", "gate": "switch", "capacity_factor": 1.0}, "drops nothing"),
        ({"capacity_factor": 1.0, "dropping": "probability", "router": "hash"}, "has some"),
        ({"capacity_factor": -1.0}, "at least 0"),
        ({"noisy_top_k": True, "router": "frozen"}, "a router that is trained"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(make_config, fields, reason):
    with pytest.raises(ConfigError, match=reason):
        make_config(num_experts=4, **{"top_k": 2, **fields})
