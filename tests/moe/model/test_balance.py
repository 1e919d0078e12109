"""Balance losses by their formulas, and over which tokens the load is counted."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from moe.config import MoEConfig
from moe.model.balance import LoadBalance, switch_loss, z_loss
from moe.model.router import Routing, count_tokens
from moe.model.transformer import MoETransformer


def routing_of(index_UK, num_experts=4, rows=1, unit="token") -> Routing:
    logits_UN = torch.randn(len(index_UK), num_experts)
    return Routing(
        unit=unit,
        expert_index=index_UK,
        gate=torch.ones(index_UK.shape),
        counts_N=count_tokens(index_UK, num_experts, rows),
        logits=logits_UN,
        probs=logits_UN.softmax(-1),
    )


def choices(num_units, top_k=2, num_experts=4):
    return torch.rand(num_units, num_experts).topk(top_k).indices


@pytest.mark.parametrize("rows", [1, 8])
def test_switch_loss_is_its_formula(rows):
    """At sequence unit (rows of 8 tokens) f and p are means over sequences."""
    index_UK = choices(6)
    routing = routing_of(index_UK, rows=rows)
    expected = 0.0
    for e in range(4):
        f = sum(row.count(e) for row in index_UK.tolist()) / (2 * 6)
        p = sum(routing.probs[u, e].item() for u in range(6)) / 6
        expected += 4 * f * p
    got = switch_loss(routing.counts_N, routing.probs).item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_switch_loss_is_one_when_even_and_n_when_collapsed():
    even = torch.full((8, 4), 0.25)
    assert switch_loss(torch.tensor([4.0, 4, 4, 4]), even).item() == pytest.approx(1)
    collapsed = torch.tensor([[1.0, 0, 0, 0]]).expand(8, -1)
    assert switch_loss(torch.tensor([8.0, 0, 0, 0]), collapsed).item() == pytest.approx(4)


def test_switch_loss_pushes_the_crowded_expert_down():
    logits_UN = torch.zeros(8, 4, requires_grad=True)
    switch_loss(torch.tensor([8.0, 0, 0, 0]), logits_UN.softmax(-1)).backward()
    assert (logits_UN.grad[:, 0] > 0).all()
    assert (logits_UN.grad[:, 1:] < 0).all()


def test_z_loss_is_its_formula():
    logits = [[0.5, -1.0, 2.0], [3.0, 0.0, 0.0]]
    expected = sum(math.log(sum(map(math.exp, row))) ** 2 for row in logits) / 2
    assert z_loss(torch.tensor(logits)).item() == pytest.approx(expected, rel=1e-6)


def balance_of(**fields) -> LoadBalance:
    return LoadBalance(MoEConfig(num_experts=4, top_k=2, **fields)).train()


def test_global_batch_counts_all_micro_batches_of_the_step():
    parts = [choices(6) for _ in range(3)]
    balance = balance_of(balance="switch", balance_scope="global_batch")
    for _ in range(2):
        balance.begin_step()
        for seen in range(1, 4):
            routing = routing_of(parts[seen - 1])
            counts_N = count_tokens(torch.cat(parts[:seen]), 4, 1)
            torch.testing.assert_close(balance(routing), switch_loss(counts_N, routing.probs))


def test_micro_batch_counts_its_own_tokens_only():
    balance = balance_of(balance="switch", balance_scope="micro_batch")
    balance.begin_step()
    for _ in range(3):
        routing = routing_of(choices(6))
        assert torch.equal(balance(routing), switch_loss(routing.counts_N, routing.probs))


def test_evaluation_is_not_counted():
    for fields in (
        {"balance": "loss_free"},
        {"balance": "switch", "balance_scope": "global_batch"},
    ):
        balance = balance_of(**fields).eval()
        balance.begin_step()
        routing = routing_of(choices(6))
        assert torch.equal(balance(routing), switch_loss(routing.counts_N, routing.probs))
        assert balance.step_counts_N.sum() == 0


@pytest.mark.parametrize("scope", ["micro_batch", "global_batch"])
def test_loss_free_bias_moves_once_a_step_by_the_sign(scope):
    balance = balance_of(balance="loss_free", balance_coefficient=0.25, balance_scope=scope)
    assert torch.equal(balance.bias_N, torch.zeros(4))
    balance.begin_step()
    balance(routing_of(torch.tensor([[0, 1], [0, 1]])))
    balance(routing_of(torch.tensor([[0, 1], [0, 2]])))
    assert torch.equal(balance.bias_N, torch.zeros(4))
    balance.end_step()  # counts 4, 3, 1, 0 with mean 2
    assert balance.bias_N.tolist() == [-0.25, -0.25, 0.25, 0.25]
    balance.begin_step()
    balance(routing_of(torch.tensor([[0, 1], [2, 3]])))
    balance.end_step()
    assert balance.bias_N.tolist() == [-0.25, -0.25, 0.25, 0.25]


def test_loss_free_bias_is_kept_but_not_trained(make_config):
    model = MoETransformer(
        make_config(num_experts=4, top_k=2, balance="loss_free", balance_coefficient=0.5)
    )
    assert not any("bias_N" in name for name, _ in model.named_parameters())
    ids_BS = torch.randint(0, 257, (2, 8))
    model.begin_step()
    output = model(ids_BS, ids_BS)
    assert output.aux_loss == 0
    output.loss.backward()
    model.end_step()
    bias_LN = model.router_bias()
    assert bias_LN.shape == (2, 4)
    assert bias_LN.abs().max() == 0.5
    again = MoETransformer(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.router_bias(), bias_LN)


def test_loss_free_balancing_evens_out_a_collapsed_router(make_config):
    config = make_config(
        num_experts=4, top_k=1, gate="switch", router="frozen", router_init_std=1.0,
        balance="loss_free", balance_coefficient=0.05, num_layers=1,
    )  # fmt: skip
    model = MoETransformer(config)
    ids_BS = torch.randint(0, 257, (16, 8))
    loads = []
    for _ in range(60):
        model.begin_step()
        counts_N = model(ids_BS, ids_BS).routing[0].counts_N
        loads.append((counts_N.max() / counts_N.mean()).item())
        model.end_step()
    assert loads[-1] < 1.2 < loads[0]


def test_aux_loss_is_the_weighted_mean_over_blocks(make_config):
    config = make_config(
        num_experts=4, top_k=2, balance="switch", balance_coefficient=0.3, z_loss_coefficient=0.7
    )
    model = MoETransformer(config)
    ids_BS = torch.randint(0, 257, (2, 8))
    output = model(ids_BS, ids_BS)
    balance = sum(switch_loss(r.counts_N, r.probs) for r in output.routing) / 2
    z = sum(z_loss(r.logits) for r in output.routing) / 2
    torch.testing.assert_close(output.balance_loss, balance.detach())
    torch.testing.assert_close(output.z_loss, z.detach())
    torch.testing.assert_close(output.aux_loss, 0.3 * balance + 0.7 * z)
    (gradient,) = torch.autograd.grad(output.aux_loss, model.blocks[1].ffn.router.weight)
    assert gradient.abs().max() > 0


def test_a_global_decision_is_balanced_once(make_config):
    config = make_config(num_experts=4, top_k=2, routing_scope="global", balance="switch")
    model = MoETransformer(config)
    ids_BS = torch.randint(0, 257, (2, 8))
    output = model(ids_BS, ids_BS)
    (first, *_) = output.routing
    torch.testing.assert_close(
        output.balance_loss, switch_loss(first.counts_N, first.probs).detach()
    )


@pytest.mark.parametrize("fields", [{}, {"num_experts": 4, "router": "hash"}])
def test_without_scores_there_is_no_auxiliary_loss(make_config, fields):
    ids_BS = torch.randint(0, 257, (2, 8))
    output = MoETransformer(make_config(**fields))(ids_BS, ids_BS)
    assert output.aux_loss == output.balance_loss == output.z_loss == 0


WORKER = """
import sys
import torch
import torch.distributed as dist
from moe.model.balance import LoadBalance
from moe.config import MoEConfig
from moe.model.router import Routing

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
# Worker 0 sends all its tokens to expert 0, worker 1 one in four to expert 1.
counts_N = torch.tensor([[4.0, 0.0], [3.0, 1.0]])[rank]
probs_UN = torch.tensor([[1.0, 0.0]])
index_UK = torch.zeros(4, 1, dtype=torch.int64)
routing = Routing(
    unit="token", expert_index=index_UK, gate=probs_UN, counts_N=counts_N, probs=probs_UN
)
cases = ("switch", "global_batch"), ("switch", "micro_batch"), ("loss_free", "micro_batch")
for balance, scope in cases:
    load = LoadBalance(
        MoEConfig(
            num_experts=2, gate="switch", balance=balance, balance_scope=scope,
            balance_coefficient=0.25,
        )
    )
    load.begin_step()
    for micro_batch in range(2):
        loss = load(routing).item()
    load.end_step()
    bias = None if load.bias_N is None else load.bias_N.tolist()
    print(balance, scope, loss, load.step_counts_N.tolist(), bias)
dist.destroy_process_group()
"""


def test_two_workers_count_together(tmp_path):
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    first, second = (worker.communicate(timeout=120)[0].splitlines() for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0]
    # f_0 = 7/8 of all tokens, p_0 = 1: the loss is 2 * 7/8 on both.
    assert first[0] == second[0] == "switch global_batch 1.75 [14.0, 2.0] None"
    assert first[1] == "switch micro_batch 2.0 [0.0, 0.0] None"
    assert second[1] == "switch micro_batch 1.5 [0.0, 0.0] None"
    assert first[2] == "loss_free micro_batch 2.0 [8.0, 0.0] [-0.25, 0.25]"
    assert second[2] == "loss_free micro_batch 1.5 [6.0, 2.0] [-0.25, 0.25]"
