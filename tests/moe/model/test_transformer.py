"""The decoder: initialisation, losses, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moe.config import ConfigError
from moe.identity import cell_hash
from moe.model.initialisation import decayed, initialise, linear
from moe.model.transformer import MoETransformer

MOE = {"num_experts": 4, "top_k": 2}
CELLS = [
    {},
    MOE,
    MOE | {"routing_unit": "sequence"},
    MOE | {"router": "frozen", "routing_scope": "global"},
    MOE | {"router": "random", "balance": "none"},
    MOE | {"router": "hash", "granularity": 2},
    {"num_experts": 4, "router": "label"},
    MOE | {"balance": "loss_free", "shared_experts": 1},
    MOE | {"balance": "switch", "balance_scope": "global_batch", "z_loss_coefficient": 1e-3},
    MOE | {"layer_stride": 2},
]
# What stands around the mixtures.
BLOCKS = [
    {"norm": "rmsnorm"},
    MOE | {"position": "rope", "rope_theta": 100.0},
    {"num_heads": 4, "num_kv_heads": 2},
    {"qk_norm": "head"},
    MOE | {"qk_norm": "full", "num_kv_heads": 1, "norm": "rmsnorm", "position": "rope"},
    {"tied_embeddings": False},
    {"activation": "swiglu"},
    MOE | {"activation": "swiglu", "bias": False, "shared_experts": 1},
    MOE | {"bias": False, "routing_unit": "sequence", "qk_norm": "head"},
]


def batch(num_sequences=2, length=8):
    ids_BS, targets_BS = torch.randint(0, 257, (2, num_sequences, length))
    return ids_BS, targets_BS, torch.arange(num_sequences)


@pytest.mark.parametrize("fields", CELLS + BLOCKS, ids=str)
def test_loss_is_the_mean_cross_entropy_and_falls(make_config, fields):
    config = make_config(**fields)
    model = MoETransformer(config)
    ids_BS, targets_BS, label_B = batch()
    output = model(ids_BS, targets_BS, label_B=label_B)
    logits_BSV = model.logits(ids_BS, label_B=label_B)
    expected = F.cross_entropy(logits_BSV.flatten(0, 1), targets_BS.flatten())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.loss * output.count, output.loss_sum)
    assert output.count == 16
    assert abs(output.loss.item() - math.log(257)) < 0.5
    assert len(output.routing) == len(config.moe_layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(30):
        model.begin_step()
        output = model(ids_BS, targets_BS, label_B=label_B, step=step)
        optimizer.zero_grad()
        (output.loss + output.aux_loss).backward()
        optimizer.step()
        model.end_step()
    assert output.loss.item() < math.log(257) - 1


@pytest.mark.parametrize("fields", CELLS + BLOCKS, ids=str)
def test_bf16_autocast_runs_forward_and_backward(make_config, fields):
    model = MoETransformer(make_config(**fields))
    ids_BS, targets_BS, label_B = batch()
    exact = model(ids_BS, targets_BS, label_B=label_B)
    model.begin_step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ids_BS, targets_BS, label_B=label_B)
    (output.loss + output.aux_loss).backward()
    assert output.loss.dtype == torch.float32
    assert abs(output.loss.item() - exact.loss.item()) < 0.02
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_positions_before_loss_start_do_not_count(make_config):
    model = MoETransformer(make_config(loss_start=3, **MOE))
    ids_BS, targets_BS, _ = batch()
    output = model(ids_BS, targets_BS)
    logits_BSV = model.logits(ids_BS)[:, 3:]
    assert output.count == 10
    torch.testing.assert_close(
        output.loss, F.cross_entropy(logits_BSV.flatten(0, 1), targets_BS[:, 3:].flatten())
    )


@pytest.mark.parametrize("fields", CELLS + BLOCKS, ids=str)
def test_building_and_running_leave_the_global_generator_alone(make_config, fields):
    state = torch.get_rng_state()
    model = MoETransformer(make_config(**fields))
    ids_BS = torch.zeros(2, 8, dtype=torch.int64)
    model(ids_BS, ids_BS, label_B=torch.tensor([0, 1])).loss.backward()
    assert torch.equal(state, torch.get_rng_state())


def test_cells_of_one_seed_begin_alike_in_what_they_share(make_config):
    states = [MoETransformer(make_config(**fields)).state_dict() for fields in CELLS]
    for state in states[1:]:
        shared = [name for name in state if ".ffn." not in name]
        assert len(shared) == 2 + 2 * 8 + 2
        assert all(torch.equal(state[name], states[0][name]) for name in shared)
    many = MoETransformer(make_config(num_experts=8, top_k=2)).state_dict()
    for leaf in ("weight_in", "weight_out"):
        name = f"blocks.1.ffn.experts.{leaf}"
        assert torch.equal(many[name][:4], states[1][name])
        assert not torch.equal(many[name][0], many[name][1])


def test_initialisation_follows_the_seed_and_nothing_else(make_config):
    torch.manual_seed(1)
    first = MoETransformer(make_config(**MOE)).state_dict()
    torch.manual_seed(2)
    again = MoETransformer(make_config(**MOE)).state_dict()
    other = MoETransformer(make_config(**MOE, seed=1)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].std() > 0]
    assert len(drawn) == 2 + 2 * 5
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    assert len({first[name].flatten()[0].item() for name in drawn}) == len(drawn)


def test_initial_scales_are_those_of_gpt2(make_config):
    sizes = {"d_model": 64, "d_ff": 256, "num_layers": 8}
    model = MoETransformer(make_config(**sizes, **MOE, router_init_std=0.5))
    residual = 0.02 / math.sqrt(2 * 8)
    expected = {
        "token_embedding.weight": 0.02,
        "position_embedding.weight": 0.02,
        "blocks.3.attention.qkv.weight": 0.02,
        "blocks.3.attention.project.weight": residual,
        "blocks.3.ffn.router.weight": 0.5,
        "blocks.3.ffn.experts.weight_in": 0.02,
        "blocks.3.ffn.experts.weight_out": residual,
    }
    state = model.state_dict()
    for name, std in expected.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.15), name
    assert all(not t.any() for name, t in state.items() if name.split(".")[-1].startswith("bias"))
    assert torch.equal(state["blocks.0.ffn_norm.weight"], torch.ones(64))


def test_weight_decay_is_for_matrices(make_config):
    model = MoETransformer(make_config(**MOE, shared_experts=1, layer_stride=2))
    names = decayed(model)
    assert {name for name, _ in model.named_parameters() if ".0." in name} & names == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.project.weight",
        "blocks.0.ffn.expand.weight",
        "blocks.0.ffn.project.weight",
    }
    assert {name for name in names if ".1.ffn" in name} == {
        "blocks.1.ffn.router.weight",
        "blocks.1.ffn.experts.weight_in",
        "blocks.1.ffn.experts.weight_out",
        "blocks.1.ffn.shared.expand.weight",
        "blocks.1.ffn.shared.project.weight",
    }
    assert not any("embedding" in name for name in names)


def test_a_parameter_without_a_rule_is_refused():
    model = torch.nn.ModuleDict(
        {"known": linear(2, 3, bias=True), "unknown": torch.nn.Linear(2, 3)}
    )
    with pytest.raises(ValueError, match=r"received unknown.bias, unknown.weight without"):
        initialise(model, seed=0)


def test_one_expert_that_all_pass_is_a_dense_model(make_config):
    dense = MoETransformer(make_config())
    one = MoETransformer(make_config(num_experts=1, top_k=1, router="hash"))
    with torch.no_grad():
        for a, b in zip(dense.blocks, one.blocks, strict=True):
            b.ffn.experts.weight_in[0] = a.ffn.expand.weight.T
            b.ffn.experts.weight_out[0] = a.ffn.project.weight.T
    ids_BS, *_ = batch()
    torch.testing.assert_close(one.logits(ids_BS), dense.logits(ids_BS))


def test_dropout_acts_in_training_only(make_config):
    model = MoETransformer(make_config(**MOE, dropout=0.5))
    ids_BS, *_ = batch()
    assert not torch.equal(model.logits(ids_BS), model.logits(ids_BS))
    model.eval()
    assert torch.equal(model.logits(ids_BS), model.logits(ids_BS))


def test_head_is_tied_and_layer_stride_places_experts(make_config):
    model = MoETransformer(make_config(**MOE, num_layers=5, layer_stride=2))
    assert not any("head" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        x_BSD, _ = model.hidden(torch.zeros(1, 3, dtype=torch.int64))
        own = MoETransformer(make_config(tied_embeddings=False))
        assert own.head_weight is own.head.weight
        assert not torch.equal(own.head.weight, own.token_embedding.weight)
    torch.testing.assert_close(
        model.logits(torch.zeros(1, 3, dtype=torch.int64)), x_BSD @ model.token_embedding.weight.T
    )
    kinds = ["experts" in dict(block.ffn.named_children()) for block in model.blocks]
    assert kinds == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("num_layers", "stride", "first", "holds"),
    [
        (4, 1, 0, [0, 1, 2, 3]),
        (4, 1, 1, [1, 2, 3]),
        (5, 2, 1, [2, 4]),
        (5, 3, 2, [4]),
    ],
)
def test_first_layers_are_dense_and_the_stride_counts_from_there(
    make_config, num_layers, stride, first, holds
):
    fields = {"num_layers": num_layers, "layer_stride": stride, "first_dense_layers": first}
    model = MoETransformer(make_config(**MOE, **fields))
    assert [i for i, block in enumerate(model.blocks) if hasattr(block.ffn, "experts")] == holds
    assert model.config.moe_layers == tuple(holds)


def test_the_same_blocks_are_the_same_run(make_config):
    """However they are said; dense blocks of a mixture may be wider (2401.06066)."""

    def hashed(stride, first, num_layers, **fields):
        mixture = {"layer_stride": stride, "first_dense_layers": first, **fields}
        return cell_hash(make_config(**MOE, **mixture, num_layers=num_layers))

    assert hashed(1, 1, 2) == hashed(2, 0, 2)
    assert hashed(1, 3, 4) == hashed(2, 2, 4)
    assert hashed(1, 3, 4) == hashed(4, 0, 4)
    assert len({hashed(1, 0, 4), hashed(1, 1, 4), hashed(2, 0, 4), hashed(1, 2, 4)}) == 4
    assert hashed(1, 1, 4, ffn_multiple=2.0) != hashed(1, 1, 4)
    wide = MoETransformer(make_config(**MOE, first_dense_layers=1, ffn_multiple=2.0))
    assert wide.blocks[0].ffn.expand.out_features == 32
    with pytest.raises(ConfigError, match="every block of this mixture has experts"):
        make_config(**MOE, ffn_multiple=2.0)
    with pytest.raises(ConfigError, match=r"together must not exceed .*received \(1, 2, 2\)"):
        make_config(**MOE, first_dense_layers=1, layer_stride=2)


def test_short_sequences_run_and_long_ones_are_refused(make_config):
    model = MoETransformer(make_config(**MOE))
    ids_BS, *_ = batch(length=5)
    assert model.logits(ids_BS).shape == (2, 5, 257)
    with pytest.raises(ValueError, match="context_length=8; received 9 tokens"):
        model.logits(torch.zeros(1, 9, dtype=torch.int64))
