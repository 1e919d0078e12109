"""Every kind of router chooses as it says, and changes only when it says so."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from moe.model.router import (
    FrozenRouter,
    HashRouter,
    LabelRouter,
    LearnedRouter,
    RandomRouter,
    RouterContext,
    gate_weights,
)
from moe.model.transformer import MoETransformer

GATES = ("switch", "softmax_topk", "double_softmax", "sigmoid")


def context(ids_BS=None, label_B=None, step=0) -> RouterContext:
    ids_BS = torch.zeros(2, 8, dtype=torch.int64) if ids_BS is None else ids_BS
    return RouterContext(ids_BS=ids_BS, label_B=label_B, step=step)


def filled(router, std=1.0):
    torch.nn.init.normal_(router.weight, std=std)
    return router


@pytest.mark.parametrize("gate", GATES)
def test_gates_are_their_formulas(gate):
    logits = [0.3, -1.2, 2.0, 0.7]
    chosen = [2, 0, 3]
    p = [math.exp(z) / sum(map(math.exp, logits)) for z in logits]
    expected = {
        "switch": [p[i] for i in chosen],
        "softmax_topk": [
            math.exp(logits[i]) / sum(math.exp(logits[j]) for j in chosen) for i in chosen
        ],
        "double_softmax": [math.exp(p[i]) / sum(math.exp(p[j]) for j in chosen) for i in chosen],
        "sigmoid": [1 / (1 + math.exp(-logits[i])) for i in chosen],
    }[gate]
    logits_UN = torch.tensor([logits])
    got = gate_weights(gate, logits_UN, logits_UN.softmax(-1), torch.tensor([chosen]))
    torch.testing.assert_close(got, torch.tensor([expected]))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_token_unit_chooses_the_largest_logits_of_each_token(make_config, top_k):
    config = make_config(num_experts=4, top_k=top_k, gate="switch")
    router, x_BSD = filled(LearnedRouter(config, 0)), torch.randn(2, 8, 8)
    routing = router(x_BSD, context())
    assert routing.unit == "token"
    logits_TN = x_BSD.flatten(0, 1) @ router.weight.T
    for t, logits in enumerate(logits_TN.tolist()):
        ranked = sorted(((z, e) for e, z in enumerate(logits)), reverse=True)
        assert routing.expert_index[t].tolist() == [e for _, e in ranked[:top_k]]
    counts = [(routing.expert_index == e).sum().item() for e in range(4)]
    assert routing.counts_N.tolist() == counts
    torch.testing.assert_close(routing.probs, logits_TN.softmax(-1))


def test_mean_of_the_inputs_is_mean_of_the_logits(make_config):
    """2402.13089's group averages the router's output; the map is linear, so this is the same."""
    config = make_config(num_experts=4, top_k=2, routing_unit="sequence")
    router, x_BSD = filled(LearnedRouter(config, 0)), torch.randn(2, 8, 8)
    routing = router(x_BSD, context())
    assert routing.unit == "sequence"
    torch.testing.assert_close(routing.logits, (x_BSD @ router.weight.T).mean(1))


def test_prefix_reads_the_first_positions_only(make_config):
    config = make_config(
        num_experts=4,
        top_k=2,
        routing_unit="sequence",
        sequence_representation="prefix",
        prefix_length=3,
        loss_start=3,
    )
    router, x_BSD = filled(LearnedRouter(config, 0)), torch.randn(2, 8, 8)
    changed_BSD = x_BSD.clone()
    changed_BSD[:, 3:] = torch.randn(2, 5, 8)
    before, after = router(x_BSD, context()), router(changed_BSD, context())
    torch.testing.assert_close(before.logits, (x_BSD[:, :3] @ router.weight.T).mean(1))
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.expert_index, after.expert_index)


def test_one_expert_set_per_sequence_counted_in_tokens(make_config):
    config = make_config(num_experts=4, top_k=2, routing_unit="sequence")
    routing = filled(LearnedRouter(config, 0))(torch.randn(5, 8, 8), context())
    assert routing.expert_index.shape == routing.gate.shape == (5, 2)
    assert (routing.expert_index[:, 0] != routing.expert_index[:, 1]).all()
    for e in range(4):
        assert routing.counts_N[e] == 8 * (routing.expert_index == e).sum()


def test_selection_bias_moves_the_choice_but_not_the_gate(make_config):
    config = make_config(num_experts=4, top_k=2, gate="switch")
    router, x_BSD = filled(LearnedRouter(config, 0)), torch.randn(2, 8, 8)
    routing = router(x_BSD, context(), torch.tensor([0.0, 100.0, 0.0, 0.0]))
    assert (routing.expert_index == 1).any(1).all()
    torch.testing.assert_close(routing.gate, routing.probs.gather(1, routing.expert_index))
    torch.testing.assert_close(routing.logits, router(x_BSD, context()).logits)


@pytest.mark.parametrize("gate", ["softmax_topk", "switch", "sigmoid", "sigmoid_topk"])
def test_the_loss_free_bias_is_added_to_the_gating_scores(make_config, gate):
    """2408.15664: of the scores that gate, sigmoids or a softmax; `loss_free_logits` adds it before
    them, which chooses others."""
    x_BSD, bias_N = torch.randn(4, 8, 8), torch.tensor([0.3, -0.2, 0.1, 0.0])
    chosen = {}
    for balance in ("loss_free", "loss_free_logits"):
        config = make_config(num_experts=4, top_k=2, gate=gate, balance=balance)
        torch.manual_seed(0)
        routing = filled(LearnedRouter(config, 0))(x_BSD, context(), bias_N)
        squash = torch.sigmoid if "sigmoid" in gate else lambda z: z.softmax(-1)
        scores = squash(routing.logits) if balance == "loss_free" else routing.logits
        for row, found in zip((scores + bias_N).tolist(), routing.expert_index, strict=True):
            assert found.tolist() == sorted(range(4), key=lambda e: -row[e])[:2]
        chosen[balance] = routing.expert_index
    assert not torch.equal(*chosen.values())


def test_scores_are_float32_under_autocast(make_config):
    router = filled(LearnedRouter(make_config(num_experts=4, top_k=2), 0))
    x_BSD = torch.randn(2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x_BSD, context())
    assert torch.equal(routing.logits, router(x_BSD, context()).logits)


def test_frozen_router_is_no_parameter_and_stays_bit_equal(make_config):
    config = make_config(num_experts=4, top_k=2, router="frozen", balance="switch")
    model = MoETransformer(config)
    routers = [layer.router for layer in model.moe_layers()]
    assert all(isinstance(router, FrozenRouter) for router in routers)
    assert not any("router" in name for name, _ in model.named_parameters())
    assert all(f"blocks.{i}.ffn.router.weight" in model.state_dict() for i in range(2))
    before = [router.weight.clone() for router in routers]
    assert all(weight.std() > 0 for weight in before)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    ids_BS = torch.randint(0, 257, (2, 8))
    for _ in range(3):
        output = model(ids_BS, ids_BS)
        (output.loss + output.aux_loss).backward()
        optimizer.step()
    assert all(torch.equal(a, router.weight) for a, router in zip(before, routers, strict=True))
    stateful = {id(p) for p in optimizer.state}
    assert not any(id(router.weight) in stateful for router in routers)


def test_frozen_begins_as_learned_does(make_config):
    learned, frozen = (
        MoETransformer(make_config(num_experts=4, top_k=2, router=r)).state_dict()
        for r in ("learned", "frozen")
    )
    assert learned.keys() == frozen.keys()
    assert all(torch.equal(learned[name], frozen[name]) for name in learned)


def draw(config, layer=0, step=0, training=True):
    router = RandomRouter(config, layer).train(training)
    return router.weight_of(context(step=step))


def test_random_router_is_drawn_anew_and_reproducibly(make_config):
    config = make_config(num_experts=4, top_k=2, router="random", router_init_std=0.5, d_model=64)
    state = torch.get_rng_state()
    first = draw(config, step=3)
    assert torch.equal(first, draw(config, step=3))
    others = [
        draw(config, step=4),
        draw(config, layer=1, step=3),
        draw(config, step=3, training=False),
        draw(make_config(num_experts=4, top_k=2, router="random", d_model=64, seed=1), step=3),
    ]
    assert not any(torch.equal(first, other) for other in others)
    assert abs(first.std().item() - 0.5) < 0.1
    assert torch.equal(state, torch.get_rng_state())


def test_random_router_changes_with_the_step_in_the_model_and_is_not_stored(make_config):
    model = MoETransformer(make_config(num_experts=4, top_k=2, router="random"))
    assert not any("router" in name for name in model.state_dict())
    ids_BS = torch.randint(0, 257, (2, 8))
    scores = {
        (step, training): model.train(training)(ids_BS, ids_BS, step=step).routing[0].logits
        for step in (0, 1)
        for training in (True, False)
    }
    for key, logits in scores.items():
        again = model.train(key[1])(ids_BS, ids_BS, step=key[0]).routing[0].logits
        assert torch.equal(again, logits)
        assert not any(torch.equal(logits, o) for k, o in scores.items() if k != key)


def test_random_router_is_equal_across_processes(make_config):
    config = make_config(num_experts=4, top_k=2, router="random")
    code = (
        "import sys, torch\n"
        "from moe.config import TrialConfig\n"
        "from moe.model.router import RandomRouter, RouterContext\n"
        "torch.manual_seed(1234)\n"
        "router = RandomRouter(TrialConfig.from_json(sys.stdin.read()), 1)\n"
        "ids = torch.zeros(1, 1, dtype=torch.int64)\n"
        "weight = router.weight_of(RouterContext(ids_BS=ids, label_B=None, step=7))\n"
        "print(weight.double().flatten().tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=config.to_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(draw(config, layer=1, step=7).double().flatten().tolist())


def hashed(config, ids_BS, layer=0):
    x_BSD = torch.randn(*ids_BS.shape, config.model.d_model)
    return HashRouter(config, layer)(x_BSD, context(ids_BS))


def test_hash_is_a_function_of_the_token_id(make_config):
    config = make_config(num_experts=8, top_k=3, router="hash")
    ids_BS = torch.randint(0, 257, (16, 8))
    routing = hashed(config, ids_BS)
    of_id = {}
    for token, experts in zip(
        ids_BS.flatten().tolist(), routing.expert_index.tolist(), strict=True
    ):
        assert len(set(experts)) == 3
        assert of_id.setdefault(token, experts) == experts
    elsewhere = hashed(make_config(num_experts=8, top_k=3, router="hash", seed=5), ids_BS.flip(1))
    assert torch.equal(
        elsewhere.expert_index.view(16, 8, 3).flip(1), routing.expert_index.view(16, 8, 3)
    )
    assert torch.equal(routing.gate, torch.full((128, 3), 1 / 3))
    assert routing.probs is None
    assert not routing.gate.requires_grad


def test_hash_spreads_ids_evenly_and_differs_between_layers(make_config):
    config = make_config(num_experts=8, top_k=2, router="hash")
    every_id = torch.arange(257)[None]
    first, second = (hashed(config, every_id, layer) for layer in (0, 1))
    expected = 257 * 2 / 8
    assert all(abs(n - expected) < 4 * math.sqrt(expected) for n in first.counts_N.tolist())
    same = (first.expert_index == second.expert_index).float().mean().item()
    assert same < 0.3  # chance is 1/8
    one = hashed(make_config(num_experts=8, top_k=1, router="hash"), every_id)
    assert torch.equal(one.expert_index[:, 0], first.expert_index[:, 0])


def test_label_is_a_function_of_the_label(make_config):
    config = make_config(num_experts=3, router="label", label_column="topic")
    router = LabelRouter(config, 0)
    label_B = torch.tensor([0, 5, 2, 5, 3])
    routing = router(torch.randn(5, 8, 8), context(label_B=label_B))
    assert routing.unit == "sequence"
    assert routing.expert_index.tolist() == [[0], [2], [2], [2], [0]]
    assert torch.equal(routing.gate, torch.ones(5, 1))
    assert routing.counts_N.tolist() == [16, 0, 24]


def test_label_router_without_labels_names_the_column(make_config):
    model = MoETransformer(make_config(num_experts=3, router="label", label_column="topic"))
    ids_BS = torch.zeros(2, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="column 'topic'"):
        model(ids_BS, ids_BS)


@pytest.mark.parametrize("router", ["learned", "frozen", "random", "hash", "label"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_global_scope_reuses_one_decision(make_config, router, scope):
    top_k = 1 if router == "label" else 2
    config = make_config(
        num_experts=4, top_k=top_k, num_layers=4, router=router, routing_scope=scope
    )
    model = MoETransformer(config)
    ids_BS = torch.randint(0, 257, (2, 8))
    routing = model(ids_BS, ids_BS, label_B=torch.tensor([0, 1])).routing
    routers = [layer.router for layer in model.moe_layers()]
    assert len(routing) == 4
    if scope == "global":
        assert all(decision is routing[0] for decision in routing)
        assert routers[0] is not None
        assert routers[1:] == [None] * 3
    else:
        assert len({id(decision) for decision in routing}) == 4
        assert None not in routers


@pytest.mark.parametrize("silenced", [0, 1])
def test_global_router_learns_from_each_block(make_config, silenced):
    model = MoETransformer(make_config(num_experts=4, top_k=2, routing_scope="global"))
    torch.nn.init.zeros_(model.blocks[silenced].ffn.experts.weight_out)
    ids_BS = torch.randint(0, 257, (2, 8))
    model(ids_BS, ids_BS).loss.backward()
    assert model.blocks[0].ffn.router.weight.grad.abs().max() > 0
